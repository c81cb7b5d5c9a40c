package client

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// A client makes one connection: the one by which it found who answers is the
// one that it asks by.
func TestOneConnection(t *testing.T) {
	var connections atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("[]")) }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	shut := httptest.NewServer(nil)
	shut.Close()
	c, err := New(Config{Endpoints: []string{shut.URL, srv.URL}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.Machines(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}
