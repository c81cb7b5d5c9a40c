// Package engine is the cluster's one decider: of all machines that run it,
// the elected one feeds the store's view to package schedule and writes the
// decisions back.
//
// DESIGN.md says why it is built as it is.
package engine

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"plasmid/runtime/reboot"
	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
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
	specs      map[string]*parsed // by unit name
	names      []string           // of specs, sorted
	memory     schedule.Memory    // of the last pass
	unplaced   atomic.Pointer[map[string][]schedule.Verdict]
	waiting    atomic.Pointer[map[string]string]
	readySince since
	again      time.Duration // after what time to decide again though nothing changes; 0: not
	leading    atomic.Bool
	counts     counts
}

type parsed struct {
	hash     string
	spec     unit.Spec
	template bool // there is nothing to run
	err      error
}

// New returns an engine that does nothing yet.
func New(c Config) *Engine {
	return &Engine{Config: c, specs: map[string]*parsed{}}
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
			view := e.Mirror.View()
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
	e.again = 0
	now := time.Now()
	in := e.input(view, w, now)
	e.life(view, &in, now)
	r := e.memory.Decide(in)
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

// input turns the store's view into the scheduler's.
func (e *Engine) input(view *store.View, w *watchdog, now time.Time) schedule.View {
	in := e.memory.Scratch()
	e.read(view)
	unreadable := map[string]bool{}
	for _, name := range e.names {
		p, u := e.specs[name], view.Units[name]
		if p.err != nil {
			// The API refuses such units. One that is there all the same, by
			// way of a newer version's API say, keeps nobody else from
			// running, and is left where it runs.
			unreadable[name] = true
			continue
		}
		if p.template {
			continue
		}
		in.Units = append(in.Units, schedule.Unit{Spec: p.spec, Wish: string(u.Wish), Hash: u.Hash})
	}
	seen := map[string]bool{}
	for _, all := range []map[string]store.Machine{view.Machines, view.Known} {
		for id := range all {
			if seen[id] {
				continue
			}
			seen[id] = true
			m, alive := view.Machines[id]
			if !alive {
				m = view.Known[id]
			}
			order, ordered := view.Orders[id]
			in.Machines = append(in.Machines, schedule.Machine{
				ID: id, Name: m.Name, Metadata: view.MachineMetadata(id), CPU: 1000 * m.CPUs, Memory: m.MemoryMiB,
				Gone: w.gone(id), Suspect: !alive && !w.gone(id),
				Cordoned: ordered, Draining: order.Drain,
			})
			if order.Drain {
				in.Budget = max(in.Budget, order.Budget)
			}
		}
	}
	if view.Rebalance != nil {
		in.Rebalance = true
		in.Budget = max(in.Budget, view.Rebalance.Budget)
	}
	place := func(name string, on map[string]store.Placement) {
		if unreadable[name] {
			return
		}
		first := len(in.Placed)
		for machine, p := range on {
			if !seen[machine] {
				// A machine that was forgotten: its units are free.
				seen[machine] = true
				in.Machines = append(in.Machines, schedule.Machine{ID: machine, Gone: true})
			}
			in.Placed = append(in.Placed, schedule.Placed{
				Unit: name, Machine: machine, Hash: p.Hash, Wish: string(p.Wish),
				Moving: e.moving(view, p, now),
			})
		}
		slices.SortFunc(in.Placed[first:], func(a, b schedule.Placed) int { return cmp.Compare(a.Machine, b.Machine) })
	}
	// In the order of names: sorting is most of what planning costs, unless all
	// is sorted already.
	for _, name := range e.names {
		place(name, view.Placements[name])
	}
	for name, on := range view.Placements {
		if _, known := e.specs[name]; !known {
			place(name, on)
		}
	}
	// The same order each time, so that the same view is known again.
	slices.SortFunc(in.Machines, func(a, b schedule.Machine) int { return cmp.Compare(a.ID, b.ID) })
	return in
}

// read parses what is new among the units, and forgets those that are gone.
func (e *Engine) read(view *store.View) {
	before := len(e.specs)
	for _, u := range view.Units {
		e.parse(u)
	}
	same := len(e.specs) == before
	if len(e.specs) > len(view.Units) {
		same = false
		for name := range e.specs {
			if _, still := view.Units[name]; !still {
				delete(e.specs, name)
			}
		}
	}
	if !same {
		e.names = slices.Sorted(maps.Keys(e.specs))
	}
}

func (e *Engine) spec(u store.Unit) (unit.Spec, error) {
	p := e.parse(u)
	return p.spec, p.err
}

// parse is spec without a copy of it: the leader asks for all units' at each
// pass.
func (e *Engine) parse(u store.Unit) *parsed {
	p, ok := e.specs[u.Name]
	if !ok || p.hash != u.Hash {
		p = &parsed{hash: u.Hash}
		p.spec, p.err = unit.SpecOf(u.Name, u.Text)
		if p.err != nil {
			e.Logger.Error("a unit can't be read; it is left as it is", "unit", u.Name, "err", p.err)
		}
		n, err := unit.ParseName(u.Name)
		p.template = err != nil || n.Template
		e.specs[u.Name] = p
	}
	return p
}

// settleTime is how long a unit that was moved may take to come up before the
// next ones are moved all the same: one that never does must not hold up a drain
// for ever.
const settleTime = 5 * time.Minute

// moving reports whether a unit was moved and has not come up yet.
func (e *Engine) moving(view *store.View, p store.Placement, now time.Time) bool {
	if p.Moved.IsZero() {
		return false
	}
	left := settleTime - now.Sub(p.Moved)
	if left <= 0 {
		return false
	}
	st, ok := view.States[p.Unit][p.Machine]
	if ok && st.Hash == p.Hash {
		switch {
		case p.Wish != store.Launched && st.Load == "loaded", st.Ready, st.GaveUp, st.Active == "failed":
			return false
		}
	}
	e.wake(left)
	return true
}

// wake has the engine decide again after a time.
func (e *Engine) wake(after time.Duration) {
	if e.again == 0 || after < e.again {
		e.again = max(after, time.Millisecond)
	}
}
