package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/runtime/container"
	"plasmid/runtime/store"
	"plasmid/runtime/store/etcdtest"
	"plasmid/runtime/unit"
)

func contextForTest(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(context.WithoutCancel(t.Context()))
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// docker is a Docker with one container.
type docker struct {
	mu    sync.Mutex
	state container.State
	tell  func(string)
}

func (d *docker) Inspect(context.Context, string) (container.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state, nil
}

func (d *docker) Events(ctx context.Context, f func(string)) error {
	d.mu.Lock()
	d.tell = f
	d.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// set changes the container, and says so as Docker does.
func (d *docker) set(s container.State) {
	d.mu.Lock()
	d.state = s
	tell := d.tell
	d.mu.Unlock()
	if tell != nil {
		tell("web")
	}
}

// node is a machine's discovery over a real etcd.
type node struct {
	t       *testing.T
	server  *etcdtest.Server
	store   *store.Store
	client  *clientv3.Client
	session *store.Session
	*Discovery
	docker *docker
	state  atomic.Pointer[error] // of the unit's readiness
}

var machine = store.Machine{ID: strings.Repeat("a", 32), Name: "n1", PrivateIPv4: "10.0.0.1"}

func newNode(t *testing.T) *node {
	t.Parallel()
	n := &node{t: t, server: etcdtest.Start(t), docker: &docker{}}
	n.client = n.server.Client()
	var err error
	if n.store, err = store.Open(t.Context(), store.Config{Endpoints: []string{n.server.Endpoint}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.store.Close() })
	n.Discovery = New(Facts{MachineID: machine.ID, Name: "n1", PrivateIPv4: "10.0.0.1", PublicIPv4: "192.0.2.1"},
		n.docker, slog.New(slog.DiscardHandler), func(_ string, _ bool, why error) { n.state.Store(&why) })
	ctx, cancel := contextForTest(t)
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	n.join()
	return n
}

// join begins a session as short as etcd allows.
func (n *node) join() {
	n.t.Helper()
	var err error
	if n.session, err = n.store.Join(n.t.Context(), machine, 2*time.Second); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { n.session.Abandon() })
	n.SetRegistrar(n.session)
}

func (n *node) unit(text string) unit.Spec {
	n.t.Helper()
	spec, err := unit.SpecOf("web.service", "[Service]\nExecStart=/bin/true\n[X-Plasmid]\nApp=shop\n"+text)
	if err != nil {
		n.t.Fatal(err)
	}
	return spec
}

// until waits for the key to have the value, empty: to be gone, and returns how
// long that took.
func (n *node) until(key, want string) time.Duration {
	n.t.Helper()
	begun := time.Now()
	for {
		resp, err := n.client.Get(n.t.Context(), key)
		if err != nil {
			n.t.Fatal(err)
		}
		got := ""
		if len(resp.Kvs) > 0 {
			got = string(resp.Kvs[0].Value)
		}
		if got == want {
			return time.Since(begun)
		}
		if time.Since(begun) > 15*time.Second {
			n.t.Fatalf("%s is %q after %v, want %q; readiness: %v", key, got, time.Since(begun), want, n.state.Load())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A unit is registered when it is ready, not before, and gone within a second
// after it is so no longer.
func TestRegisteredOnlyWhileReady(t *testing.T) {
	n := newNode(t)
	var healthy atomic.Bool
	var refused atomic.Int32 // checks since the unit is not healthy
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !healthy.Load() {
			refused.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	port := netip.MustParseAddrPort(srv.Listener.Addr().String()).Port()
	spec := n.unit(fmt.Sprintf("Ready=http://:%d/\nRegister=/web/1 ${HOST_IP}:%d\nRegister=/public ${PUBLIC_IP} ${NAME}", port, port))
	n.Watch(t.Context(), spec)
	for n.state.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	if resp, err := n.client.Get(t.Context(), "/apps/", clientv3.WithPrefix()); err != nil || len(resp.Kvs) > 0 {
		t.Fatalf("registered before it was ready: %v %v", resp, err)
	}
	healthy.Store(true)
	t.Logf("registered after %v", n.until("/apps/shop/web/1", fmt.Sprintf("10.0.0.1:%d", port)))
	n.until("/apps/shop/public", "192.0.2.1 n1")
	var worst time.Duration
	for range 3 {
		refused.Store(0)
		healthy.Store(false)
		worst = max(worst, n.until("/apps/shop/web/1", ""))
		// One check may be under way when the unit falls ill, and one more when
		// its key goes.
		if checks := refused.Load(); checks > failuresToUnready+2 {
			t.Errorf("a unit that was not ready was registered for %d checks", checks)
		}
		healthy.Store(true)
		n.until("/apps/shop/web/1", fmt.Sprintf("10.0.0.1:%d", port))
	}
	t.Logf("gone after %v at most", worst)
	// The rest of the second that is promised is for the store, however busy the
	// host of a test is.
	if wait := spec.Ready.Interval + (failuresToUnready-1)*secondTry; wait > 600*time.Millisecond {
		t.Errorf("a unit that is not ready is found out after %v", wait)
	}
	<-n.Unwatch("web.service")
	if took := n.until("/apps/shop/web/1", ""); took > 100*time.Millisecond {
		t.Errorf("Unwatch said that the key was gone, which took another %v", took)
	}
}

// A container that ends is gone at once: Docker says so.
func TestContainerEnds(t *testing.T) {
	n := newNode(t)
	running := container.State{Exists: true, Running: true, Health: "healthy", Ports: map[int]int{80: 8080}}
	n.docker.set(running)
	n.Watch(t.Context(), n.unit("Container=web\nRegister=/web/1 ${HOST_IP}:${PORT_80}"))
	n.until("/apps/shop/web/1", "10.0.0.1:8080")
	for _, s := range []container.State{{Exists: true}, {Exists: true, Running: true, Health: "unhealthy", Ports: running.Ports}, {}} {
		n.docker.set(s)
		if took := n.until("/apps/shop/web/1", ""); took > time.Second {
			t.Errorf("%+v: gone after %v", s, took)
		}
		n.docker.set(running)
		n.until("/apps/shop/web/1", "10.0.0.1:8080")
	}
}

// A machine that is lost takes its registrations with it when its lease ends;
// one that only lost its lease registers all again.
func TestLostMachine(t *testing.T) {
	n := newNode(t)
	n.Watch(t.Context(), n.unit("Register=/web/1 ${HOST_IP}:80"))
	n.until("/apps/shop/web/1", "10.0.0.1:80")
	n.session.Abandon() // as when the machine is gone: nobody renews
	took := n.until("/apps/shop/web/1", "")
	t.Logf("gone %v after the last sign of life, of a lease of 2s", took)
	if took > 5*time.Second {
		t.Errorf("a lost machine was registered for %v", took)
	}
	n.join()
	n.until("/apps/shop/web/1", "10.0.0.1:80")
}

// While etcd is away nothing is forgotten.
func TestStoreAway(t *testing.T) {
	n := newNode(t)
	n.server.Kill()
	n.Watch(t.Context(), n.unit("Register=/web/1 ${HOST_IP}:80"))
	for n.state.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	n.server.Run()
	select {
	case <-n.session.Done():
		n.join()
	default:
	}
	n.until("/apps/shop/web/1", "10.0.0.1:80")
}

// Names follow the registrations, without a query to etcd: they are answered
// when it is away too.
func TestNames(t *testing.T) {
	n := newNode(t)
	x := NewIndex()
	ctx, cancel := contextForTest(t)
	done := make(chan error, 1)
	go func() {
		done <- n.store.FollowRegistrations(ctx, func(r store.Registrations) { x.Update(r.Snapshot, r.Put, r.Deleted) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	address := serveIndex(t, x)
	lookup := func() []string {
		a, err := dns.Exchange(new(dns.Msg).SetQuestion("web.shop.plasmid.", dns.TypeSRV), address)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, rr := range a.Answer {
			out = append(out, fmt.Sprint(rr.(*dns.SRV).Port))
		}
		slices.Sort(out)
		return out
	}
	until := func(want ...string) time.Duration {
		t.Helper()
		begun := time.Now()
		for !slices.Equal(lookup(), want) {
			if time.Since(begun) > 10*time.Second {
				t.Fatalf("%v, want %v", lookup(), want)
			}
			time.Sleep(time.Millisecond)
		}
		return time.Since(begun)
	}
	// What an app writes itself is its own business: only what is on a
	// machine's lease has a name.
	if _, err := n.client.Put(t.Context(), "/apps/shop/web/9", "10.0.0.9:9"); err != nil {
		t.Fatal(err)
	}
	n.Watch(t.Context(), n.unit("Register=/web/1 ${HOST_IP}:81\nRegister=/web/2 ${HOST_IP}:82"))
	t.Logf("named after %v", until("81", "82"))
	<-n.Unwatch("web.service")
	t.Logf("unnamed after %v", until())
	n.Watch(t.Context(), n.unit("Register=/web/3 ${HOST_IP}:83"))
	until("83")
	n.server.Kill()
	time.Sleep(100 * time.Millisecond)
	until("83")
	n.server.Run()
}
