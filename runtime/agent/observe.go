package agent

import (
	"fmt"

	"plasmid/runtime/quadlet"
	"plasmid/runtime/store"
	"plasmid/runtime/systemd"
	"plasmid/runtime/unit"
)

// observe tells the store what systemd says of the unit, whenever there is
// news. It never waits for what run does.
func (w *worker) observe() {
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.seen:
		}
		started := w.hasStarted() // before systemd is asked: what it says is of later
		s, err := w.agent.Systemd.State(w.ctx, w.name)
		if err != nil {
			// When the connection is back, systemd's adapter says so.
			if w.ctx.Err() == nil {
				w.agent.Logger.Error("asking for a unit's state failed", "unit", w.name, "err", err)
			}
			continue
		}
		w.watch(s)
		w.publish(s, started)
		w.failedAgain(s)
	}
}

// watch has the readiness of an active unit checked, and forgets that of
// another one.
func (w *worker) watch(s systemd.State) {
	if !s.Started() {
		w.agent.discovery.Unwatch(w.name)
		w.mu.Lock()
		w.ready, w.notReady = false, nil
		w.mu.Unlock()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.draining > 0 || w.desired == nil || w.desired.Wish != store.Launched {
		return
	}
	if spec, err := unit.SpecOf(w.name, w.text); err == nil {
		w.agent.discovery.Watch(w.ctx, spec)
	}
}

// setReady takes the outcome of the unit's readiness check.
func (w *worker) setReady(ready bool, why error) {
	w.mu.Lock()
	w.ready, w.notReady = ready, why
	w.mu.Unlock()
	w.look()
}

// hasStarted reports whether the unit was started as it is wished and no start is
// under way, so that when it does not run it has ended.
func (w *worker) hasStarted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.desired
	return w.starting == 0 && d != nil && d.Wish == store.Launched && w.agent.marks.has(d) && !w.agent.marks.guarded(w.name)
}

// publish tells of the unit. started says that it had been started when systemd
// was asked.
func (w *worker) publish(s systemd.State, started bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone || w.text == "" && w.message == "" {
		return
	}
	state := store.State{
		Machine: w.agent.Machine.ID, Unit: w.name,
		Load: s.Load, Active: s.Active, Sub: s.Sub, Since: s.Since,
		Ready: w.ready && s.Started(), Message: w.message, GaveUp: w.gaveUp,
	}
	state.Ended = started && w.starting == 0 && (s.Active == "inactive" || s.Active == "failed") && w.message == ""
	if w.text != "" {
		state.Hash = unit.Hash(w.text)
		if d := w.desired; d != nil && quadlet.Same(w.text, d.Text) {
			state.Hash = d.Hash // of what the file was made from
		}
	}
	switch {
	case state.Message != "":
	case s.Started() && !w.ready && w.notReady != nil:
		state.Message = "not ready: " + w.notReady.Error()
	case s.Active == "failed":
		state.Message = fmt.Sprintf("it failed (%s); see: plasmid journal %s", s.Result, w.name)
	}
	w.agent.publisher.put(state)
}

// vanish ends all talk of the unit.
func (w *worker) vanish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	w.agent.discovery.Unwatch(w.name)
	w.agent.publisher.remove(w.name)
}
