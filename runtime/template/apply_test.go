package template

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fixture is a resource over a temporary directory.
type fixture struct {
	*Resource
	t   *testing.T
	dir string
	o   Options
}

func newFixture(t *testing.T, text string) *fixture {
	dir := t.TempDir()
	f := &fixture{t: t, dir: dir, o: Options{Logger: slog.New(slog.DiscardHandler)}, Resource: &Resource{
		Name: "test", Src: filepath.Join(dir, "src"), Dest: filepath.Join(dir, "sub", "dest"), Keys: []string{"/"}, Prefix: "/",
		UID: -1, GID: -1, CheckTimeout: 5 * time.Second, ReloadTimeout: 5 * time.Second, OnEmpty: "render",
	}}
	f.write(f.Src, text)
	return f
}

func (f *fixture) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) apply(k Keys) (bool, error) { return f.Resource.apply(context.Background(), k, f.o) }

func (f *fixture) want(text string) {
	f.t.Helper()
	got, err := os.ReadFile(f.Dest)
	if err != nil && text != "" || string(got) != text {
		f.t.Errorf("%s holds %q (%v), want %q", f.Dest, got, err, text)
	}
	if staged, _ := filepath.Glob(filepath.Join(filepath.Dir(f.Dest), ".dest.*")); len(staged) > 0 && !f.o.KeepStageFile {
		f.t.Errorf("staged files are left: %v", staged)
	}
}

func (f *fixture) mustApply(k Keys, changed bool) {
	f.t.Helper()
	c, err := f.apply(k)
	if err != nil || c != changed {
		f.t.Fatalf("apply: changed %v, %v; want %v", c, err, changed)
	}
}

func TestApply(t *testing.T) {
	f := newFixture(t, `{{getv "/a" "none"}}`)
	f.Mode = 0o600
	f.ReloadCmd = "echo x >> " + filepath.Join(f.dir, "reloads")
	f.mustApply(Keys{"/a": "1"}, true)
	f.want("1")
	if info, _ := os.Stat(f.Dest); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	f.mustApply(Keys{"/a": "1"}, false)
	f.mustApply(Keys{"/a": "2"}, true)
	f.want("2")
	if b, _ := os.ReadFile(filepath.Join(f.dir, "reloads")); string(b) != "x\nx\n" {
		t.Errorf("reloads: %q, want two", b)
	}
	f.o.Noop = true
	f.mustApply(Keys{"/a": "3"}, true)
	f.want("2")
	f.o = Options{SyncOnly: true, Logger: f.o.Logger}
	f.ReloadCmd = "false"
	f.mustApply(Keys{"/a": "3"}, true)
	f.want("3")
}

func TestApplyKeepsFileWhenTemplateOrCheckFails(t *testing.T) {
	f := newFixture(t, `{{getv "/a"}}`)
	f.CheckCmd = "! grep bad {{.src}}"
	f.mustApply(Keys{"/a": "good"}, true)
	for _, k := range []Keys{{"/a": "bad"}, {"/b": "1"}} {
		if _, err := f.apply(k); err == nil {
			t.Errorf("%v: no error", k)
		}
		f.want("good")
	}
	if _, err := f.apply(Keys{"/a": "bad"}); err == nil || !strings.Contains(err.Error(), "stays as it was") {
		t.Errorf("check failed: %v", err)
	}
}

// confd left the new file in place when its reload failed, found it in sync at
// the next pass, and never reloaded.
func TestFailedReloadRestoresAndIsTriedAgain(t *testing.T) {
	f := newFixture(t, `{{getv "/a"}}`)
	f.mustApply(Keys{"/a": "old"}, true)
	f.ReloadCmd = "test -e " + filepath.Join(f.dir, "healthy")
	if _, err := f.apply(Keys{"/a": "new"}); err == nil || !strings.Contains(err.Error(), "last good") {
		t.Fatalf("reload failed: %v", err)
	}
	f.want("old")
	f.write(filepath.Join(f.dir, "healthy"), "")
	f.mustApply(Keys{"/a": "new"}, true)
	f.want("new")
}

func TestFailedFirstReloadLeavesNoFile(t *testing.T) {
	f := newFixture(t, "x")
	f.ReloadCmd = "false"
	if _, err := f.apply(Keys{"/a": ""}); err == nil {
		t.Fatal("no error")
	}
	f.want("")
}

func TestCommandsHaveDeadlines(t *testing.T) {
	f := newFixture(t, "x")
	f.ReloadCmd, f.ReloadTimeout = "sleep 60 & sleep 60", 50*time.Millisecond
	start := time.Now()
	_, err := f.apply(Keys{"/a": ""})
	if err == nil || !strings.Contains(err.Error(), "did not end within 50ms") {
		t.Errorf("%v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestOnEmpty(t *testing.T) {
	f := newFixture(t, `{{range gets "/*"}}{{.Value}}{{else}}none{{end}}`)
	f.mustApply(Keys{"/a": "1"}, true)
	f.OnEmpty = "keep"
	f.mustApply(Keys{}, false)
	f.want("1")
	f.OnEmpty = "render"
	f.mustApply(Keys{}, true)
	f.want("none")
	f.OnEmpty = "remove"
	f.mustApply(Keys{}, true)
	f.want("")
	f.mustApply(Keys{}, false)
}
