package template

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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
		UID: -1, GID: -1, CheckTimeout: 5 * time.Second, ReloadTimeout: 5 * time.Second, OnEmpty: "render", OnMissing: "error",
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

// A process that is killed between putting the file in place and the reload
// leaves the reload to the next one.
func TestReloadAfterCrash(t *testing.T) {
	f := newFixture(t, "x")
	reloaded := filepath.Join(f.dir, "reloaded")
	f.ReloadCmd = "test -e " + f.pending() + " && kill -9 $$"
	if _, err := f.apply(Keys{"/a": ""}); err == nil {
		t.Fatal("no error")
	}
	// As the file system is when all of confd was killed there.
	f.write(f.Dest, "x")
	f.write(f.pending(), "")
	f.ReloadCmd = "test -e " + filepath.Join(f.dir, "healthy")
	if _, err := f.apply(Keys{"/a": ""}); err == nil {
		t.Error("the reload failed, and no error")
	}
	f.ReloadCmd = "touch " + reloaded
	f.mustApply(Keys{"/a": ""}, true)
	f.mustApply(Keys{"/a": ""}, false)
	if _, err := os.Stat(reloaded); err != nil {
		t.Error("it was not reloaded")
	}
	f.want("x")
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

func TestRemovedFileIsBackWhenReloadFails(t *testing.T) {
	f := newFixture(t, "x")
	f.mustApply(Keys{"/a": "1"}, true)
	f.OnEmpty, f.ReloadCmd = "remove", "false"
	if _, err := f.apply(Keys{}); err == nil || !strings.Contains(err.Error(), "is back") {
		t.Errorf("removing, reload failed: %v", err)
	}
	f.want("x")
}

func TestDiff(t *testing.T) {
	f := newFixture(t, "{{getv \"/a\"}}\n")
	var out strings.Builder
	f.o.Diff = &out
	f.mustApply(Keys{"/a": "1"}, true)
	f.mustApply(Keys{"/a": "2"}, true)
	for _, want := range []string{"--- /dev/null", "+1", "-1\n+2\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the diff lacks %q:\n%s", want, out.String())
		}
	}
	out.Reset()
	f.Mode = 0o600
	f.mustApply(Keys{"/a": "hidden"}, true)
	if s := out.String(); strings.Contains(s, "hidden") || !strings.Contains(s, "mode 0644 becomes 0600") {
		t.Errorf("the diff of a file that is not for everybody:\n%s", s)
	}
}

// A destination that is bind-mounted can be written to but not replaced.
func TestMountedDestination(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("mounting needs root")
	}
	f := newFixture(t, `{{getv "/a"}}`)
	f.mustApply(Keys{"/a": "1"}, true)
	outside := filepath.Join(f.dir, "outside")
	f.write(outside, "0")
	if err := syscall.Mount(outside, f.Dest, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(f.Dest, 0) })
	f.mustApply(Keys{"/a": "2"}, true)
	f.ReloadCmd = "false"
	if _, err := f.apply(Keys{"/a": "3"}); err == nil {
		t.Error("no error")
	}
	f.want("2")
	if b, _ := os.ReadFile(outside); string(b) != "2" {
		t.Errorf("outside: %q", b)
	}
}

func TestOwnerAndMode(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("changing owners needs root")
	}
	f := newFixture(t, "x")
	f.UID, f.GID = 65534, 65533
	f.mustApply(Keys{"/a": ""}, true)
	f.mustApply(Keys{"/a": ""}, false)
	if err := os.Chown(f.Dest, 0, 0); err != nil {
		t.Fatal(err)
	}
	f.mustApply(Keys{"/a": ""}, true)
	var st syscall.Stat_t
	if err := syscall.Stat(f.Dest, &st); err != nil || st.Uid != 65534 || st.Gid != 65533 {
		t.Errorf("owner %d:%d, %v", st.Uid, st.Gid, err)
	}
}

// A daemon that a reload starts keeps the command's output open.
func TestReloadThatLeavesADaemon(t *testing.T) {
	f := newFixture(t, "x")
	f.ReloadCmd = "sleep 30 & echo $! > " + filepath.Join(f.dir, "pid")
	f.mustApply(Keys{"/a": ""}, true)
	pid, err := os.ReadFile(filepath.Join(f.dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Errorf("the daemon did not live on: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	f := newFixture(t, `{{getv "/a"}}`)
	reg := prometheus.NewPedanticRegistry()
	f.o.Metrics = NewMetrics(reg)
	f.ReloadCmd = "true"
	store := &memory{keys: map[string]string{"/a": "1"}}
	for range 2 {
		if err := Once(t.Context(), store, []*Resource{f.Resource}, f.o); err != nil {
			t.Fatal(err)
		}
	}
	delete(store.keys, "/a")
	if err := Once(t.Context(), store, []*Resource{f.Resource}, f.o); err == nil {
		t.Fatal("no error")
	}
	const want = `# HELP confd_failing 1 if the last pass of the resource failed, else 0.
# TYPE confd_failing gauge
confd_failing{resource="test"} 1
# HELP confd_passes_total Times that a resource was brought up to its keys, by result: unchanged, changed or failed.
# TYPE confd_passes_total counter
confd_passes_total{resource="test",result="changed"} 1
confd_passes_total{resource="test",result="failed"} 1
confd_passes_total{resource="test",result="unchanged"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "confd_failing", "confd_passes_total"); err != nil {
		t.Error(err)
	}
}
