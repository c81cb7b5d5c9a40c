package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"plasmid/runtime/engine"
	"plasmid/runtime/store"
)

// What the engine is told of a machine tells apart one whose daemon is away, one
// whose daemon hangs, and one that is not there.
func TestProber(t *testing.T) {
	probe := func(address string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return prober(&tls.Config{MinVersion: tls.VersionTLS12})(ctx, store.Machine{Endpoint: address})
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// The kernel accepts; nobody here does.
	if err := probe(l.Addr().String()); !errors.Is(err, engine.ErrHangs) {
		t.Errorf("a daemon that hangs: %v", err)
	}
	l.Close()
	if err := probe(l.Addr().String()); err != nil {
		t.Errorf("a daemon that is away: %v", err)
	}
	// An address that nothing can be sent to.
	if err := probe("255.255.255.255:7480"); err == nil || errors.Is(err, engine.ErrHangs) {
		t.Errorf("no machine: %v", err)
	}
}
