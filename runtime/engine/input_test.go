package engine

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// What the scheduler is given is of this view alone, in the order of names,
// though its memory is that of the view before.
func TestInputFollowsTheView(t *testing.T) {
	e := New(Config{Lease: ttl, Logger: slog.New(slog.DiscardHandler)})
	w := newWatchdog(func(context.Context, store.Machine) error { return nil }, ttl)
	view := func(units, placed []string, machines ...string) *store.View {
		v := &store.View{Units: map[string]store.Unit{}, Machines: map[string]store.Machine{}, Placements: map[string]map[string]store.Placement{}}
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
		in := e.input(c.view, w, time.Now())
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
		slices.Sort(machines)
		if fmt.Sprint(units) != c.units || fmt.Sprint(placed) != c.placed || fmt.Sprint(machines) != c.machines {
			t.Errorf("%d: got %v, %v, %v; want %s, %s, %s", i, units, placed, machines, c.units, c.placed, c.machines)
		}
	}
}
