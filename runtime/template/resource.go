package template

import (
	"bytes"
	"errors"
	"fmt"
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
	} `toml:"template"`
}

// LoadResources reads conf.d/*.toml of a confd directory. Templates are in its
// templates/ directory. Every resource's problems are reported at once.
func LoadResources(confdir, prefix string) ([]*Resource, error) {
	files, err := filepath.Glob(filepath.Join(confdir, "conf.d", "*.toml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no template resources: %s has no *.toml", filepath.Join(confdir, "conf.d"))
	}
	slices.Sort(files)
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
		}
		dest[r.Dest] = f
		rs = append(rs, r)
	}
	return rs, errors.Join(errs...)
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
		OnEmpty: "render",
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
		m, err := strconv.ParseUint(t.Mode, 8, 12)
		if err != nil {
			return nil, fmt.Errorf("mode %q is no octal file mode such as 0644", t.Mode)
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
		*d.to = v
	}
	switch t.OnEmpty {
	case "":
	case "render", "keep", "remove":
		r.OnEmpty = t.OnEmpty
	default:
		return nil, fmt.Errorf("on_empty %q is none of render, keep, remove", t.OnEmpty)
	}
	return r, nil
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
	return Render(r.Src, string(text), k)
}

// Render executes a template over keys. name is for its messages.
func Render(name, text string, k Keys) ([]byte, error) {
	t, err := template.New(filepath.Base(name)).Funcs(functions(k)).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, k.Variables()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
