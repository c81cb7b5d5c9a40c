package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"plasmid/test/lab/openstack/conf"
)

func TestHierarchies(t *testing.T) {
	const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	want := []hierarchy{
		{Dir: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct"},
		{Dir: "/sys/fs/cgroup/systemd", Options: "none,name=systemd"},
		{Dir: "/sys/fs/cgroup/unified", Unified: true},
	}
	if diff := cmp.Diff(want, hierarchies(hybrid)); diff != "" {
		t.Error(diff)
	}
	const unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	if diff := cmp.Diff([]hierarchy{{Dir: "/sys/fs/cgroup", Unified: true}}, hierarchies(unified)); diff != "" {
		t.Error(diff)
	}
	if got := hierarchies("nonsense\n\n- -\n"); got != nil {
		t.Errorf("%v of nonsense", got)
	}
}

func TestWeigh(t *testing.T) {
	for file, want := range map[string]string{"cpu.shares": "10240", "cpu.weight": "1000", "memory.limit_in_bytes": "1"} {
		path := filepath.Join(t.TempDir(), file)
		if err := os.WriteFile(path, []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := weigh(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is %s, %v", file, got, err)
		}
		left, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(left) != 1 {
			t.Errorf("there are %v, %v", left, err)
		}
	}
}

func TestLastWords(t *testing.T) {
	for _, c := range []struct {
		name, log string
		want      []string
	}{
		{"nothing", "", nil},
		{"short", "a\nb\n", []string{"a", "b"}},
		{"long", "a\nb\nc\nd\ne\n", []string{"c", "d", "e"}},
		{"error at the end", "a\nb\nc\n1 ERROR x\ne\n", []string{"c", "1 ERROR x", "e"}},
		{"error before", "1 ERROR x\n2 ERROR y\nb\nc\nd\ne\n", []string{"2 ERROR y", "...", "e"}},
	} {
		if diff := cmp.Diff(c.want, lastWords(c.log, 3)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestNewSite(t *testing.T) {
	for _, c := range []struct {
		dir, name string
		bad       string
	}{
		{"/var/lib/x", "lab", ""},
		{"/var/lib/x", "test-12", ""},
		{"/var/lib/x", "../lab", "bad name"},
		{"/var/lib/x", "", "bad name"},
		{"/var/lib/x", strings.Repeat("x", 32), "bad name"},
		{"/var/lib/a:b", "lab", "overlay"},
		{"/var/lib/a,b", "lab", "overlay"},
	} {
		_, err := newSite(c.dir, c.name)
		if c.bad == "" && err != nil || c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad)) {
			t.Errorf("%s %s: %v", c.dir, c.name, err)
		}
	}
	a, _ := newSite("/a", "lab")
	b, _ := newSite("/b", "lab")
	if a.cgroup() == b.cgroup() {
		t.Error("labs of different directories have the same control groups")
	}
}

// A lab's process is not any that has its number.
func TestProcess1(t *testing.T) {
	s, err := newSite(t.TempDir(), "lab")
	if err != nil {
		t.Fatal(err)
	}
	if s.process1() != 0 {
		t.Error("a lab that never was runs")
	}
	if err := os.MkdirAll(s.home(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.keepProcess1(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if got := s.process1(); got != os.Getpid() {
		t.Errorf("process 1 is %d", got)
	}
	for _, content := range []string{"1 1", "", "x y", "4194305 1"} {
		if err := os.WriteFile(filepath.Join(s.home(), "pid"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := s.process1(); got != 0 {
			t.Errorf("process 1 of %q is %d", content, got)
		}
	}
}

func TestWhole(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	broken := errors.New("broken")
	err := whole(dir, func(partial string) error {
		return errors.Join(broken, os.WriteFile(filepath.Join(partial, "x"), nil, 0o600))
	})
	if !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	left, _ := filepath.Glob(dir + "*")
	if left != nil {
		t.Errorf("left %v", left)
	}
	made := 0
	for range 2 {
		err := whole(dir, func(partial string) error {
			made++
			return os.WriteFile(filepath.Join(partial, "x"), nil, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); err != nil || made != 1 {
		t.Errorf("made %d times, %v", made, err)
	}
}

func TestFollow(t *testing.T) {
	for _, c := range []struct {
		name, said string
		seen       []string
		err        string
	}{
		{"done", `{"service":"a","state":"ready"}{"service":"b","state":"ready"}{"done":true}`, []string{"a", "b"}, ""},
		{"failed", `{"service":"a","state":"ready"}{"failure":{"service":"b","what":"ended","last":["x"]},"error":"?"}`, []string{"a"}, "b ended; the end of its log:\n    x"},
		{"error", `{"error":"no network"}`, nil, "no network"},
		{"cut off", `{"service":"a","state":"ready"}`, []string{"a"}, io.EOF.Error()},
	} {
		var seen []string
		err := follow(strings.NewReader(c.said), func(e event) { seen = append(seen, e.Service) })
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != c.err || !slices.Equal(seen, c.seen) {
			t.Errorf("%s: saw %v, %q", c.name, seen, text)
		}
	}
}

// What each service needs must be there, and without a circle.
func TestServices(t *testing.T) {
	for _, tier := range conf.Tiers {
		seen := map[string]bool{}
		for _, s := range services(tier) {
			if seen[s.name] {
				t.Errorf("%s: %s twice", tier, s.name)
			}
			for _, n := range s.needs {
				if !seen[n] {
					t.Errorf("%s: %s needs %s, which isn't before it", tier, s.name, n)
				}
			}
			if (s.ready == nil) == (s.beats == "") {
				t.Errorf("%s: %s has not one way to be ready", tier, s.name)
			}
			seen[s.name] = true
		}
		if seen["libvirtd"] != (tier != conf.Fake) {
			t.Errorf("%s: libvirtd %v", tier, seen["libvirtd"])
		}
	}
}

func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		asked := 0
		beats := map[string]time.Time{"old": began.Add(-time.Minute), "new": began}
		p := &pulse{turn: make(chan struct{}, 1), ask: func(context.Context) (map[string]time.Time, error) {
			asked++
			return beats, nil
		}}
		for range 10 {
			if p.since(t.Context(), "old", began) == nil {
				t.Error("a heartbeat of an earlier run counts")
			}
			if p.since(t.Context(), "none", began) == nil {
				t.Error("no heartbeat counts")
			}
			if err := p.since(t.Context(), "new", began.Add(300*time.Millisecond)); err != nil {
				t.Errorf("a heartbeat of this second: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if asked != 1 {
			t.Errorf("asked %d times in a second", asked)
		}
		time.Sleep(time.Second)
		beats = map[string]time.Time{"old": time.Now()}
		if err := p.since(t.Context(), "old", began); err != nil {
			t.Error(err)
		}
	})
}

// theSupervisor is the only one of this process, whose children it all buries.
var theSupervisor = sync.OnceValue(func() *supervisor { return newSupervisor("") })

// testServices runs a lab of services without its namespaces.
// testServices is a lab without services, and what it has told so far.
func testServices(t *testing.T) (*lab, func() string) {
	dir := t.TempDir()
	var said strings.Builder
	s := theSupervisor()
	s.logs = dir
	l := &lab{supervisor: s, running: map[string]*process{},
		report: &reporter{pipe: json.NewEncoder(&said), file: filepath.Join(dir, "status.json"), status: status{Services: map[string]string{}}}}
	t.Cleanup(func() {
		for _, p := range l.running {
			l.stop(0, p)
		}
		l.ends.Wait()
	})
	return l, func() string {
		l.report.mu.Lock()
		defer l.report.mu.Unlock()
		return said.String()
	}
}

func exists(path string) func(context.Context) error {
	return func(context.Context) error {
		_, err := os.Stat(path)
		return err
	}
}

func sh(script string) command { return command{argv: []string{"sh", "-ec", script}} }

func TestBringUpInOrder(t *testing.T) {
	dir := t.TempDir()
	l, said := testServices(t)
	err := l.bringUp(t.Context(), []service{
		{name: "first", cmd: sh("sleep 0.2; touch " + dir + "/first; exec sleep 1000"), ready: exists(dir + "/first")},
		{name: "second", cmd: sh("test -e " + dir + "/first; touch " + dir + "/second; exec sleep 1000"), needs: []string{"first"}, ready: exists(dir + "/second")},
	})
	if err != nil {
		t.Fatal(err)
	}
	words := said()
	first, second := strings.Index(words, "first"), strings.Index(words, "second")
	if first < 0 || second < first {
		t.Errorf("said %s", words)
	}
	one := l.running["first"]
	if err := l.bringUp(t.Context(), []service{{name: "first"}}); err != nil || l.running["first"] != one {
		t.Errorf("what runs was started again (%v)", err)
	}
	l.stop(10*time.Second, one)
	if got := ended(one.status); got != "was killed by SIGTERM" {
		t.Errorf("it %s", got)
	}
}

func TestBringUpNamesWhatFailed(t *testing.T) {
	l, _ := testServices(t)
	err := l.bringUp(t.Context(), []service{
		{name: "good", cmd: sh("exec sleep 1000"), ready: func(context.Context) error { return nil }},
		{name: "bad", cmd: sh("echo 1 ERROR no database; exit 3"), needs: []string{"good"}, ready: exists("/nowhere")},
		{name: "last", cmd: sh("exec sleep 1000"), needs: []string{"bad"}, ready: func(context.Context) error { return nil }},
	})
	const want = "bad ended with status 3 before it was ready; the end of its log:\n    1 ERROR no database"
	if err == nil || err.Error() != want {
		t.Errorf("the error is %v", err)
	}
	if l.running["last"] != nil {
		t.Error("what needs it was started")
	}
}

func TestServiceThatIsNotThere(t *testing.T) {
	l, _ := testServices(t)
	err := l.bringUp(t.Context(), []service{{name: "x", cmd: command{argv: []string{"no-such-program"}}}})
	if err == nil || !strings.Contains(err.Error(), "no-such-program is not in the lab's tree") {
		t.Errorf("the error is %v", err)
	}
}

func TestRun(t *testing.T) {
	l, _ := testServices(t)
	if err := l.run(t.Context(), "in", command{argv: []string{"grep", "-qx", "hello"}, stdin: "hello\n"}); err != nil {
		t.Error(err)
	}
	err := l.run(t.Context(), "out", sh("echo gone wrong >&2; kill -9 $$"))
	if err == nil || err.Error() != "out was killed by SIGKILL; the end of its log:\n    gone wrong" {
		t.Errorf("the error is %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.run(ctx, "slow", sh("sleep 1000")); err == nil || !strings.Contains(err.Error(), "slow was not done in time") {
		t.Errorf("the error is %v", err)
	}
}

func TestReporterKeepsState(t *testing.T) {
	l, said := testServices(t)
	l.report.tell(event{Service: "a", State: "ready"})
	l.report.fail(&failure{Service: "b", What: "ended"})
	content, err := os.ReadFile(l.report.file)
	if err != nil {
		t.Fatal(err)
	}
	var st status
	if err := json.Unmarshal(content, &st); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(status{Services: map[string]string{"a": "ready"}}, st); diff != "" {
		t.Error(diff)
	}
	if err := follow(strings.NewReader(said()), func(event) {}); err == nil || err.Error() != "b ended" {
		t.Errorf("heard %v", err)
	}
	st.Services["c"] = "ended with status 1"
	if diff := cmp.Diff([]string{"c ended with status 1"}, st.ended()); diff != "" {
		t.Error(diff)
	}
}

func TestBeganAt(t *testing.T) {
	if _, err := beganAt(4194305); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no process: %v", err)
	}
	a, err := beganAt(os.Getpid())
	if err != nil || a == "" || a == "0" {
		t.Errorf("%q, %v", a, err)
	}
}
