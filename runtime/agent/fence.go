package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"plasmid/runtime/discovery"
	"plasmid/runtime/guard"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// Claims are the machine's rights to run singletons; *store.Claims has them.
type Claims interface {
	Acquire(ctx context.Context, unit string) (holder string, err error)
	Release(ctx context.Context, unit string) error
	Renew(ctx context.Context) error
	AwaitFree(ctx context.Context, unit string) error
}

// fence sees to it that a singleton runs here only while the machine has the
// claim to it. The claim's lease is counted from before each renewal, so it ends
// here before it ends in the store: after stopAfter of its time without a
// renewal the units are stopped, and what then has not stopped by killAfter is
// killed.
type fence struct {
	agent *Agent
	wake  chan struct{}

	mu      sync.Mutex
	held    map[string]bool // claims that this machine has (true), or may have from before
	free    map[string]bool // claims to be given back
	renewed time.Time       // when the last renewal that succeeded was sent
	cut     bool            // the units were stopped, and no renewal has succeeded since
}

const (
	stopAfter = 0.6
	killAfter = 0.9
)

func newFence(a *Agent) *fence {
	return &fence{agent: a, wake: make(chan struct{}, 1), held: map[string]bool{}, free: map[string]bool{}}
}

func (f *fence) part(of float64) time.Duration {
	return time.Duration(of * float64(f.agent.ClaimTime))
}

// run renews the claims and stops units that lost theirs, until ctx ends. The
// units run on then: the next process has what is left of the time.
func (f *fence) run(ctx context.Context) {
	var g sync.WaitGroup
	g.Go(func() { f.guard(ctx) })
	t := time.NewTicker(f.part(1.0 / 6))
	defer t.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-t.C:
			f.giveBack(ctx)
			if f.holds("") {
				f.renew(ctx)
			}
		}
	}
	g.Wait()
}

// holds reports whether there is a claim to the unit, or to any if unit is "".
func (f *fence) holds(unit string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, held := f.held[unit]
	return held || unit == "" && len(f.held) > 0
}

// valid reports whether the unit may run here.
func (f *fence) valid(unit string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held[unit] && !f.cut && time.Since(f.renewed) < f.part(stopAfter)
}

// guard stops the units when their time is over, whatever the store's calls do.
func (f *fence) guard(ctx context.Context) {
	for {
		f.mu.Lock()
		left := time.Until(f.renewed.Add(f.part(stopAfter)))
		idle := len(f.held) == 0 || f.cut
		if !idle && left <= 0 {
			f.cut, idle = true, true
			kill := f.renewed.Add(f.part(killAfter))
			for unit := range f.held {
				f.agent.cutOff(unit, kill, "this machine can't reach the store, so another may start it")
			}
		}
		f.mu.Unlock()
		var over <-chan time.Time
		if !idle {
			over = time.After(left)
		}
		select {
		case <-ctx.Done():
			return
		case <-over:
		case <-f.wake:
		}
	}
}

// renew asks for the full time again. Claims that have expired are asked for
// anew; units whose claim another machine has by then are stopped at once.
func (f *fence) renew(ctx context.Context) error {
	sent := time.Now()
	rctx, cancel := context.WithTimeout(ctx, f.part(1.0/6))
	defer cancel()
	err := f.agent.Claims.Renew(rctx)
	if errors.Is(err, store.ErrClaimsLost) {
		sent = time.Now()
		if err = f.agent.Claims.Renew(rctx); err == nil {
			err = f.regain(rctx)
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			f.agent.Logger.Warn("the claims to singletons could not be renewed", "err", err)
		}
		return err
	}
	f.mu.Lock()
	f.renewed = sent
	was := f.cut
	f.cut = false
	f.mu.Unlock()
	f.save(sent)
	signal(f.wake)
	if was {
		f.agent.wakeAll()
	}
	f.restore()
	return nil
}

func (f *fence) regain(ctx context.Context) error {
	f.mu.Lock()
	var units []string
	for u := range f.held {
		units = append(units, u)
	}
	f.mu.Unlock()
	for _, u := range units {
		holder, err := f.agent.Claims.Acquire(ctx, u)
		if err != nil {
			return err
		}
		if holder != "" {
			f.drop(u)
			f.agent.cutOff(u, time.Now(), "machine "+short(holder)+" has taken it over")
		}
	}
	return nil
}

// adopt takes note of a unit that a process before may have started: it has what
// that one left of the time.
func (f *fence) adopt(unit string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.held) == 0 {
		f.renewed, f.cut = f.load(), false
	}
	f.held[unit] = false
	signal(f.wake)
}

// acquire asks for a claim once. holder is the machine that has it, if not this.
func (f *fence) acquire(ctx context.Context, unit string) (holder string, err error) {
	if err := f.renew(ctx); err != nil {
		return "", err
	}
	holder, err = f.agent.Claims.Acquire(ctx, unit)
	if err != nil || holder != "" {
		return holder, err
	}
	f.mu.Lock()
	f.held[unit] = true
	delete(f.free, unit)
	f.mu.Unlock()
	signal(f.wake)
	return "", nil
}

func (f *fence) drop(unit string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, unit)
}

// release gives a claim back, now or when the store answers again. The unit has
// stopped.
func (f *fence) release(ctx context.Context, unit string) {
	f.mu.Lock()
	_, held := f.held[unit]
	delete(f.held, unit)
	if held {
		f.free[unit] = true
	}
	f.mu.Unlock()
	if held {
		f.giveBack(ctx)
	}
}

func (f *fence) giveBack(ctx context.Context) {
	f.mu.Lock()
	var units []string
	for u := range f.free {
		units = append(units, u)
	}
	f.mu.Unlock()
	for _, u := range units {
		rctx, cancel := context.WithTimeout(ctx, f.part(0.25))
		err := f.agent.Claims.Release(rctx, u)
		cancel()
		if err != nil {
			return
		}
		f.mu.Lock()
		delete(f.free, u)
		f.mu.Unlock()
	}
}

// dir is what the agent and the guard have in common.
func (f *fence) dir() string { return filepath.Dir(f.agent.RunDir) }

func (f *fence) save(sent time.Time) {
	n := guard.Note{Renewed: f.agent.Boottime() - time.Since(sent), Lasts: f.agent.ClaimTime}
	if err := n.Write(f.dir()); err != nil {
		f.agent.Logger.Error("when claims were renewed could not be noted: singletons are about to be stopped", "err", err)
	}
}

// load is when the last process renewed the claims; if that is not known, so
// long ago that the units have to stop now unless the store answers at once.
func (f *fence) load() time.Time {
	if n, err := guard.Read(f.dir()); err == nil {
		if age := f.agent.Boottime() - n.Renewed; age >= 0 {
			return time.Now().Add(-age)
		}
	}
	return time.Now().Add(-f.part(stopAfter))
}

// restore has the workers start again what the guard has stopped
// while this one stood still or was away.
func (f *fence) restore() {
	units, err := guard.Stopped(f.dir())
	if err != nil {
		f.agent.Logger.Error("which singletons were stopped can't be read", "err", err)
	}
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	for _, u := range units {
		if w := f.agent.workers[u]; w != nil {
			signal(w.woken)
		} else {
			guard.Forget(f.dir(), u)
		}
	}
}

// guarded sees to it that the guard runs.
func (f *fence) guarded(ctx context.Context) error {
	if f.agent.Guard == nil {
		return nil
	}
	if err := f.agent.Guard(ctx); err != nil {
		return fmt.Errorf("no singleton is started without what would stop it: %w", err)
	}
	return nil
}

func short(id string) string { return id[:min(8, len(id))] }

// cutOff has a unit's worker stop it for lack of a claim.
func (a *Agent) cutOff(unit string, kill time.Time, why string) {
	a.Logger.Error("a singleton is stopped", "unit", unit, "why", why)
	go func() {
		a.mu.Lock()
		w := a.workers[unit]
		a.mu.Unlock()
		if w != nil {
			w.cutOff(kill, why)
		}
	}()
}

// wakeAll has every worker look at its unit again.
func (a *Agent) wakeAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.workers {
		signal(w.woken)
	}
}

// cutOff stops the unit, without waiting for anybody else, and kills it when it
// has not stopped in time. No start is under way when it returns.
func (w *worker) cutOff(kill time.Time, why string) {
	w.mu.Lock()
	w.cutting++
	if w.cancel != nil {
		w.cancel()
	}
	w.mu.Unlock()
	w.note("it is stopped: " + why)
	ctx, cancel := context.WithDeadline(w.ctx, kill)
	defer cancel()
	wait, err := w.agent.Systemd.Stop(ctx, w.name)
	if err == nil {
		_, err = wait(ctx)
	}
	if err != nil && w.ctx.Err() == nil {
		if err := w.agent.Systemd.Kill(w.ctx, w.name); err != nil {
			w.agent.Logger.Error("a singleton could not be killed", "unit", w.name, "err", err)
		}
		w.killContainer()
		if wait != nil {
			kctx, cancel := context.WithTimeout(w.ctx, w.agent.fence.part(1-killAfter))
			_, _ = wait(kctx)
			cancel()
		}
	}
	w.agent.marks.remove(w.name)
	w.note("it was stopped: " + why)
	w.mu.Lock()
	w.cutting--
	w.mu.Unlock()
	signal(w.woken)
}

// mayStart is an error while the unit is being stopped for lack of a claim. Its
// end wakes the worker.
func (w *worker) mayStart() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cutting > 0 {
		return errors.New("it is being stopped, because its claim is lost")
	}
	return nil
}

// killContainer ends the unit's container, which is Docker's child and not the
// unit's, so that the end of the unit is not its end.
func (w *worker) killContainer() {
	spec, err := unit.SpecOf(w.name, w.installed())
	if err != nil || w.agent.KillContainer == nil {
		return
	}
	if name := discovery.ContainerOf(spec); name != "" {
		if err := w.agent.KillContainer(w.ctx, name); err != nil {
			w.agent.Logger.Error("a singleton's container could not be killed", "unit", w.name, "err", err)
		}
	}
}

// claim waits until the unit may run on this machine.
func (w *worker) claim(ctx context.Context) error {
	if w.agent.Claims == nil {
		return errors.New("this agent can't run singletons: it has no claims")
	}
	if err := w.agent.fence.guarded(ctx); err != nil {
		return err
	}
	for {
		holder, err := w.agent.fence.acquire(ctx, w.name)
		if err != nil {
			return fmt.Errorf("claiming it as a singleton: %w", err)
		}
		if holder == "" {
			w.note("")
			return nil
		}
		w.note("it may still run on machine " + short(holder) + ", which has not given it up; it is started when that is over")
		if err := w.agent.Claims.AwaitFree(ctx, w.name); err != nil {
			return err
		}
	}
}

// adoptClaim is for a singleton that runs already: if another machine has it
// this one's is stopped.
func (w *worker) adoptClaim(ctx context.Context) error {
	if w.agent.Claims == nil {
		return nil
	}
	if err := w.agent.fence.guarded(ctx); err != nil {
		return err
	}
	if w.agent.fence.valid(w.name) {
		return nil
	}
	holder, err := w.agent.fence.acquire(ctx, w.name)
	if err != nil {
		return fmt.Errorf("claiming it as a singleton: %w", err)
	}
	if holder != "" {
		w.agent.fence.drop(w.name)
		w.agent.cutOff(w.name, time.Now(), "machine "+short(holder)+" runs it")
		return fmt.Errorf("machine %s runs it", short(holder))
	}
	return nil
}
