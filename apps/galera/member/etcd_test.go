package member

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plasmid/runtime/store/etcdtest"
)

// members are stores with leases, each with a connection of its own.
func members(t *testing.T, server *etcdtest.Server, n int) []*Store {
	t.Helper()
	var out []*Store
	for i := range n {
		s := NewStore(server.Client(), "/apps/galera", fmt.Sprint(i+1))
		if fresh, err := s.keepLease(t.Context()); err != nil || !fresh {
			t.Fatal(fresh, err)
		}
		out = append(out, s)
	}
	return out
}

func live(s *Store, phase Phase, p Position) Live {
	return Live{Machine: "m" + s.id, Address: "10.0.0." + s.id, Phase: phase, Position: p}
}

func read(t *testing.T, s *Store) snapshot {
	t.Helper()
	snap, err := s.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOneBootstrap lets many members try at once, again and again: one may.
func TestOneBootstrap(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	stores := members(t, server, 5)
	var claims, founded atomic.Int32
	var wg sync.WaitGroup
	for _, s := range stores {
		wg.Go(func() {
			must(t, s.report(t.Context(), live(s, Stopped, Position{Seqno: Unknown})))
			for {
				snap, err := s.read(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if snap.Cluster != nil {
					return
				}
				if a := Decide(s.id, Position{Seqno: Unknown}, false, snap.View); a.Step != Bootstrap {
					time.Sleep(time.Millisecond) // the winner is at it
					continue
				}
				claim, err := s.claim(t.Context(), snap, live(s, Starting, Position{}))
				if errors.Is(err, ErrOvertaken) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				claims.Add(1)
				if err := s.found(t.Context(), claim, uuid, Known{}); err != nil {
					t.Error(err)
					return
				}
				founded.Add(1)
			}
		})
	}
	wg.Wait()
	if claims.Load() != 1 || founded.Load() != 1 {
		t.Errorf("%d claims, %d bootstraps", claims.Load(), founded.Load())
	}
	snap := read(t, stores[0])
	if snap.Cluster == nil || snap.Cluster.UUID != uuid || snap.Claim != "" || len(snap.Known) != 1 || len(snap.Live) != 5 {
		t.Errorf("in the end: %+v", snap.View)
	}
	if err := stores[1].found(t.Context(), 1, other, Known{}); !errors.Is(err, ErrOvertaken) {
		t.Errorf("a second bootstrap: %v", err)
	}
}

// TestLateFounder is about a member that made a cluster after its lease had
// ended and another had begun.
func TestLateFounder(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	m := members(t, server, 2)
	slow, quick := m[0], m[1]
	claim, err := slow.claim(t.Context(), read(t, slow), live(slow, Starting, Position{}))
	must(t, err)
	if _, err := quick.claim(t.Context(), read(t, quick), live(quick, Starting, Position{})); !errors.Is(err, ErrOvertaken) {
		t.Errorf("a second claim: %v", err)
	}
	must(t, slow.leave(t.Context())) // as when its lease ends
	if _, err := quick.claim(t.Context(), read(t, quick), live(quick, Starting, Position{})); err != nil {
		t.Fatal(err)
	}
	if err := slow.found(t.Context(), claim, uuid, Known{}); !errors.Is(err, ErrOvertaken) {
		t.Errorf("found with another's claim: %v", err)
	}
	must(t, quick.disclaim(t.Context()))
	// The same member's claim of before is not its claim of now.
	if _, err := slow.keepLease(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, err := slow.claim(t.Context(), read(t, slow), live(slow, Starting, Position{}))
	must(t, err)
	if err := slow.found(t.Context(), claim, uuid, Known{}); !errors.Is(err, ErrOvertaken) {
		t.Errorf("found with the claim of before: %v", err)
	}
	must(t, slow.found(t.Context(), second, uuid, Known{}))
}

// TestClaimRestsOnWhatWasSeen changes each kind of key between a look and the
// claim that was decided on it.
func TestClaimRestsOnWhatWasSeen(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	m := members(t, server, 3)
	a, b, c := m[0], m[1], m[2]
	at := func(n int64) Position { return Position{uuid, n} }
	for _, s := range m[:2] {
		must(t, s.enter(t.Context(), live(s, Stopped, at(5))))
	}
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"a position", func() error { return b.report(t.Context(), live(b, Stopped, at(6))) }},
		{"a phase", func() error { return b.report(t.Context(), live(b, Starting, Position{})) }},
		{"a new member", func() error { return c.enter(t.Context(), live(c, Stopped, at(9))) }},
		{"a member that leaves", func() error { return c.leave(t.Context()) }},
		{"a member that is forgotten", func() error { return a.forget(t.Context(), read(t, a), "3") }},
	} {
		snap := read(t, a)
		must(t, change.do())
		if _, err := a.claim(t.Context(), snap, live(a, Starting, at(5))); !errors.Is(err, ErrOvertaken) {
			t.Errorf("%s: the claim ended with %v", change.name, err)
		}
	}
	if _, err := a.claim(t.Context(), read(t, a), live(a, Starting, at(5))); err != nil {
		t.Errorf("with nothing changed: %v", err)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	m := members(t, server, 2)
	a, b := m[0], m[1]
	must(t, b.enter(t.Context(), live(b, Primary, Position{})))
	if err := a.forget(t.Context(), read(t, a), "2"); !errors.Is(err, ErrOvertaken) {
		t.Errorf("a live member: %v", err)
	}
	if err := a.GiveUp(t.Context(), "2"); err == nil || !strings.Contains(err.Error(), "2 (on m2) is live") {
		t.Errorf("giving up a live member: %v", err)
	}
	if err := a.GiveUp(t.Context(), "7"); err == nil || !strings.Contains(err.Error(), "no member 7") {
		t.Errorf("giving up nobody: %v", err)
	}
	must(t, b.leave(t.Context()))
	snap := read(t, a)
	// It comes back between the look and the forgetting.
	if _, err := b.keepLease(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(t, b.enter(t.Context(), live(b, Starting, Position{})))
	must(t, b.leave(t.Context()))
	if err := a.forget(t.Context(), snap, "2"); !errors.Is(err, ErrOvertaken) {
		t.Errorf("a member that was back meanwhile: %v", err)
	}
	must(t, a.GiveUp(t.Context(), "2"))
	if n := len(read(t, a).Known); n != 0 {
		t.Errorf("%d are known", n)
	}
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	m := members(t, server, 3)
	if err := m[0].Adopt(t.Context()); err == nil || !strings.Contains(err.Error(), "no live member has data") {
		t.Errorf("nothing to adopt: %v", err)
	}
	must(t, m[0].report(t.Context(), live(m[0], Stopped, Position{uuid, 5})))
	must(t, m[1].report(t.Context(), live(m[1], Stopped, Position{other, 7})))
	must(t, m[2].report(t.Context(), live(m[2], Stopped, Position{Seqno: Unknown})))
	if err := m[0].Adopt(t.Context()); err == nil || !strings.Contains(err.Error(), "different clusters") {
		t.Errorf("two clusters' data: %v", err)
	}
	must(t, m[1].report(t.Context(), live(m[1], Stopped, Position{uuid, 7})))
	must(t, m[0].Adopt(t.Context()))
	v, err := m[0].View(t.Context())
	must(t, err)
	if v.Cluster == nil || v.Cluster.UUID != uuid || len(v.Known) != 2 {
		t.Errorf("got %+v", v)
	}
	if a := Decide("2", Position{uuid, 7}, true, v); a.Step != Recover {
		t.Errorf("the furthest does %+v", a)
	}
	if err := m[0].Adopt(t.Context()); err == nil || !strings.Contains(err.Error(), "a cluster already") {
		t.Errorf("again: %v", err)
	}
}

// TestRecordAnew is about a newcomer that finds an empty etcd, under a cluster
// that runs and has not told it of itself yet.
func TestRecordAnew(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	m := members(t, server, 2)
	runs, newcomer := m[0], m[1]
	claim, err := newcomer.claim(t.Context(), read(t, newcomer), live(newcomer, Starting, Position{}))
	must(t, err)
	if _, err := newcomer.Secret(t.Context(), SecretPassword, NewPassword); err != nil {
		t.Fatal(err)
	}
	must(t, runs.enter(t.Context(), live(runs, Primary, Position{})))
	must(t, runs.record(t.Context(), uuid, map[string]string{SecretPassword: "p"}))
	if err := newcomer.found(t.Context(), claim, other, Known{}); !errors.Is(err, ErrOvertaken) {
		t.Errorf("a second cluster: %v", err)
	}
	if p, err := newcomer.Secret(t.Context(), SecretPassword, NewPassword); err != nil || p != "p" {
		t.Errorf("the newcomer has %q, %v", p, err)
	}
	if err := runs.record(t.Context(), other, nil); !errors.Is(err, ErrOvertaken) {
		t.Errorf("again: %v", err)
	}
}

// TestLease ends a member's lease: what is on it goes, what is known stays.
func TestLease(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	m := members(t, server, 2)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	changed := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() { defer close(done); m[0].watch(ctx, func() { changed <- struct{}{} }) }()
	must(t, m[1].enter(t.Context(), live(m[1], Stopped, Position{})))
	if _, err := m[1].claim(t.Context(), read(t, m[1]), live(m[1], Starting, Position{})); err != nil {
		t.Fatal(err)
	}
	if fresh, err := m[1].keepLease(t.Context()); err != nil || fresh {
		t.Fatal(fresh, err)
	}
	deadline := time.After(30 * time.Second)
	for snap := read(t, m[0]); len(snap.Live) > 0; snap = read(t, m[0]) { // nobody renews it
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("the lease does not end")
		}
	}
	if snap := read(t, m[0]); snap.Claim != "" || len(snap.Known) != 1 {
		t.Errorf("got %+v", snap.View)
	}
	if fresh, err := m[1].keepLease(t.Context()); err != nil || !fresh {
		t.Errorf("a new lease: %v %v", fresh, err)
	}
	stop()
	<-done
}

func TestSecret(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	m := members(t, server, 4)
	got := make([]string, len(m))
	var wg sync.WaitGroup
	for i, s := range m {
		wg.Go(func() {
			var err error
			if got[i], err = s.Secret(t.Context(), SecretPassword, NewPassword); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, p := range got {
		if p != got[0] || len(p) < 20 {
			t.Errorf("members have %q", got)
		}
	}
}
