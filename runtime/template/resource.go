package template

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// Resource is one file to render, read from a confd template resource.
type Resource struct {
	Name   string   // the resource file, for messages
	Src    string   // the template
	Dest   string   // the file it becomes
	Keys   []string // what it sees: each is a key, or a directory with all below
	Prefix string   // of the keys in the store
	Mode   os.FileMode
	UID    int // -1: leave
	GID    int // -1: leave

	CheckCmd  string // {{.src}} is the staged file
	ReloadCmd string // {{.dest}} is the file in place

	CheckTimeout  time.Duration
	ReloadTimeout time.Duration
	Debounce      time.Duration // wait for more changes before rendering
	MinReload     time.Duration // least time between two reloads
	OnEmpty       string        // none of the keys exists: render, keep or remove
	OnMissing     string        // the template asks for a key that does not exist: error, keep or empty
}

// Defaults of what a resource leaves out.
const (
	DefaultCheckTimeout  = 30 * time.Second
	DefaultReloadTimeout = time.Minute
	DefaultDebounce      = 10 * time.Millisecond
)

// resourceFile is the TOML of a resource.
type resourceFile struct {
	Template struct {
		Src       string   `toml:"src"`
		Dest      string   `toml:"dest"`
		Keys      []string `toml:"keys"`
		Prefix    string   `toml:"prefix"`
		Mode      string   `toml:"mode"`
		UID       *int     `toml:"uid"`
		GID       *int     `toml:"gid"`
		Owner     string   `toml:"owner"`
		Group     string   `toml:"group"`
		CheckCmd  string   `toml:"check_cmd"`
		ReloadCmd string   `toml:"reload_cmd"`

		CheckTimeout  string `toml:"check_timeout"`
		ReloadTimeout string `toml:"reload_timeout"`
		Debounce      string `toml:"debounce"`
		MinReload     string `toml:"min_reload_interval"`
		OnEmpty       string `toml:"on_empty"`
		OnMissing     string `toml:"on_missing"`
	} `toml:"template"`
}

// LoadResources reads the *.toml in and below conf.d of a confd directory.
// Templates are in its templates/ directory. Every resource's problems are
// reported at once; those without problems are returned all the same, so that
// one broken file does not hold up the others.
func LoadResources(confdir, prefix string) ([]*Resource, error) {
	files, err := resourceFiles(filepath.Join(confdir, "conf.d"))
	if err != nil {
		return nil, err
	}
	var rs []*Resource
	var errs []error
	dest := map[string]string{}
	for _, f := range files {
		r, err := loadResource(f, filepath.Join(confdir, "templates"), prefix)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if other := dest[r.Dest]; other != "" {
			errs = append(errs, fmt.Errorf("%s: dest %s is written by %s too", f, r.Dest, other))
			continue
		}
		dest[r.Dest] = f
		rs = append(rs, r)
	}
	return rs, errors.Join(errs...)
}

func resourceFiles(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(name) == ".toml" {
			files = append(files, name)
		}
		return err
	})
	if len(files) == 0 {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, fmt.Errorf("no template resources: %s has no *.toml", dir)
	}
	slices.Sort(files)
	return files, err
}

func loadResource(file, templates, prefix string) (*Resource, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r, err := parseResource(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	r.Name = file
	if !filepath.IsAbs(r.Src) {
		r.Src = filepath.Join(templates, r.Src)
	}
	r.Prefix = path.Join("/", prefix, r.Prefix)
	return r, nil
}

// parseResource reads a resource. Unknown settings are errors that name the
// line.
func parseResource(data []byte) (*Resource, error) {
	var f resourceFile
	dec := toml.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		var strict *toml.StrictMissingError
		var decode *toml.DecodeError
		switch {
		case errors.As(err, &strict):
			line, _ := strict.Errors[0].Position()
			return nil, fmt.Errorf("line %d: unknown setting %s", line, strings.Join(strict.Errors[0].Key(), "."))
		case errors.As(err, &decode):
			line, _ := decode.Position()
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		return nil, err
	}
	t := f.Template
	r := &Resource{
		Src: t.Src, Dest: t.Dest, Keys: t.Keys, Prefix: t.Prefix,
		UID: -1, GID: -1,
		CheckCmd: t.CheckCmd, ReloadCmd: t.ReloadCmd,
		CheckTimeout: DefaultCheckTimeout, ReloadTimeout: DefaultReloadTimeout, Debounce: DefaultDebounce,
		OnEmpty: "render", OnMissing: "error",
	}
	switch {
	case t.Src == "":
		return nil, errors.New("src is missing")
	case !filepath.IsAbs(t.Dest):
		return nil, fmt.Errorf("dest %q is no absolute path", t.Dest)
	case len(t.Keys) == 0:
		return nil, errors.New("keys is missing or empty")
	}
	if t.Mode != "" {
		m, err := strconv.ParseUint(t.Mode, 8, 9)
		if err != nil {
			return nil, fmt.Errorf("mode %q is no octal file mode such as 0644, at most 0777", t.Mode)
		}
		r.Mode = os.FileMode(m)
	}
	if err := r.setOwner(t.UID, t.GID, t.Owner, t.Group); err != nil {
		return nil, err
	}
	for _, d := range []struct {
		name, value string
		to          *time.Duration
	}{
		{"check_timeout", t.CheckTimeout, &r.CheckTimeout},
		{"reload_timeout", t.ReloadTimeout, &r.ReloadTimeout},
		{"debounce", t.Debounce, &r.Debounce},
		{"min_reload_interval", t.MinReload, &r.MinReload},
	} {
		if d.value == "" {
			continue
		}
		v, err := time.ParseDuration(d.value)
		if err != nil || v < 0 {
			return nil, fmt.Errorf("%s %q is no duration such as 500ms or 10s", d.name, d.value)
		}
		if v == 0 && strings.HasSuffix(d.name, "_timeout") {
			return nil, fmt.Errorf("%s must be longer than 0: no command may take for ever", d.name)
		}
		*d.to = v
	}
	if err := choose("on_empty", t.OnEmpty, &r.OnEmpty, "render", "keep", "remove"); err != nil {
		return nil, err
	}
	if err := choose("on_missing", t.OnMissing, &r.OnMissing, "error", "keep", "empty"); err != nil {
		return nil, err
	}
	for what, command := range map[string]string{"check_cmd": r.CheckCmd, "reload_cmd": r.ReloadCmd} {
		if _, err := commandLine(what, command, "/dev/null"); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// choose takes a value that is one of a few words; empty leaves the default.
func choose(name, value string, to *string, words ...string) error {
	if value == "" {
		return nil
	}
	if !slices.Contains(words, value) {
		return fmt.Errorf("%s %q is none of %s", name, value, strings.Join(words, ", "))
	}
	*to = value
	return nil
}

func (r *Resource) setOwner(uid, gid *int, owner, group string) error {
	if uid != nil && owner != "" || gid != nil && group != "" {
		return errors.New("give either uid or owner, and either gid or group")
	}
	if uid != nil {
		r.UID = *uid
	}
	if gid != nil {
		r.GID = *gid
	}
	if owner != "" {
		u, err := user.Lookup(owner)
		if err != nil {
			return fmt.Errorf("owner: %w", err)
		}
		r.UID, _ = strconv.Atoi(u.Uid)
	}
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return fmt.Errorf("group: %w", err)
		}
		r.GID, _ = strconv.Atoi(g.Gid)
	}
	return nil
}

// relative names the store's keys as the templates see them.
func (r *Resource) relative(stored map[string]string) Keys {
	k := make(Keys, len(stored))
	for key, v := range stored {
		if r.Prefix != "/" {
			key = strings.TrimPrefix(key, r.Prefix)
		}
		k[clean(key)] = v
	}
	return k
}

// storeKeys are the resource's keys as the store names them.
func (r *Resource) storeKeys() []string {
	keys := make([]string, len(r.Keys))
	for i, k := range r.Keys {
		keys[i] = path.Join("/", r.Prefix, k)
	}
	return keys
}

// render executes the resource's template.
func (r *Resource) render(k Keys) ([]byte, error) {
	text, err := os.ReadFile(r.Src)
	if err != nil {
		return nil, err
	}
	vars := k.Variables()
	if r.OnMissing == "empty" {
		for _, key := range r.Keys {
			if name := variable(clean(key)); vars[name] == nil {
				vars[name] = absent(nil)
			}
		}
	}
	return execute(r.Src, string(text), functions(k, r.OnMissing == "empty"), vars)
}

// absent stands for a key that does not exist: a list without entries, that
// prints as nothing.
type absent []Node

func (absent) String() string { return "" }

// errMissing means that the template asks for a key that does not exist.
var errMissing = errors.New("does not exist; use getv with a default, test with exists, or see on_missing")

// Render executes a template over keys. name is for its messages.
func Render(name, text string, k Keys) ([]byte, error) {
	return execute(name, text, functions(k, false), k.Variables())
}

// maxOutput is the most that a template may become, in bytes: one that runs
// away must not take the machine's memory.
const maxOutput = 64 << 20

func execute(name, text string, funcs template.FuncMap, vars map[string]any) ([]byte, error) {
	t, err := template.New(filepath.Base(name)).Funcs(funcs).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	var b limited
	if err := t.Execute(&b, vars); err != nil {
		if strings.Contains(err.Error(), "map has no entry for key") {
			err = fmt.Errorf("%w: the variable %w", err, errMissing)
		}
		return nil, err
	}
	return b.Bytes(), nil
}

// limited is a buffer of at most maxOutput.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxOutput {
		return 0, fmt.Errorf("the template becomes more than %d MiB", maxOutput>>20)
	}
	return l.Buffer.Write(p)
}
