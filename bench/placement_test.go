//go:build bench

package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"plasmid/runtime/schedule"
	"plasmid/runtime/unit"
)

// view is a cluster in which nothing is placed. Of every ten machines one has
// role=db; constrained makes every tenth unit ask for it and every tenth
// exclude its likes.
func view(units, machines int, constrained bool) schedule.View {
	var v schedule.View
	for i := range machines {
		m := schedule.Machine{ID: fmt.Sprintf("%032x", i), Metadata: map[string]string{"role": "web"}}
		if i%10 == 0 {
			m.Metadata["role"] = "db"
		}
		v.Machines = append(v.Machines, m)
	}
	for i := range units {
		s := unit.Spec{Name: fmt.Sprintf("app@%d.service", i)}
		if constrained && i%10 == 0 {
			s.Metadata = map[string][]string{"role": {"db"}}
		}
		if constrained && i%10 == 1 {
			s.Name = fmt.Sprintf("lone%d@%d.service", i%50, i)
			s.Conflicts = []string{fmt.Sprintf("lone%d@*.service", i%50)}
		}
		v.Units = append(v.Units, schedule.Unit{Spec: s, Wish: "launched", Hash: "h"})
	}
	return v
}

// placed is the view after its plan was carried out.
func placed(v schedule.View) schedule.View {
	for _, d := range schedule.Decide(v).Decisions {
		v.Placed = append(v.Placed, schedule.Placed{Unit: d.Unit, Machine: d.Machine, Hash: "h", Wish: "launched"})
	}
	return v
}

// decide is the median time of some plans of one view.
func decide(v schedule.View) time.Duration {
	var ds []time.Duration
	for limit := time.Now().Add(2 * time.Second); len(ds) < 3 || len(ds) < 25 && time.Now().Before(limit); {
		start := time.Now()
		schedule.Decide(v)
		ds = append(ds, time.Since(start))
	}
	return median(ds)
}

// told is a memory of a view of which all is carried out.
func told(v schedule.View) *schedule.Memory {
	at := map[string][]schedule.Placed{}
	for _, p := range v.Placed {
		at[p.Unit] = append(at[p.Unit], p)
	}
	m := &schedule.Memory{}
	m.Cluster(v.Machines, false, 0)
	for i := range v.Units {
		m.Unit(v.Units[i].Spec.Name, &v.Units[i], at[v.Units[i].Spec.Name])
	}
	m.Decide()
	return m
}

// oneMore is the median time of the leader's decisions on one unit: where it
// goes, that its placement was all, and, when it is destroyed, that it goes. It is
// told what changed only, as the leader is.
func oneMore(v schedule.View) (placed, back, destroyed time.Duration) {
	m := told(v)
	var as, bs, cs []time.Duration
	took := func(ds *[]time.Duration, u *schedule.Unit, on ...schedule.Placed) schedule.Result {
		start := time.Now()
		m.Unit("new.service", u, on)
		r := m.Decide()
		*ds = append(*ds, time.Since(start))
		return r
	}
	for range 101 {
		u := &schedule.Unit{Spec: unit.Spec{Name: "new.service"}, Wish: "launched", Hash: "h"}
		d := took(&as, u).Decisions[0]
		on := schedule.Placed{Unit: d.Unit, Machine: d.Machine, Hash: "h", Wish: "launched"}
		took(&bs, u, on)
		took(&cs, nil, on)
		m.Unit("new.service", nil, nil)
		m.Decide()
	}
	return median(as), median(bs), median(cs)
}

// floor is what no planner can do without: a sort of the units' names and one
// look at each machine's load for the least.
func floor(v schedule.View) time.Duration {
	var ds []time.Duration
	for range 25 {
		start := time.Now()
		names := make([]string, 0, len(v.Units))
		for _, u := range v.Units {
			names = append(names, u.Spec.Name)
		}
		slices.SortFunc(names, strings.Compare)
		at := make(map[string]int, len(names))
		for i, n := range names {
			at[n] = i % len(v.Machines)
		}
		ds = append(ds, time.Since(start))
	}
	return median(ds)
}

func TestPlacement(t *testing.T) {
	const goal = 100 * time.Millisecond
	plain, mixed := view(5000, 500, false), view(5000, 500, true)
	took("placement: 5,000 units onto 500 machines from nothing", decide(plain), goal, floor(plain), "baseline: sort the names, fill a map")
	took("placement: the same, a fifth of them constrained", decide(mixed), goal, floor(mixed), "metadata of one machine in ten, Conflicts=")

	done := placed(plain)
	took("placement: nothing to do, 5,000 placed", decide(done), 0, floor(plain), "")
	one := done
	one.Units = append(slices.Clone(done.Units), schedule.Unit{Spec: unit.Spec{Name: "new.service"}, Wish: "launched", Hash: "h"})
	a, b, c := oneMore(done)
	took("placement: one more unit, 5,000 placed", a, time.Millisecond, floor(plain), "the last plan is carried on")
	took("placement: its placement comes back", b, time.Millisecond, floor(plain), "no plan is made")
	took("placement: it is destroyed", c, time.Millisecond, floor(plain), "the last plan is carried on")
	took("placement: one more unit as a whole plan", decide(one), 0, floor(plain), "as after a change of machines")
	gone := done
	gone.Machines = slices.Clone(done.Machines)
	gone.Machines[7].Gone = true
	took("placement: one machine of 500 is gone", decide(gone), 0, floor(plain), "")
}

// TestPlacementGrowth goes up to 10,000 machines and 50,000 units, and fits the
// exponent of n, the number of units, with five units on each machine.
func TestPlacementGrowth(t *testing.T) {
	var xs, ys, bs []float64
	for _, n := range []int{3125, 6250, 12500, 25000, 50000} {
		v := view(n, n/5, false)
		d, b := decide(v), floor(v)
		took(fmt.Sprintf("placement: %d units onto %d machines", n, n/5), d, 0, b, "")
		xs, ys, bs = append(xs, math.Log(float64(n))), append(ys, math.Log(float64(d))), append(bs, math.Log(float64(b)))
	}
	// n log n has an exponent of a little more than 1 in this range.
	bound := (math.Log(50000*math.Log(50000)) - math.Log(3125*math.Log(3125))) / (xs[len(xs)-1] - xs[0])
	add(row{what: "placement: growth, exponent of n", value: fmt.Sprintf("%.2f", slope(xs, ys)), goal: fmt.Sprintf("≤ %.2f", bound), baseline: fmt.Sprintf("%.2f", slope(xs, bs)),
		ratio: fmt.Sprintf("%.2f", slope(xs, ys)/slope(xs, bs)), note: "goal: that of n log n"})
}

// slope is of the line through points that has the least squares.
func slope(xs, ys []float64) float64 {
	var mx, my float64
	for i := range xs {
		mx += xs[i] / float64(len(xs))
		my += ys[i] / float64(len(ys))
	}
	var a, b float64
	for i := range xs {
		a += (xs[i] - mx) * (ys[i] - my)
		b += (xs[i] - mx) * (xs[i] - mx)
	}
	return a / b
}
