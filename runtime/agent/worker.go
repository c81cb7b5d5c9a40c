package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"plasmid/runtime/quadlet"
	"plasmid/runtime/store"
	"plasmid/runtime/systemd"
	"plasmid/runtime/unit"
)

// worker brings one unit to what is wished of it. Every unit has its own, so
// none waits for another's slow start, pull or stop. It has two goroutines:
// one acts, the other (observe) tells what is, also while the first waits.
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
	text     string             // of the unit's file; empty: there is none
	message  string             // why the unit is not as wished
	gaveUp   bool               // and is not tried again
	draining int                // it is being stopped: it is not to be registered again
	ready    bool
	notReady error
	gone     bool // nothing is to be published any more
	starting int  // a start was asked for and has not ended: what is seen is of before
	cutting  int  // it is being stopped for lack of a claim: it must not be started
	failures []time.Time
	counted  time.Time // Since of the failure that was counted last
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
	same := w.known && (p == nil) == (w.desired == nil) && (p == nil || p.Wish == w.desired.Wish && p.Text == w.desired.Text)
	w.desired, w.known = p, true
	if !same && w.cancel != nil {
		w.cancel()
	}
	signal(w.woken)
}

func (w *worker) wanted() *store.Placement {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.desired
}

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

// run acts whenever the wish changes, and again after an error.
func (w *worker) run() {
	defer w.stop()
	retry := time.NewTimer(0)
	retry.Stop()
	pause := firstRetry
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.woken:
			pause = firstRetry
		case <-retry.C:
		}
		retry.Stop()
		ctx, cancel := context.WithCancel(w.ctx)
		w.mu.Lock()
		w.cancel = cancel
		desired, known := w.desired, w.known
		w.mu.Unlock()
		if !known {
			cancel()
			w.look()
			continue
		}
		err := w.reconcile(ctx, desired)
		changed := ctx.Err() != nil
		cancel()
		switch {
		case w.ctx.Err() != nil:
			return
		case changed:
			signal(w.woken)
		case err != nil:
			w.agent.Logger.Error("unit is not as wished; trying again", "unit", w.name, "after", pause, "err", err)
			w.note(err.Error())
			retry.Reset(pause)
			pause = min(2*pause, lastRetry)
		case desired == nil && w.agent.done(w):
			return
		}
	}
}

// note says why the unit is not as wished yet, or that it is.
func (w *worker) note(message string) { w.say(message, false) }

// giveUp says why the unit is not as wished and is not tried again either.
func (w *worker) giveUp(message string) { w.say(message, true) }

func (w *worker) say(message string, gaveUp bool) {
	w.mu.Lock()
	w.message, w.gaveUp = message, gaveUp
	w.mu.Unlock()
	w.look()
}

// reconcile does what leads to the wish. An error means that trying again may
// help.
func (w *worker) reconcile(ctx context.Context, p *store.Placement) error {
	if p == nil {
		return w.remove(ctx)
	}
	spec, err := unit.SpecOf(p.Unit, p.Text)
	if err != nil {
		w.giveUp(err.Error())
		return nil
	}
	var s systemd.State // of a unit that is new nothing is asked
	installed := w.installed()
	if installed != "" {
		if s, err = w.agent.Systemd.State(ctx, w.name); err != nil {
			return err
		}
	}
	if spec.Singleton && (s.Active == "inactive" || s.Active == "failed") && w.agent.marks.guarded(w.name) {
		w.agent.marks.remove(w.name) // it has not ended, it was stopped
	}
	same := quadlet.Same(installed, p.Text)
	if p.Wish == store.Launched && !(same && (s.Up() || w.agent.marks.has(p))) {
		// Before the old one is stopped: it works on while the new one's
		// images come, and if they do not.
		if err := w.fetch(ctx, spec); err != nil {
			return err
		}
	}
	current := false
	if same {
		if current, err = w.agent.Systemd.Current(ctx, w.name); err != nil {
			return err
		}
	}
	if !current {
		if !same && installed != "" {
			// It is stopped with all its hooks before anything of the new
			// one runs.
			if err := w.retire(ctx, installed); err != nil {
				return err
			}
		}
		// A file that is the same but not what systemd has read is what a
		// crash half-way leaves.
		if err := w.install(ctx, p, spec); err != nil {
			var foreign *systemd.ForeignUnitError
			if errors.As(err, &foreign) {
				w.note(err.Error())
				return nil
			}
			return err
		}
		if s, err = w.agent.Systemd.State(ctx, w.name); err != nil {
			return err
		}
		if s.Load != "loaded" {
			w.giveUp(fmt.Sprintf("systemd can't load it (%s): %s; see: plasmid cat %s", s.Load, s.Error, w.name))
			return nil
		}
	}
	if p.Wish != store.Launched {
		w.agent.marks.remove(w.name)
		if s.Up() || s.Active == "deactivating" {
			if err := w.halt(ctx); err != nil {
				return err
			}
		}
		w.note("")
		return nil
	}
	switch {
	case s.Up():
		if spec.Singleton {
			if err := w.adoptClaim(ctx); err != nil {
				return err
			}
		}
		w.agent.marks.put(p)
	case w.agent.marks.has(p) && s.Active == "failed" && spec.Retries.Starts > 0:
		return w.again(ctx, p, spec, s)
	case w.agent.marks.has(p):
		// It was started and has ended since: whether it is started again
		// is for its Restart= to say. What is known of its end stays.
		w.look()
		return nil
	default:
		return w.start(ctx, p, spec)
	}
	w.note("")
	return nil
}

// fetch gets the unit's images, and what its app needs to reach its keys, before
// the unit is started, so that they do not take of the time that it has for
// starting.
func (w *worker) fetch(ctx context.Context, spec unit.Spec) error {
	for _, ref := range spec.Images {
		w.note("fetching image " + ref)
		if err := w.agent.Images.Ensure(ctx, ref); err != nil {
			return fmt.Errorf("image %s: %w", ref, err)
		}
	}
	if spec.App != "" {
		if err := w.agent.Apps.Ensure(ctx, spec.App); err != nil {
			return err
		}
	}
	return nil
}

// start starts the unit and waits until it has. A unit that fails to start is
// not started again: that is for its Restart= to say.
func (w *worker) start(ctx context.Context, p *store.Placement, spec unit.Spec) error {
	w.note("")
	if spec.Singleton {
		// Asked before, so that what the claim's wait says is not overwritten
		// when the unit has stopped, and after, as the wait may be long.
		if err := w.mayStart(); err != nil {
			return err
		}
		if err := w.claim(ctx); err != nil {
			return err
		}
	}
	if err := w.mayStart(); err != nil {
		return err
	}
	result, err := w.job(ctx, p, w.agent.Systemd.Start)
	switch {
	case err != nil:
		return err
	case result == "dependency":
		// It was not started at all, so there is nothing that systemd
		// would do again.
		w.agent.marks.remove(w.name)
		return fmt.Errorf("a unit that %s needs did not start; see: plasmid status %s", w.name, w.name)
	case result != "done" && spec.Retries.Starts > 0:
		signal(w.woken) // it may be started again
	case result != "done":
		w.giveUp(fmt.Sprintf("systemd's start job ended as %q; see: plasmid journal %s", result, w.name))
	default:
		w.look()
	}
	return nil
}

// job starts the unit and returns how systemd's job ended.
func (w *worker) job(ctx context.Context, p *store.Placement, start func(context.Context, string) (systemd.Wait, error)) (result string, err error) {
	w.mu.Lock()
	w.starting++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.starting--
		w.mu.Unlock()
		w.look()
	}()
	wait, err := start(ctx, w.name)
	if err != nil {
		return "", err
	}
	w.agent.marks.put(p)
	return wait(ctx)
}

// restart stops and starts a unit that is wished to run.
func (w *worker) restart(ctx context.Context) error {
	p := w.wanted()
	if p == nil || p.Wish != store.Launched {
		return fmt.Errorf("%s is not started; use: plasmid start %s", w.name, w.name)
	}
	defer w.drain()()
	w.fresh()
	result, err := w.job(ctx, p, w.agent.Systemd.Restart)
	if err != nil {
		return err
	}
	if result != "done" {
		err = fmt.Errorf("systemd's restart job for %s ended as %q; see: plasmid journal %s", w.name, result, w.name)
		w.note(err.Error())
		return err
	}
	w.note("")
	return nil
}

// halt stops the unit and waits until its hooks have run.
func (w *worker) halt(ctx context.Context) error {
	defer w.drain()()
	wait, err := w.agent.Systemd.Stop(ctx, w.name)
	if err != nil {
		return err
	}
	// A stop job that ended otherwise than done left the unit failed: it does
	// not run either way.
	if _, err = wait(ctx); err == nil {
		w.agent.fence.release(ctx, w.name)
	}
	return err
}

// drainTime is how long a stop waits for the unit's keys to be gone. If the
// store does not answer the unit is stopped all the same.
const drainTime = 2 * time.Second

// drain takes the unit's keys away and keeps them away until it is undone.
func (w *worker) drain() (undo func()) {
	w.mu.Lock()
	w.draining++
	w.mu.Unlock()
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-w.agent.discovery.Unwatch(w.name):
	case <-t.C:
	case <-w.ctx.Done():
	}
	return func() {
		w.mu.Lock()
		w.draining--
		w.mu.Unlock()
		w.look()
	}
}

func (w *worker) install(ctx context.Context, p *store.Placement, spec unit.Spec) error {
	text, err := quadlet.Unit(p.Unit, p.Text)
	if err != nil {
		return err // the API lets no such unit in
	}
	if err := w.agent.Systemd.Install(ctx, w.name, text, enables(spec)); err != nil {
		return err
	}
	w.setInstalled(text)
	w.fresh()
	return nil
}

// retire stops the unit that is replaced. What its [Install] section did is
// undone; its file is written over.
func (w *worker) retire(ctx context.Context, text string) error {
	if err := w.halt(ctx); err != nil {
		return err
	}
	w.agent.marks.remove(w.name)
	if old, err := unit.SpecOf(w.name, text); err == nil && enables(old) {
		return w.agent.Systemd.Disable(ctx, w.name)
	}
	return nil
}

func (w *worker) remove(ctx context.Context) error {
	text := w.installed()
	if text == "" {
		return nil
	}
	if err := w.halt(ctx); err != nil {
		return err
	}
	spec, err := unit.SpecOf(w.name, text)
	if err := w.agent.Systemd.Remove(ctx, w.name, err != nil || enables(spec)); err != nil {
		return err
	}
	w.agent.marks.remove(w.name)
	w.setInstalled("")
	return nil
}

func enables(s unit.Spec) bool { return len(s.WantedBy)+len(s.RequiredBy) > 0 }

func (w *worker) installed() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text
}

func (w *worker) setInstalled(text string) {
	w.mu.Lock()
	w.text = text
	w.mu.Unlock()
	w.look()
}
