package api

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
	"plasmid/runtime/store/etcdtest"
)

// memoryAudit keeps the audit log in memory.
type memoryAudit struct {
	mu      sync.Mutex
	entries []AuditEntry
}

func (m *memoryAudit) Record(e AuditEntry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = append(m.entries, e)
}

func (m *memoryAudit) Last(_ context.Context, n int) ([]AuditEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]AuditEntry(nil), m.entries[max(0, len(m.entries)-n):]...), nil
}

type noUnits struct{}

func (noUnits) Restart(context.Context, string) error { return nil }

// cluster is a real store with machines whose daemons are not there.
type cluster struct {
	t        *testing.T
	store    *store.Store
	mirror   *store.Mirror
	sessions map[string]*store.Session
	audit    *memoryAudit
	handler  http.Handler
	reboots  noReboots
}

func machineID(i int) string { return fmt.Sprintf("%032x", i) }

func newTestCluster(t *testing.T) *cluster {
	t.Helper()
	srv := etcdtest.Start(t)
	st, err := store.Open(t.Context(), store.Config{Endpoints: []string{srv.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	if _, err := st.Init(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, store: st, mirror: st.Mirror(t.Context()), sessions: map[string]*store.Session{}, audit: &memoryAudit{}}
	<-c.mirror.Ready()
	c.handler = New(Config{
		Store: st, Mirror: c.mirror, Units: noUnits{}, MachineID: machineID(1), Version: "test",
		Unplaced: func() map[string][]schedule.Verdict { return nil },
		Audit:    c.audit, Logger: slog.New(slog.DiscardHandler),
		Metrics: http.NotFoundHandler(), Blobs: http.NotFoundHandler(), Reboots: &c.reboots,
	})
	return c
}

func (c *cluster) join(i int) {
	c.t.Helper()
	id := machineID(i)
	ss, err := c.store.Join(c.t.Context(), store.Machine{
		ID: id, Name: fmt.Sprintf("m%d", i), PublicIPv4: fmt.Sprintf("203.0.113.%d", i), PrivateIPv4: fmt.Sprintf("10.0.0.%d", i),
		Endpoint: fmt.Sprintf("10.0.0.%d:7480", i), Metadata: map[string]string{"role": "core"},
	}, time.Minute)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(ss.Abandon)
	c.sessions[id] = ss
	c.until(func(v *store.View) bool { _, ok := v.Machines[id]; return ok })
}

func (c *cluster) until(f func(*store.View) bool) {
	c.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		changed := c.mirror.Changed()
		if f(c.mirror.View()) {
			return
		}
		select {
		case <-limit:
			c.t.Fatal("the view does not show it")
		case <-changed:
		}
	}
}

// place writes the placement of a unit, as the engine does.
func (c *cluster) place(unit string, machine int) {
	c.t.Helper()
	l, err := c.store.Campaign(c.t.Context(), c.sessions[machineID(machine)])
	if err != nil {
		c.t.Fatal(err)
	}
	u := c.mirror.View().Units[unit]
	revision, err := l.Commit(c.t.Context(), []store.PlacementChange{{Placement: store.Placement{
		Machine: machineID(machine), Unit: unit, Hash: u.Hash, Text: u.Text, Wish: u.Wish, Reason: "fewest units",
	}}})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.mirror.Wait(c.t.Context(), revision); err != nil {
		c.t.Fatal(err)
	}
	if err := l.Resign(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// report writes a state, as the machine's agent does.
func (c *cluster) report(unit string, machine int, active, sub string) {
	c.t.Helper()
	id := machineID(machine)
	st := store.State{Machine: id, Unit: unit, Hash: c.mirror.View().Units[unit].Hash, Load: "loaded", Active: active, Sub: sub, Ready: active == "active", Since: time.Unix(1700000000, 0).UTC()}
	if err := c.sessions[id].PutStates(c.t.Context(), []store.State{st}); err != nil {
		c.t.Fatal(err)
	}
	c.until(func(v *store.View) bool { return v.States[unit][id].Active == active })
}

// TestWire replays requests over a real store and compares what is sent back,
// byte for byte: tools that were written for fleet must not see a difference.
// go test -rewrite writes the answers anew.
func TestWire(t *testing.T) {
	c := newTestCluster(t)
	datadriven.RunTest(t, "testdata/wire.txt", func(t *testing.T, d *datadriven.TestData) string {
		arg := func(name string) (s string) { d.ScanArgs(t, name, &s); return s }
		number := func(name string) (n int) { d.ScanArgs(t, name, &n); return n }
		switch d.Cmd {
		case "machine":
			c.join(number("n"))
		case "place":
			c.place(arg("unit"), number("on"))
		case "report":
			c.report(arg("unit"), number("on"), arg("active"), arg("sub"))
		case "units":
			var changes []store.UnitChange
			for i := range number("n") {
				changes = append(changes, store.UnitChange{Name: fmt.Sprintf("many@%03d.service", i+1), Text: "[Service]\nExecStart=/bin/true\n"})
			}
			revision, err := c.store.ApplyUnits(t.Context(), changes)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.mirror.Wait(t.Context(), revision); err != nil {
				t.Fatal(err)
			}
		case "count":
			return c.count(d.Input)
		case "request":
			return c.request(d.Input)
		default:
			t.Fatalf("unknown command %s", d.Cmd)
		}
		return ""
	})
}

// request sends "METHOD path", header lines and, after an empty line, a body.
func (c *cluster) request(input string) string {
	resp := c.do(input)
	var b strings.Builder
	fmt.Fprintln(&b, resp.Code)
	for _, h := range []string{"Content-Type", "Allow"} {
		if v := resp.Header().Get(h); v != "" {
			fmt.Fprintf(&b, "%s: %s\n", h, v)
		}
	}
	b.WriteString(resp.Body.String())
	return b.String()
}

func (c *cluster) do(input string) *httptest.ResponseRecorder {
	head, body, hasBody := strings.Cut(input, "\n\n")
	lines := strings.Split(strings.TrimSpace(head), "\n")
	method, path, _ := strings.Cut(lines[0], " ")
	req := httptest.NewRequestWithContext(c.t.Context(), method, path, strings.NewReader(body))
	if hasBody {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, l := range lines[1:] {
		k, v, _ := strings.Cut(l, ": ")
		req.Header.Set(k, v)
	}
	resp := httptest.NewRecorder()
	c.handler.ServeHTTP(resp, req)
	return resp
}

// count follows the pages of a list to the end.
func (c *cluster) count(path string) string {
	path = strings.TrimSpace(path)
	next := path
	var pages []string
	for next != "" {
		resp := c.do("GET " + next)
		var page map[string]json.RawMessage
		if err := json.Unmarshal(resp.Body.Bytes(), &page); err != nil {
			c.t.Fatal(err)
		}
		next = ""
		for name, raw := range page {
			if name == "nextPageToken" {
				var tok string
				if err := json.Unmarshal(raw, &tok); err != nil {
					c.t.Fatal(err)
				}
				next = path + "?nextPageToken=" + tok
				continue
			}
			var items []json.RawMessage
			if err := json.Unmarshal(raw, &items); err != nil {
				c.t.Fatal(err)
			}
			pages = append(pages, fmt.Sprintf("%d %s", len(items), name))
		}
	}
	return strings.Join(pages, "\n") + "\n"
}
