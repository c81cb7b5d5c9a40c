package drain

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"plasmid/runtime/store"
	"plasmid/runtime/store/etcdtest"
)

// lab is one machine in a real store, and a leader that places by hand.
type lab struct {
	t      *testing.T
	st     *store.Store
	mirror *store.Mirror
	ss     *store.Session
	lead   *store.Leadership
	d      *Drainer

	mu  sync.Mutex
	why map[string]string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{Endpoints: []string{etcdtest.Start(t).Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	if _, err := st.Init(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, st: st, mirror: st.Mirror(t.Context()), why: map[string]string{}}
	if l.ss, err = st.Join(t.Context(), store.Machine{ID: "a", Name: "a"}, time.Minute); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.ss.Abandon)
	if l.lead, err = st.Campaign(t.Context(), l.ss); err != nil {
		t.Fatal(err)
	}
	l.until(func(v *store.View) bool { return len(v.Known) == 1 })
	l.d = &Drainer{Machine: "a", Store: st, Mirror: l.mirror, Waiting: func(context.Context) (map[string]string, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		out := map[string]string{}
		for k, v := range l.why {
			out[k] = v
		}
		return out, nil
	}}
	return l
}

func (l *lab) until(f func(*store.View) bool) {
	l.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		changed := l.mirror.Changed()
		if f(l.mirror.View()) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			l.t.Fatalf("the view does not show it: %+v", l.mirror.View())
		}
	}
}

func (l *lab) place(unit, options string, gone bool) {
	l.t.Helper()
	text := "[Service]\nExecStart=/bin/true\n" + options
	r, err := l.lead.Commit(l.t.Context(), []store.PlacementChange{{Placement: store.Placement{Machine: "a", Unit: unit, Text: text, Wish: store.Launched}, Delete: gone}})
	if err == nil {
		err = l.mirror.Wait(l.t.Context(), r)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) say(unit, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.why[unit] = why
}

func (l *lab) order() store.Order { return l.mirror.View().Orders["a"] }

// A drain ends when what can leave has left and ended; what can't, and what is
// global, does not hold it up.
func TestDrain(t *testing.T) {
	l := newLab(t)
	l.place("global.service", "[X-Fleet]\nGlobal=true\n", false)
	l.place("pinned.service", "", false)
	l.place("peer.service", "", false)
	l.place("web.service", "", false)
	if err := l.ss.PutStates(t.Context(), []store.State{{Machine: "a", Unit: "web.service", Active: "active"}}); err != nil {
		t.Fatal(err)
	}
	l.until(func(v *store.View) bool { return len(v.States) == 1 })
	done := make(chan error, 1)
	go func() { done <- l.d.Drain(t.Context()) }()
	l.until(func(*store.View) bool { return l.order().Drain })
	l.say("pinned.service", "no machine fits (1 checked)")
	l.say("peer.service", "it follows pinned.service")
	l.place("web.service", "", true)
	select {
	case err := <-done:
		t.Fatalf("the drain ends while a unit still runs: %v", err)
	case <-time.After(1500 * time.Millisecond): // longer than it takes to ask again
	}
	if err := l.ss.DeleteStates(t.Context(), []string{"web.service"}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the drain does not end")
	}
	if err := l.d.Undrain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o := l.order(); o.Machine != "" {
		t.Errorf("an order stands: %+v", o)
	}
}

func TestADrainThatTakesTooLong(t *testing.T) {
	l := newLab(t)
	l.place("web.service", "", false)
	l.say("web.service", "it waits for units that moved before it to be ready")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err := l.d.Drain(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "web.service (it waits for units that moved before it to be ready)") {
		t.Error(err)
	}
}

// What an operator ordered stands after the reboot as it did before.
func TestOrdersOfOperatorsStay(t *testing.T) {
	l := newLab(t)
	for _, drained := range []bool{false, true} {
		r, err := l.st.SetOrder(t.Context(), store.Order{Machine: "a", Drain: drained, Budget: 3, By: "olga"})
		if err == nil {
			err = l.mirror.Wait(t.Context(), r)
		}
		if err == nil {
			err = l.d.Drain(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if !l.order().Drain {
			t.Errorf("it is not drained: %+v", l.order())
		}
		if err := l.d.Undrain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l.order().Machine == "" || l.order().Drain != drained {
			t.Errorf("after an order to drain=%v: %+v", drained, l.order())
		}
	}
}
