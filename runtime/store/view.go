package store

import (
	"fmt"
	"maps"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"plasmid/runtime/reboot"
)

// View is the cluster as the store had it at one revision. It does not change
// and may be shared; its maps must not be written to.
type View struct {
	Revision int64
	Identity Identity
	Units    map[string]Unit
	Machines map[string]Machine // those whose lease lives
	Known    map[string]Machine // all that ever joined and were not forgotten

	Placements map[string]map[string]Placement // unit, then machine
	States     map[string]map[string]State     // unit, then machine
	Metadata   map[string]map[string]string    // machine, then key: set by operators
	Reboots    map[string]reboot.Semaphore     // by group of machines
	Orders     map[string]Order                // by machine
	Avoid      map[string]map[string]Avoid     // unit, then machine
	Done       map[string]Done                 // by unit
	Rebalance  *Rebalance                      // nil: none is ordered
	Leader     string                          // machine ID, empty for none
}

func newView() *View {
	return &View{
		Units: map[string]Unit{}, Machines: map[string]Machine{}, Known: map[string]Machine{},
		Placements: map[string]map[string]Placement{}, States: map[string]map[string]State{}, Metadata: map[string]map[string]string{},
		Reboots: map[string]reboot.Semaphore{}, Orders: map[string]Order{}, Avoid: map[string]map[string]Avoid{}, Done: map[string]Done{},
	}
}

// MachineMetadata is what a machine's node file says, with what operators set
// on top.
func (v *View) MachineMetadata(id string) map[string]string {
	m, ok := v.Machines[id]
	if !ok {
		m = v.Known[id]
	}
	out := maps.Clone(m.Metadata)
	if out == nil {
		out = map[string]string{}
	}
	for k, value := range v.Metadata[id] {
		if value == "" {
			delete(out, k)
		} else {
			out[k] = value
		}
	}
	return out
}

// editor makes the next view out of one: the maps that change are copied
// first, and only once.
type editor struct {
	View
	owned map[any]bool
}

func (v *View) edit() *editor { return &editor{View: *v, owned: map[any]bool{}} }

// own copies a map of the view before its first change.
func own[V any](e *editor, m *map[string]V) map[string]V {
	if !e.owned[m] {
		*m = maps.Clone(*m)
		if *m == nil {
			*m = map[string]V{}
		}
		e.owned[m] = true
	}
	return *m
}

// inner is a map within a map; an empty one is taken out.
type innerKey struct {
	outer any
	key   string
}

func setInner[V any](e *editor, outer *map[string]map[string]V, first, second string, v *V) {
	o := own(e, outer)
	in := o[first]
	if k := (innerKey{outer, first}); !e.owned[k] {
		in = maps.Clone(in)
		e.owned[k] = true
	}
	if in == nil {
		in = map[string]V{}
	}
	if v == nil {
		delete(in, second)
	} else {
		in[second] = *v
	}
	if len(in) == 0 {
		delete(o, first)
		delete(e.owned, innerKey{outer, first})
		return
	}
	o[first] = in
}

// apply takes one key's new value, or its deletion, into the view. key is
// without the prefix.
func (e *editor) apply(key string, kv *mvccpb.KeyValue, deleted bool) error {
	if key == keySchema {
		e.Identity = Identity{}
		if deleted {
			return nil
		}
		var err error
		e.Identity, err = decode[Identity](kv)
		return err
	}
	if key == keyElection {
		e.Leader = ""
		if !deleted {
			e.Leader = string(kv.Value)
		}
		return nil
	}
	if key == keyRebalance {
		e.Rebalance = nil
		if deleted {
			return nil
		}
		r, err := decode[Rebalance](kv)
		e.Rebalance = &r
		return err
	}
	dir, rest := splitKey(key)
	switch dir + "/" {
	case dirAvoid:
		unit, machine := splitKey(rest)
		return setPair(e, &e.Avoid, unit, machine, kv, deleted, func(*Avoid) {})
	case dirDone:
		return set(e, &e.Done, rest, kv, deleted, func(*Done) {})
	case dirOrders:
		return set(e, &e.Orders, rest, kv, deleted, func(o *Order) { o.Revision = kv.ModRevision })
	case dirUnits:
		return set(e, &e.Units, rest, kv, deleted, func(u *Unit) { u.Revision = kv.ModRevision })
	case dirMachines:
		return set(e, &e.Machines, rest, kv, deleted, func(m *Machine) { m.Revision, m.Lease = kv.ModRevision, kv.Lease })
	case dirKnown:
		return set(e, &e.Known, rest, kv, deleted, func(m *Machine) { m.Revision = kv.ModRevision })
	case dirPlacements:
		machine, unit := splitKey(rest)
		return setPair(e, &e.Placements, unit, machine, kv, deleted, func(p *Placement) { p.Revision = kv.ModRevision })
	case dirStates:
		machine, unit := splitKey(rest)
		return setPair(e, &e.States, unit, machine, kv, deleted, func(s *State) { s.Revision = kv.ModRevision })
	case dirReboots:
		return set(e, &e.Reboots, rest, kv, deleted, func(*reboot.Semaphore) {})
	case dirMetadata:
		machine, name := splitKey(rest)
		if deleted {
			setInner[string](e, &e.Metadata, machine, name, nil)
			return nil
		}
		value := string(kv.Value)
		setInner(e, &e.Metadata, machine, name, &value)
	}
	return nil
}

func set[V any](e *editor, m *map[string]V, name string, kv *mvccpb.KeyValue, deleted bool, finish func(*V)) error {
	if deleted {
		delete(own(e, m), name)
		return nil
	}
	v, err := decode[V](kv)
	if err != nil {
		return err
	}
	finish(&v)
	own(e, m)[name] = v
	return nil
}

func setPair[V any](e *editor, m *map[string]map[string]V, first, second string, kv *mvccpb.KeyValue, deleted bool, finish func(*V)) error {
	if first == "" || second == "" {
		return fmt.Errorf("key %s has too few parts", kv.Key)
	}
	if deleted {
		setInner[V](e, m, first, second, nil)
		return nil
	}
	v, err := decode[V](kv)
	if err != nil {
		return err
	}
	finish(&v)
	setInner(e, m, first, second, &v)
	return nil
}
