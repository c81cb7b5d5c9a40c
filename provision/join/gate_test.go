package join

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"plasmid/provision/plan"
)

// sshGate is an SSH server that lets the operator through to anywhere.
type sshGate struct {
	addr    string
	key     ssh.PublicKey
	through atomic.Int32 // connections that went through it
	hangUp  func()
}

func newGate(t *testing.T, operator string) *sshGate {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !strings.HasPrefix(operator, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))) {
			return nil, io.EOF
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &sshGate{addr: l.Addr().String(), key: host.PublicKey()}
	conns := make(chan net.Conn, 16)
	g.hangUp = func() {
		for len(conns) > 0 {
			(<-conns).Close()
		}
	}
	t.Cleanup(func() { l.Close(); g.hangUp() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
			go g.serve(c, config)
		}
	}()
	return g
}

func (g *sshGate) serve(c net.Conn, config *ssh.ServerConfig) {
	_, chans, reqs, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	for ch := range chans {
		data := ch.ExtraData() // RFC 4254, 7.2: host, port, and whence
		n := binary.BigEndian.Uint32(data)
		host, port := string(data[4:4+n]), binary.BigEndian.Uint32(data[4+n:])
		to, err := net.Dial("tcp", (&net.TCPAddr{IP: net.ParseIP(host), Port: int(port)}).String())
		if err != nil {
			ch.Reject(ssh.ConnectionFailed, err.Error())
			continue
		}
		g.through.Add(1)
		stream, requests, err := ch.Accept()
		if err != nil {
			continue
		}
		go ssh.DiscardRequests(requests)
		go func() { io.Copy(stream, to); stream.Close() }()
		go func() { io.Copy(to, stream); to.Close() }()
	}
}

// What is on the machines' own network is reached by way of a gate, also when
// the one that was used has gone.
func TestDialThroughAGate(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "inside") }))
	defer inside.Close()
	a := testAccess(t)
	get := func() error {
		c := &http.Client{Transport: &http.Transport{DialContext: a.DialContext, DisableKeepAlives: true}, Timeout: 20 * time.Second}
		resp, err := c.Get(inside.URL)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Fatal("directly:", err)
	}
	g := newGate(t, a.AuthorizedKey())
	line := string(ssh.MarshalAuthorizedKey(g.key))
	if err := a.keepGates("one", &gate{"one", g.addr, line}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := get(); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.through.Load(); n != 2 {
		t.Errorf("%d connections went through the gate", n)
	}
	g.hangUp()
	if err := get(); err == nil {
		t.Error("it went through a gate that had hung up")
	}
	if err := get(); err != nil {
		t.Error("there is no second try:", err)
	}
	// A gate with another host key is none.
	other := newGate(t, a.AuthorizedKey())
	if err := a.keepGates("one", &gate{"one", other.addr, line}); err != nil {
		t.Fatal(err)
	}
	g.hangUp()
	get()
	if err := get(); err == nil || !strings.Contains(err.Error(), "no machine with a public address lets the operator through") || other.through.Load() != 0 {
		t.Errorf("%v", err)
	}
	if err := a.keepGates("one", nil); err != nil {
		t.Fatal(err)
	}
	if gs, err := a.gates(); err != nil || len(gs) != 0 {
		t.Error(gs, err)
	}
}

func TestGateRefusesWhatIsNotThere(t *testing.T) {
	a := testAccess(t)
	g := newGate(t, a.AuthorizedKey())
	if err := a.keepGates("one", &gate{"one", g.addr, string(ssh.MarshalAuthorizedKey(g.key))}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.DialContext(t.Context(), "tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1 by way of one") {
		t.Errorf("%v", err)
	}
	a.tunnels.mu.Lock()
	defer a.tunnels.mu.Unlock()
	if a.tunnels.open == nil {
		t.Error("the gate was given up for what is behind it")
	}
}

// A deadline closes a connection through SSH, which has none of its own.
func TestTunnelledDeadline(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	c := &tunnelled{Conn: here}
	if err := c.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("read past the deadline")
	}
}

// noMachines is a provider that has none.
type noMachines struct{}

func (noMachines) Observe(context.Context) (bool, []plan.Observed, error) { return true, nil, nil }
func (noMachines) HostKey(context.Context, string) (ssh.PublicKey, error) { return nil, io.EOF }

// Where no machine has a public address the operator is taken to be on their
// network.
func TestNoGateNeeded(t *testing.T) {
	j := &Joiner{Access: testAccess(t), Machines: noMachines{}, Gates: true}
	if err := j.openGates(t.Context()); err != nil {
		t.Error(err)
	}
}

// Ansible goes the same way: to a gate directly, to the others through it.
func TestInventoryByWayOfAGate(t *testing.T) {
	a := testAccess(t)
	if err := a.keepGates("t-edge-1", &gate{"t-edge-1", "203.0.113.5:22", "key"}); err != nil {
		t.Fatal(err)
	}
	inv, err := a.Inventory([]plan.Observed{
		{Name: "t-edge-1", Group: "edge", PrivateIPv4: "10.0.0.5", PublicIPv4: "203.0.113.5"},
		{Name: "t-core-1", Group: "core", PrivateIPv4: "10.0.0.6"},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	vars := inv["_meta"].(map[string]any)["hostvars"].(map[string]map[string]any)
	if h := vars["t-edge-1"]["ansible_host"]; h != "203.0.113.5" {
		t.Errorf("the gate is reached at %v", h)
	}
	inside := vars["t-core-1"]
	if h, args := inside["ansible_host"], inside["ansible_ssh_common_args"].(string); h != "10.0.0.6" || !strings.Contains(args, `ProxyCommand="ssh -i `) || !strings.Contains(args, "-W %h:%p core@203.0.113.5") {
		t.Errorf("%v %v", h, args)
	}
	if args := vars["t-edge-1"]["ansible_ssh_common_args"].(string); strings.Contains(args, "ProxyCommand") {
		t.Error(args)
	}
}

// etcd's client, with its TLS, goes by way of a gate too.
func testEtcdThroughAGate(t *testing.T, l *lab) {
	g := newGate(t, l.access.AuthorizedKey())
	if err := l.access.keepGates("gate", &gate{"gate", g.addr, string(ssh.MarshalAuthorizedKey(g.key))}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.access.keepGates("gate", nil); err != nil {
			t.Error(err)
		}
	}()
	s, err := l.access.openStore(deadline(t), []string{l.node(1).address, l.node(2).address})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Ping(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if g.through.Load() == 0 {
		t.Error("nothing went through the gate")
	}
}
