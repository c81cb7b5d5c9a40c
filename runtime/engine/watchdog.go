package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"plasmid/runtime/store"
)

const (
	probeTimeout = time.Second
	probeEvery   = time.Second
	// probeFailures in a row make a silent machine gone.
	probeFailures = 2
	// hangTime is how long a machine may accept connections and say nothing on
	// them before that counts as no answer. systemd replaces a plasmidd that hangs
	// in half of this time: see WatchdogSec= of plasmidd.service.
	hangTime = 30 * time.Second
)

// ErrHangs is what a probe returns, among other errors, when the machine's kernel
// accepted the connection and nothing was said on it: the machine runs, its
// daemon hangs or is starved.
var ErrHangs = errors.New("it accepts connections but says nothing")

// watchdog decides which machines are gone. A machine whose lease has expired
// is asked directly; it is gone when it does not answer either. Nobody is
// declared gone before a full lease has passed since the engine began to lead
// or the store came back: until then a machine may just not have been able to
// report. One whose daemon hangs has hangTime for systemd to replace it.
type watchdog struct {
	probe func(context.Context, store.Machine) error
	lease time.Duration
	began time.Time
	// answers is signalled when a probe has ended.
	answers chan struct{}

	mu       sync.Mutex
	failures map[string]int       // in a row, of silent machines
	asking   map[string]bool      // a probe is under way
	asked    map[string]time.Time // when the last probe began
	hangs    map[string]time.Time // since when a machine's probes have got ErrHangs
}

func newWatchdog(probe func(context.Context, store.Machine) error, lease time.Duration) *watchdog {
	return &watchdog{probe: probe, lease: lease, answers: make(chan struct{}, 1),
		failures: map[string]int{}, asking: map[string]bool{}, asked: map[string]time.Time{}, hangs: map[string]time.Time{}}
}

// begin starts a new grace: what was found out before counts no longer.
func (w *watchdog) begin(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = at
	clear(w.failures)
	clear(w.hangs)
}

// gone reports whether a machine was found gone.
func (w *watchdog) gone(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failures[id] >= probeFailures && time.Since(w.began) >= w.lease
}

// judge asks the machines that are silent. It returns after what time it wants
// to be called again, 0 for not before something changes.
func (w *watchdog) judge(ctx context.Context, view *store.View) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range view.Machines {
		delete(w.failures, id)
		delete(w.hangs, id)
	}
	var again time.Duration
	sooner := func(d time.Duration) {
		if d > 0 && (again == 0 || d < again) {
			again = d
		}
	}
	for id, m := range view.Known {
		if _, alive := view.Machines[id]; alive {
			continue
		}
		failures := w.failures[id]
		if failures >= probeFailures {
			left := w.lease - time.Since(w.began)
			if left <= 0 {
				continue // it is gone
			}
			// It is asked on to the end of the grace: what answers then is
			// not gone, whatever it did before.
			sooner(left)
		}
		if w.asking[id] {
			continue
		}
		pause := probeEvery - time.Since(w.asked[id])
		if failures > 0 && failures < probeFailures {
			pause = 0 // it failed once: ask again at once
		}
		if pause > 0 {
			sooner(pause)
			continue
		}
		w.asking[id], w.asked[id] = true, time.Now()
		go w.ask(ctx, m)
	}
	return again
}

func (w *watchdog) ask(ctx context.Context, m store.Machine) {
	pctx, cancel := context.WithTimeout(ctx, probeTimeout)
	err := w.probe(pctx, m)
	cancel()
	w.mu.Lock()
	w.asking[m.ID] = false
	switch {
	case err == nil || ctx.Err() != nil:
		delete(w.failures, m.ID)
		delete(w.hangs, m.ID)
	case errors.Is(err, ErrHangs) && !w.hung(m.ID):
		delete(w.failures, m.ID)
	default:
		w.failures[m.ID]++
	}
	w.mu.Unlock()
	select {
	case w.answers <- struct{}{}:
	default:
	}
}

// hung reports whether a machine whose daemon hangs has done so for too long.
// w.mu is held.
func (w *watchdog) hung(id string) bool {
	since, ok := w.hangs[id]
	if !ok {
		since = time.Now()
		w.hangs[id] = since
	}
	return time.Since(since) >= hangTime
}
