package agent

import (
	"context"
	"fmt"
	"time"

	"plasmid/runtime/store"
	"plasmid/runtime/systemd"
	"plasmid/runtime/unit"
)

const firstAgain, lastAgain = time.Second, 30 * time.Second

// again starts a unit that has failed once more, as often as its Retries= say;
// then it gives up, and the engine finds another machine.
func (w *worker) again(ctx context.Context, p *store.Placement, spec unit.Spec, s systemd.State) error {
	r := spec.Retries
	w.mu.Lock()
	now := time.Now()
	if n := len(w.failures); n == 0 || !w.counted.Equal(s.Since) {
		w.failures, w.counted = append(w.failures, now), s.Since
	}
	for len(w.failures) > 0 && now.Sub(w.failures[0]) >= r.Within {
		w.failures = w.failures[1:]
	}
	n := len(w.failures)
	w.mu.Unlock()
	if n > r.Starts {
		w.giveUp(fmt.Sprintf("it failed (%s) and was started %d more times within %v without success", s.Result, r.Starts, r.Within))
		return nil
	}
	pause := min(firstAgain<<(max(n, 1)-1), lastAgain)
	w.note(fmt.Sprintf("it failed (%s); it is started again in %v (%d of %d)", s.Result, pause, n, r.Starts))
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	}
	return w.start(ctx, p, spec)
}

// failedAgain wakes the worker of a unit that is to be started again.
func (w *worker) failedAgain(s systemd.State) {
	w.mu.Lock()
	p, gaveUp := w.desired, w.gaveUp
	w.mu.Unlock()
	if s.Active != "failed" || gaveUp || p == nil || p.Wish != store.Launched {
		return
	}
	if spec, err := unit.SpecOf(p.Unit, p.Text); err == nil && spec.Retries.Starts > 0 {
		signal(w.woken)
	}
}

// fresh forgets failures: the unit is another one, or was restarted by a user.
func (w *worker) fresh() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures, w.counted = nil, time.Time{}
}
