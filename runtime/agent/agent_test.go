package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"plasmid/runtime/container"
	"plasmid/runtime/store"
	"plasmid/runtime/systemd"
	"plasmid/runtime/unit"
)

// box is one machine: what outlives an agent on it.
type box struct {
	t       *testing.T
	dir     string
	run     string
	systemd *fakeSystemd
	store   *fakeStore
	images  *fakeImages
	id      string
	claims  Claims
	guards  func(context.Context) error
}

func newBox(t *testing.T) *box {
	dir := t.TempDir()
	return &box{
		t: t, dir: dir, run: filepath.Join(dir, "run"),
		systemd: newFakeSystemd(), store: &fakeStore{updates: make(chan store.PlacementUpdate)}, images: &fakeImages{}, id: "m1",
	}
}

// agent starts an agent on the machine. crash ends it, as a kill would: what
// it was doing is cut off.
func (b *box) agent() (a *Agent, crash func()) {
	b.t.Helper()
	a, err := New(Config{
		Machine: store.Machine{ID: b.id, Name: "one"}, Store: b.store, Systemd: b.systemd,
		Containers: noContainers{}, Images: b.images, Apps: noApps{}, Dir: b.dir, RunDir: b.run,
		Claims: b.claims, Guard: b.guards, Boottime: func() time.Duration { return time.Since(booted) },
		Lease: 5 * time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
	synctest.Wait()
	crash = func() { cancel(); <-done }
	b.t.Cleanup(crash)
	return a, crash
}

// booted is when every machine of the tests booted; before a bubble's clock begins.
var booted = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)

// say has the store tell the agent of placements, and waits until nothing more
// happens without time passing.
func (b *box) say(u store.PlacementUpdate) {
	b.t.Helper()
	b.store.updates <- u
	synctest.Wait()
}

var identity = store.Identity{Version: store.SchemaVersion, ID: "c1", Name: "t"}

func snapshot(revision int64, put ...store.Placement) store.PlacementUpdate {
	return store.PlacementUpdate{Snapshot: true, Identity: identity, Etcd: 1, Revision: revision, Put: put}
}

func changed(revision int64, put ...store.Placement) store.PlacementUpdate {
	return store.PlacementUpdate{Identity: identity, Etcd: 1, Revision: revision, Put: put}
}

func without(revision int64, names ...string) store.PlacementUpdate {
	return store.PlacementUpdate{Identity: identity, Etcd: 1, Revision: revision, Deleted: names}
}

func placement(name, text string, wish store.Wish, revision int64) store.Placement {
	return store.Placement{Machine: "m1", Unit: name, Text: text, Hash: unit.Hash(text), Wish: wish, Revision: revision}
}

func (b *box) did(want ...string) {
	b.t.Helper()
	synctest.Wait()
	if have := b.systemd.log.take(); !slices.Equal(have, want) {
		b.t.Errorf("the agent did\n  %s\nwant\n  %s", strings.Join(have, "\n  "), strings.Join(want, "\n  "))
	}
}

func state(a *Agent, name string) store.State {
	a.publisher.mu.Lock()
	defer a.publisher.mu.Unlock()
	return a.publisher.states[name]
}

const (
	plain  = "[Service]\nExecStart=/bin/sleep 1\n"
	second = "[Service]\nExecStart=/bin/sleep 2\n"
)

func TestStartStopRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		a, _ := b.agent()
		b.say(snapshot(1, placement("u.service", plain, store.Launched, 1)))
		b.did("install u.service", "start u.service", "started u.service")
		if s := state(a, "u.service"); s.Active != "active" || !s.Ready || s.Message != "" || s.Hash != unit.Hash(plain) {
			t.Errorf("state is %+v", s)
		}
		b.say(changed(2, placement("u.service", plain, store.Loaded, 2)))
		b.did("stop u.service", "stopped u.service")
		b.say(without(3, "u.service"))
		b.did("stop u.service", "stopped u.service", "remove u.service")
		if a.publisher.has("u.service") {
			t.Error("the state of a unit that is gone is still published")
		}
	})
}

// What is reported of a unit is what was wished, not the file that was made of
// it.
func TestAQuadletFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		a, _ := b.agent()
		const text = "[Container]\nImage=debian:testing\n"
		b.say(snapshot(1, placement("a.service", text, store.Launched, 1)))
		got := state(a, "a.service")
		if got.Active != "active" || got.Hash != unit.Hash(text) {
			t.Errorf("reported: %+v", got)
		}
		// That docker run was started makes no container.
		if got.Ready || !strings.Contains(got.Message, "its container a does not exist yet") {
			t.Errorf("a unit without its container: %+v", got)
		}
		if got := b.systemd.text("a.service"); !strings.Contains(got, "docker run") {
			t.Errorf("systemd has:\n%s", got)
		}
	})
}

// A machine that was cloned from another after its first boot follows nobody's
// placements until it has an ID of its own.
func TestACloneDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		_, crash := b.agent()
		b.say(snapshot(1, placement("mine.service", plain, store.Launched, 1)))
		b.did("install mine.service", "start mine.service", "started mine.service")
		crash()
		b.store.refuses.Store(true)
		b.agent()
		theirs := snapshot(2, placement("theirs.service", plain, store.Launched, 2))
		select {
		case b.store.updates <- theirs:
			t.Error("it follows the placements of the machine that it was cloned from")
		case <-time.After(time.Minute):
		}
		b.did()
		b.store.refuses.Store(false)
		b.say(theirs)
		if !b.systemd.runs("theirs.service") || b.systemd.runs("mine.service") {
			t.Error("it does not follow its placements")
		}
	})
}

// G1: whatever becomes of the daemon, what runs goes on.
func TestAdoption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		_, crash := b.agent()
		units := []store.Placement{placement("u.service", plain, store.Launched, 1), placement("v.service", second, store.Launched, 2)}
		b.say(snapshot(2, units...))
		b.systemd.log.take()
		crash()
		b.did() // nothing is stopped by the end of the daemon

		// While it was away one of them has ended by itself.
		b.systemd.end("v.service", "inactive")
		a, _ := b.agent()
		b.did()
		b.say(snapshot(2, units...))
		b.did()
		if s := state(a, "u.service"); s.Active != "active" || !s.Ready {
			t.Errorf("the adopted unit's state is %+v", s)
		}
		if s := state(a, "v.service"); s.Active != "inactive" {
			t.Errorf("the ended unit's state is %+v", s)
		}
	})
}

func TestAReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		_, crash := b.agent()
		b.say(snapshot(1, placement("u.service", plain, store.Launched, 1)))
		crash()
		b.systemd.reboot()
		if err := os.RemoveAll(b.run); err != nil {
			t.Fatal(err)
		}
		b.systemd.log.take()
		b.agent()
		b.did() // the machine may have been taken for gone: the store is asked first
		b.say(snapshot(1, placement("u.service", plain, store.Launched, 1)))
		b.did("install u.service", "start u.service", "started u.service")
	})
}

// G6: the old one has ended with all its hooks before anything of the new one
// begins, and works on until the new one's image is here.
func TestReplaceOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.agent()
		old := plain + "[Install]\nWantedBy=multi-user.target\n"
		b.say(snapshot(1, placement("u.service", old, store.Launched, 1)))
		b.systemd.log.take()
		b.systemd.stopping["u.service"] = 30 * time.Second
		b.images.takes = time.Minute
		b.say(changed(2, placement("u.service", second+"[X-Plasmid]\nImages=hello:2\n", store.Launched, 2)))
		b.did()
		time.Sleep(61 * time.Second)
		b.did("stop u.service")
		time.Sleep(31 * time.Second)
		b.did("stopped u.service", "disable u.service", "install u.service", "start u.service", "started u.service")
	})
}

// G5: a unit whose start, image or stop never ends holds up no other.
func TestIsolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.systemd.starting["slow.service"] = time.Hour
		b.images.never = "gone:1"
		a, _ := b.agent()
		b.say(snapshot(1,
			placement("broken.service", "[X-Plasmid]\nNoSuch=1\n", store.Launched, 1),
			placement("pull.service", "[Service]\nExecStart=/bin/true\n[X-Plasmid]\nImages=gone:1\n", store.Launched, 1),
			placement("slow.service", plain, store.Launched, 1),
			placement("u.service", plain, store.Launched, 1)))
		if s := state(a, "u.service"); s.Active != "active" {
			t.Errorf("a good unit among bad ones is %+v", s)
		}
		if s := state(a, "slow.service"); s.Active != "activating" {
			t.Errorf("a slow unit is %+v", s)
		}
		if s := state(a, "broken.service"); !s.GaveUp || !strings.Contains(s.Message, "NoSuch") {
			t.Errorf("a unit that can't be read: %+v", s)
		}
		if s := state(a, "pull.service"); !strings.Contains(s.Message, "fetching image gone:1") {
			t.Errorf("a unit that waits for its image: %+v", s)
		}
		// A change of mind cuts what never ends short.
		b.systemd.log.take()
		b.say(without(2, "slow.service"))
		b.did("stop slow.service", "stopped slow.service", "remove slow.service")
	})
}

// A store that lost what it knew looks like one that wants nothing.
func TestDistrust(t *testing.T) {
	other := store.Identity{Version: store.SchemaVersion, ID: "c2", Name: "other"}
	newer := store.Identity{Version: store.SchemaVersion + 1, ID: "c1", Name: "t"}
	for name, u := range map[string]store.PlacementUpdate{
		"wiped":                  {Snapshot: true, Revision: 50},
		"wiped under a watch":    {Revision: 50, Deleted: []string{"u.service"}},
		"of another cluster":     {Snapshot: true, Identity: other, Revision: 50},
		"restored from a backup": {Snapshot: true, Identity: identity, Etcd: 1, Revision: 3},
		// By the time the machine looks, others have written enough to it.
		"restored, and ahead": {Snapshot: true, Identity: identity, Etcd: 2, Revision: 50},
		"of a newer schema":   {Snapshot: true, Identity: newer, Etcd: 1, Revision: 50},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t)
				_, crash := b.agent()
				b.say(snapshot(10, placement("u.service", plain, store.Launched, 10)))
				b.systemd.log.take()
				b.say(u)
				// What changes in such a store counts for nothing either.
				b.say(store.PlacementUpdate{Identity: u.Identity, Etcd: u.Etcd, Revision: 51, Put: []store.Placement{placement("x.service", plain, store.Launched, 51)}})
				b.did()
				crash()
				b.agent() // nor has it spoiled what is kept
				b.say(u)
				b.did()
				b.say(snapshot(60, placement("u.service", plain, store.Loaded, 60)))
				b.did("stop u.service", "stopped u.service")
			})
		})
	}
}

func TestAWishThatCantBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		if err := os.WriteFile(filepath.Join(b.dir, wishFile), []byte(`{"placem`), 0o600); err != nil {
			t.Fatal(err)
		}
		b.agent()
		if _, err := os.Stat(filepath.Join(b.dir, wishFile+".bad")); err != nil {
			t.Error(err)
		}
		b.say(snapshot(1, placement("u.service", plain, store.Launched, 1)))
		b.did("install u.service", "start u.service", "started u.service")
	})
}

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		a, _ := b.agent()
		b.systemd.refuse(errors.New("the disk is full"))
		begun := time.Now()
		b.say(snapshot(1, placement("u.service", plain, store.Launched, 1)))
		if s := state(a, "u.service"); !strings.Contains(s.Message, "the disk is full") || s.GaveUp {
			t.Errorf("state is %+v", s)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		var at []time.Duration
		for _, tried := range b.systemd.tried {
			at = append(at, tried.Sub(begun))
		}
		// Twice as long each time, and half a minute at most.
		want := []time.Duration{0, 1 * time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 31 * time.Second, 61 * time.Second, 91 * time.Second}
		if !slices.Equal(at, want) {
			t.Errorf("it was tried at %v, want %v", at, want)
		}
		b.systemd.refuse(nil)
		time.Sleep(lastRetry)
		b.did("install u.service", "start u.service", "started u.service")
		if s := state(a, "u.service"); s.Message != "" || s.Active != "active" {
			t.Errorf("state is %+v", s)
		}
	})
}

// A unit that does not start is not tried again: that is for its Restart=.
func TestAFailedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.systemd.fails["u.service"] = true
		a, crash := b.agent()
		b.say(snapshot(1, placement("u.service", plain, store.Launched, 1)))
		b.did("install u.service", "start u.service", "failed u.service")
		if s := state(a, "u.service"); !s.GaveUp || s.Active != "failed" {
			t.Errorf("state is %+v", s)
		}
		crash()
		b.agent()
		b.say(snapshot(1, placement("u.service", plain, store.Launched, 1)))
		time.Sleep(time.Hour)
		b.did()
		// Another text is another try.
		b.systemd.fails["u.service"] = false
		b.say(changed(2, placement("u.service", second, store.Launched, 2)))
		b.did("stop u.service", "stopped u.service", "install u.service", "start u.service", "started u.service")
	})
}

// Nobody is sent to a unit that is being stopped.
func TestDrainBeforeStop(t *testing.T) {
	const text = plain + "[X-Plasmid]\nApp=hello\nRegister=/u here\n"
	for name, c := range map[string]struct {
		hangs bool
		waits time.Duration
	}{
		"the store answers":   {false, 0},
		"the store is silent": {true, drainTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t)
				a, _ := b.agent()
				r := &fakeRegistrar{log: &b.systemd.log, hangs: c.hangs}
				a.discovery.SetRegistrar(r)
				b.say(snapshot(1, placement("u.service", text, store.Launched, 1)))
				time.Sleep(time.Second)
				b.did("install u.service", "start u.service", "started u.service", "register /apps/hello/u")
				begun := time.Now()
				b.say(changed(2, placement("u.service", text, store.Loaded, 2)))
				time.Sleep(c.waits)
				if c.hangs {
					b.did("stop u.service", "stopped u.service")
				} else {
					b.did("unregister /apps/hello/u", "stop u.service", "stopped u.service")
				}
				if took := time.Since(begun); took != c.waits {
					t.Errorf("the stop came after %v, want %v", took, c.waits)
				}
			})
		})
	}
}

// The daemon is killed at every step of a replace; the next one finishes it,
// each unit is stopped before it is written over, and nothing runs twice.
func TestACrashHalfWay(t *testing.T) {
	next := placement("u.service", second, store.Launched, 2)
	for _, step := range []string{"stop", "stopped", "install", "start", "started"} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t)
				_, crash := b.agent()
				b.say(snapshot(1, placement("u.service", plain, store.Launched, 1)))
				b.systemd.log.take()
				reached, resume := make(chan struct{}), make(chan struct{})
				b.systemd.log.at(step+" u.service", func() { close(reached); <-resume })
				b.store.updates <- changed(2, next)
				<-reached
				go func() { time.Sleep(time.Millisecond); close(resume) }()
				crash()
				done := b.systemd.log.take()
				a, _ := b.agent()
				b.say(snapshot(2, next))
				time.Sleep(time.Minute)
				synctest.Wait()
				done = append(done, b.systemd.log.take()...)
				if b.systemd.text("u.service") != second {
					t.Errorf("the unit's file is not the new one; %q", done)
				}
				if s := state(a, "u.service"); s.Active != "active" || s.Hash != next.Hash {
					t.Errorf("state is %+v after %q", s, done)
				}
				if n := len(slices.DeleteFunc(slices.Clone(done), func(s string) bool { return s != "started u.service" })); n != 1 {
					t.Errorf("it was started %d times: %q", n, done)
				}
				if i, j := slices.Index(done, "stopped u.service"), slices.Index(done, "install u.service"); i < 0 || j < i {
					t.Errorf("it was written over before it had stopped: %q", done)
				}
			})
		})
	}
}

func TestTheWishIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.agent()
		b.say(snapshot(7, placement("u.service", plain, store.Launched, 7)))
		data, err := os.ReadFile(filepath.Join(b.dir, wishFile))
		if err != nil {
			t.Fatal(err)
		}
		var w wish
		if err := json.Unmarshal(data, &w); err != nil {
			t.Fatal(err)
		}
		if w.Cluster != "c1" || w.Revision != 7 || w.Placements["u.service"].Text != plain {
			t.Errorf("kept: %+v", w)
		}
	})
}

// What others wrote to systemd's directories is not touched.
func TestAForeignUnit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.systemd.foreign = "ssh.service"
		a, _ := b.agent()
		b.say(snapshot(1, placement("ssh.service", plain, store.Launched, 1)))
		time.Sleep(time.Hour)
		b.did()
		if s := state(a, "ssh.service"); s.Message == "" {
			t.Errorf("nobody is told: %+v", s)
		}
	})
}

// fakeStore hands on the updates that a test makes.
type fakeStore struct {
	updates chan store.PlacementUpdate
	refuses atomic.Bool // the machine's ID is another's
}

func (s *fakeStore) Admits(_ context.Context, m store.Machine) error {
	if s.refuses.Load() {
		return &store.DuplicateMachineError{ID: m.ID, Other: store.Machine{ID: m.ID, Name: "two"}}
	}
	return nil
}

func (s *fakeStore) FollowPlacements(ctx context.Context, _ string, f func(store.PlacementUpdate)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case u := <-s.updates:
			f(u)
		}
	}
}

func (s *fakeStore) Join(ctx context.Context, _ store.Machine, _ time.Duration) (*store.Session, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// actions is what was done, in order.
type actions struct {
	mu   sync.Mutex
	done []string
	when map[string]func()
	note func(string)
}

func (l *actions) add(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	l.mu.Lock()
	l.done = append(l.done, s)
	f := l.when[s]
	delete(l.when, s)
	l.mu.Unlock()
	if f != nil {
		f()
	}
}

// at has f called when something is done for the first time.
func (l *actions) at(s string, f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.when == nil {
		l.when = map[string]func(){}
	}
	l.when[s] = f
}

func (l *actions) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := l.done
	l.done = nil
	return done
}

// fakeSystemd runs units that are only names.
type fakeSystemd struct {
	log actions

	mu          sync.Mutex
	units       map[string]*fakeUnit
	starting    map[string]time.Duration // how long a start takes
	stopping    map[string]time.Duration
	fails       map[string]bool // ends as failed when it is started
	failInstall error
	tried       []time.Time // installations
	foreign     string
	tell        func(string)
	started     func(name string) // called when a unit begins to start
	lags        time.Duration     // how old an answer to State is when it comes
	queued      time.Duration     // how long a start is queued before it begins
}

type fakeUnit struct {
	text, active, result string
	since                time.Time
}

func newFakeSystemd() *fakeSystemd {
	return &fakeSystemd{units: map[string]*fakeUnit{}, starting: map[string]time.Duration{}, stopping: map[string]time.Duration{}, fails: map[string]bool{}}
}

func (s *fakeSystemd) set(name string, f func(*fakeUnit)) {
	s.mu.Lock()
	if u := s.units[name]; u != nil {
		was := u.active
		f(u)
		if u.active != was {
			u.since = time.Now()
		}
	}
	tell := s.tell
	s.mu.Unlock()
	if tell != nil {
		tell(name)
	}
}

func (s *fakeSystemd) end(name, active string) {
	s.set(name, func(u *fakeUnit) { u.active = active })
}

func (s *fakeSystemd) reboot() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.units)
}

// news tells of a unit without a change.
func (s *fakeSystemd) news(name string) { s.set(name, func(*fakeUnit) {}) }

// runs reports whether anything of the unit runs.
func (s *fakeSystemd) runs(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[name]
	return u != nil && u.active != "inactive" && u.active != "failed"
}

func (s *fakeSystemd) text(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.units[name]; u != nil {
		return u.text
	}
	return ""
}

func (s *fakeSystemd) Changes(ctx context.Context, f func(string)) error {
	s.mu.Lock()
	s.tell = f
	s.mu.Unlock()
	f("")
	<-ctx.Done()
	s.mu.Lock()
	s.tell = nil
	s.mu.Unlock()
	return ctx.Err()
}

func (s *fakeSystemd) State(ctx context.Context, name string) (systemd.State, error) {
	s.mu.Lock()
	lags := s.lags
	defer func() {
		s.mu.Unlock()
		time.Sleep(lags) // of the bubble's time
	}()
	u := s.units[name]
	if u == nil {
		return systemd.State{Load: "not-found", Active: "inactive"}, ctx.Err()
	}
	return systemd.State{Load: "loaded", Active: u.active, Result: u.result, Since: u.since}, ctx.Err()
}

func (s *fakeSystemd) Current(ctx context.Context, name string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.units[name] != nil, ctx.Err()
}

// job runs f after a time, which passes also when nobody waits for it.
func (s *fakeSystemd) job(takes time.Duration, f func() string) systemd.Wait {
	done := make(chan string, 1)
	if takes == 0 {
		done <- f()
	} else {
		time.AfterFunc(takes, func() { done <- f() })
	}
	return func(ctx context.Context) (string, error) {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case r := <-done:
			return r, nil
		}
	}
}

func (s *fakeSystemd) Start(ctx context.Context, name string) (systemd.Wait, error) {
	s.log.add("start %s", name)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	takes, fails, started := s.starting[name], s.fails[name], s.started
	s.mu.Unlock()
	if started != nil {
		started(name)
	}
	begin := func() { s.set(name, func(u *fakeUnit) { u.active = "activating" }) }
	s.mu.Lock()
	queued := s.queued
	s.mu.Unlock()
	if queued > 0 {
		time.AfterFunc(queued, begin)
	} else {
		begin()
	}
	return s.job(queued+takes, func() string {
		if fails {
			s.set(name, func(u *fakeUnit) { u.active, u.result = "failed", "exit-code" })
			s.log.add("failed %s", name)
			return "failed"
		}
		activating := false
		s.set(name, func(u *fakeUnit) { activating = u.active == "activating" })
		if activating {
			// Before anybody can see it and act on it.
			s.log.add("started %s", name)
		}
		s.set(name, func(u *fakeUnit) {
			if u.active == "activating" {
				u.active = "active"
			}
		})
		return "done"
	}), nil
}

func (s *fakeSystemd) Stop(ctx context.Context, name string) (systemd.Wait, error) {
	s.log.add("stop %s", name)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	takes := s.stopping[name]
	s.mu.Unlock()
	s.set(name, func(u *fakeUnit) {
		if u.active != "inactive" && u.active != "failed" {
			u.active = "deactivating"
		}
	})
	return s.job(takes, func() string {
		s.set(name, func(u *fakeUnit) { u.active, u.result = "inactive", "" })
		s.log.add("stopped %s", name)
		return "done"
	}), nil
}

func (s *fakeSystemd) Restart(ctx context.Context, name string) (systemd.Wait, error) {
	s.log.add("restart %s", name)
	s.set(name, func(u *fakeUnit) { u.active, u.result = "active", "" })
	return s.job(0, func() string { return "done" }), ctx.Err()
}

func (s *fakeSystemd) Kill(_ context.Context, name string) error {
	s.log.add("kill %s", name)
	s.end(name, "failed")
	return nil
}

// refuse has every Install fail with err, until it is nil.
func (s *fakeSystemd) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failInstall = err
}

func (s *fakeSystemd) Install(ctx context.Context, name, text string, _ bool) error {
	s.mu.Lock()
	s.tried = append(s.tried, time.Now())
	err, foreign := s.failInstall, s.foreign == name
	s.mu.Unlock()
	switch {
	case foreign:
		return &systemd.ForeignUnitError{Name: name}
	case err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	s.mu.Lock()
	if u := s.units[name]; u != nil {
		u.text = text
	} else {
		s.units[name] = &fakeUnit{text: text, active: "inactive"}
	}
	s.mu.Unlock()
	s.log.add("install %s", name)
	return nil
}

func (s *fakeSystemd) Disable(_ context.Context, name string) error {
	s.log.add("disable %s", name)
	return nil
}

func (s *fakeSystemd) Remove(ctx context.Context, name string, _ bool) error {
	s.log.add("remove %s", name)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.units, name)
	return ctx.Err()
}

func (s *fakeSystemd) Installed() (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]string{}
	for name, u := range maps.All(s.units) {
		out[name] = u.text
	}
	return out, nil
}

type fakeImages struct {
	log   actions
	takes time.Duration
	never string
}

func (i *fakeImages) Ensure(ctx context.Context, ref string) error {
	if ref == i.never {
		<-ctx.Done()
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(i.takes):
		return nil
	}
}

type noApps struct{}

func (noApps) Ensure(context.Context, string) error { return nil }

type noContainers struct{}

func (noContainers) Inspect(context.Context, string) (container.State, error) {
	return container.State{}, nil
}

func (noContainers) Events(ctx context.Context, _ func(string)) error {
	<-ctx.Done()
	return ctx.Err()
}

// fakeRegistrar notes what is registered.
type fakeRegistrar struct {
	log   *actions
	hangs bool // when it is to take something away
}

func (r *fakeRegistrar) Register(_ context.Context, key, _ string) error {
	r.log.add("register %s", key)
	return nil
}

func (r *fakeRegistrar) Unregister(ctx context.Context, key string) error {
	if r.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	r.log.add("unregister %s", key)
	return nil
}
