package template

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseResource(t *testing.T) {
	r, err := parseResource([]byte(`[template]
src = "app.conf.tmpl"
dest = "/etc/app.conf"
keys = ["/app", "/db"]
prefix = "/prod"
mode = "0600"
owner = "root"
gid = 5
check_cmd = "check {{.src}}"
reload_cmd = "reload"
reload_timeout = "3s"
min_reload_interval = "1m"
on_empty = "keep"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Resource{
		Src: "app.conf.tmpl", Dest: "/etc/app.conf", Keys: []string{"/app", "/db"}, Prefix: "/prod",
		Mode: 0o600, UID: 0, GID: 5, CheckCmd: "check {{.src}}", ReloadCmd: "reload",
		CheckTimeout: DefaultCheckTimeout, ReloadTimeout: 3 * time.Second, Debounce: DefaultDebounce,
		MinReload: time.Minute, OnEmpty: "keep", OnMissing: "error",
	}
	if d := cmp.Diff(want, r); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"/prod/app", "/prod/db"}, r.storeKeys()); d != "" {
		t.Error(d)
	}
}

func TestParseResourceErrors(t *testing.T) {
	const good = "[template]\nsrc = 'a'\ndest = '/a'\nkeys = ['/']\n"
	for _, tt := range []struct{ text, want string }{
		{"[template]\ndest = '/a'\nkeys = ['/']\n", "src is missing"},
		{"[template]\nsrc = 'a'\ndest = 'a'\nkeys = ['/']\n", "no absolute path"},
		{"[template]\nsrc = 'a'\ndest = '/a'\n", "keys is missing"},
		{good + "chek_cmd = 'x'\n", "line 5: unknown setting template.chek_cmd"},
		{good + "mode = 'rw'\n", "octal"},
		{good + "mode = 1\n", "line 5"},
		{good + "uid = 1\nowner = 'root'\n", "either uid or owner"},
		{good + "owner = 'nobody-of-this-name'\n", "owner:"},
		{good + "group = 'nobody-of-this-name'\n", "group:"},
		{good + "check_timeout = '5'\n", "no duration"},
		{good + "on_empty = 'panic'\n", "none of render, keep, remove"},
		{good + "on_missing = 'panic'\n", "none of error, keep, empty"},
		{good + "mode = '4755'\n", "at most 0777"},
		{good + "reload_timeout = '0s'\n", "longer than 0"},
		{good + "debounce = '-1s'\n", "no duration"},
		{good + "check_cmd = 'check {{.src'\n", "check_cmd"},
		{good + "reload_cmd = 'reload {{.dst}}'\n", "dst"},
		{"[template\n", "line 1"},
	} {
		if _, err := parseResource([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestLoadResources(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadResources(dir, ""); err == nil || !strings.Contains(err.Error(), "no template resources") {
		t.Errorf("an empty directory: %v", err)
	}
	conf := filepath.Join(dir, "conf.d")
	if err := os.MkdirAll(filepath.Join(conf, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"a.toml":     "[template]\nsrc = 'a'\ndest = '/a'\nkeys = ['/']\n",
		"b.toml":     "[template]\nsrc = 'b'\ndest = '/a'\nkeys = ['/x']\n",
		"c.toml":     "[template]\nsrc = ''\n",
		"d.toml.bak": "nonsense",
		"sub/e.toml": "[template]\nsrc = 'e'\ndest = '/e'\nkeys = ['/x']\nprefix='p'\n",
	} {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rs, err := LoadResources(dir, "/global")
	if err == nil || !strings.Contains(err.Error(), "dest /a is written by") || !strings.Contains(err.Error(), "c.toml: src is missing") {
		t.Errorf("two resources of one file, and one without src: %v", err)
	}
	if len(rs) != 2 {
		t.Fatalf("%d resources are good, want those of a.toml and sub/e.toml", len(rs))
	}
	if d := cmp.Diff([]string{"/global/p/x"}, rs[1].storeKeys()); d != "" {
		t.Errorf("prefixes are joined: %s", d)
	}
	if rs[0].Src != filepath.Join(dir, "templates", "a") {
		t.Errorf("template %s", rs[0].Src)
	}
}

func FuzzParseResource(f *testing.F) {
	f.Add([]byte("[template]\nsrc = 'a'\ndest = '/a'\nkeys = ['/']\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseResource(data) // must not panic
	})
}
