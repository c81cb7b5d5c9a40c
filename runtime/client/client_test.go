package client

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"plasmid/runtime/api"
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

// A daemon that is being started anew refuses connections, or has no socket yet.
// A change is sent again as well, as nobody has got it.
func TestAllRestart(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address, scheme := "127.0.0.1:0", "http://"
			if network == "unix" {
				address, scheme = filepath.Join(t.TempDir(), "s"), "unix://"
			}
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			address = l.Addr().String()
			l.Close()
			c, err := New(Config{Endpoints: []string{scheme + address}})
			if err != nil {
				t.Fatal(err)
			}
			var asked atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				_, _ = w.Write([]byte(`{"revision": 7}`))
			}))
			var back sync.WaitGroup
			back.Go(func() {
				time.Sleep(300 * time.Millisecond) // the daemon's absence
				l, err := net.Listen(network, address)
				if err != nil {
					t.Error(err)
					return
				}
				srv.Listener.Close()
				srv.Listener = l
				srv.Start()
			})
			defer srv.Close()
			defer back.Wait()
			revision, err := c.Apply(t.Context(), []api.Change{})
			if err != nil || revision != 7 || asked.Load() != 1 {
				t.Errorf("revision %d, %v; asked %d times", revision, err, asked.Load())
			}
		})
	}
}

// Trying again has an end, and the caller's comes first.
func TestNobodyComesBack(t *testing.T) {
	shut := httptest.NewServer(nil)
	shut.Close()
	c, err := New(Config{Endpoints: []string{shut.URL}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Machines(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a deadline: %v", err)
	}
	begun := time.Now()
	_, err = c.Machines(t.Context())
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "no machine of the cluster answers") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begun); took < patience/2 || took > 2*patience {
		t.Errorf("it took %v", took)
	}
}

// What somebody may have got is not sent again, but for questions.
func TestABrokenConnection(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
			}
			conn.Close()
			return
		}
		_, _ = w.Write([]byte("[]"))
	}))
	defer srv.Close()
	c, err := New(Config{Endpoints: []string{srv.URL}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Machines(t.Context()); err != nil || asked.Load() != 2 {
		t.Errorf("a question: %v; asked %d times", err, asked.Load())
	}
	asked.Store(0)
	if _, err := c.Apply(t.Context(), []api.Change{}); err == nil || asked.Load() != 1 {
		t.Errorf("a change: %v; asked %d times", err, asked.Load())
	}
}

// A machine destroys a unit and can't tell. The one that is asked then has no
// such unit, which is what was wanted. Who was asked first has no such excuse.
func TestDestroyedUnderway(t *testing.T) {
	destroyed := false
	serve := func(told bool) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var changes []api.Change
			if err := json.NewDecoder(r.Body).Decode(&changes); err != nil {
				t.Error(err)
			}
			switch {
			case destroyed && !changes[0].Absent:
				http.Error(w, "unit a.service: not found", http.StatusNotFound)
			case told:
				_, _ = w.Write([]byte(`{"revision": 0}`))
			default:
				destroyed = true
				http.Error(w, "etcd did not answer in time", http.StatusServiceUnavailable)
			}
		}))
	}
	slow, other := serve(false), serve(true)
	defer slow.Close()
	defer other.Close()
	c, err := New(Config{Endpoints: []string{slow.URL, other.URL}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(t.Context(), []api.Change{{Name: "a.service", Delete: true}}); err != nil || !destroyed {
		t.Errorf("destroyed: %v, %v", destroyed, err)
	}
	var e *Error
	if _, err := c.Apply(t.Context(), []api.Change{{Name: "a.service", Delete: true}}); !errors.As(err, &e) || e.Status != http.StatusNotFound {
		t.Errorf("again: %v", err)
	}
}
