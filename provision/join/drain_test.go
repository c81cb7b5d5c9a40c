package join

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/store"
)

// fakeAPI is a cluster whose machine "a" has units, of which one goes each
// minute until only stays are left.
type fakeAPI struct {
	silent  error
	alive   []string
	units   int
	stays   int
	stuck   bool
	ordered *api.Order
}

func (f *fakeAPI) Machines(context.Context) ([]api.Machine, error) {
	var ms []api.Machine
	for _, id := range f.alive {
		ms = append(ms, api.Machine{Machine: store.Machine{ID: id}, Alive: true})
	}
	return ms, f.silent
}

func (f *fakeAPI) Order(_ context.Context, machine string, o api.Order) error {
	if machine != "a" {
		return errors.New("an order for " + machine)
	}
	f.ordered = &o
	return nil
}

func (f *fakeAPI) AwaitDrained(ctx context.Context, machines map[string]bool, tell func(int)) error {
	if f.ordered == nil || !f.ordered.Drain || !machines["a"] {
		return errors.New("nothing was ordered")
	}
	for f.units > f.stays {
		tell(f.units)
		select {
		case <-time.After(time.Minute):
			f.units--
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	left := &client.Left{Units: map[string]string{"x.service": "is on a"}, Stuck: f.stuck}
	switch {
	case f.stays == 0:
		return nil
	case f.stuck:
		return left
	}
	for {
		tell(f.stays)
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return left
		}
	}
}

// A machine that leaves is drained first, if there is one to take its units,
// and for as long as they go.
func TestDrain(t *testing.T) {
	for name, c := range map[string]struct {
		api    fakeAPI
		orders bool
		took   time.Duration
		fails  string
	}{
		"its units go":             {api: fakeAPI{alive: []string{"a", "b"}, units: 20}, orders: true, took: 20 * time.Minute},
		"some can't run elsewhere": {api: fakeAPI{alive: []string{"a", "b"}, units: 2, stays: 1, stuck: true}, orders: true, took: time.Minute},
		"one does not go":          {api: fakeAPI{alive: []string{"a", "b"}, units: 2, stays: 1}, orders: true, took: 6 * time.Minute, fails: "x.service: is on a"},
		"it is silent":             {api: fakeAPI{alive: []string{"b", "c"}, units: 2}},
		"it is the only one":       {api: fakeAPI{alive: []string{"a"}, units: 2}},
		"nobody answers":           {api: fakeAPI{silent: errors.New("no route to host")}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := drain(t.Context(), &c.api, Member{Name: "t-core-1", MachineID: "a"}, 5*time.Minute)
				if (c.fails == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), c.fails) || !strings.Contains(err.Error(), "uncordon t-core-1")) {
					t.Errorf("%v", err)
				}
				if took := time.Since(start); took != c.took || (c.api.ordered != nil) != c.orders {
					t.Errorf("%v, order %v", took, c.api.ordered)
				}
			})
		})
	}
}
