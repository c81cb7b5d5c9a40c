package schedule

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"plasmid/runtime/unit"
)

// Through random lives of random clusters, a memory decides what a plan from
// nothing decides.
func TestMemoryDecidesAsFromNothing(t *testing.T) {
	spared := map[Op]int{} // decisions for which no whole plan was made
	known, seen := 0, 0
	for seed := range uint64(1000) {
		w := newWorld(seed)
		var m Memory
		for step := range 40 {
			told(&m, w.View)
			before := m.plan
			got, want := m.Decide(), Decide(w.View)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d, step %d: got\n%v\nwant\n%v", seed, step, got, want)
			}
			seen++
			if m.plan == before {
				known++
				for _, d := range got.Decisions {
					spared[d.Op]++
				}
			}
			if again := m.Decide(); m.plan != before && fmt.Sprint(again) != fmt.Sprint(want) {
				t.Fatalf("seed %d, step %d: got\n%v\nthe second time, want\n%v", seed, step, again, want)
			}
			w.live(want)
		}
	}
	t.Logf("%d of %d plans were spared, with %v", known, seen, spared)
	if known < seen/10 || spared[Place] < seen/100 || spared[Remove] < seen/100 {
		t.Errorf("only %d of %d plans were spared, with %v", known, seen, spared)
	}
}

// told tells a memory of a view: of all that it has and of what it has no longer.
func told(m *Memory, v View) {
	machines := slices.Clone(v.Machines)
	m.Cluster(machines, v.Rebalance, v.Budget)
	names := map[string]*Unit{}
	for name := range m.entries {
		names[name] = nil
	}
	placed := map[string][]Placed{}
	for _, p := range v.Placed {
		names[p.Unit] = nil
		placed[p.Unit] = append(placed[p.Unit], p)
	}
	for _, u := range v.Units {
		names[u.Spec.Name] = &u
	}
	for name, u := range names {
		slices.SortFunc(placed[name], func(a, b Placed) int { return cmp.Compare(a.Machine, b.Machine) })
		m.Unit(name, u, placed[name])
	}
}

// world is a random cluster. In some almost all units are plain and little
// befalls the machines, so that mostly everything is in place.
type world struct {
	*rand.Rand
	View
	rare, calm int
}

func newWorld(seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 7))}
	w.rare, w.calm = 2+w.IntN(12), 1+w.IntN(12)
	for i := range 2 + w.IntN(5) {
		w.Machines = append(w.Machines, Machine{ID: fmt.Sprintf("machine%d", i), CPU: 4000, Memory: 2048, Metadata: map[string]string{"zone": fmt.Sprint(w.IntN(2))}})
	}
	for n := 1 + w.IntN(20); len(w.Units) == 0 || n > 0; n-- {
		w.unit()
	}
	return w
}

// one is true one time in n.
func (w *world) one(n int) bool { return w.IntN(n) == 0 }

// unit adds a unit, or changes the one that has its name.
func (w *world) unit() {
	name := fmt.Sprintf("u%d@%d.service", w.IntN(4), w.IntN(8))
	other := fmt.Sprintf("u%d@%d.service", w.IntN(4), w.IntN(8))
	text := ""
	if w.one(w.rare) {
		text = []string{
			"[X-Fleet]\nConflicts=" + other, "[X-Fleet]\nConflicts=u1@*.service", "[X-Fleet]\nReplaces=" + other, "[X-Fleet]\nMachineOf=" + other,
			"[X-Fleet]\nGlobal=true", "[X-Fleet]\nGlobal=true\nConflicts=" + other, "[X-Fleet]\nGlobal=true\n[X-Plasmid]\nAfter=" + other,
			"[X-Plasmid]\nAfter=" + other, "[X-Plasmid]\nRequires=" + other, "[X-Plasmid]\nSpread=zone", "[X-Plasmid]\nSpread=host",
			"[X-Plasmid]\nMemory=900M", "[X-Plasmid]\nPorts=80", "[X-Plasmid]\nMachine=zone=1", "[X-Plasmid]\nUpdate=rolling rollback=yes",
		}[w.IntN(15)] + "\n"
	}
	spec, err := unit.SpecOf(name, text)
	if err != nil {
		return // it would speak of itself
	}
	u := Unit{Spec: spec, Hash: unit.Hash(text), Wish: "launched", Ready: w.one(2)}
	if w.one(6) {
		u.Wish = []string{"inactive", "loaded"}[w.IntN(2)]
	}
	w.Units = slices.Clone(w.Units)
	for i := range w.Units {
		if w.Units[i].Spec.Name == name {
			w.Units[i] = u
			return
		}
	}
	w.Units = append(w.Units, u)
}

// carry has decisions carried out; some come up at once.
func (w *world) carry(r Result) {
	w.View = Apply(w.View, r)
	for i := range w.Placed {
		if w.IntN(3) > 0 {
			w.Placed[i].Ready = false
		}
	}
}

// live is what may become of the cluster: mostly that what was decided is carried
// out, in whole or in part, and else that something changes.
func (w *world) live(r Result) {
	switch w.IntN(12) {
	case 0, 1:
		for _, d := range r.Decisions {
			w.Placed = slices.DeleteFunc(slices.Clone(w.Placed), func(p Placed) bool { return p.Unit == d.Unit && p.Machine == d.Machine })
			if d.Op != Remove {
				i := slices.IndexFunc(w.Units, func(u Unit) bool { return u.Spec.Name == d.Unit })
				w.Placed = append(w.Placed, Placed{Unit: d.Unit, Machine: d.Machine, Hash: w.Units[i].Hash, Wish: w.Units[i].Wish, Moving: d.Moving})
			}
		}
	case 2:
		w.carry(r)
	case 3:
		if n := len(r.Decisions); n > 0 {
			r.Decisions = r.Decisions[:w.IntN(n)]
		}
		w.carry(r)
	case 4:
		w.unit()
	case 5: // several at once, while what was decided is carried out
		w.carry(r)
		for range 1 + w.IntN(4) {
			w.unit()
		}
	case 6, 7, 8:
		w.carry(r)
		w.Units = slices.Clone(w.Units)
		for n := 1 + w.IntN(2); n > 0 && len(w.Units) > 0; n-- {
			i := w.IntN(len(w.Units))
			if w.one(2) {
				w.Units = slices.Delete(w.Units, i, i+1)
			} else {
				w.Units[i].Wish = []string{"inactive", "loaded", "launched"}[w.IntN(3)]
			}
		}
	case 9:
		w.carry(r)
		if len(w.Units) > 0 {
			w.Units = slices.Clone(w.Units)
			i := w.IntN(len(w.Units))
			w.Units[i].Ready = !w.Units[i].Ready
		}
		if len(w.Placed) > 0 {
			w.Placed = slices.Clone(w.Placed)
			pl := &w.Placed[w.IntN(len(w.Placed))]
			pl.Failed, pl.Back, pl.Ready, pl.Moving = w.one(3), w.one(2), w.one(2), w.one(4)
		}
	default:
		if w.one(w.calm) {
			w.trouble()
		}
	}
}

// trouble befalls a machine, which may be forgotten while it has units.
func (w *world) trouble() {
	w.Machines = slices.Clone(w.Machines)
	i := w.IntN(len(w.Machines))
	if len(w.Machines) > 2 && w.one(6) {
		w.Machines = slices.Delete(w.Machines, i, i+1)
		return
	}
	m := &w.Machines[i]
	m.Gone, m.Suspect, m.Cordoned, m.Draining = w.one(6), w.one(6), w.one(6), w.one(6)
	w.Rebalance, w.Budget = w.one(4), w.IntN(3)
}

// BenchmarkMemory has one unit more each time: once its wish is seen, once it is
// placed, once it is ready, once it is destroyed, once it is gone.
func BenchmarkMemory(b *testing.B) {
	var m Memory
	var machines []Machine
	for i := range 500 {
		machines = append(machines, Machine{ID: fmt.Sprintf("%032d", i)})
	}
	m.Cluster(machines, false, 0)
	named := func(i int) *Unit {
		return &Unit{Spec: unit.Spec{Name: fmt.Sprintf("app@%04d.service", i)}, Wish: "launched"}
	}
	for i := range 5000 {
		m.Unit(named(i).Spec.Name, named(i), nil)
	}
	for _, d := range m.Decide().Decisions {
		u := named(0)
		u.Spec.Name = d.Unit
		m.Unit(d.Unit, u, []Placed{{Unit: d.Unit, Machine: d.Machine, Wish: "launched"}})
	}
	m.Decide()
	plan := m.plan
	b.ReportAllocs()
	for i := 5000; b.Loop(); i++ {
		u := named(i)
		m.Unit(u.Spec.Name, u, nil)
		d := m.Decide().Decisions[0]
		placed := []Placed{{Unit: d.Unit, Machine: d.Machine, Wish: "launched"}}
		m.Unit(u.Spec.Name, u, placed)
		m.Decide()
		ready := *u
		ready.Ready = true
		m.Unit(u.Spec.Name, &ready, placed)
		m.Decide()
		m.Unit(u.Spec.Name, nil, placed)
		m.Decide()
		m.Unit(u.Spec.Name, nil, nil)
		if r := m.Decide(); len(r.Decisions) > 0 || m.plan != plan {
			b.Fatalf("there is %v to decide", r.Decisions)
		}
	}
}
