package store

import (
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/store/etcdtest"
)

func TestClaims(t *testing.T) {
	srv := etcdtest.Start(t)
	s, err := Open(t.Context(), Config{Endpoints: []string{srv.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	const ttl = 2 * time.Second
	a, b := s.Claims("a", ttl), s.Claims("b", ttl)
	acquire := func(c *Claims, want string) {
		t.Helper()
		if holder, err := c.Acquire(t.Context(), "u.service"); err != nil || holder != want {
			t.Fatalf("holder %q, %v; want %q", holder, err, want)
		}
	}
	acquire(a, "")
	acquire(a, "")
	acquire(b, "a")
	// The machine's next process takes its claim over, onto its own lease.
	next := s.Claims("a", ttl)
	acquire(next, "")
	if err := b.Release(t.Context(), "u.service"); err != nil {
		t.Fatal(err)
	}
	acquire(b, "a") // another's claim can't be given back
	free := make(chan error, 1)
	go func() { free <- b.AwaitFree(t.Context(), "u.service") }()
	if err := next.Release(t.Context(), "u.service"); err != nil {
		t.Fatal(err)
	}
	if err := <-free; err != nil {
		t.Fatal(err)
	}
	acquire(b, "")

	// A claim that is not renewed ends, and its holder hears of it.
	begun := time.Now()
	if err := a.AwaitFree(t.Context(), "u.service"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < ttl/2 {
		t.Errorf("a claim ended after %v", took)
	}
	if err := b.Renew(t.Context()); !errors.Is(err, ErrClaimsLost) {
		t.Errorf("renewing what has expired: %v", err)
	}
	if err := b.Renew(t.Context()); err != nil {
		t.Errorf("a new lease: %v", err)
	}
	acquire(b, "")
	if _, err := s.Client().Revoke(t.Context(), clientv3.LeaseID(b.lease)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Acquire(t.Context(), "u.service"); !errors.Is(err, ErrClaimsLost) {
		t.Errorf("claiming on an expired lease: %v", err)
	}
}
