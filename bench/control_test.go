//go:build bench

package bench

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/engine"
	"plasmid/runtime/store"
	"plasmid/runtime/store/etcdtest"
)

const (
	simMachines = 1000
	simUnits    = 10000
	simLease    = 10 * time.Second
	// agentConns is over how many connections the agents are spread. Real ones
	// have one each; in one process that would measure the process.
	agentConns = 20
)

const sleeper = "[Service]\nExecStart=/bin/sleep infinity\n"

// sim is a control plane on one real etcd: engines with mirrors, and agents
// that watch their placements and write states, as plasmidd's do, with nothing
// behind them.
type sim struct {
	t      *testing.T
	ctx    context.Context
	etcd   *etcdtest.Server
	st     *store.Store
	mirror *store.Mirror

	mu    sync.Mutex
	first map[string]chan time.Time // when an agent first sees a unit
}

func newSim(t *testing.T) *sim {
	s := &sim{t: t, ctx: t.Context(), etcd: etcdtest.Start(t), first: map[string]chan time.Time{}}
	s.st = s.open()
	if _, err := s.st.Init(s.ctx, "bench"); err != nil {
		t.Fatal(err)
	}
	s.mirror = s.st.Mirror(s.ctx)
	<-s.mirror.Ready()
	return s
}

func (s *sim) open() *store.Store {
	st, err := store.Open(s.ctx, store.Config{Endpoints: []string{s.etcd.Endpoint}, Timeout: 30 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { st.Close() })
	return st
}

func machineID(i int) string { return fmt.Sprintf("%032x", i+1) }

// join starts all agents and returns when all report.
func (s *sim) join(n int) {
	conns := make([]*store.Store, agentConns)
	for i := range conns {
		conns[i] = s.open()
	}
	var wg sync.WaitGroup
	limit := make(chan struct{}, 64)
	for i := range n {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			st := conns[i%agentConns]
			ss, err := st.Join(s.ctx, store.Machine{ID: machineID(i), Name: fmt.Sprintf("m%d", i), PrivateIPv4: "10.0.0.1", Metadata: map[string]string{"role": "core"}}, simLease)
			if err != nil {
				s.t.Error(err)
				return
			}
			s.t.Cleanup(ss.Abandon)
			go s.agent(st, ss)
		})
	}
	wg.Wait()
	s.until(func(v *store.View) bool { return len(v.Machines) >= n })
}

// agent answers every placement with a state.
func (s *sim) agent(st *store.Store, ss *store.Session) {
	_ = st.FollowPlacements(s.ctx, ss.Machine(), func(u store.PlacementUpdate) {
		now := time.Now()
		var states []store.State
		for _, p := range u.Put {
			s.mu.Lock()
			if c := s.first[p.Unit]; c != nil {
				select {
				case c <- now:
				default:
				}
			}
			s.mu.Unlock()
			states = append(states, store.State{Machine: ss.Machine(), Unit: p.Unit, Hash: p.Hash, Load: "loaded", Active: "active", Sub: "running", Ready: true, Since: now.UTC()})
		}
		go func() {
			err := ss.PutStates(s.ctx, states)
			if err == nil {
				err = ss.DeleteStates(s.ctx, u.Deleted)
			}
			if err != nil && s.ctx.Err() == nil {
				s.t.Error(err)
			}
		}()
	})
}

// lead starts an engine with a mirror and a session of its own.
func (s *sim) lead(id string) (e *engine.Engine, die func()) {
	st := s.open()
	ctx, cancel := context.WithCancel(s.ctx)
	ss, err := st.Join(ctx, store.Machine{ID: id, Name: id, PrivateIPv4: "10.0.0.2"}, simLease)
	if err != nil {
		s.t.Fatal(err)
	}
	go s.agent(st, ss)
	e = engine.New(engine.Config{Store: st, Mirror: st.Mirror(ctx), Probe: func(context.Context, store.Machine) error { return nil }, Lease: simLease, Logger: slog.New(slog.DiscardHandler)})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx, ss)
	}()
	return e, func() { cancel(); <-done; _ = ss.Close() }
}

func (s *sim) until(f func(*store.View) bool) {
	s.t.Helper()
	limit := time.After(2 * time.Minute)
	for {
		changed := s.mirror.Changed()
		if f(s.mirror.View()) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			v := s.mirror.View()
			s.t.Fatalf("not within two minutes: %d machines, %d units, %d placed, %d active", len(v.Machines), len(v.Units), len(v.Placements), len(v.States))
		}
	}
}

func (s *sim) apply(changes ...store.UnitChange) {
	s.t.Helper()
	if _, err := s.st.ApplyUnits(s.ctx, changes); err != nil {
		s.t.Fatal(err)
	}
}

// expect returns a channel that gets the time at which an agent is told of the
// unit.
func (s *sim) expect(unit string) chan time.Time {
	c := make(chan time.Time, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first[unit] = c
	return c
}

// wish submits one unit and returns after what time its agent knew.
func (s *sim) wish(unit string) time.Duration {
	s.t.Helper()
	told := s.expect(unit)
	start := time.Now()
	s.apply(store.UnitChange{Name: unit, Text: sleeper, Wish: store.Launched})
	select {
	case at := <-told:
		return at.Sub(start)
	case <-time.After(time.Minute):
		s.t.Fatalf("%s was not placed within a minute", unit)
		return 0
	}
}

// write is the median time of a put and the watch's word of it: what one step
// of the control plane costs at the least.
func (s *sim) write(n int) time.Duration {
	c := s.etcd.Client()
	w := c.Watch(s.ctx, "bench/", clientv3.WithPrefix())
	var ds []time.Duration
	for i := range n {
		start := time.Now()
		if _, err := c.Put(s.ctx, "bench/x", fmt.Sprint(i)); err != nil {
			s.t.Fatal(err)
		}
		<-w
		ds = append(ds, time.Since(start))
	}
	return median(ds)
}

// writeAll is how long etcd takes for as many keys as the units make, in
// transactions as large as ours.
func (s *sim) writeAll(n int) time.Duration {
	c := s.etcd.Client()
	start := time.Now()
	for kind := range 3 { // unit, placement, state
		for i := 0; i < n; i += 100 {
			var ops []clientv3.Op
			for j := range 100 {
				ops = append(ops, clientv3.OpPut(fmt.Sprintf("bench/%d/%d", kind, i+j), sleeper+sleeper+sleeper))
			}
			if _, err := c.Txn(s.ctx).Then(ops...).Commit(); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	return time.Since(start)
}

func (s *sim) revision() int64 {
	resp, err := s.etcd.Client().Get(s.ctx, "x")
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Header.Revision
}

func TestControlPlane(t *testing.T) {
	s := newSim(t)
	first, die := s.lead("first")
	base := s.write(200)
	all := s.writeAll(simUnits)

	start := time.Now()
	s.join(simMachines)
	took(fmt.Sprintf("control plane: %d machines join", simMachines), time.Since(start), 0, 0, "one etcd, agents in this process")

	var changes []store.UnitChange
	for i := range simUnits {
		changes = append(changes, store.UnitChange{Name: fmt.Sprintf("app@%d.service", i), Text: sleeper, Wish: store.Launched})
	}
	start = time.Now()
	s.apply(changes...)
	submitted := time.Since(start)
	s.until(func(v *store.View) bool { return len(v.States) >= simUnits })
	took(fmt.Sprintf("control plane: %d units started on %d machines", simUnits, simMachines), time.Since(start), 10*time.Second, all, fmt.Sprintf("of it submitting %s; baseline: as many plain writes to the same etcd", show(submitted)))

	var ds []time.Duration
	for i := range 300 {
		ds = append(ds, s.wish(fmt.Sprintf("one@%d.service", i)))
	}
	mid := median(ds)
	took("control plane: wish to the agent's knowledge, median", mid, 0, base, "baseline: a write and its watch")
	took("control plane: wish to the agent's knowledge, p99", quantile(ds, 0.99), 100*time.Millisecond, base, fmt.Sprintf("%d units, %d machines are there", simUnits, simMachines))

	start = time.Now()
	copied := s.open().Mirror(s.ctx)
	<-copied.Ready()
	took("control plane: full resync of a mirror", time.Since(start), 2*time.Second, 0, fmt.Sprintf("%d keys", 3*simUnits+2*simMachines))

	second, die2 := s.lead("second")
	defer die2()
	if !first.Leading() {
		t.Fatal("the first engine does not lead")
	}
	start = time.Now()
	die()
	s.wish("after@1.service")
	took("control plane: the leader goes to the next unit placed", time.Since(start), 2*time.Second, base, "it resigns, as when plasmidd is stopped")
	if !second.Leading() {
		t.Fatal("the second engine does not lead")
	}

	// Whatever was under way has come to rest when nothing is written for two
	// seconds.
	before := s.revision()
	for quiet := time.Now(); time.Since(quiet) < 2*time.Second; time.Sleep(100 * time.Millisecond) {
		if r := s.revision(); r != before {
			before, quiet = r, time.Now()
		}
	}
	const window = 15 * time.Second
	time.Sleep(window)
	add(row{what: "control plane: writes at rest", value: fmt.Sprintf("%.2f/s", float64(s.revision()-before)/window.Seconds()), goal: "0/s", note: "revisions of the store in 15 s; leases are renewed without"})
}
