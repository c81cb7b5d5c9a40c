package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"plasmid/runtime/store"
)

const lease = 3 * time.Second

// machines answer probes, or do not.
type machines struct {
	mu    sync.Mutex
	down  map[string]bool
	hang  map[string]bool // they accept the connection, and that is all
	asked map[string]int
}

var errAway = errors.New("no answer")

// probe takes a while, and all of the time it has when the machine is down.
func (m *machines) probe(ctx context.Context, to store.Machine) error {
	m.mu.Lock()
	m.asked[to.ID]++
	down, hang := m.down[to.ID], m.hang[to.ID]
	m.mu.Unlock()
	if down {
		<-ctx.Done()
		return errAway
	}
	if hang {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", ErrHangs, errAway)
	}
	time.Sleep(time.Millisecond) // of the bubble's time
	return nil
}

func (m *machines) set(id string, down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down[id] = down
}

func (m *machines) hangs(id string, hang bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hang[id] = hang
}

func (m *machines) count(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked[id]
}

// silent is a view in which the machines are known and those named report.
func silent(known []string, alive ...string) *store.View {
	v := &store.View{Known: map[string]store.Machine{}, Machines: map[string]store.Machine{}}
	for _, id := range known {
		v.Known[id] = store.Machine{ID: id}
	}
	for _, id := range alive {
		v.Machines[id] = store.Machine{ID: id}
	}
	return v
}

// bubble runs f with a watchdog that began now. advance judges the view, again
// and again as the watchdog asks for it, for a time.
func bubble(t *testing.T, f func(w *watchdog, m *machines, advance func(*store.View, time.Duration))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &machines{down: map[string]bool{}, hang: map[string]bool{}, asked: map[string]int{}}
		w := newWatchdog(m.probe, lease)
		w.begin(time.Now())
		f(w, m, func(v *store.View, d time.Duration) {
			end := time.After(d)
			for {
				var timer <-chan time.Time
				if again := w.judge(t.Context(), v); again > 0 {
					timer = time.After(again)
				}
				select {
				case <-end:
					return
				case <-w.answers:
				case <-timer:
				}
			}
		})
		time.Sleep(2 * probeTimeout) // of the bubble's time, for probes under way
	})
}

func TestNobodyIsGoneBeforeAFullLease(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		m.set("a", true)
		v := silent([]string{"a"})
		advance(v, lease-time.Millisecond)
		if w.gone("a") {
			t.Error("gone within the grace")
		}
		advance(v, 2*time.Millisecond)
		if !w.gone("a") {
			t.Error("not gone although it failed all probes of the grace")
		}
	})
}

func TestWhatAnswersAtTheEndOfTheGraceIsNotGone(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		m.set("a", true)
		v := silent([]string{"a"})
		advance(v, 1900*time.Millisecond) // the second probe is about to fail
		m.set("a", false)
		advance(v, 10*lease)
		if w.gone("a") {
			t.Error("a machine that answered before the grace was over is gone")
		}
	})
}

// A daemon that hangs is replaced by systemd meanwhile; a machine on which
// nothing else does either is gone in the end.
func TestAMachineWhoseDaemonHangs(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		v := silent([]string{"a"})
		m.hangs("a", true)
		advance(v, hangTime-time.Second)
		if w.gone("a") {
			t.Error("gone before systemd can have replaced its daemon")
		}
		m.hangs("a", false) // it goes on, and hangs again
		advance(v, 2*time.Second)
		m.hangs("a", true)
		advance(v, hangTime-time.Second)
		if w.gone("a") {
			t.Error("gone although it has answered")
		}
		advance(v, 5*time.Second)
		if !w.gone("a") {
			t.Error("not gone for ever")
		}
	})
}

// The power of a machine goes while its daemon hangs.
func TestAMachineThatHungIsLost(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		v := silent([]string{"a"})
		m.hangs("a", true)
		advance(v, 10*time.Second)
		m.set("a", true)
		advance(v, 4*time.Second)
		if !w.gone("a") {
			t.Error("not gone although it does not even accept connections")
		}
	})
}

func TestTwoFailedProbesMakeGone(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		advance(silent([]string{"a"}, "a"), 10*lease)
		if m.count("a") != 0 {
			t.Fatal("a machine that reports was asked")
		}
		m.set("a", true)
		v := silent([]string{"a"})
		advance(v, 2*probeTimeout-time.Millisecond)
		if w.gone("a") {
			t.Error("gone after one probe")
		}
		advance(v, 2*time.Millisecond)
		if !w.gone("a") || m.count("a") != 2 {
			t.Errorf("gone %v after %d probes, want true after 2", w.gone("a"), m.count("a"))
		}
		advance(v, time.Minute)
		if m.count("a") != 2 {
			t.Error("a machine that is gone is asked on")
		}
	})
}

func TestAFailureBetweenAnswersCountsForNothing(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		v := silent([]string{"a"})
		for range 5 {
			m.set("a", true)
			before := m.count("a")
			for m.count("a") == before { // until a probe is under way
				advance(v, 10*time.Millisecond)
			}
			m.set("a", false)
			advance(v, 3*time.Second)
		}
		if w.gone("a") {
			t.Error("gone although no two probes in a row failed")
		}
	})
}

func TestAMachineThatAnswersIsSuspectForEver(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		advance(silent([]string{"a", "b"}, "b"), time.Hour)
		if w.gone("a") || w.gone("b") {
			t.Error("a machine that answers is gone")
		}
		// It is asked about once a second, no more.
		if n := m.count("a"); n < 3000 || n > 3700 {
			t.Errorf("asked %d times in an hour", n)
		}
	})
}

func TestAReturnClearsAll(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		m.set("a", true)
		away := silent([]string{"a"})
		advance(away, 2*lease)
		if !w.gone("a") {
			t.Fatal("not gone")
		}
		advance(silent([]string{"a"}, "a"), time.Millisecond)
		if w.gone("a") {
			t.Error("gone although it reports again")
		}
		m.set("a", false)
		advance(away, time.Minute)
		if w.gone("a") {
			t.Error("gone although it answers; the failures of before counted")
		}
	})
}

func TestAStoreThatWasAwayBeginsANewGrace(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		m.set("a", true)
		v := silent([]string{"a"})
		advance(v, 2*lease)
		if !w.gone("a") {
			t.Fatal("not gone")
		}
		w.begin(time.Now())
		advance(v, lease-time.Millisecond)
		if w.gone("a") {
			t.Error("gone within the new grace")
		}
		advance(v, 2*time.Millisecond)
		if !w.gone("a") {
			t.Error("not gone after the new grace")
		}
	})
}

func TestAMachineThatNeverJoinedIsNotAsked(t *testing.T) {
	bubble(t, func(w *watchdog, m *machines, advance func(*store.View, time.Duration)) {
		v := silent(nil)
		v.Placements = map[string]map[string]store.Placement{"u.service": {"x": {}}}
		advance(v, time.Minute)
		if m.count("x") != 0 || w.gone("x") {
			t.Error("the watchdog judges a machine that is not known")
		}
	})
}
