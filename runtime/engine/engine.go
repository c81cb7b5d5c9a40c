// Package engine is the cluster's one decider: of all machines that run it,
// the elected one feeds the store's view to package schedule and writes the
// decisions back.
//
// DESIGN.md says why it is built as it is.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"plasmid/runtime/reboot"
	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
)

// Config of an engine.
type Config struct {
	Store  *store.Store
	Mirror *store.Mirror
	// Probe asks a machine whether it is alive, by its own endpoint. It
	// returns when ctx ends at the latest.
	Probe func(ctx context.Context, m store.Machine) error
	// Lease is how long a machine may be silent.
	Lease  time.Duration
	Logger *slog.Logger
}

// Engine campaigns for leadership and decides while it has it.
type Engine struct {
	Config
	specs      map[string]*parsed   // by unit name
	changed    store.Changes        // in the view since it was last decided on
	memory     schedule.Memory      // the scheduler's view, and the last plan
	due        map[string]time.Time // when units look different though nothing changes
	readySince map[string]since     // by unit name
	uneasy     bool                 // machines are to be read again, whatever changed
	unplaced   atomic.Pointer[map[string][]schedule.Verdict]
	waiting    atomic.Pointer[map[string]string]
	again      time.Duration // after what time to decide again though nothing changes; 0: not
	leading    atomic.Bool
	counts     counts
}

// New returns an engine that does nothing yet.
func New(c Config) *Engine {
	return &Engine{Config: c, specs: map[string]*parsed{}, due: map[string]time.Time{}, readySince: map[string]since{}}
}

// Leading reports whether this engine decides.
func (e *Engine) Leading() bool { return e.leading.Load() }

// Unplaced says, for units that run nowhere, what each machine lacks. Only the
// leader knows.
func (e *Engine) Unplaced() map[string][]schedule.Verdict {
	if p := e.unplaced.Load(); p != nil && e.Leading() {
		return *p
	}
	return nil
}

// Waiting says, for units that are to leave their machine or to change and
// can't yet, what they wait for. Only the leader knows.
func (e *Engine) Waiting() map[string]string {
	if p := e.waiting.Load(); p != nil && e.Leading() {
		return *p
	}
	return nil
}

// Run campaigns with one session and decides until the session is lost or ctx
// ends.
func (e *Engine) Run(ctx context.Context, ss *store.Session) error {
	l, err := e.Store.Campaign(ctx, ss)
	if err != nil {
		return err
	}
	e.Logger.Info("this machine leads")
	defer e.Logger.Info("this machine no longer leads")
	e.leading.Store(true)
	e.counts.since.Store(time.Now().Unix())
	defer e.counts.since.Store(0)
	defer e.leading.Store(false)
	defer func() {
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = l.Resign(rctx)
	}()
	return e.lead(ctx, l)
}

// lead decides at every change of the view, and again when a silent machine is
// to be asked or a grace ends.
func (e *Engine) lead(ctx context.Context, l *store.Leadership) error {
	w := newWatchdog(e.Probe, e.Lease)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-e.Mirror.Ready():
	}
	w.begin(time.Now())
	views := e.Mirror.Follow()
	defer views.Close()
	var lost reboot.Lost
	var retry time.Duration
	for {
		changed := e.Mirror.Changed()
		current, since := e.Mirror.Current()
		if current && since.After(w.began) {
			// The store was away: what it says of machines is old.
			w.begin(since)
		}
		wait := e.Lease
		if current {
			view, changed := views.Next()
			e.changed.Add(changed)
			again := w.judge(ctx, view)
			err := e.decide(ctx, l, view, w)
			switch {
			case errors.Is(err, store.ErrDeposed):
				return err
			case err != nil:
				e.Logger.Error("placements could not be written", "err", err)
				e.counts.failures.Add(1)
				retry = min(max(2*retry, 100*time.Millisecond), 2*time.Second)
				wait = retry
			default:
				retry, wait = 0, again
				if e.again > 0 && (wait == 0 || e.again < wait) {
					wait = e.again
				}
			}
			if again := e.releaseReboots(ctx, l, view, w, &lost); again > 0 && (wait == 0 || again < wait) {
				wait = again
			}
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.Done():
			return store.ErrDeposed
		case <-changed:
		case <-w.answers:
		case <-timer:
		}
	}
}

// decide runs the scheduler over the view and commits what it decides.
func (e *Engine) decide(ctx context.Context, l *store.Leadership, view *store.View, w *watchdog) error {
	switch id := view.Identity; {
	case id.ID == "":
		return nil // wiped: there is no cluster to decide for
	case id.Version > store.SchemaVersion:
		// Its keys may mean what this program does not know.
		return &store.NewerSchemaError{Have: id.Version, Know: store.SchemaVersion}
	case id.Version < store.SchemaVersion:
		now, err := l.Migrate(ctx)
		if err != nil {
			return err
		}
		e.Logger.Info("the store was migrated", "from", id.Version, "to", now.Version)
		return nil // decided on when the view has it
	}
	now := time.Now()
	e.read(view, w, now)
	r := e.memory.Decide()
	records := e.records(view, now)
	records.RollBacks = e.rollBacks(view, r.RollBack)
	if !records.Empty() {
		// What is decided then is decided with them.
		revision, err := l.Record(ctx, records)
		if err != nil {
			return err
		}
		return e.settle(ctx, revision)
	}
	e.changed = store.Changes{}
	e.counts.passes.Add(1)
	e.unplaced.Store(&r.Unplaced)
	e.waiting.Store(&r.Stuck)
	if r.Balanced {
		e.Logger.Info("the units are evened out")
		if _, err := l.EndRebalance(ctx); err != nil {
			return err
		}
	}
	if len(r.Decisions) == 0 {
		return nil
	}
	changes := make([]store.PlacementChange, 0, len(r.Decisions))
	for _, d := range r.Decisions {
		e.Logger.Info("decided", "op", d.Op, "unit", d.Unit, "machine", d.Machine, "reason", d.Reason)
		c := store.PlacementChange{Placement: store.Placement{Machine: d.Machine, Unit: d.Unit, Reason: d.Reason}, Delete: d.Op == schedule.Remove}
		if !c.Delete {
			u := view.Units[d.Unit]
			c.Placement.Hash, c.Placement.Text, c.Placement.Wish = u.Hash, u.Text, u.Wish
			if old, ok := view.Placements[d.Unit][d.Machine]; ok && d.Op == schedule.Update {
				c.Placement.Previous, c.Placement.Changed = old.Previous, old.Changed
				if old.Hash != u.Hash {
					c.Placement.Previous, c.Placement.Changed = "", now.UTC().Truncate(time.Second)
					if spec, err := e.spec(u); err == nil && spec.Update.Rollback && u.Text != old.Previous {
						c.Placement.Previous = old.Text
					}
				}
			}
			if len(view.Done) > 0 && view.Done[d.Unit].Hash == u.Hash {
				c.Placement.Wish = store.Loaded
			}
			if d.Moving {
				c.Placement.Moved = now.UTC().Truncate(time.Second)
			}
		}
		changes = append(changes, c)
	}
	revision, err := l.Commit(ctx, changes)
	if err != nil {
		return err
	}
	e.counts.decided(r.Decisions)
	return e.settle(ctx, revision)
}

// settle waits until the view has what was just written in it, so that the next
// decision is made on it.
func (e *Engine) settle(ctx context.Context, revision int64) error {
	wctx, cancel := context.WithTimeout(ctx, e.Lease)
	defer cancel()
	if err := e.Mirror.Wait(wctx, revision); err != nil && ctx.Err() == nil {
		e.Logger.Warn("the store's watch is behind", "err", err)
	}
	return ctx.Err()
}
