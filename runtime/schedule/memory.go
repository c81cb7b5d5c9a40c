package schedule

import (
	"maps"
	"slices"
)

// Memory decides as Decide does, and spares itself the plan where it is known
// beforehand: for a view that asks the same as the last one, and for the last
// one with what was decided on it carried out. Most views of a busy cluster are
// such, for the leader sees its own placements come back, and then each
// machine's word that it has done as it was told.
//
// It holds on to the last view: its memory must not be written to until another
// view was decided on. A unit's Name and Hash stand for all of its Spec.
type Memory struct {
	last, spare View
	result      Result
	some        bool
}

// Scratch is an empty view, of memory that is no longer needed.
func (m *Memory) Scratch() View {
	clear(m.spare.Units) // texts of units that are gone
	return View{Units: m.spare.Units[:0], Machines: m.spare.Machines[:0], Placed: m.spare.Placed[:0]}
}

// Decide is the function Decide. Units, machines and placements should come in
// the same order each time: the plan is the same in any, but not recognised.
func (m *Memory) Decide(v View) Result {
	switch {
	case m.some && sameCluster(m.last, v) && slices.Equal(m.last.Placed, v.Placed):
	case m.some && m.settles() && sameCluster(m.last, v) && m.carriedOut(v):
		m.result = Result{Unplaced: map[string][]Verdict{}, Stuck: map[string]string{}, RollBack: map[string]string{}}
	default:
		m.result = Decide(v)
	}
	m.last, m.spare, m.some = v, m.last, true
	return m.result
}

// settles reports whether nothing is left to do once the last result is carried
// out. That is so if units were only placed, and every unit was that is to be:
// what fits when it is placed last fits beside the same units when it is there
// already. A removal makes room for others, and of updates and moves the next
// ones may be waiting for these.
func (m *Memory) settles() bool {
	r := m.result
	if len(r.Unplaced)+len(r.Stuck)+len(r.RollBack) > 0 || m.last.Rebalance {
		return false
	}
	return !slices.ContainsFunc(r.Decisions, func(d Decision) bool { return d.Op != Place || d.Moving })
}

// carriedOut reports whether the view has what was placed in the last one, and
// what the last result adds to it, and nothing else.
func (m *Memory) carriedOut(v View) bool {
	old, want := m.last.Placed, m.result.Decisions
	if len(v.Placed) != len(old)+len(want) {
		return false
	}
	wanted := make(map[[2]string]bool, len(want))
	for _, d := range want {
		wanted[[2]string{d.Unit, d.Machine}] = true
	}
	fresh := make(map[string]*Placed, len(want))
	for i := range v.Placed {
		pl := &v.Placed[i]
		if len(old) > 0 && *pl == old[0] {
			old = old[1:]
			continue
		}
		key := [2]string{pl.Unit, pl.Machine}
		if !wanted[key] || *pl != (Placed{Unit: pl.Unit, Machine: pl.Machine, Hash: pl.Hash, Wish: pl.Wish}) {
			return false
		}
		if f := fresh[pl.Unit]; f != nil && (f.Hash != pl.Hash || f.Wish != pl.Wish) {
			return false
		}
		delete(wanted, key)
		fresh[pl.Unit] = pl
	}
	if len(old) > 0 || len(wanted) > 0 {
		return false
	}
	for i := 0; i < len(v.Units) && len(fresh) > 0; i++ {
		u := &v.Units[i]
		if f := fresh[u.Spec.Name]; f != nil {
			if f.Hash != u.Hash || f.Wish != u.Wish {
				return false
			}
			delete(fresh, u.Spec.Name)
		}
	}
	return len(fresh) == 0
}

// sameCluster reports whether two views differ in nothing but what is placed,
// as far as plans depend on it.
func sameCluster(a, b View) bool {
	return a.Rebalance == b.Rebalance && a.Budget == b.Budget &&
		slices.EqualFunc(a.Machines, b.Machines, sameMachine) && sameUnits(a.Units, b.Units)
}

func sameMachine(a, b Machine) bool {
	return a.ID == b.ID && a.Name == b.Name && a.CPU == b.CPU && a.Memory == b.Memory && a.Gone == b.Gone && a.Suspect == b.Suspect &&
		a.Cordoned == b.Cordoned && a.Draining == b.Draining && maps.Equal(a.Metadata, b.Metadata)
}

func sameUnits(as, bs []Unit) bool {
	if len(as) != len(bs) {
		return false
	}
	gated, ready := false, true
	for i := range as {
		a, b := &as[i], &bs[i]
		if a.Hash != b.Hash || a.Spec.Name != b.Spec.Name || a.Wish != b.Wish || a.Done != b.Done || !maps.Equal(a.Avoid, b.Avoid) {
			return false
		}
		ready = ready && a.Ready == b.Ready
		gated = gated || len(a.Spec.After)+len(a.Spec.Requires) > 0
	}
	// Only units that wait for others care whether these are ready.
	return ready || !gated
}
