package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"plasmid/runtime/store"
	"plasmid/runtime/systemd"
	"plasmid/runtime/unit"
)

// worker brings one unit to what is wished of it. Every unit has its own, so
// none waits for another's slow start, pull or stop.
type worker struct {
	agent *Agent
	name  string
	ctx   context.Context
	stop  context.CancelFunc
	woken chan struct{}
	seen  chan struct{} // systemd has news of the unit

	mu       sync.Mutex
	desired  *store.Placement   // nil: not here
	known    bool               // desired has been set: by the store or the kept wish
	cancel   context.CancelFunc // of the reconciliation under way
	message  string             // why the unit is not as wished
	ready    bool
	notReady error

	adopted string // the text of the unit's file as it was found
}

func newWorker(a *Agent, name string) *worker {
	w := &worker{agent: a, name: name, woken: make(chan struct{}, 1), seen: make(chan struct{}, 1)}
	w.ctx, w.stop = context.WithCancel(a.ctx)
	return w
}

// want sets what is wished; nil means that the unit has no business here. A
// change of mind cuts short what the worker is doing.
func (w *worker) want(p *store.Placement) {
	w.mu.Lock()
	defer w.mu.Unlock()
	same := w.known && (p == nil) == (w.desired == nil) && (p == nil || p.Revision == w.desired.Revision)
	w.desired, w.known = p, true
	if !same && w.cancel != nil {
		w.cancel()
	}
}

func (w *worker) wanted() *store.Placement {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.desired
}

func (w *worker) wake() { signal(w.woken) }
func (w *worker) look() { signal(w.seen) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

func (w *worker) run() {
	retry := firstRetry
	var again <-chan time.Time
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.seen:
			w.publish()
			continue
		case <-w.woken:
			retry = firstRetry
		case <-again:
		}
		again = nil
		ctx, cancel := context.WithCancel(w.ctx)
		w.mu.Lock()
		w.cancel = cancel
		desired, known := w.desired, w.known
		w.mu.Unlock()
		if !known {
			cancel()
			w.publish()
			continue
		}
		gone, err := w.reconcile(ctx, desired)
		cancelled := ctx.Err() != nil
		cancel()
		switch {
		case w.ctx.Err() != nil:
			return
		case cancelled:
			w.wake() // for the new wish
		case err != nil:
			w.agent.Logger.Error("unit is not as wished; trying again", "unit", w.name, "after", retry, "err", err)
			w.note(err.Error())
			w.publish()
			again = time.After(retry)
			retry = min(2*retry, lastRetry)
		case gone:
			if w.agent.done(w) {
				w.agent.publisher.remove(w.name)
				return
			}
			w.wake()
		default:
			w.publish()
		}
	}
}

func (w *worker) note(message string) {
	w.mu.Lock()
	w.message = message
	w.mu.Unlock()
}

// reconcile does what leads to the wish. It reports that the unit is gone.
func (w *worker) reconcile(ctx context.Context, p *store.Placement) (gone bool, err error) {
	if p == nil {
		return true, w.remove(ctx)
	}
	spec, err := unit.SpecOf(p.Unit, p.Text)
	if err != nil {
		w.note(err.Error())
		return false, nil // trying again will not help
	}
	installed := w.installedText()
	if installed != p.Text {
		if installed != "" {
			// The old one is stopped with all its hooks before anything of
			// the new one runs.
			if err := w.halt(ctx); err != nil {
				return false, err
			}
		}
		if err := w.install(ctx, p, spec); err != nil {
			return false, err
		}
	}
	s, err := w.agent.Systemd.State(ctx, w.name)
	if err != nil {
		return false, err
	}
	running := s.Active == "active" || s.Active == "activating" || s.Active == "reloading"
	switch p.Wish {
	case store.Launched:
		if running {
			w.note("")
			w.mark(p)
			w.watch(s, spec)
			return false, nil
		}
		if w.marked(p) {
			// It was started and has ended since: whether it is started
			// again is for its Restart= to say.
			return false, nil
		}
		return false, w.start(ctx, p, spec)
	default:
		w.unmark()
		if running || s.Active == "deactivating" {
			return false, w.halt(ctx)
		}
		w.note("")
		return false, nil
	}
}

// start fetches images before it starts the unit, so that they do not take of
// the time that the unit has for starting.
func (w *worker) start(ctx context.Context, p *store.Placement, spec unit.Spec) error {
	for _, ref := range spec.Images {
		w.note("fetching image " + ref)
		w.publish()
		if err := w.agent.Images.Ensure(ctx, ref); err != nil {
			return fmt.Errorf("image %s: %w", ref, err)
		}
	}
	if spec.App != "" {
		if err := w.agent.Apps.Ensure(ctx, spec.App); err != nil {
			return err
		}
	}
	w.note("")
	w.mark(p)
	result, err := w.agent.Systemd.Start(ctx, w.name)
	if err != nil {
		if ctx.Err() == nil {
			w.unmark()
		}
		return err
	}
	if result != "done" {
		w.note(fmt.Sprintf("systemd's start job ended as %q; see: plasmid journal %s", result, w.name))
	}
	return nil
}

func (w *worker) restart(ctx context.Context) error {
	w.agent.discovery.Unwatch(ctx, w.name)
	result, err := w.agent.Systemd.Restart(ctx, w.name)
	if err != nil {
		return err
	}
	if result != "done" {
		return fmt.Errorf("systemd's restart job for %s ended as %q; see: plasmid journal %s", w.name, result, w.name)
	}
	w.look()
	return nil
}

// halt stops the unit and waits until its hooks have run.
func (w *worker) halt(ctx context.Context) error {
	w.agent.discovery.Unwatch(ctx, w.name)
	_, err := w.agent.Systemd.Stop(ctx, w.name)
	return err
}

func (w *worker) install(ctx context.Context, p *store.Placement, spec unit.Spec) error {
	w.unmark()
	if err := w.agent.Systemd.Install(ctx, w.name, p.Text, enables(spec)); err != nil {
		return err
	}
	w.mu.Lock()
	w.adopted = p.Text
	w.mu.Unlock()
	return nil
}

func (w *worker) remove(ctx context.Context) error {
	text := w.installedText()
	if text == "" {
		return nil
	}
	if err := w.halt(ctx); err != nil {
		return err
	}
	spec, err := unit.SpecOf(w.name, text)
	enabled := err == nil && enables(spec)
	if err := w.agent.Systemd.Remove(ctx, w.name, enabled); err != nil {
		return err
	}
	w.unmark()
	w.mu.Lock()
	w.adopted = ""
	w.mu.Unlock()
	return nil
}

func enables(s unit.Spec) bool { return len(s.WantedBy)+len(s.RequiredBy) > 0 }

func (w *worker) installedText() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.adopted
}

// watch has an active unit's readiness checked.
func (w *worker) watch(s systemd.State, spec unit.Spec) {
	if s.Active == "active" || s.Active == "reloading" {
		w.agent.discovery.Watch(w.ctx, spec)
	}
}

func (w *worker) setReady(ready bool, why error) {
	w.mu.Lock()
	w.ready, w.notReady = ready, why
	w.mu.Unlock()
	w.look()
}

// publish tells the store what systemd says of the unit.
func (w *worker) publish() {
	ctx := w.ctx
	s, err := w.agent.Systemd.State(ctx, w.name)
	if err != nil {
		if ctx.Err() == nil {
			w.agent.Logger.Error("asking for a unit's state failed", "unit", w.name, "err", err)
		}
		return
	}
	text := w.installedText()
	active := s.Active == "active" || s.Active == "reloading"
	if spec, err := unit.SpecOf(w.name, text); err == nil && active && w.launched() {
		w.agent.discovery.Watch(ctx, spec)
	} else if !active {
		w.agent.discovery.Unwatch(ctx, w.name)
		w.mu.Lock()
		w.ready, w.notReady = false, nil
		w.mu.Unlock()
	}
	w.mu.Lock()
	st := store.State{
		Machine: w.agent.Machine.ID, Unit: w.name, Hash: unit.Hash(text),
		Load: s.Load, Active: s.Active, Sub: s.Sub, Since: s.Since,
		Ready: w.ready && active, Message: w.message,
	}
	if st.Message == "" && active && !w.ready && w.notReady != nil {
		st.Message = "not ready: " + w.notReady.Error()
	}
	if st.Message == "" && s.Active == "failed" && s.Result != "" {
		st.Message = fmt.Sprintf("it failed (%s); see: plasmid journal %s", s.Result, w.name)
	}
	w.mu.Unlock()
	if text != "" || st.Message != "" {
		w.agent.publisher.put(st)
	}
}

func (w *worker) launched() bool {
	p := w.wanted()
	return p != nil && p.Wish == store.Launched
}

// A mark says that the unit was started for a wish, so that a unit that ended
// is not started again by a daemon that restarts. Marks are gone after a
// reboot, as the units are.

func (w *worker) markFile() string { return filepath.Join(marksDir, w.name) }

// marksDir is on a file system that a reboot empties.
var marksDir = "/run/plasmid/started"

func (w *worker) mark(p *store.Placement) {
	if w.marked(p) {
		return
	}
	if err := os.MkdirAll(marksDir, 0o755); err == nil {
		err = os.WriteFile(w.markFile(), []byte(p.Hash), 0o644)
		if err != nil {
			w.agent.Logger.Error("a start could not be noted", "unit", w.name, "err", err)
		}
	}
}

func (w *worker) marked(p *store.Placement) bool {
	data, err := os.ReadFile(w.markFile())
	return err == nil && string(data) == p.Hash
}

func (w *worker) unmark() { _ = os.Remove(w.markFile()) }
