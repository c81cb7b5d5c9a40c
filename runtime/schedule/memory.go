package schedule

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Memory decides as Decide does, on a view that it keeps, and of which it is
// told what changes. It makes a whole plan only where one is needed: if what it
// decided last left nothing to do, then what is carried out needs no plan, and
// units that are new, are destroyed or are to be inactive change nothing for
// others that don't speak of them, so that the last plan is carried on with them
// alone.
//
// A unit's Name and Hash stand for all of its Spec. What it is given must not be
// written to afterwards.
type Memory struct {
	view    View // its units are in entries
	entries map[string]*known
	sorted  []*known       // those of entries, by name
	grown   bool           // sorted lacks some, or has some that are gone
	named   map[string]int // how many units speak of another in what they ask for
	global  map[string]bool

	before   map[string]known // what changed since the last decision, as it was then
	expected map[string][]Placed
	plan     *planner // the last one, carried on; nil: a new one is needed
	moved    bool     // units that were on a machine, or were to be, left it in that plan
	result   Result
}

// known is one unit, and where it is placed.
type known struct {
	name   string
	unit   *Unit // nil: it was destroyed
	placed []Placed
}

// Cluster tells of the machines, and of what else concerns all units.
func (m *Memory) Cluster(machines []Machine, rebalance bool, budget int) {
	v := &m.view
	if v.Rebalance == rebalance && v.Budget == budget && slices.EqualFunc(v.Machines, machines, sameMachine) {
		return
	}
	v.Machines, v.Rebalance, v.Budget = machines, rebalance, budget
	m.plan = nil
}

// Unit tells of one unit, nil if there is none of that name, and where it is
// placed, in the order of machines.
func (m *Memory) Unit(name string, u *Unit, placed []Placed) {
	if m.entries == nil {
		m.entries, m.before = map[string]*known{}, map[string]known{}
		m.named, m.global = map[string]int{}, map[string]bool{}
	}
	e := m.entries[name]
	switch {
	case e == nil && u == nil && len(placed) == 0:
		return
	case e == nil:
		e = &known{name: name}
		m.entries[name], m.grown = e, true
	}
	if _, changed := m.before[name]; !changed {
		m.before[name] = *e
	}
	m.speak(e.unit, -1)
	m.speak(u, 1)
	if u != nil && u.Spec.Global && u.Wish != inactive {
		m.global[name] = true
	} else {
		delete(m.global, name)
	}
	e.unit, e.placed = u, placed
	if u == nil && len(placed) == 0 {
		delete(m.entries, name)
		m.grown = true
	}
}

// speak counts the units of which u speaks.
func (m *Memory) speak(u *Unit, n int) {
	if u == nil {
		return
	}
	for _, names := range [][]string{u.Spec.After, u.Spec.Requires, u.Spec.MachineOf, u.Spec.Replaces} {
		for _, name := range names {
			if m.named[name] += n; m.named[name] == 0 {
				delete(m.named, name)
			}
		}
	}
}

// Machines are those that it was told of.
func (m *Memory) Machines() []Machine { return m.view.Machines }

// View is what is decided on, in the order of units' names.
func (m *Memory) View() View {
	v := m.view
	for _, e := range m.order() {
		if e.unit != nil {
			v.Units = append(v.Units, *e.unit)
		}
		v.Placed = append(v.Placed, e.placed...)
	}
	return v
}

// order are all entries by name.
func (m *Memory) order() []*known {
	if m.grown {
		m.sorted = slices.SortedFunc(maps.Values(m.entries), func(a, b *known) int { return strings.Compare(a.name, b.name) })
		m.grown = false
	}
	return m.sorted
}

// Decide is the function Decide, of the view.
func (m *Memory) Decide() Result {
	maps.DeleteFunc(m.before, func(name string, old known) bool { return old.same(m.now(name)) })
	switch {
	case m.plan != nil && len(m.before) == 0:
		return m.result
	case m.plan == nil || !m.carryOn():
		m.anew()
	}
	m.result = m.plan.result()
	m.expect()
	clear(m.before)
	return m.result
}

func (m *Memory) now(name string) known {
	if e := m.entries[name]; e != nil {
		return *e
	}
	return known{name: name}
}

func (a known) same(b known) bool {
	return sameUnit(a.unit, b.unit) && (a.unit == nil || a.unit.Ready == b.unit.Ready) && slices.Equal(a.placed, b.placed)
}

// anew makes a whole plan.
func (m *Memory) anew() {
	all := m.order()
	units, placed := make([]*Unit, 0, len(all)), make([]Placed, 0, len(all))
	for _, e := range all {
		if e.unit != nil {
			units = append(units, e.unit)
		}
		placed = append(placed, e.placed...)
	}
	v := m.view
	v.Placed = placed
	m.plan = plan(units, v)
	m.moved = m.plan.shrunk > 0
}

// expect works out what placements the last result leads to, or that it leaves
// something to do, so that the next plan must be a whole one.
func (m *Memory) expect() {
	m.expected = map[string][]Placed{}
	if !m.settles() {
		m.expected = nil
		return
	}
	for _, d := range m.result.Decisions {
		now := m.now(d.Unit)
		placed, begun := m.expected[d.Unit]
		if !begun {
			placed = slices.Clone(now.placed)
		}
		switch d.Op {
		case Remove:
			placed = slices.DeleteFunc(placed, func(pl Placed) bool { return pl.Machine == d.Machine })
		case Place:
			placed = append(placed, Placed{Unit: d.Unit, Machine: d.Machine, Hash: now.unit.Hash, Wish: now.unit.Wish})
		}
		m.expected[d.Unit] = placed
	}
	for _, placed := range m.expected {
		slices.SortFunc(placed, func(a, b Placed) int { return cmp.Compare(a.Machine, b.Machine) })
	}
}

// settles reports whether nothing is left to do once the last result is carried
// out. That is so if every unit is placed that is to be, and none changes or
// moves: what fits when it is placed last fits beside the same units when it is
// there already. Of updates and moves the next ones may be waiting for these,
// and a removal of what is wanted makes room for others.
func (m *Memory) settles() bool {
	r := &m.result
	if len(r.Unplaced)+len(r.Stuck)+len(r.RollBack) > 0 || m.view.Rebalance {
		return false
	}
	if m.moved || len(m.plan.order) != len(m.view.Machines) {
		// Others may have relied on where a unit was before it was driven away.
		// Or there are units on machines of which nothing is known.
		return false
	}
	return !slices.ContainsFunc(r.Decisions, func(d Decision) bool {
		switch d.Op {
		case Place:
			return d.Moving
		case Remove:
			u := m.now(d.Unit).unit
			return u != nil && u.Wish != inactive
		}
		return true
	})
}

// carryOn takes what changed into the last plan, if that gives what a new plan
// would. If not the plan is spoilt.
func (m *Memory) carryOn() bool {
	if m.expected == nil {
		return false
	}
	for name := range m.expected {
		if _, changed := m.before[name]; !changed {
			return false // it is not carried out yet
		}
	}
	var add, remove []*wanted
	p := m.plan
	p.decisions, p.unplaced, p.stuck, p.back = nil, map[string][]Verdict{}, map[string]string{}, map[string]string{}
	for name, old := range m.before {
		now := m.now(name)
		was, decided := m.expected[name]
		if !decided {
			was = old.placed
		}
		if !slices.EqualFunc(was, now.placed, inPlace) {
			return false
		}
		w, u := p.units[name], now.unit
		switch change := m.change(old.unit, u); {
		case change == toAdd && len(now.placed) > 0, change == toPlan:
			return false
		case change == toAdd:
			if w == nil {
				w = &wanted{name: name}
				p.units[name] = w
			}
			w.Unit = u
			w.class, w.group = p.classOf(w), p.groupOf(w)
			add = append(add, w)
		case change == toRemove && w != nil:
			for i := range now.placed {
				if h := p.hosts[now.placed[i].Machine]; h == nil || h.units[name] != w || m.lacksGlobal(h) {
					return false
				}
			}
			remove = append(remove, w)
		case w != nil && u != nil:
			w.Unit = u
		}
	}
	for _, w := range remove {
		p.remove(w, m.now(w.name))
	}
	// By name, as in a whole plan.
	slices.SortFunc(add, func(a, b *wanted) int { return cmp.Compare(a.name, b.name) })
	p.placeRest(add)
	return true
}

// lacksGlobal reports whether a machine lacks a global unit, for which there may
// be room once another has left.
func (m *Memory) lacksGlobal(h *host) bool {
	for name := range m.global {
		if h.units[name] == nil {
			return true
		}
	}
	return false
}

// remove takes a unit that nobody wants any more from where it is.
func (p *planner) remove(w *wanted, now known) {
	why := "the unit is to be inactive"
	if now.unit == nil {
		why = "the unit was destroyed"
		delete(p.units, w.name)
	}
	for i := range now.placed {
		h := p.hosts[now.placed[i].Machine]
		p.drop(w, h)
		p.decide(Remove, w.name, h.id, "%s", why)
	}
	w.on = nil
	if now.unit != nil {
		w.Unit = now.unit
	}
}

// What becomes of a unit for a plan.
type fate int

const (
	toKeep   fate = iota // nothing
	toAdd                // it is to be placed
	toRemove             // it is to be nowhere
	toPlan               // something that needs a whole plan
)

// change says what a change of a unit comes to when all that was wanted before
// is in place.
func (m *Memory) change(old, now *Unit) fate {
	spokenOf := func(u *Unit) bool { return m.named[u.Spec.Name] > 0 }
	switch {
	case old == nil && now == nil:
		return toKeep
	case sameUnit(old, now):
		if old.Ready != now.Ready && spokenOf(now) {
			return toPlan // somebody may wait for it
		}
		return toKeep
	case old == nil && (now.Spec.Global || len(now.Spec.Replaces) > 0 || spokenOf(now)):
		return toPlan
	case old == nil:
		return toAdd
	case spokenOf(old) || len(old.Spec.Reserve.Ports) > 0:
		// Somebody may be where the unit is, or have its port as well.
		return toPlan
	case now == nil:
		return toRemove
	case old.Hash != now.Hash:
		return toPlan
	case now.Wish == inactive:
		return toRemove
	case old.Wish == inactive && !now.Spec.Global && len(now.Spec.Replaces) == 0:
		return toAdd
	}
	return toPlan
}

// inPlace reports whether two placements differ in nothing but in what only
// updates and moves that go on ask for.
func inPlace(a, b Placed) bool {
	a.Ready, a.Moving = b.Ready, b.Moving
	return a == b
}

// sameUnit reports whether two units differ in nothing but that they are ready.
func sameUnit(a, b *Unit) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || a.Hash == b.Hash && a.Spec.Name == b.Spec.Name && a.Wish == b.Wish && a.Done == b.Done && maps.Equal(a.Avoid, b.Avoid)
}

func sameMachine(a, b Machine) bool {
	return a.ID == b.ID && a.Name == b.Name && a.CPU == b.CPU && a.Memory == b.Memory && a.Gone == b.Gone && a.Suspect == b.Suspect &&
		a.Cordoned == b.Cordoned && a.Draining == b.Draining && maps.Equal(a.Metadata, b.Metadata)
}
