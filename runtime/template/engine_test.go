package template

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a Store in memory.
type memory struct {
	mu       sync.Mutex
	keys     map[string]string
	revision int64
	changed  chan struct{}
	err      error // of the next reads
	reads    int
}

func (m *memory) set(key, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keys == nil {
		m.keys = map[string]string{}
	}
	m.keys[key] = value
	m.revision++
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// count is how often the store was read.
func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

func (m *memory) Get(context.Context, []string) (map[string]string, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	return maps.Clone(m.keys), m.revision, m.err
}

func (m *memory) Watch(ctx context.Context, _ []string, revision int64) error {
	m.mu.Lock()
	if m.revision > revision {
		m.mu.Unlock()
		return nil
	}
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	changed := m.changed
	m.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
		return nil
	}
}

// following runs f's resource over a store, in a bubble of synctest. There are
// no commands in these tests: processes do not run on a bubble's clock.
func following(t *testing.T, f *fixture, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Watch(ctx, s, []*Resource{f.Resource}, f.o) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
}

func TestWatchDebounces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, `{{getv "/a" "none"}}`)
		f.Debounce = time.Second
		s := &memory{}
		following(t, f, s)
		f.want("none")
		for _, v := range []string{"1", "2", "3"} {
			s.set("/a", v)
			time.Sleep(100 * time.Millisecond)
		}
		f.want("none")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		f.want("3")
		if n := s.count(); n != 2 {
			t.Errorf("%d reads for three changes within the debounce, want 2", n)
		}
	})
}

func TestWatchKeepsLeastTimeBetweenReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, `{{getv "/a" "none"}}`)
		f.MinReload = time.Minute
		s := &memory{}
		following(t, f, s)
		s.set("/a", "1")
		time.Sleep(59 * time.Second)
		synctest.Wait()
		f.want("none")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		f.want("1")
	})
}

// A resource that fails is tried again with growing pauses, at once when its
// keys change, and never without a pause.
func TestWatchNeverSpins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, `{{getv "/a"}}`)
		s := &memory{}
		following(t, f, s)
		time.Sleep(10 * time.Minute)
		if n := s.count(); n < 15 || n > 30 {
			t.Errorf("%d reads in ten minutes of failing, want about 24", n)
		}
		s.set("/a", "1")
		time.Sleep(time.Second)
		synctest.Wait()
		f.want("1")

		s.mu.Lock()
		s.err, s.reads = errors.New("the store is away"), 0
		s.mu.Unlock()
		s.set("/a", "2")
		time.Sleep(10 * time.Minute)
		if n := s.count(); n > 30 {
			t.Errorf("%d reads in ten minutes without a store", n)
		}
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		time.Sleep(lastRetry)
		synctest.Wait()
		f.want("2")
	})
}

func TestWatchReadsAgainAfterResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, "x")
		f.o.Resync = time.Minute
		s := &memory{}
		following(t, f, s)
		time.Sleep(10*time.Minute + time.Second)
		if n := s.count(); n < 9 || n > 12 {
			t.Errorf("%d reads in ten minutes, want one a minute", n)
		}
	})
}

// One broken resource does not hold up the others.
func TestIntervalGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, `{{getv "/a"}}`)
		s := &memory{keys: map[string]string{"/a": "1"}}
		ctx, cancel := context.WithCancel(t.Context())
		loads, done := 0, make(chan struct{})
		load := func() ([]*Resource, error) {
			loads++
			return []*Resource{f.Resource}, errors.New("another one is broken")
		}
		go func() { defer close(done); Interval(ctx, s, load, time.Minute, f.o) }()
		synctest.Wait()
		f.want("1")
		s.set("/a", "2")
		time.Sleep(61 * time.Second)
		synctest.Wait()
		f.want("2")
		cancel()
		<-done
		if loads != 2 {
			t.Errorf("resources were loaded %d times, want 2", loads)
		}
	})
}

func TestOnceGoesOn(t *testing.T) {
	bad, good := newFixture(t, `{{getv "/gone"}}`), newFixture(t, "x")
	err := Once(t.Context(), &memory{}, []*Resource{bad.Resource, good.Resource}, good.o)
	if err == nil || !strings.Contains(err.Error(), "/gone") {
		t.Errorf("%v", err)
	}
	good.want("x")
}

func TestEnv(t *testing.T) {
	t.Setenv("MYAPP_DATABASE_URL", "db1")
	t.Setenv("MYAPP_PORT", "80")
	t.Setenv("MYAPPENDIX", "no")
	got, _, err := Env{}.Get(t.Context(), []string{"/myapp"})
	want := map[string]string{"/myapp/database/url": "db1", "/myapp/port": "80"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
	all, _, _ := Env{}.Get(t.Context(), []string{"/"})
	if all["/myapp/port"] != "80" {
		t.Errorf("all of the environment lacks /myapp/port: %v", all)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Env{}).Watch(ctx, nil, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("watch: %v", err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yaml", "app:\n  name: hello\n  port: 80\n  on: true\n  none:\n  list: [x, {y: z}]\nother: 1\n")
	write("b.json", `{"app": {"name": "later"}}`)
	write("c.txt", "not: [read")
	s := Files{Names: []string{dir}, Filter: "*.[yj]*"}
	got, revision, err := s.Get(t.Context(), []string{"/app"})
	want := map[string]string{"/app/name": "later", "/app/port": "80", "/app/on": "true", "/app/none": "", "/app/list/0": "x", "/app/list/1/y": "z"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	watched := make(chan error, 1)
	go func() { watched <- s.Watch(ctx, nil, revision) }()
	write("b.json", `{"app": {"name": "changed"}}`)
	if err := <-watched; err != nil {
		t.Errorf("watch: %v", err)
	}
	if err := s.Watch(ctx, nil, revision); err != nil {
		t.Errorf("a change before the watch: %v", err)
	}
	for _, bad := range []string{"a: b: c", "- 1", "just text", "a: &x [*x]"} {
		if k, err := ParseKeys([]byte(bad)); err == nil {
			t.Errorf("%q: %v, no error", bad, k)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte("a: {b: [1, &x {c: d}, *x]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = ParseKeys(data) }) // must not panic, nor take for ever
}
