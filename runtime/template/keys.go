package template

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Keys are the store's keys and values that a resource sees, named relative to
// its prefix and starting with a slash.
type Keys map[string]string

// Pair is a key and its value.
type Pair struct{ Key, Value string }

func clean(key string) string { return path.Join("/", key) }

func (k Keys) exists(key string) bool {
	_, ok := k[clean(key)]
	return ok
}

func (k Keys) get(key string) (Pair, error) {
	v, ok := k[clean(key)]
	if !ok {
		return Pair{}, fmt.Errorf("key %s %w", clean(key), errMissing)
	}
	return Pair{clean(key), v}, nil
}

// getOrEmpty and getvOrEmpty find an empty value where there is no key.
func (k Keys) getOrEmpty(key string) (Pair, error) {
	p, err := k.get(key)
	if err != nil {
		p = Pair{Key: clean(key)}
	}
	return p, nil
}

func (k Keys) getvOrEmpty(key string, fallback ...string) (string, error) {
	return k.getv(key, append(fallback, "")...)
}

func (k Keys) getv(key string, fallback ...string) (string, error) {
	p, err := k.get(key)
	if err != nil && len(fallback) > 0 {
		return fallback[0], nil
	}
	return p.Value, err
}

// gets returns the pairs whose keys match the glob, by key. A * stays within
// one level.
func (k Keys) gets(glob string) ([]Pair, error) {
	glob = clean(glob)
	var ps []Pair
	for key, v := range k {
		ok, err := path.Match(glob, key)
		if err != nil {
			return nil, fmt.Errorf("%q is no glob pattern: %w", glob, err)
		}
		if ok {
			ps = append(ps, Pair{key, v})
		}
	}
	slices.SortFunc(ps, func(a, b Pair) int { return cmp.Compare(a.Key, b.Key) })
	return ps, nil
}

// getvs returns the values whose keys match the glob, sorted.
func (k Keys) getvs(glob string) ([]string, error) {
	ps, err := k.gets(glob)
	if err != nil {
		return nil, err
	}
	vs := make([]string, len(ps))
	for i, p := range ps {
		vs[i] = p.Value
	}
	slices.Sort(vs)
	return vs, nil
}

// ls returns the names directly below dir, directories among them. Of a key
// that is no directory it returns the key's own name.
func (k Keys) ls(dir string) []string {
	names := k.children(dir, false)
	if k.exists(dir) && clean(dir) != "/" {
		names = append(names, path.Base(clean(dir)))
		slices.Sort(names)
		names = slices.Compact(names)
	}
	return names
}

// lsdir returns the names of the directories directly below dir.
func (k Keys) lsdir(dir string) []string { return k.children(dir, true) }

func (k Keys) children(dir string, dirsOnly bool) []string {
	below := clean(dir)
	if below != "/" {
		below += "/"
	}
	names := map[string]bool{}
	for key := range k {
		rest, ok := strings.CutPrefix(key, below)
		if !ok || rest == "" {
			continue
		}
		name, _, isDir := strings.Cut(rest, "/")
		if isDir || !dirsOnly {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Node is an entry of a directory, as templates of confd 0.3 see it.
type Node struct{ Key, Value string }

// Variables are the data of confd 0.3's templates, which had no functions but
// Base: key /a/b is .a_b, a directory the list of its entries. The value of an
// entry that is a directory itself is empty.
func (k Keys) Variables() map[string]any {
	vars := map[string]any{}
	dirs := map[string]map[string]bool{}
	for key, v := range k {
		vars[variable(key)] = v
		for dir := path.Dir(key); dir != "/"; key, dir = dir, path.Dir(dir) {
			if dirs[dir] == nil {
				dirs[dir] = map[string]bool{}
			}
			dirs[dir][key] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		var nodes []Node
		for _, key := range slices.Sorted(maps.Keys(dirs[dir])) {
			nodes = append(nodes, Node{key, k[key]})
		}
		vars[variable(dir)] = nodes
	}
	return vars
}

func variable(key string) string {
	return strings.NewReplacer("/", "_", "-", "_", ".", "_").Replace(strings.TrimPrefix(key, "/"))
}
