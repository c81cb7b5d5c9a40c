package template

import (
	"context"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fsnotify/fsnotify"
	"go.yaml.in/yaml/v3"
)

// Files is a Store over YAML and JSON files: maps are directories, entries of
// lists are named by their number, from 0. A key in a later file wins.
type Files struct {
	Names  []string // files, or directories with files
	Filter string   // glob of the names of files in directories; empty: all
}

func (s Files) list() ([]string, error) {
	var files []string
	for _, name := range s.Names {
		err := filepath.WalkDir(name, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				return nil
			}
			if file != name && s.Filter != "" {
				if ok, err := filepath.Match(s.Filter, d.Name()); !ok {
					return err
				}
			}
			files = append(files, file)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// Get reads the files.
func (s Files) Get(_ context.Context, keys []string) (map[string]string, int64, error) {
	files, err := s.list()
	if err != nil {
		return nil, 0, err
	}
	revision, all := fingerprint(files), Keys{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, 0, err
		}
		if err := parseKeys(data, all); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", file, err)
		}
	}
	found := map[string]string{}
	for key, v := range all {
		if slices.ContainsFunc(keys, func(k string) bool { return k == "/" || key == k || strings.HasPrefix(key, k+"/") }) {
			found[key] = v
		}
	}
	return found, revision, nil
}

// fingerprint is another number when one of the files is another.
func fingerprint(files []string) int64 {
	h := fnv.New64a()
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			continue
		}
		fmt.Fprintln(h, f, info.Size(), info.ModTime().UnixNano())
	}
	return int64(h.Sum64())
}

// Watch returns when one of the files may have changed. It looks at their
// directories: editors, and confd, replace files instead of writing to them.
func (s Files) Watch(ctx context.Context, _ []string, revision int64) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	files, err := s.list()
	if err != nil {
		return err
	}
	dirs := map[string]bool{}
	for _, name := range append(files, s.Names...) {
		dirs[filepath.Dir(name)] = true
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			dirs[filepath.Clean(name)] = true
		}
	}
	for d := range dirs {
		if err := w.Add(d); err != nil {
			return fmt.Errorf("watching %s: %w", d, err)
		}
	}
	if files, err = s.list(); err != nil || fingerprint(files) != revision {
		return err // they changed before they were watched
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-w.Errors:
			return err
		case ev := <-w.Events:
			if ev.Op != fsnotify.Chmod && s.mine(ev.Name) {
				return nil
			}
		}
	}
}

// mine reports whether a name is one of the files, or in one of the directories.
func (s Files) mine(name string) bool {
	return slices.ContainsFunc(s.Names, func(n string) bool {
		n = filepath.Clean(n)
		return name == n || strings.HasPrefix(name, n+"/")
	})
}

// ParseKeys reads keys from YAML or JSON, as Files does.
func ParseKeys(data []byte) (Keys, error) {
	k := Keys{}
	return k, parseKeys(data, k)
}

func parseKeys(data []byte, into Keys) error {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return err
	}
	if root.Kind == 0 {
		return nil // empty
	}
	top := resolve(root.Content[0])
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: keys and values are expected at the top", top.Line)
	}
	left := maxNodes
	return flatten(top, "/", into, 0, &left)
}

// maxDepth of nested maps and lists; aliases can nest without end.
const maxDepth = 100

// maxNodes is the most entries of a file: aliases can multiply a few lines.
const maxNodes = 1_000_000

func resolve(n *yaml.Node) *yaml.Node {
	for range maxDepth {
		if n.Kind != yaml.AliasNode {
			break
		}
		n = n.Alias
	}
	return n
}

func flatten(n *yaml.Node, key string, into Keys, depth int, left *int) error {
	if depth > maxDepth {
		return fmt.Errorf("line %d: nested more than %d deep", n.Line, maxDepth)
	}
	if *left--; *left < 0 {
		return fmt.Errorf("line %d: more than %d entries", n.Line, maxNodes)
	}
	switch n = resolve(n); n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if err := flatten(n.Content[i+1], path.Join(key, n.Content[i].Value), into, depth+1, left); err != nil {
				return err
			}
		}
	case yaml.SequenceNode:
		for i, entry := range n.Content {
			if err := flatten(entry, path.Join(key, strconv.Itoa(i)), into, depth+1, left); err != nil {
				return err
			}
		}
	default:
		v := n.Value
		if n.Tag == "!!null" {
			v = ""
		}
		into[key] = v
	}
	return nil
}
