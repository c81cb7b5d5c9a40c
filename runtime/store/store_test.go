package store

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/store/etcdtest"
)

func open(t *testing.T, s *etcdtest.Server) *Store {
	t.Helper()
	st, err := Open(t.Context(), Config{Endpoints: []string{s.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func newStore(t *testing.T) (*Store, *etcdtest.Server) {
	t.Helper()
	s := etcdtest.Start(t)
	st := open(t, s)
	if _, err := st.Init(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	return st, s
}

func machine(id string) Machine {
	return Machine{ID: id, Name: "m-" + id, PrivateIPv4: "10.0.0.1", Endpoint: "10.0.0.1:7480", Metadata: map[string]string{"role": "web", "zone": "a"}}
}

func join(t *testing.T, st *Store, id string, ttl time.Duration) *Session {
	t.Helper()
	ss, err := st.Join(t.Context(), machine(id), ttl)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ss.Abandon)
	return ss
}

// eventually waits for a view that f accepts.
func eventually(t *testing.T, m *Mirror, what string, f func(*View) bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		changed := m.Changed()
		if f(m.View()) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("not within 20s: %s; the view is %+v", what, m.View())
		}
	}
}

func TestInit(t *testing.T) {
	s := etcdtest.Start(t)
	st := open(t, s)
	if _, err := st.Identity(t.Context()); !errors.Is(err, ErrNoSchema) {
		t.Errorf("an empty store: %v", err)
	}
	a, err := st.Init(t.Context(), "t")
	if err != nil || a.ID == "" || a.Version != SchemaVersion {
		t.Fatalf("%+v, %v", a, err)
	}
	if b, err := st.Init(t.Context(), "t"); err != nil || b != a {
		t.Errorf("again: %+v, %v, want %+v", b, err, a)
	}
	if _, err := st.Init(t.Context(), "other"); err == nil {
		t.Error("a store of another cluster was taken")
	}
}

func TestSchemaVersions(t *testing.T) {
	st, _ := newStore(t)
	id, err := st.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put := func(version int) {
		id.Version = version
		if _, err := st.client.Put(t.Context(), st.key(keySchema), encode(id)); err != nil {
			t.Fatal(err)
		}
	}
	put(SchemaVersion + 1)
	var newer *NewerSchemaError
	if _, err := st.Identity(t.Context()); !errors.As(err, &newer) {
		t.Errorf("a newer store: %v", err)
	}
	put(-1)
	steps := map[int]migration{
		-1: func(context.Context, *Store) ([]clientv3.Op, error) {
			return []clientv3.Op{clientv3.OpPut(st.key("migrated"), "yes")}, nil
		},
		0: func(context.Context, *Store) ([]clientv3.Op, error) { return nil, nil },
	}
	got, err := st.migrate(t.Context(), id, steps, SchemaVersion)
	if err != nil || got.Version != SchemaVersion {
		t.Errorf("migration: %+v, %v", got, err)
	}
	if kv, err := st.get(t.Context(), "migrated"); err != nil || string(kv.Value) != "yes" {
		t.Errorf("what the migration wrote: %v, %v", kv, err)
	}
	put(-5)
	if _, err := st.migrate(t.Context(), id, steps, SchemaVersion); err == nil {
		t.Error("a version without a way up was migrated")
	}
}

func TestUnits(t *testing.T) {
	st, _ := newStore(t)
	apply := func(changes ...UnitChange) error {
		_, err := st.ApplyUnits(t.Context(), changes)
		return err
	}
	if err := apply(UnitChange{Name: "a.service", Wish: Launched}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a wish for an unknown unit: %v", err)
	}
	if err := apply(UnitChange{Name: "a.service", Text: "[Unit]\n"}, UnitChange{Name: "b.service", Text: "[Unit]\n", Wish: Launched}); err != nil {
		t.Fatal(err)
	}
	u, err := st.Unit(t.Context(), "a.service")
	if err != nil || u.Wish != Inactive {
		t.Errorf("%+v, %v", u, err)
	}
	if err := apply(UnitChange{Name: "a.service", Text: "[Service]\n"}); !errors.Is(err, ErrExists) {
		t.Errorf("another text: %v", err)
	}
	// All or nothing.
	if err := apply(UnitChange{Name: "a.service", Wish: Loaded}, UnitChange{Name: "missing.service", Delete: true}); !errors.Is(err, ErrNotFound) {
		t.Errorf("one bad change: %v", err)
	}
	if u, _ := st.Unit(t.Context(), "a.service"); u.Wish != Inactive {
		t.Errorf("half of the changes was made: %+v", u)
	}
	if err := apply(UnitChange{Name: "a.service", Text: "[Service]\n", Replace: true}); err != nil {
		t.Error(err)
	}
	if u, _ := st.Unit(t.Context(), "a.service"); u.Text != "[Service]\n" || u.Wish != Inactive {
		t.Errorf("replaced: %+v", u)
	}
	if r, err := st.ApplyUnits(t.Context(), []UnitChange{{Name: "b.service", Wish: Launched}}); r != 0 || err != nil {
		t.Errorf("no change wrote revision %d, %v", r, err)
	}
	var many []UnitChange
	for i := range 250 {
		many = append(many, UnitChange{Name: fmt.Sprintf("u%d.service", i), Text: "[Unit]\n"})
	}
	if err := apply(many...); err != nil {
		t.Errorf("more than fit one transaction: %v", err)
	}
	if err := apply(UnitChange{Name: "a.service", Delete: true}); err != nil {
		t.Error(err)
	}
	if _, err := st.Unit(t.Context(), "a.service"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
	if err := apply(UnitChange{Name: "a.service", Delete: true, Absent: true}, UnitChange{Name: "b.service", Delete: true, Absent: true}); err != nil {
		t.Errorf("deleted before: %v", err)
	}
	if _, err := st.Unit(t.Context(), "b.service"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted beside one that was deleted before: %v", err)
	}
}

func TestMirror(t *testing.T) {
	st, s := newStore(t)
	m := st.Mirror(t.Context())
	ss := join(t, st, "m1", 5*time.Second)
	eventually(t, m, "the machine is seen", func(v *View) bool { return v.Machines["m1"].Name == "m-m1" && v.Known["m1"].ID == "m1" })
	if _, err := st.SetMetadata(t.Context(), "m1", "zone", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := st.SetMetadata(t.Context(), "m1", "disk", "ssd"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"role": "web", "disk": "ssd"}
	eventually(t, m, "metadata of both kinds", func(v *View) bool { return cmp.Equal(v.MachineMetadata("m1"), want) })

	old := m.View()
	if err := ss.PutStates(t.Context(), []State{{Machine: "m1", Unit: "a.service", Active: "active"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, m, "the state", func(v *View) bool { return v.States["a.service"]["m1"].Active == "active" })
	if len(old.States) != 0 {
		t.Error("a view that was handed out has changed")
	}
	if err := ss.DeleteStates(t.Context(), []string{"a.service"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, m, "no state", func(v *View) bool { return len(v.States) == 0 })

	r, err := st.ApplyUnits(t.Context(), []UnitChange{{Name: "a.service", Text: "[Unit]\n"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(t.Context(), r); err != nil || m.View().Units["a.service"].Name == "" {
		t.Errorf("after waiting: %v, %+v", err, m.View().Units)
	}

	// Changes that are compacted away while the store is out of reach.
	s.Signal(syscall.SIGSTOP)
	eventually(t, m, "the silence is noticed", func(*View) bool { c, _ := m.Current(); return !c })
	s.Signal(syscall.SIGCONT)
	eventually(t, m, "the return is noticed", func(*View) bool { c, _ := m.Current(); return c })
}

// An agent that started before the cluster's identity was written saw a store
// without one for ever, and never believed it.
func TestFollowPlacementsSeesTheIdentity(t *testing.T) {
	s := etcdtest.Start(t)
	st := open(t, s)
	updates := make(chan PlacementUpdate, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = st.FollowPlacements(ctx, "m1", func(u PlacementUpdate) { updates <- u })
	}()
	defer func() { cancel(); <-done }()
	next := func(what string, ok func(PlacementUpdate) bool) PlacementUpdate {
		t.Helper()
		limit := time.After(10 * time.Second)
		for {
			select {
			case u := <-updates:
				if ok(u) {
					return u
				}
			case <-limit:
				t.Fatalf("not within 10s: %s", what)
			}
		}
	}
	next("an empty snapshot", func(u PlacementUpdate) bool { return u.Snapshot && u.Identity.ID == "" })
	id, err := st.Init(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	next("a snapshot with the identity", func(u PlacementUpdate) bool { return u.Snapshot && u.Identity == id })
	l := lead(t, st, join(t, st, "m1", 5*time.Second))
	p := Placement{Machine: "m1", Unit: "a.service", Wish: Launched}
	if _, err := l.Commit(t.Context(), []PlacementChange{{Placement: p}}); err != nil {
		t.Fatal(err)
	}
	next("the placement", func(u PlacementUpdate) bool {
		return len(u.Put) == 1 && u.Put[0].Unit == "a.service" && u.Identity == id
	})
	// Another machine's placements are none of its business.
	if _, err := l.Commit(t.Context(), []PlacementChange{{Placement: Placement{Machine: "m2", Unit: "b.service"}}, {Placement: p, Delete: true}}); err != nil {
		t.Fatal(err)
	}
	u := next("the deletion", func(u PlacementUpdate) bool { return len(u.Deleted) > 0 })
	if d := cmp.Diff([]string{"a.service"}, u.Deleted); d != "" || len(u.Put) > 0 {
		t.Errorf("%s %+v", d, u)
	}
}

func lead(t *testing.T, st *Store, ss *Session) *Leadership {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l, err := st.Campaign(ctx, ss)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// G4: a deposed leader can change nothing.
func TestDeposedLeaderIsFencedOff(t *testing.T) {
	st, _ := newStore(t)
	a, b := join(t, st, "m1", 5*time.Second), join(t, st, "m2", 5*time.Second)
	old := lead(t, st, a)
	// Its key goes, as with an expired lease, and it has not noticed yet.
	if _, err := st.client.Delete(t.Context(), st.key(keyElection)); err != nil {
		t.Fatal(err)
	}
	now := lead(t, st, b)
	change := []PlacementChange{{Placement: Placement{Machine: "m1", Unit: "a.service"}}}
	if _, err := old.Commit(t.Context(), change); !errors.Is(err, ErrDeposed) {
		t.Errorf("the old leader's commit: %v", err)
	}
	if _, err := st.get(t.Context(), placementKey("m1", "a.service")); !errors.Is(err, ErrNotFound) {
		t.Errorf("it changed something: %v", err)
	}
	if _, err := now.Commit(t.Context(), change); err != nil {
		t.Errorf("the new leader's commit: %v", err)
	}
	select {
	case <-old.Done():
	case <-time.After(5 * time.Second):
		t.Error("the old leader was not told")
	}
	// A new process of the same machine is fenced off from its last one too.
	again := lead(t, st, join(t, st, "m2", 5*time.Second))
	if again.revision == now.revision {
		t.Error("two leaderships can't be told apart")
	}
}

// The leader migrates what an older program wrote; one that was deposed does not.
func TestTheLeaderMigrates(t *testing.T) {
	st, _ := newStore(t)
	id, err := st.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id.Version = SchemaVersion - 1
	if _, err := st.client.Put(t.Context(), st.key(keySchema), encode(id)); err != nil {
		t.Fatal(err)
	}
	old := lead(t, st, join(t, st, "m1", 5*time.Second))
	if _, err := st.client.Delete(t.Context(), st.key(keyElection)); err != nil {
		t.Fatal(err)
	}
	now := lead(t, st, join(t, st, "m2", 5*time.Second))
	steps := map[int]migration{SchemaVersion - 1: func(context.Context, *Store) ([]clientv3.Op, error) {
		return []clientv3.Op{clientv3.OpPut(st.key("migrated"), "yes")}, nil
	}}
	if _, err := old.migrate(t.Context(), steps, SchemaVersion); !errors.Is(err, ErrDeposed) {
		t.Errorf("the old leader's migration: %v", err)
	}
	if _, err := st.get(t.Context(), "migrated"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it changed something: %v", err)
	}
	if id, err := now.migrate(t.Context(), steps, SchemaVersion); err != nil || id.Version != SchemaVersion {
		t.Errorf("the leader's migration: %+v, %v", id, err)
	}
	if id, err := now.migrate(t.Context(), nil, SchemaVersion); err != nil || id.Version != SchemaVersion {
		t.Errorf("a migration of what is migrated: %+v, %v", id, err)
	}
}

// A daemon that is killed and started again keeps its machine's lease, with
// the keys on it, and sweeps what no longer holds.
func TestJoinTakesOverTheOldLease(t *testing.T) {
	st, _ := newStore(t)
	ctx := t.Context()
	first := join(t, st, "m1", 5*time.Second)
	for _, k := range []string{"/apps/x/keep", "/apps/x/stale"} {
		if err := first.Register(ctx, k, "v"); err != nil {
			t.Fatal(err)
		}
	}
	first.Abandon()
	second := join(t, st, "m1", 5*time.Second)
	if second.Lease() != first.Lease() {
		t.Errorf("lease %x, want the old %x", second.Lease(), first.Lease())
	}
	if err := second.Sweep(ctx, func(k string) bool { return k != "/apps/x/stale" }); err != nil {
		t.Fatal(err)
	}
	resp, err := st.client.Get(ctx, "/apps/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Key) != "/apps/x/keep" {
		t.Errorf("after the sweep: %v, %v", resp.Kvs, err)
	}
	other := machine("m1")
	other.Name, other.PrivateIPv4 = "clone", "10.0.0.2"
	var dup *DuplicateMachineError
	if _, err := st.Join(ctx, other, 5*time.Second); !errors.As(err, &dup) {
		t.Errorf("a cloned machine ID: %v", err)
	}
}

// G1: a store that is away for longer than the lease ends no session, as long
// as etcd has kept the lease.
func TestSessionOutlivesTheStore(t *testing.T) {
	st, s := newStore(t)
	ss := join(t, st, "m1", 2*time.Second)
	s.Kill()
	time.Sleep(5 * time.Second) // the fault's duration
	s.Run()
	select {
	case <-ss.Done():
		t.Error("the session ended")
	case <-time.After(3 * time.Second):
	}
	if err := ss.Register(t.Context(), "/apps/x/y", "z"); err != nil {
		t.Errorf("its lease is of no use: %v", err)
	}
	// A lease that is really gone ends it.
	if _, err := st.client.Revoke(t.Context(), ss.lease); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ss.Done():
	case <-time.After(10 * time.Second):
		t.Error("the session outlived its lease")
	}
}

func TestUnregisterLeavesWhatOthersRegistered(t *testing.T) {
	st, _ := newStore(t)
	a, b := join(t, st, "m1", 5*time.Second), join(t, st, "m2", 5*time.Second)
	if err := errors.Join(a.Register(t.Context(), "/apps/x/y", "a"), b.Register(t.Context(), "/apps/x/y", "b"), a.Unregister(t.Context(), "/apps/x/y")); err != nil {
		t.Fatal(err)
	}
	resp, err := st.client.Get(t.Context(), "/apps/x/y")
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "b" {
		t.Errorf("%v, %v", resp.Kvs, err)
	}
}
