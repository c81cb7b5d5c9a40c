package engine

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

func quiet() (*Engine, *watchdog) {
	w := newWatchdog(func(context.Context, store.Machine) error { return nil }, ttl)
	return New(Config{Lease: ttl, Logger: slog.New(slog.DiscardHandler)}), w
}

func emptyView() *store.View {
	return &store.View{
		Units: map[string]store.Unit{}, Machines: map[string]store.Machine{}, Known: map[string]store.Machine{},
		Placements: map[string]map[string]store.Placement{}, States: map[string]map[string]store.State{}, Metadata: map[string]map[string]string{},
		Orders: map[string]store.Order{}, Avoid: map[string]map[string]store.Avoid{}, Done: map[string]store.Done{},
	}
}

// What the scheduler is given is of this view alone, in the order of names,
// though much of it is kept from the view before.
func TestReadFollowsTheView(t *testing.T) {
	e, w := quiet()
	view := func(units, placed []string, machines ...string) *store.View {
		v := emptyView()
		for _, u := range units {
			text := "[Service]\nExecStart=/bin/true\n"
			v.Units[u] = store.Unit{Name: u, Text: text, Hash: unit.Hash(text), Wish: store.Launched}
		}
		for _, u := range placed {
			v.Placements[u] = map[string]store.Placement{machines[0]: {Unit: u, Machine: machines[0], Wish: store.Launched}}
		}
		for _, m := range machines {
			v.Machines[m] = store.Machine{ID: m}
		}
		return v
	}
	for i, c := range []struct {
		view                    *store.View
		units, placed, machines string
	}{
		{view([]string{"c.service", "a.service", "b.service"}, []string{"c.service", "a.service"}, "m", "n"), "[a.service b.service c.service]", "[a.service c.service]", "[m n]"},
		{view([]string{"d.service", "b.service"}, []string{"b.service"}, "m"), "[b.service d.service]", "[b.service]", "[m]"},
		// One that was destroyed and is placed still, and a template.
		{view([]string{"b.service", "t@.service"}, []string{"z.service", "b.service"}, "n"), "[b.service]", "[b.service z.service]", "[n]"},
		{view(nil, nil), "[]", "[]", "[]"},
	} {
		e.changed.Add(store.Changes{All: true})
		e.read(c.view, w, time.Now())
		in := e.memory.View()
		var units, placed, machines []string
		for _, u := range in.Units {
			units = append(units, u.Spec.Name)
		}
		for _, p := range in.Placed {
			placed = append(placed, p.Unit)
		}
		for _, m := range in.Machines {
			machines = append(machines, m.ID)
		}
		if fmt.Sprint(units) != c.units || fmt.Sprint(placed) != c.placed || fmt.Sprint(machines) != c.machines {
			t.Errorf("%d: got %v, %v, %v; want %s, %s, %s", i, units, placed, machines, c.units, c.placed, c.machines)
		}
	}
}

// Through random lives of random clusters, an engine that reads only what changed
// sees, remembers and waits for the same as one that reads all at each pass.
func TestReadsAsFromNothing(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		now := time.Now()
		view := emptyView()
		some, w := quiet()
		all, _ := quiet()
		for step := range 60 {
			var c store.Changes
			c.Add(store.Changes{All: step == 0})
			for range rnd.IntN(4) {
				view = befall(rnd, view, &c, w, now)
			}
			now = now.Add(time.Duration(rnd.IntN(20_000)) * time.Millisecond)
			if rnd.IntN(15) == 0 {
				now = now.Add(6 * time.Minute)
			}
			some.changed.Add(c)
			all.changed.Add(store.Changes{All: true})
			some.read(view, w, now)
			all.read(view, w, now)
			got, want := some.memory.View(), all.memory.View()
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, step %d: got\n%+v\nwant\n%+v", seed, step, got, want)
			}
			if some.again != all.again || !reflect.DeepEqual(some.readySince, all.readySince) {
				t.Fatalf("seed %d, step %d: got %v, %v, want %v, %v", seed, step, some.again, some.readySince, all.again, all.readySince)
			}
			if got, want := sorted(some.records(view, now)), sorted(all.records(view, now)); got != want {
				t.Fatalf("seed %d, step %d: got records\n%s\nwant\n%s", seed, step, got, want)
			}
			// They stay to be written for as long as they are not.
			if r := some.records(view, now); r.Empty() || rnd.IntN(2) == 0 {
				for k, n := range map[string]int{"avoid": len(r.Avoid), "done": len(r.Done), "forgive": len(r.Forgive), "forget": len(r.Forget)} {
					seen[k] += n
				}
				view = remembered(view, r, &some.changed)
				if r.Empty() {
					some.changed = store.Changes{}
				}
			}
			if some.again > 0 {
				seen["again"]++
			}
			for _, pl := range want.Placed {
				for k, is := range map[string]bool{"moving": pl.Moving, "ready": pl.Ready, "failed": pl.Failed, "back": pl.Back} {
					if is {
						seen[k]++
					}
				}
			}
		}
	}
	for _, k := range []string{"avoid", "done", "forgive", "forget", "again", "moving", "ready", "failed", "back"} {
		if seen[k] < 20 {
			t.Errorf("%q came up %d times only", k, seen[k])
		}
	}
}

func sorted(r store.Records) string {
	byUnit := func(a, b store.Avoid) int {
		return slices.Compare([]string{a.Unit, a.Machine}, []string{b.Unit, b.Machine})
	}
	slices.SortFunc(r.Avoid, byUnit)
	slices.SortFunc(r.Forgive, byUnit)
	slices.SortFunc(r.Done, func(a, b store.Done) int {
		return slices.Compare([]string{a.Unit, a.Machine}, []string{b.Unit, b.Machine})
	})
	slices.Sort(r.Forget)
	return fmt.Sprintf("%+v", r)
}

// with is a copy of a map with another value in it.
func with[V any](m map[string]V, key string, v V) map[string]V {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]V{}
	}
	m[key] = v
	return m
}

func without[V any](m map[string]V, key string) map[string]V {
	m = maps.Clone(m)
	delete(m, key)
	return m
}

// inner puts a value into a map of maps, or takes it out.
func inner[V any](m map[string]map[string]V, first, second string, v *V) map[string]map[string]V {
	in := without(m[first], second)
	if v != nil {
		in = with(in, second, *v)
	}
	if len(in) == 0 {
		return without(m, first)
	}
	return with(m, first, in)
}

// remembered is the view with the records in it.
func remembered(v *store.View, r store.Records, c *store.Changes) *store.View {
	next := *v
	for _, a := range r.Avoid {
		next.Avoid = inner(next.Avoid, a.Unit, a.Machine, &a)
		c.Units[a.Unit] = struct{}{}
	}
	for _, a := range r.Forgive {
		next.Avoid = inner(next.Avoid, a.Unit, a.Machine, nil)
		c.Units[a.Unit] = struct{}{}
	}
	for _, d := range r.Done {
		next.Done = with(next.Done, d.Unit, d)
		c.Units[d.Unit] = struct{}{}
	}
	for _, name := range r.Forget {
		next.Done = without(next.Done, name)
		c.Units[name] = struct{}{}
	}
	return &next
}

// befall is what may happen to a cluster; it says in c what it changed, as the
// store does.
func befall(rnd *rand.Rand, v *store.View, c *store.Changes, w *watchdog, now time.Time) *store.View {
	one := func(n int) bool { return rnd.IntN(n) == 0 }
	next := *v
	name := fmt.Sprintf("u@%d.service", rnd.IntN(6))
	machine := fmt.Sprintf("m%d", rnd.IntN(4))
	if one(20) {
		name = "t@.service"
	}
	u := v.Units[name]
	switch rnd.IntN(9) {
	case 0, 1:
		text := []string{
			"", "[X-Plasmid]\nUpdate=rolling max=1 gate=10s rollback=yes\n", "[X-Plasmid]\nRunOnce=yes\n", "[X-Plasmid]\nRetries=3/30s\n",
			"[X-Plasmid]\nNoSuch=1\n", "[X-Fleet]\nGlobal=true\n",
		}[rnd.IntN(6)]
		next.Units = with(v.Units, name, store.Unit{Name: name, Text: text, Hash: unit.Hash(text), Wish: []store.Wish{store.Inactive, store.Loaded, store.Launched, store.Launched}[rnd.IntN(4)]})
		if one(4) {
			next.Units = without(v.Units, name)
		}
		c.Units[name] = struct{}{}
	case 2, 3:
		p := store.Placement{Machine: machine, Unit: name, Hash: u.Hash, Text: u.Text, Wish: store.Launched}
		if one(3) {
			p.Moved = now
		}
		if one(3) {
			p.Previous, p.Changed = "old", now
		}
		if one(6) {
			p.Wish = store.Loaded
		}
		next.Placements = inner(v.Placements, name, machine, &p)
		if one(4) {
			next.Placements = inner(v.Placements, name, machine, nil)
		}
		c.Units[name] = struct{}{}
	case 4, 5, 6:
		for on, p := range v.Placements[name] {
			st := store.State{Machine: on, Unit: name, Hash: p.Hash, Load: "loaded", Active: "active", Ready: one(2)}
			if one(2) {
				st = store.State{Machine: on, Unit: name, Hash: p.Hash, Load: "loaded", Active: []string{"failed", "inactive"}[rnd.IntN(2)], GaveUp: one(2), Ended: one(2)}
			}
			next.States = inner(next.States, name, on, &st)
			c.Units[name] = struct{}{}
		}
	case 7:
		m := store.Machine{ID: machine, Metadata: map[string]string{"zone": fmt.Sprint(rnd.IntN(3))}}
		switch rnd.IntN(4) {
		case 0, 1:
			next.Machines, next.Known = with(v.Machines, machine, m), with(v.Known, machine, m)
			delete(w.failures, machine)
		case 2:
			next.Machines = without(v.Machines, machine)
		case 3: // forgotten, but not what is placed there
			next.Machines, next.Known = without(v.Machines, machine), without(v.Known, machine)
		}
		c.Machines = true
	case 8:
		if _, alive := v.Machines[machine]; !alive {
			// Of what probes find out the store says nothing.
			w.failures[machine] = rnd.IntN(4)
			break
		}
		next.Orders = with(v.Orders, machine, store.Order{Drain: one(2), Budget: rnd.IntN(3)})
		if one(2) {
			next.Orders = without(v.Orders, machine)
		}
		next.Rebalance = nil
		if one(3) {
			next.Rebalance = &store.Rebalance{Budget: rnd.IntN(3)}
		}
		c.Machines = true
	}
	return &next
}

// BenchmarkPass has the word of one unit's state come in, of 10,000 on 1,000
// machines.
func BenchmarkPass(b *testing.B) {
	e, w := quiet()
	v := emptyView()
	const text = "[Service]\nExecStart=/bin/true\n"
	for i := range 1000 {
		m := fmt.Sprintf("%032d", i)
		v.Machines[m] = store.Machine{ID: m}
		v.Known[m] = v.Machines[m]
	}
	for i := range 10000 {
		name, m := fmt.Sprintf("u@%d.service", i), fmt.Sprintf("%032d", i%1000)
		v.Units[name] = store.Unit{Name: name, Text: text, Hash: unit.Hash(text), Wish: store.Launched}
		v.Placements[name] = map[string]store.Placement{m: {Unit: name, Machine: m, Hash: unit.Hash(text), Wish: store.Launched}}
	}
	e.changed.Add(store.Changes{All: true})
	e.read(v, w, time.Now())
	if r := e.memory.Decide(); len(r.Decisions) > 0 {
		b.Fatal(r.Decisions)
	}
	for i := 0; b.Loop(); i++ {
		name, m := fmt.Sprintf("u@%d.service", i%10000), fmt.Sprintf("%032d", i%1000)
		v.States[name] = map[string]store.State{m: {Machine: m, Unit: name, Hash: unit.Hash(text), Load: "loaded", Active: "active", Ready: i/10000%2 == 0}}
		e.changed = store.Changes{Units: map[string]struct{}{name: {}}}
		e.read(v, w, time.Now())
		if r := e.memory.Decide(); len(r.Decisions) > 0 {
			b.Fatal(r.Decisions)
		}
		e.records(v, time.Now())
	}
}
