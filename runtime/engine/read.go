package engine

import (
	"cmp"
	"slices"
	"time"

	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

type parsed struct {
	hash     string
	spec     unit.Spec
	template bool // there is nothing to run
	err      error
}

func (e *Engine) spec(u store.Unit) (unit.Spec, error) {
	p := e.parse(u)
	return p.spec, p.err
}

// parse is spec without a copy of it.
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

// read takes into the scheduler's view what changed in the store's, and what
// changes with time.
func (e *Engine) read(view *store.View, w *watchdog, now time.Time) {
	was := e.readySince
	if e.changed.All {
		e.memory, e.due, e.readySince = schedule.Memory{}, map[string]time.Time{}, map[string]since{}
		mark(e.changed.Units, view.Units)
		mark(e.changed.Units, view.Placements)
		mark(e.changed.Units, view.Avoid)
		mark(e.changed.Units, view.Done)
		mark(e.changed.Units, e.specs)
	}
	for name, at := range e.due {
		if !at.After(now) {
			e.changed.Units[name] = struct{}{}
		}
	}
	stray := false
	for name := range e.changed.Units {
		s := e.look(view, name, was[name], now)
		e.memory.Unit(name, s.unit, s.placed)
		put(e.due, name, s.due, !s.due.IsZero())
		put(e.readySince, name, s.ready, len(s.ready) > 0)
		if _, known := view.Units[name]; !known {
			delete(e.specs, name)
		}
		stray = stray || slices.ContainsFunc(s.placed, func(pl schedule.Placed) bool { return !knows(view, pl.Machine) })
	}
	if e.changed.All || e.changed.Machines || e.uneasy || stray {
		e.readMachines(view, w)
	}
	e.again = 0
	for _, at := range e.due {
		if left := max(at.Sub(now), time.Millisecond); e.again == 0 || left < e.again {
			e.again = left
		}
	}
}

func mark[V any](names map[string]struct{}, of map[string]V) {
	for name := range of {
		names[name] = struct{}{}
	}
}

func put[V any](m map[string]V, name string, v V, there bool) {
	if there {
		m[name] = v
	} else {
		delete(m, name)
	}
}

func knows(view *store.View, machine string) bool {
	_, alive := view.Machines[machine]
	_, known := view.Known[machine]
	return alive || known
}

// readMachines tells the scheduler of the machines. It is uneasy if one is
// silent, or was forgotten while it had units: then they are read at each pass,
// for what becomes of them is not said by the store alone.
func (e *Engine) readMachines(view *store.View, w *watchdog) {
	var machines []schedule.Machine
	rebalance, budget := view.Rebalance != nil, 0
	if rebalance {
		budget = view.Rebalance.Budget
	}
	e.uneasy = false
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
				e.uneasy = true
			}
			order, ordered := view.Orders[id]
			gone := w.gone(id)
			machines = append(machines, schedule.Machine{
				ID: id, Name: m.Name, Metadata: view.MachineMetadata(id), CPU: 1000 * m.CPUs, Memory: m.MemoryMiB,
				Gone: gone, Suspect: !alive && !gone,
				Cordoned: ordered, Draining: order.Drain,
			})
			if order.Drain {
				budget = max(budget, order.Budget)
			}
		}
	}
	for name, on := range view.Placements {
		for id := range on {
			if !seen[id] && !e.unreadable(view, name) {
				// A machine that was forgotten: its units are free.
				seen[id], e.uneasy = true, true
				machines = append(machines, schedule.Machine{ID: id, Gone: true})
			}
		}
	}
	slices.SortFunc(machines, func(a, b schedule.Machine) int { return cmp.Compare(a.ID, b.ID) })
	e.memory.Cluster(machines, rebalance, budget)
}

// unreadable reports whether a unit is there and can't be read. The API refuses
// such units. One that is there all the same, by way of a newer version's API
// say, keeps nobody else from running, and is left where it runs.
func (e *Engine) unreadable(view *store.View, name string) bool {
	u, ok := view.Units[name]
	return ok && e.parse(u).err != nil
}

// sight is what a view shows of one unit.
type sight struct {
	unit   *schedule.Unit
	placed []schedule.Placed
	ready  since
	due    time.Time // when it looks different though nothing changes; zero: never
	asked  bool      // a placement was asked whether it is ready
}

// look makes out what a view shows of one unit. It depends on nothing but its
// arguments and what the view says of this unit; was is since when its instances
// were ready before.
func (e *Engine) look(view *store.View, name string, was since, now time.Time) sight {
	var s sight
	u, known := view.Units[name]
	if known {
		p := e.parse(u)
		if p.err != nil {
			s.avoid(view.Avoid[name], u.Hash, now)
			return s
		}
		if !p.template {
			s.unit = &schedule.Unit{Spec: p.spec, Wish: string(u.Wish), Hash: u.Hash}
			if d, ok := view.Done[name]; ok && p.spec.RunOnce && d.Hash == u.Hash && u.Wish != store.Inactive {
				s.unit.Done, s.unit.Wish = doneText(d), string(store.Loaded)
			}
		}
	}
	s.avoid(view.Avoid[name], u.Hash, now)
	for machine, p := range view.Placements[name] {
		s.placed = append(s.placed, schedule.Placed{Unit: name, Machine: machine, Hash: p.Hash, Wish: string(p.Wish)})
	}
	slices.SortFunc(s.placed, func(a, b schedule.Placed) int { return cmp.Compare(a.Machine, b.Machine) })
	for i := range s.placed {
		p := view.Placements[name][s.placed[i].Machine]
		st, told := view.States[name][s.placed[i].Machine]
		s.live(&s.placed[i], p, st, told, was, now)
	}
	return s
}

// at says that the unit looks different from a time on.
func (s *sight) at(t time.Time) {
	if s.due.IsZero() || t.Before(s.due) {
		s.due = t
	}
}
