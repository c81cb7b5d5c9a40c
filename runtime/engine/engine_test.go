package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/store"
	"plasmid/runtime/store/etcdtest"
	"plasmid/runtime/unit"
)

// ttl is a short lease, of whole seconds.
const ttl = 2 * time.Second

// lab is a cluster of machines that exist in the store only, on a real etcd.
type lab struct {
	t      *testing.T
	etcd   *etcdtest.Server
	st     *store.Store
	mirror *store.Mirror

	mu     sync.Mutex
	down   map[string]bool // machines that answer no probe
	probes int
}

// node is a machine with a session, and an engine if it has one.
type node struct {
	id      string
	engine  *Engine
	session atomic.Pointer[store.Session]
	stop    func()
}

func newLab(t *testing.T) *lab {
	t.Helper()
	t.Parallel() // they wait for leases, mostly
	l := &lab{t: t, etcd: etcdtest.Start(t), down: map[string]bool{}}
	l.st = l.open()
	if _, err := l.st.Init(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	l.mirror = l.st.Mirror(t.Context())
	return l
}

func (l *lab) open() *store.Store {
	l.t.Helper()
	st, err := store.Open(l.t.Context(), store.Config{Endpoints: []string{l.etcd.Endpoint}})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { st.Close() })
	return st
}

func (l *lab) probe(ctx context.Context, m store.Machine) error {
	l.mu.Lock()
	l.probes++
	down := l.down[m.ID]
	l.mu.Unlock()
	if down {
		return fmt.Errorf("%s does not answer", m.ID)
	}
	return ctx.Err()
}

func (l *lab) fall(ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.down[id] = true
	}
}

func (l *lab) probed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.probes
}

// machine starts a node that joins again whenever its session is lost, as an
// agent does.
func (l *lab) machine(id string, engine bool) *node {
	l.t.Helper()
	n := &node{id: id}
	st := l.open()
	ctx, cancel := context.WithCancel(l.t.Context())
	if engine {
		n.engine = New(Config{Store: st, Mirror: st.Mirror(ctx), Probe: l.probe, Lease: ttl, Logger: slog.New(slog.DiscardHandler)})
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			ss, err := st.Join(ctx, store.Machine{ID: id, Name: "m-" + id}, ttl)
			if err != nil {
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			n.session.Store(ss)
			ectx, stop := context.WithCancel(ctx)
			var running sync.WaitGroup
			running.Go(func() {
				for n.engine != nil && ectx.Err() == nil {
					_ = n.engine.Run(ectx, ss)
					select {
					case <-ectx.Done():
					case <-time.After(50 * time.Millisecond):
					}
				}
			})
			select {
			case <-ctx.Done():
			case <-ss.Done():
			}
			stop()
			running.Wait()
			ss.Abandon()
		}
	})
	n.stop = func() { cancel(); wg.Wait() }
	l.t.Cleanup(n.stop)
	l.until("machine "+id+" reports", func(v *store.View) bool { _, ok := v.Machines[id]; return ok })
	return n
}

// lose takes a machine away: its lease is gone at once.
func (l *lab) lose(n *node) {
	l.t.Helper()
	n.stop()
	if err := n.session.Load().Close(); err != nil {
		l.t.Fatal(err)
	}
	l.until(n.id+" is silent", func(v *store.View) bool { _, ok := v.Machines[n.id]; return !ok })
}

// until waits for a view that f accepts.
func (l *lab) until(what string, f func(*store.View) bool) {
	l.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		changed := l.mirror.Changed()
		if f(l.mirror.View()) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			l.t.Fatalf("not within 30s: %s; the view is %+v", what, l.mirror.View())
		}
	}
}

func (l *lab) submit(names ...string) {
	l.t.Helper()
	var changes []store.UnitChange
	for _, n := range names {
		changes = append(changes, store.UnitChange{Name: n, Text: "[Service]\nExecStart=/bin/true\n", Wish: store.Launched})
	}
	l.apply(changes...)
}

func (l *lab) apply(changes ...store.UnitChange) {
	l.t.Helper()
	if _, err := l.st.ApplyUnits(l.t.Context(), changes); err != nil {
		l.t.Fatal(err)
	}
}

// places is where every unit is, with the revision of the decision.
func places(v *store.View) map[string]string {
	out := map[string]string{}
	for u, on := range v.Placements {
		for m, p := range on {
			out[u] += fmt.Sprintf("%s@%d ", m, p.Revision)
		}
	}
	return out
}

// placed waits until all units are on one machine each, and returns where.
func (l *lab) placed(units ...string) map[string]string {
	l.t.Helper()
	l.until(fmt.Sprint(units, " are placed"), func(v *store.View) bool {
		for _, u := range units {
			if len(v.Placements[u]) != 1 {
				return false
			}
		}
		return true
	})
	return places(l.mirror.View())
}

// holds checks that the units stay where they are for a time, whatever else
// happens.
func (l *lab) holds(want map[string]string, d time.Duration) {
	l.t.Helper()
	end := time.After(d)
	for {
		changed := l.mirror.Changed()
		have := places(l.mirror.View())
		maps.DeleteFunc(have, func(u, _ string) bool { return want[u] == "" })
		if !maps.Equal(have, want) {
			l.t.Fatalf("units moved: %v, were %v", have, want)
		}
		select {
		case <-changed:
		case <-end:
			return
		}
	}
}

// decides checks that somebody decides: a new unit is placed.
func (l *lab) decides(name string) {
	l.t.Helper()
	l.submit(name)
	l.placed(name)
}

func units(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("u%02d.service", i)
	}
	return out
}

func leader(nodes ...*node) *node {
	for _, n := range nodes {
		if n.engine.Leading() {
			return n
		}
	}
	return nil
}

// elected waits for a leader among the nodes.
func (l *lab) elected(nodes ...*node) *node {
	l.t.Helper()
	l.until("there is a leader", func(v *store.View) bool { return v.Leader != "" })
	limit := time.Now().Add(10 * time.Second)
	for time.Now().Before(limit) {
		if n := leader(nodes...); n != nil {
			return n
		}
		time.Sleep(time.Millisecond) // the leader has the key and is about to know it
	}
	l.t.Fatal("nobody leads")
	return nil
}

func TestEnginePlacesAndAnotherTakesOver(t *testing.T) {
	l := newLab(t)
	a, b := l.machine("a", true), l.machine("b", true)
	l.submit(units(6)...)
	before := l.placed(units(6)...)
	v := l.mirror.View()
	per := map[string]int{}
	for _, on := range v.Placements {
		for m := range on {
			per[m]++
		}
	}
	if per["a"] != 3 || per["b"] != 3 {
		t.Errorf("6 units on two machines: %v", per)
	}

	old := l.elected(a, b)
	if b.engine.Leading() && a.engine.Leading() {
		t.Fatal("two lead")
	}
	if _, err := l.st.Client().Revoke(t.Context(), clientv3.LeaseID(old.session.Load().Lease())); err != nil {
		t.Fatal(err)
	}
	l.until("another leads", func(v *store.View) bool { return v.Leader != "" && v.Leader != old.id })
	l.until("the old leader reports again", func(v *store.View) bool { _, ok := v.Machines[old.id]; return ok })
	l.holds(before, ttl+time.Second)
	l.decides("after.service")
	l.holds(before, 0)
}

func TestSilentMachines(t *testing.T) {
	l := newLab(t)
	l.machine("a", true)
	b := l.machine("b", false)
	l.submit(units(6)...)
	before := l.placed(units(6)...)
	l.holds(before, ttl) // the grace of the new leader

	l.lose(b)
	asked := l.probed()
	l.holds(before, 2*ttl)
	if l.probed() == asked {
		t.Error("nobody asked the silent machine")
	}
	l.decides("while-b-is-silent.service")
	if _, on := l.mirror.View().Placements["while-b-is-silent.service"]["b"]; on {
		t.Error("a silent machine was given a unit")
	}

	l.fall("b")
	start := time.Now()
	l.until("b has no units", func(v *store.View) bool {
		for _, on := range v.Placements {
			if _, ok := on["b"]; ok || len(on) != 1 {
				return false
			}
		}
		return true
	})
	t.Logf("units were placed anew %v after the machine stopped answering", time.Since(start).Round(time.Millisecond))
}

func TestAForgottenMachineLosesItsUnits(t *testing.T) {
	l := newLab(t)
	l.machine("a", true)
	b := l.machine("b", false)
	l.submit(units(4)...)
	before := l.placed(units(4)...)
	l.lose(b)
	l.holds(before, ttl)
	if err := l.st.ForgetMachine(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	l.until("all units are on a", func(v *store.View) bool {
		for _, u := range units(4) {
			if _, on := v.Placements[u]["a"]; !on {
				return false
			}
		}
		return true
	})
}

func TestAForgottenMachinesPlacementsAreFreed(t *testing.T) {
	l := newLab(t)
	st := l.open()
	ss, err := st.Join(t.Context(), store.Machine{ID: "x", Name: "x"}, ttl)
	if err != nil {
		t.Fatal(err)
	}
	lead, err := st.Campaign(t.Context(), ss)
	if err != nil {
		t.Fatal(err)
	}
	l.submit("u.service")
	if _, err := lead.Commit(t.Context(), []store.PlacementChange{{Placement: store.Placement{Machine: "nowhere", Unit: "u.service", Wish: store.Launched}}}); err != nil {
		t.Fatal(err)
	}
	if err := lead.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ss.Close(); err != nil {
		t.Fatal(err)
	}
	l.machine("a", true)
	l.until("u is on a alone", func(v *store.View) bool {
		_, on := v.Placements["u.service"]["a"]
		return on && len(v.Placements["u.service"]) == 1
	})
}

func TestAWipedStoreIsNotDecidedOn(t *testing.T) {
	l := newLab(t)
	l.machine("a", true)
	l.decides("u.service")
	// All of the cluster's keys go, its identity with them, and something
	// writes units again before anybody made the store a cluster's.
	if _, err := l.st.Client().Delete(t.Context(), store.DefaultPrefix+"schema"); err != nil {
		t.Fatal(err)
	}
	l.until("the identity is gone", func(v *store.View) bool { return v.Identity.ID == "" })
	l.submit("late.service")
	l.apply(store.UnitChange{Name: "u.service", Delete: true})
	l.holds(map[string]string{"u.service": places(l.mirror.View())["u.service"]}, 2*ttl)
	if len(l.mirror.View().Placements["late.service"]) != 0 {
		t.Error("a unit of a store without identity was placed")
	}
	if _, err := l.st.Init(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	l.placed("late.service")
}

func TestANewerSchemaIsNotDecidedOn(t *testing.T) {
	l := newLab(t)
	l.machine("a", true)
	l.decides("u.service")
	newer := fmt.Sprintf(`{"version":%d,"id":"x","name":"t"}`, store.SchemaVersion+1)
	if _, err := l.st.Client().Put(t.Context(), store.DefaultPrefix+"schema", newer); err != nil {
		t.Fatal(err)
	}
	l.until("the schema is newer", func(v *store.View) bool { return v.Identity.Version > store.SchemaVersion })
	l.submit("late.service")
	l.holds(map[string]string{}, ttl)
	if len(l.mirror.View().Placements["late.service"]) != 0 {
		t.Error("a unit of a newer schema was placed")
	}
}

// An older store is migrated before anything is decided on it; one that can't be
// is left alone.
func TestAnOlderSchemaIsNotDecidedOn(t *testing.T) {
	l := newLab(t)
	a := l.machine("a", true)
	l.decides("u.service")
	older := fmt.Sprintf(`{"version":%d,"id":"x","name":"t"}`, -1)
	if _, err := l.st.Client().Put(t.Context(), store.DefaultPrefix+"schema", older); err != nil {
		t.Fatal(err)
	}
	l.until("the schema is older", func(v *store.View) bool { return v.Identity.Version == -1 })
	l.submit("late.service")
	l.holds(map[string]string{}, ttl)
	if len(l.mirror.View().Placements["late.service"]) != 0 {
		t.Error("a unit of an older schema was placed")
	}
	if a.engine.counts.failures.Load() == 0 {
		t.Error("no migration was tried")
	}
}

func TestAStoreThatWasAwayMovesNothing(t *testing.T) {
	l := newLab(t)
	a, b := l.machine("a", true), l.machine("b", true)
	l.submit(units(8)...)
	before := l.placed(units(8)...)
	l.elected(a, b)
	l.holds(before, ttl)
	// Nobody can be asked either: it is the grace alone that protects them.
	l.fall("a", "b")
	l.etcd.Signal(syscall.SIGSTOP)
	const away = 6 * time.Second // all leases expire meanwhile
	select {
	case <-time.After(away):
	case <-t.Context().Done():
	}
	l.etcd.Signal(syscall.SIGCONT)
	l.until("both report", func(v *store.View) bool { return len(v.Machines) == 2 })
	l.holds(before, 2*ttl)
	l.decides("after.service")
	l.holds(before, 0)
}

func TestAnUnreadableUnitHoldsUpNobody(t *testing.T) {
	l := newLab(t)
	l.machine("a", true)
	l.submit("good.service", "spoiled.service")
	before := l.placed("good.service", "spoiled.service")
	// The API would refuse it; a newer version's might not have.
	const text = "[X-Plasmid]\nOfALaterVersion=yes\n"
	if _, err := unit.SpecOf("spoiled.service", text); err == nil {
		t.Fatal("the text is no bad one")
	}
	l.apply(store.UnitChange{Name: "spoiled.service", Text: text, Replace: true},
		store.UnitChange{Name: "never.service", Text: text, Wish: store.Launched})
	if _, err := l.st.Client().Put(t.Context(), store.DefaultPrefix+"units/torn.service", "{"); err != nil {
		t.Fatal(err)
	}
	l.decides("after.service")
	l.holds(before, ttl)
	if len(l.mirror.View().Placements["never.service"]) != 0 {
		t.Error("a unit that can't be read was placed")
	}
}

func TestAnIdleEngineWritesNothing(t *testing.T) {
	l := newLab(t)
	a := l.machine("a", true)
	b := l.machine("b", true)
	c := l.machine("c", false)
	l.submit(units(10)...)
	l.apply(store.UnitChange{Name: "nowhere.service", Text: "[X-Fleet]\nMachineMetadata=role=db\n", Wish: store.Launched})
	before := l.placed(units(10)...)
	l.lose(c) // a suspect machine is no reason to write either
	n := l.elected(a, b)
	l.holds(before, ttl+time.Second)
	if why := n.engine.Unplaced()["nowhere.service"]; len(why) == 0 {
		t.Error("the leader does not say why a unit is nowhere")
	}
	// On a host that is busy a lease may expire, which is a write too: one time
	// without any says that nobody has to write.
	for range 5 {
		r := l.revision()
		l.holds(before, 3*ttl)
		now := l.revision()
		if now == r {
			return
		}
		t.Logf("the revision went from %d to %d while nothing happened", r, now)
	}
	t.Error("something is written all the time")
}

func (l *lab) revision() int64 {
	l.t.Helper()
	resp, err := l.st.Client().Get(l.t.Context(), "x")
	if err != nil {
		l.t.Fatal(err)
	}
	return resp.Header.Revision
}

// ready has every unit of a machine's placements be ready there.
func (l *lab) ready(n *node) {
	l.t.Helper()
	var states []store.State
	for u, on := range l.mirror.View().Placements {
		if p, ok := on[n.id]; ok {
			states = append(states, store.State{Machine: n.id, Unit: u, Hash: p.Hash, Load: "loaded", Active: "active", Ready: true})
		}
	}
	for limit := time.Now().Add(10 * time.Second); ; {
		err := n.session.Load().PutStates(l.t.Context(), states)
		if err == nil {
			return
		}
		if time.Now().After(limit) {
			l.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // the machine is about to have a new session
	}
}

func (l *lab) count(machine string) (n int) {
	for _, on := range l.mirror.View().Placements {
		if _, ok := on[machine]; ok {
			n++
		}
	}
	return n
}

func (l *lab) order(o store.Order) {
	l.t.Helper()
	if _, err := l.st.SetOrder(l.t.Context(), o); err != nil {
		l.t.Fatal(err)
	}
}

// A drain moves as many at a time as the budget allows, goes on under another
// leader, and leaves the machine without units until the order is taken back.
func TestDrain(t *testing.T) {
	l := newLab(t)
	a, b := l.machine("a", true), l.machine("b", false)
	l.submit(units(8)...)
	l.placed(units(8)...)
	l.ready(a)
	l.ready(b)
	l.order(store.Order{Machine: "b", Drain: true, Budget: 2})
	l.until("two have moved", func(*store.View) bool { return l.count("b") == 2 })
	l.holds(l.placed(units(8)...), ttl) // they are not ready, so the others wait
	if w := a.engine.Waiting(); len(w) != 2 {
		t.Errorf("waiting: %v", w)
	}
	// Another leader carries on where this one was.
	next := l.machine("c", true)
	if _, err := l.st.Client().Revoke(t.Context(), clientv3.LeaseID(a.session.Load().Lease())); err != nil {
		t.Fatal(err)
	}
	l.until("c leads", func(v *store.View) bool { return v.Leader == "c" })
	l.until("a reports again", func(v *store.View) bool { _, ok := v.Machines["a"]; return ok })
	if n := l.count("b"); n != 2 {
		t.Errorf("the new leader left %d units on b at once", n)
	}
	l.ready(a)
	l.until("b is empty", func(*store.View) bool { return l.count("b") == 0 })
	l.ready(next)
	l.decides("late.service")
	if l.count("b") != 0 {
		t.Error("a drained machine was given a unit")
	}
	if _, err := l.st.DeleteOrder(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	ordered, err := l.st.SetRebalance(t.Context(), &store.Rebalance{Budget: 9})
	if err != nil {
		t.Fatal(err)
	}
	l.until("the units are evened out", func(v *store.View) bool {
		for _, m := range []*node{b, next} {
			l.ready(m)
		}
		return v.Revision >= ordered && v.Rebalance == nil
	})
	if l.count("b") != 3 {
		t.Errorf("b has %d of 9 units", l.count("b"))
	}
}

func TestAnOrderIsForAKnownMachine(t *testing.T) {
	l := newLab(t)
	l.machine("a", false)
	if _, err := l.st.SetOrder(t.Context(), store.Order{Machine: "z"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an order for no machine: %v", err)
	}
	l.order(store.Order{Machine: "a", Drain: true})
	if r, err := l.st.SetOrder(t.Context(), store.Order{Machine: "a", Drain: true, Since: time.Now()}); r != 0 || err != nil {
		t.Errorf("the same order again: %d %v", r, err)
	}
	l.until("it is there", func(v *store.View) bool { return v.Orders["a"].Drain })
	if err := l.st.ForgetMachine(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	l.until("it went with the machine", func(v *store.View) bool { return len(v.Orders) == 0 })
}
