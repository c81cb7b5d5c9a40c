//go:build systemd

// These tests drive the systemd of the machine that they run on. They are
// compiled elsewhere and run in a machine made for them.

package systemd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"plasmid/runtime/systemd"
)

func TestMain(m *testing.M) {
	comm, _ := os.ReadFile("/proc/1/comm")
	if strings.TrimSpace(string(comm)) != "systemd" || os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests need root on a machine whose PID 1 is systemd, for instance one of plasmid's own")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const dir = "/run/plasmid-test/units"

// open connects, and takes away the units that the test installed.
func open(t *testing.T) *systemd.Manager {
	t.Helper()
	m, err := systemd.New(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		units, err := m.Installed()
		if err != nil {
			t.Error(err)
		}
		var wg sync.WaitGroup
		for u := range units {
			wg.Go(func() {
				if wait, err := m.Stop(ctx, u); err != nil {
					t.Error(err)
				} else if _, err := wait(ctx); err != nil {
					t.Error(err)
				}
				if err := m.Remove(ctx, u, true); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		m.Close()
	})
	return m
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func install(t *testing.T, m *systemd.Manager, name, text string) {
	t.Helper()
	if err := m.Install(deadline(t), name, text, strings.Contains(text, "[Install]")); err != nil {
		t.Fatal(err)
	}
}

type job func(context.Context, string) (systemd.Wait, error)

func run(t *testing.T, j job, name, want string) {
	t.Helper()
	ctx := deadline(t)
	wait, err := j(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Fatalf("the job of %s ended as %q; want %q", name, got, want)
	}
}

func state(t *testing.T, m *systemd.Manager, name string) systemd.State {
	t.Helper()
	s, err := m.State(deadline(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func current(t *testing.T, m *systemd.Manager, name string) bool {
	t.Helper()
	is, err := m.Current(deadline(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

const sleeper = "[Service]\nExecStart=/bin/sleep infinity\n"

func TestLifeOfAUnit(t *testing.T) {
	m := open(t)
	const name = "pt-life@1.service"
	if s := state(t, m, name); s.Load != "not-found" || s.Active != "inactive" {
		t.Fatalf("before: %+v", s)
	}
	install(t, m, name, sleeper)
	if s := state(t, m, name); !current(t, m, name) || s.Active != "inactive" {
		t.Fatalf("installed: %+v", s)
	}
	run(t, m.Start, name, "done")
	if s := state(t, m, name); !s.Started() || s.Sub != "running" || time.Since(s.Since) > time.Minute {
		t.Fatalf("started: %+v", s)
	}
	run(t, m.Stop, name, "done")
	if s := state(t, m, name); s.Active != "inactive" {
		t.Fatalf("stopped: %+v", s)
	}
	// By now systemd has forgotten it. That is no error, nor is doing it again.
	for range 2 {
		if err := m.Remove(deadline(t), name, false); err != nil {
			t.Fatal(err)
		}
	}
	run(t, m.Stop, name, "done")
	if s := state(t, m, name); s.Load != "not-found" {
		t.Fatalf("removed: %+v", s)
	}
}

// For a unit that comes or goes by itself systemd does not read all its files.
func TestNothingIsReloadedForANewUnit(t *testing.T) {
	m := open(t)
	reloaded := func() string {
		out, err := exec.Command("systemctl", "show", "-P", "UnitsLoadStartTimestampMonotonic").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	const name = "pt-new@1.service"
	for range 3 {
		before := reloaded()
		install(t, m, name, sleeper)
		run(t, m.Start, name, "done")
		run(t, m.Stop, name, "done")
		if err := m.Remove(deadline(t), name, false); err != nil {
			t.Fatal(err)
		}
		if s := state(t, m, name); s.Load != "not-found" {
			t.Fatalf("removed: %+v", s)
		}
		if reloaded() == before {
			return
		}
		// Somebody else's, perhaps.
	}
	t.Error("systemd was made to read all its files each time")
}

// A unit that another one speaks of stays with systemd when its file is gone, and
// one whose file is another is read again.
func TestWhatSystemdKeepsIsReloaded(t *testing.T) {
	m := open(t)
	const name, other = "pt-kept.service", "pt-wants.service"
	install(t, m, other, "[Unit]\nWants="+name+"\n"+sleeper)
	run(t, m.Start, other, "done")
	install(t, m, name, sleeper)
	run(t, m.Start, name, "done")
	install(t, m, name, "[Unit]\nDescription=another\n"+sleeper)
	if out, err := exec.Command("systemctl", "show", "-P", "Description", name).Output(); err != nil || strings.TrimSpace(string(out)) != "another" {
		t.Errorf("its description is %q, %v", out, err)
	}
	run(t, m.Stop, name, "done")
	if err := m.Remove(deadline(t), name, false); err != nil {
		t.Fatal(err)
	}
	if s := state(t, m, name); s.Load != "not-found" {
		t.Errorf("removed: %+v", s)
	}
}

func TestFailureIsReported(t *testing.T) {
	m := open(t)
	install(t, m, "pt-fails.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
	run(t, m.Start, "pt-fails.service", "failed")
	if s := state(t, m, "pt-fails.service"); s.Active != "failed" || s.Result != "exit-code" {
		t.Fatalf("%+v", s)
	}
	install(t, m, "pt-needs.service", "[Unit]\nRequires=pt-fails.service\nAfter=pt-fails.service\n"+sleeper)
	run(t, m.Start, "pt-needs.service", "dependency")
	install(t, m, "pt-bad.service", "[Service]\nType=nonsense\n")
	if s := state(t, m, "pt-bad.service"); s.Load == "loaded" || s.Error == "" {
		t.Fatalf("bad unit: %+v", s)
	}
}

func TestEveryType(t *testing.T) {
	// Before open: they are removed after the units. Nothing of the others is in
	// the mount, which would be busy.
	where, files := t.TempDir(), t.TempDir()
	m := open(t)
	mount := strings.ReplaceAll(strings.Trim(where, "/"), "/", "-")
	for name, text := range map[string]string{
		"pt-types.socket":  "[Socket]\nListenStream=" + filepath.Join(files, "s") + "\n",
		"pt-types.service": "[Service]\nExecStart=/bin/sleep infinity\n",
		"pt-types.timer":   "[Timer]\nOnActiveSec=1h\n",
		"pt-types.path":    "[Path]\nPathExists=" + filepath.Join(files, "p") + "\n",
		"pt-types.target":  "[Unit]\nDescription=test\n",
		"pt-types.slice":   "[Slice]\nTasksMax=10\n",
		mount + ".mount":   "[Mount]\nWhat=tmpfs\nWhere=" + where + "\nType=tmpfs\n",
	} {
		install(t, m, name, text)
	}
	// The service would make the socket, the timer and the path refuse.
	for _, name := range []string{"pt-types.socket", "pt-types.timer", "pt-types.path", "pt-types.target", "pt-types.slice", mount + ".mount", "pt-types.service"} {
		run(t, m.Start, name, "done")
		if s := state(t, m, name); !s.Started() {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestStopWaitsForHooks(t *testing.T) {
	m := open(t)
	file := filepath.Join(t.TempDir(), "hook")
	install(t, m, "pt-hooks.service", sleeper+"ExecStopPost=/bin/sh -c 'sleep 0.7; echo done >"+file+"'\n")
	run(t, m.Start, "pt-hooks.service", "done")
	run(t, m.Stop, "pt-hooks.service", "done")
	if _, err := os.Stat(file); err != nil {
		t.Error("the stop was over before the hooks were:", err)
	}
}

func TestInstallSectionIsFollowed(t *testing.T) {
	m := open(t)
	const name = "pt-wanted.service"
	install(t, m, name, sleeper+"[Install]\nWantedBy=multi-user.target\n")
	link := "/run/systemd/system/multi-user.target.wants/" + name
	if _, err := os.Stat(link); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(deadline(t), name, true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		t.Error("the link is still there:", err)
	}
}

func TestMachinesOwnUnitsAreSafe(t *testing.T) {
	m := open(t)
	err := m.Install(deadline(t), "systemd-journald.service", sleeper, false)
	var foreign *systemd.ForeignUnitError
	if !errors.As(err, &foreign) {
		t.Fatalf("got %v", err)
	}
	if units, _ := m.Installed(); len(units) != 0 {
		t.Error("installed:", units)
	}
}

// A crash between writing a file and having systemd read it shows.
func TestUnreadFileShows(t *testing.T) {
	m := open(t)
	const name = "pt-unread.service"
	install(t, m, name, sleeper)
	run(t, m.Start, name, "done")
	if err := os.WriteFile(filepath.Join(dir, name), []byte(sleeper+"# changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Modification times have to differ for systemd to see it.
	if err := os.Chtimes(filepath.Join(dir, name), time.Now(), time.Now().Add(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	if current(t, m, name) {
		t.Fatalf("%+v", state(t, m, name))
	}
	install(t, m, name, sleeper+"# changed\n")
	if s := state(t, m, name); !current(t, m, name) || !s.Started() {
		t.Fatalf("%+v", s)
	}
}

// follow gathers the names that Changes tells.
func follow(t *testing.T, m *systemd.Manager) <-chan string {
	names := make(chan string, 10000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Changes(ctx, func(u string) { names <- u })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return names
}

func await(t *testing.T, names <-chan string, want string) {
	t.Helper()
	for ctx := deadline(t); ; {
		select {
		case got := <-names:
			if got == want {
				return
			}
		case <-ctx.Done():
			t.Fatalf("nothing was told of %q", want)
		}
	}
}

func TestChangesAreTold(t *testing.T) {
	m := open(t)
	names := follow(t, m)
	const name = `pt-odd\x2dname:a_b@x-1.service`
	install(t, m, name, sleeper)
	run(t, m.Start, name, "done")
	await(t, names, name)
	if out, err := exec.Command("systemctl", "kill", "-s", "KILL", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	await(t, names, name)
}

// systemd executes itself anew when it is upgraded.
func TestConnectionIsMadeAgain(t *testing.T) {
	m := open(t)
	names := follow(t, m)
	install(t, m, "pt-again.service", sleeper)
	run(t, m.Start, "pt-again.service", "done")
	install(t, m, "pt-slow.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 60\n")
	ctx := deadline(t)
	wait, err := m.Start(ctx, "pt-slow.service")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemctl", "daemon-reexec").CombinedOutput(); err != nil {
		t.Logf("daemon-reexec: %v: %s", err, out)
	}
	if _, err := wait(ctx); !errors.Is(err, systemd.ErrAway) {
		t.Errorf("waiting for a job over a broken connection: %v", err)
	}
	await(t, names, "")
	if s := state(t, m, "pt-again.service"); !s.Started() {
		t.Errorf("%+v", s)
	}
	if s := state(t, m, "pt-slow.service"); s.Active != "activating" {
		t.Errorf("%+v", s)
	}
	run(t, m.Stop, "pt-again.service", "done")
	await(t, names, "pt-again.service")
}

// One unit whose job takes long holds up no other's.
func TestJobsAreIndependent(t *testing.T) {
	m := open(t)
	install(t, m, "pt-long.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 60\n")
	ctx := deadline(t)
	wait, err := m.Start(ctx, "pt-long.service")
	if err != nil {
		t.Fatal(err)
	}
	const n = 50
	start := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprintf("pt-many@%d.service", i)
			install(t, m, name, sleeper)
			run(t, m.Start, name, "done")
		})
	}
	wg.Wait()
	t.Logf("%d units installed and started in %v", n, time.Since(start).Round(time.Millisecond))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the long job: %v", err)
	}
}
