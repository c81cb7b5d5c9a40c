package schedule

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"plasmid/runtime/unit"
)

// Through random lives of random clusters, a memory decides what a plan from
// nothing decides.
func TestMemoryDecidesAsFromNothing(t *testing.T) {
	known, seen := 0, 0
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		v := randomView(rnd)
		var m Memory
		for step := range 40 {
			// The memory gets a copy of its own, in memory that it gave back.
			c := m.Scratch()
			c.Units, c.Machines, c.Placed = append(c.Units, v.Units...), append(c.Machines, v.Machines...), append(c.Placed, v.Placed...)
			c.Rebalance, c.Budget = v.Rebalance, v.Budget
			if m.some && sameCluster(m.last, c) && (slices.Equal(m.last.Placed, c.Placed) || m.settles() && m.carriedOut(c)) {
				known++
			}
			seen++
			got, want := m.Decide(c), Decide(v)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d, step %d: got\n%v\nwant\n%v", seed, step, got, want)
			}
			v = live(rnd, v, want)
		}
	}
	if known < seen/10 {
		t.Errorf("only %d of %d plans were known beforehand", known, seen)
	}
}

func one(rnd *rand.Rand, n int) bool { return rnd.IntN(n) == 0 }

func randomView(rnd *rand.Rand) View {
	var v View
	for i := range 2 + rnd.IntN(5) {
		v.Machines = append(v.Machines, Machine{ID: fmt.Sprintf("machine%d", i), CPU: 4000, Memory: 2048, Metadata: map[string]string{"zone": fmt.Sprint(rnd.IntN(2))}})
	}
	for n := 1 + rnd.IntN(20); len(v.Units) == 0 || n > 0; n-- {
		v = withUnit(rnd, v)
	}
	return v
}

// withUnit adds a unit, or changes the one that has its name.
func withUnit(rnd *rand.Rand, v View) View {
	name := fmt.Sprintf("u%d@%d.service", rnd.IntN(4), rnd.IntN(8))
	other := fmt.Sprintf("u%d@%d.service", rnd.IntN(4), rnd.IntN(8))
	text := "[X-Plasmid]\n"
	if one(rnd, 2) {
		text += []string{
			"Conflicts=" + other, "Replaces=" + other, "MachineOf=" + other, "After=" + other, "Requires=" + other, "Global=true", "Spread=zone", "Spread=host",
			"Memory=900M", "Ports=80", "Machine=zone=1", "Update=rolling", "Global=true\nConflicts=" + other, "Conflicts=u1@*.service",
		}[rnd.IntN(14)] + "\n"
	}
	spec, err := unit.SpecOf(name, text)
	if err != nil {
		return v // some of them exclude each other
	}
	u := Unit{Spec: spec, Hash: unit.Hash(text), Wish: "launched", Ready: one(rnd, 2)}
	if one(rnd, 6) {
		u.Wish = []string{"inactive", "loaded"}[rnd.IntN(2)]
	}
	v.Units = slices.Clone(v.Units)
	for i := range v.Units {
		if v.Units[i].Spec.Name == name {
			v.Units[i] = u
			return v
		}
	}
	v.Units = append(v.Units, u)
	return v
}

// live is what may become of a cluster: mostly that what was decided is carried
// out, in whole or in part, and else that something changes.
func live(rnd *rand.Rand, v View, r Result) View {
	carry := func(r Result) {
		v = Apply(v, r)
		for i := range v.Placed {
			if rnd.IntN(3) > 0 {
				v.Placed[i].Ready = false
			}
		}
	}
	switch rnd.IntN(8) {
	case 0, 1, 2:
		for _, d := range r.Decisions {
			v.Placed = slices.DeleteFunc(slices.Clone(v.Placed), func(p Placed) bool { return p.Unit == d.Unit && p.Machine == d.Machine })
			if d.Op != Remove {
				i := slices.IndexFunc(v.Units, func(u Unit) bool { return u.Spec.Name == d.Unit })
				v.Placed = append(v.Placed, Placed{Unit: d.Unit, Machine: d.Machine, Hash: v.Units[i].Hash, Wish: v.Units[i].Wish, Moving: d.Moving})
			}
		}
	case 3:
		carry(r)
	case 4:
		if n := len(r.Decisions); n > 0 {
			r.Decisions = r.Decisions[:rnd.IntN(n)]
		}
		carry(r)
	case 5:
		v = withUnit(rnd, v)
	case 6:
		v.Machines = slices.Clone(v.Machines)
		m := &v.Machines[rnd.IntN(len(v.Machines))]
		m.Gone, m.Suspect, m.Cordoned, m.Draining = one(rnd, 6), one(rnd, 6), one(rnd, 6), one(rnd, 6)
		v.Rebalance = one(rnd, 4)
	case 7:
		v.Units = slices.Clone(v.Units)
		i := rnd.IntN(len(v.Units))
		v.Units[i].Ready = !v.Units[i].Ready
		if len(v.Placed) > 0 {
			v.Placed = slices.Clone(v.Placed)
			v.Placed[rnd.IntN(len(v.Placed))].Failed = one(rnd, 2)
		}
	}
	return v
}

// BenchmarkMemory has one unit more each time: once its wish is seen, once it is
// placed, once it is ready. Only the first needs a plan.
func BenchmarkMemory(b *testing.B) {
	var v View
	for i := range 500 {
		v.Machines = append(v.Machines, Machine{ID: fmt.Sprintf("%032d", i)})
	}
	for i := range 5000 {
		v.Units = append(v.Units, Unit{Spec: unit.Spec{Name: fmt.Sprintf("app@%04d.service", i)}, Wish: "launched"})
	}
	wished := v
	wished.Units = slices.Clone(v.Units[:4999])
	var done []Placed
	for _, d := range Decide(v).Decisions {
		done = append(done, Placed{Unit: d.Unit, Machine: d.Machine, Wish: "launched"})
	}
	v.Placed, wished.Placed = done[:4999], done[:4999]
	placed := v
	placed.Placed = done
	up := placed
	up.Units = slices.Clone(placed.Units)
	for i := range up.Units {
		up.Units[i].Ready = true
	}
	for name, next := range map[string]View{"placed": placed, "ready": up} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			m := Memory{last: v, some: true, result: Decide(v)}
			if name == "ready" {
				m.last, m.result = placed, Decide(placed)
			}
			for b.Loop() {
				again := m
				if len(again.Decide(next).Decisions) > 0 {
					b.Fatal("there is nothing to decide")
				}
			}
		})
	}
}
