package plan

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// world is a cluster that steps are carried out on.
type world struct {
	network  bool
	machines map[string]Observed
	members  map[string]Member
	blank    map[string]bool // members whose machine was made anew and has no data
}

func (w *world) input(wanted []Machine) Input {
	in := Input{Cluster: "c", Network: w.network, Wanted: wanted}
	for _, n := range slices.Sorted(maps.Keys(w.machines)) {
		in.Observed = append(in.Observed, w.machines[n])
	}
	for _, n := range slices.Sorted(maps.Keys(w.members)) {
		in.Members = append(in.Members, w.members[n])
	}
	return in
}

// quorum reports whether a majority of the voters answers, or there are none.
func (w *world) quorum() bool {
	voters, alive := 0, 0
	for n, m := range w.members {
		if m.Etcd {
			voters++
			if w.machines[n].Running && !w.blank[n] {
				alive++
			}
		}
	}
	return voters == 0 || alive > voters/2
}

// do carries out a step, as provider and joiner would.
func (w *world) do(s Step) error {
	switch {
	case s.Kind == KindNetwork:
		w.network = s.Action == Create
	case s.Kind == KindMachine && s.Action == Delete:
		delete(w.machines, s.Name)
	case s.Kind == KindMachine && s.Action == Create:
		if w.machines[s.Name].Complete {
			return fmt.Errorf("there is a machine already")
		}
		if _, is := w.members[s.Name]; is {
			w.blank[s.Name] = true
		}
		w.machines[s.Name] = Observed{Name: s.Name, Image: s.Machine.Image, Running: true, Complete: true}
	case s.Kind == KindMachine && s.Action == Start:
		m := w.machines[s.Name]
		m.Running = true
		w.machines[s.Name] = m
	case s.Kind == KindMember && s.Action == Delete:
		delete(w.members, s.Name)
		delete(w.blank, s.Name)
	case s.Kind == KindMember:
		if !w.machines[s.Name].Running {
			return fmt.Errorf("its machine does not run")
		}
		w.members[s.Name] = Member{s.Name, s.Machine.Etcd, s.Machine.Spec()}
		delete(w.blank, s.Name)
	}
	return nil
}

// From any state, in any order that the plan allows, cut off at any point and
// planned anew: the cluster becomes what is wanted, and etcd never loses a
// majority that it had.
func TestPlansLeadThere(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := &world{network: r.IntN(4) > 0, machines: map[string]Observed{}, members: map[string]Member{}, blank: map[string]bool{}}
		images := []string{"old", "new"}
		if w.network {
			for i := range r.IntN(6) {
				n := fmt.Sprintf("c-%d", i+1)
				if r.IntN(8) > 0 {
					w.machines[n] = Observed{Name: n, Image: images[r.IntN(2)], Running: r.IntN(6) > 0, Complete: r.IntN(8) > 0}
				}
				if w.machines[n].Complete && r.IntN(5) > 0 {
					w.members[n] = Member{n, i < 3, Machine{Etcd: i < 3}.Spec()}
				}
			}
		}
		var wanted []Machine
		count, etcd := 1+r.IntN(6), 1+2*r.IntN(2)
		for i := range count {
			wanted = append(wanted, Machine{Name: fmt.Sprintf("c-%d", i+1), Image: "new", Etcd: i < etcd})
		}
		if !w.quorum() {
			continue // nothing can be promised
		}
		for rounds := 0; ; rounds++ {
			p, err := Make(w.input(wanted))
			if err != nil || p.Empty() {
				break // refusals have tests of their own
			}
			if rounds > 40 {
				t.Fatalf("seed %d: it never ends: %s", seed, lines(p))
			}
			run(t, seed, r, w, p)
		}
	}
}

// run carries out a plan in a random order, perhaps not to its end.
func run(t *testing.T, seed uint64, r *rand.Rand, w *world, p Plan) {
	t.Helper()
	listed := map[string]bool{}
	for _, s := range p.Steps {
		for _, n := range s.Needs {
			if !listed[n] {
				t.Fatalf("seed %d: %s stands before %s, which it needs:\n%s", seed, s.ID, n, lines(p))
			}
		}
		listed[s.ID] = true
	}
	done := map[string]bool{}
	todo := slices.Clone(p.Steps)
	for len(todo) > 0 {
		ready := slices.DeleteFunc(slices.Clone(todo), func(s Step) bool {
			return slices.ContainsFunc(s.Needs, func(n string) bool { return !done[n] })
		})
		if len(ready) == 0 {
			t.Fatalf("seed %d: steps wait for each other:\n%s", seed, lines(p))
		}
		s := ready[r.IntN(len(ready))]
		if err := w.do(s); err != nil {
			t.Fatalf("seed %d: %s: %v\n%s", seed, s.ID, err, lines(p))
		}
		done[s.ID] = true
		todo = slices.DeleteFunc(todo, func(o Step) bool { return o.ID == s.ID })
		if !w.quorum() {
			t.Fatalf("seed %d: %s lost the quorum\n%s", seed, s.ID, lines(p))
		}
		if r.IntN(20) == 0 {
			return // cut off
		}
	}
}
