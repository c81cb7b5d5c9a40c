package join

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"plasmid/runtime/node"
)

// lab runs real etcd processes as nodes have them, on loopback addresses of
// their own.
type lab struct {
	t      *testing.T
	access *Access
	binary string
	nodes  map[string]*labNode
}

type labNode struct {
	lab           *lab
	name, address string
	dir           string
	cmd           *exec.Cmd
	exited        chan struct{}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	binary := os.Getenv("PLASMID_ETCD")
	if binary == "" {
		var err error
		if binary, err = exec.LookPath("etcd"); err != nil {
			t.Fatal("no etcd in PATH; run make deps, or name one in PLASMID_ETCD")
		}
	}
	a, err := CreateAccess(filepath.Join(t.TempDir(), "access"), "t")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, access: a, binary: binary, nodes: map[string]*labNode{}}
	t.Cleanup(func() {
		for _, n := range l.nodes {
			n.kill()
		}
	})
	return l
}

func (l *lab) node(i int) *labNode {
	name := fmt.Sprintf("t-core-%d", i)
	if l.nodes[name] == nil {
		l.nodes[name] = &labNode{lab: l, name: name, address: fmt.Sprintf("127.43.8.%d", i), dir: l.t.TempDir()}
	}
	return l.nodes[name]
}

// pair is a certificate of the cluster in files.
func (l *lab) pair(dir, name string, id Identity) tls.Certificate {
	l.t.Helper()
	key := testKey(l.t)
	csr := testRequest(l.t, key)
	crt, err := l.access.SignRequest(csr, "", id)
	if err != nil {
		l.t.Fatal(err)
	}
	keyPEM := testKeyPEM(l.t, key)
	os.WriteFile(filepath.Join(dir, name+".crt"), []byte(crt), 0o600)
	os.WriteFile(filepath.Join(dir, name+".key"), keyPEM, 0o600)
	c, err := tls.X509KeyPair([]byte(crt), keyPEM)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func (n *labNode) start(cluster map[string]string, isNew bool) {
	t := n.lab.t
	t.Helper()
	n.kill()
	// On loopback peers come from 127.0.0.1, and etcd compares that.
	n.lab.pair(n.dir, "etcd", Identity{Name: node.EtcdPeerName, Role: RoleNode, DNS: []string{n.name}, IPs: []string{n.address, "127.0.0.1"}, Server: true})
	os.WriteFile(filepath.Join(n.dir, "ca.crt"), n.lab.access.CA(), 0o600)
	env := node.EtcdEnvironment(n.name, n.address, cluster, n.lab.access.Token, isNew)
	for _, k := range []string{"ETCD_CERT_FILE", "ETCD_KEY_FILE", "ETCD_TRUSTED_CA_FILE", "ETCD_PEER_CERT_FILE", "ETCD_PEER_KEY_FILE", "ETCD_PEER_TRUSTED_CA_FILE"} {
		env[k] = filepath.Join(n.dir, filepath.Base(env[k]))
	}
	env["ETCD_DATA_DIR"] = n.data()
	env["ETCD_LISTEN_CLIENT_URLS"] = clientURL(n.address) // they share one 127.0.0.1 here
	n.cmd = exec.Command(n.lab.binary)
	n.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for k, v := range env {
		n.cmd.Env = append(n.cmd.Env, k+"="+v)
	}
	log, err := os.Create(filepath.Join(n.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.exited = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { cmd.Wait(); close(done) }(n.cmd, n.exited)
}

func (n *labNode) data() string { return filepath.Join(n.dir, "data") }

func (n *labNode) hasData() bool {
	_, err := os.Stat(n.data() + "/member")
	return err == nil
}

func (n *labNode) kill() {
	if n.cmd != nil {
		n.cmd.Process.Kill()
		<-n.exited
		n.cmd = nil
	}
}

func (l *lab) as(crt tls.Certificate, is ...int) *clientv3.Client {
	l.t.Helper()
	cfg := l.access.ClientTLS()
	cfg.Certificates = []tls.Certificate{crt}
	return l.open(cfg, is...)
}

func (l *lab) open(cfg *tls.Config, is ...int) *clientv3.Client {
	l.t.Helper()
	var endpoints []string
	for _, i := range is {
		endpoints = append(endpoints, clientURL(l.node(i).address))
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: cfg, Logger: zap.NewNop()})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return c
}

func (l *lab) root(is ...int) *clientv3.Client { return l.open(l.access.ClientTLS(), is...) }

// grow does for machine i what joining does.
func (l *lab) grow(c *clientv3.Client, i int) {
	l.t.Helper()
	ctx, n := deadline(l.t), l.node(i)
	reset, cluster, err := addLearner(ctx, c, n.name, n.address, n.hasData())
	if err != nil {
		l.t.Fatal(err)
	}
	if reset {
		n.kill()
		os.RemoveAll(n.data())
	}
	n.start(cluster, false)
	l.promote(c, i)
}

func (l *lab) promote(c *clientv3.Client, i int) {
	l.t.Helper()
	n := l.node(i)
	err := promote(deadline(l.t), c, n.name, n.address, func(a string) (*clientv3.Client, error) {
		return clientv3.New(clientv3.Config{Endpoints: []string{clientURL(a)}, TLS: l.access.ClientTLS(), Logger: zap.NewNop()})
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) bootstrap(is ...int) {
	l.t.Helper()
	cluster := map[string]string{}
	for _, i := range is {
		cluster[l.node(i).name] = l.node(i).address
	}
	for _, i := range is {
		l.node(i).start(cluster, true)
	}
	c := l.root(is...)
	ctx := deadline(l.t)
	if err := retry(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := c.Get(ctx, "x")
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	for range 2 { // the second time finds all there
		if err := secure(ctx, c); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) wantVoters(c *clientv3.Client, want ...string) {
	l.t.Helper()
	list, err := etcdMembers(deadline(l.t), c)
	if err != nil {
		l.t.Fatal(err)
	}
	health(deadline(l.t), c, list)
	var got []string
	for _, m := range list {
		if m.Learner || !m.Healthy {
			l.t.Errorf("%+v is no healthy voter", m)
		}
		got = append(got, m.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		l.t.Fatalf("voters %v, want %v", got, want)
	}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestEtcdMembership(t *testing.T) {
	l := newLab(t)
	l.bootstrap(1, 2, 3)
	c := l.root(1, 2, 3)

	t.Run("access control", func(t *testing.T) { testAccessControl(t, l) })

	t.Run("by way of a gate", func(t *testing.T) { testEtcdThroughAGate(t, l) })

	t.Run("three to five", func(t *testing.T) {
		start := time.Now()
		l.grow(c, 4)
		l.grow(c, 5)
		l.wantVoters(c, "t-core-1", "t-core-2", "t-core-3", "t-core-4", "t-core-5")
		// etcd itself wants 5 s of contact before it takes a member.
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("took %v; is the leader asked?", d)
		}
	})

	t.Run("a lost disk", func(t *testing.T) {
		n := l.node(5)
		n.kill()
		os.RemoveAll(n.data())
		l.grow(c, 5)
		l.wantVoters(c, "t-core-1", "t-core-2", "t-core-3", "t-core-4", "t-core-5")
	})

	t.Run("five to three", func(t *testing.T) {
		for _, i := range []int{4, 5} {
			if err := removeMember(deadline(t), c, l.node(i).name, l.node(i).address); err != nil {
				t.Fatal(err)
			}
			<-l.node(i).exited // etcd leaves by itself
		}
		l.wantVoters(c, "t-core-1", "t-core-2", "t-core-3")
	})

	t.Run("data of an earlier membership", func(t *testing.T) {
		if !l.node(4).hasData() {
			t.Fatal("the removed member has no data; nothing is tried")
		}
		l.grow(c, 4)
		l.wantVoters(c, "t-core-1", "t-core-2", "t-core-3", "t-core-4")
		if err := removeMember(deadline(t), c, l.node(4).name, l.node(4).address); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("interrupted", func(t *testing.T) {
		n := l.node(5)
		os.RemoveAll(n.data())
		// listed, never started
		if _, _, err := addLearner(deadline(t), c, n.name, n.address, false); err != nil {
			t.Fatal(err)
		}
		// started, never promoted
		_, cluster, err := addLearner(deadline(t), c, n.name, n.address, false)
		if err != nil {
			t.Fatal(err)
		}
		n.start(cluster, false)
		if err := retry(deadline(t), func() error {
			list, err := etcdMembers(deadline(t), c)
			if err != nil {
				return err
			}
			if i := find(list, n.name, n.address); i < 0 || list[i].Name == "" {
				return fmt.Errorf("not started")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		reset, _, err := addLearner(deadline(t), c, n.name, n.address, true)
		if err != nil || reset {
			t.Fatalf("a good learner is thrown away: %v, %v", reset, err)
		}
		l.promote(c, 5)
		l.promote(c, 5) // and again
		l.wantVoters(c, "t-core-1", "t-core-2", "t-core-3", "t-core-5")
		if err := removeMember(deadline(t), c, n.name, n.address); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("dead machines", func(t *testing.T) {
		l.node(3).kill()
		remove := func(i int) error {
			return removeMember(deadline(t), c, l.node(i).name, l.node(i).address)
		}
		if err := remove(2); err == nil || !strings.Contains(err.Error(), "no majority") || !strings.Contains(err.Error(), "t-core-3") {
			t.Fatalf("removing one of the last two: %v", err)
		}
		if err := remove(3); err != nil {
			t.Fatalf("removing the dead one: %v", err)
		}
		l.node(2).kill()
		start := time.Now()
		if err := remove(2); err == nil || !strings.Contains(err.Error(), "no majority") {
			t.Errorf("without a majority: %v", err)
		}
		if d := time.Since(start); d > 30*time.Second {
			t.Errorf("the refusal took %v", d)
		}
	})
}

func testAccessControl(t *testing.T, l *lab) {
	ctx := deadline(t)
	for range 2 {
		if err := SecureApp(ctx, l.root(1), "hello"); err != nil {
			t.Fatal(err)
		}
	}
	appCert := func(name string) tls.Certificate {
		crt, key, err := l.access.IssueApp(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.X509KeyPair(crt, key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	app, stranger := l.as(appCert("hello"), 1), l.as(appCert("other"), 2)
	agent := l.as(l.pair(t.TempDir(), "node", Identity{Name: nodeUser, Role: RoleNode}), 3)
	peer := l.as(l.pair(t.TempDir(), "etcd", Identity{Name: node.EtcdPeerName, Role: RoleNode}), 1)
	for _, c := range []struct {
		name string
		c    *clientv3.Client
		key  string
		ok   bool
	}{
		{"app, its own", app, "/apps/hello/x", true},
		{"app, another's", app, "/apps/other/x", false},
		{"app, a longer name", app, "/apps/hello2/x", false},
		{"app, the cluster's", app, "/plasmid/units/x", false},
		{"app, its own secrets where machines have them", app, "/plasmid/apps/hello/secrets/x", false},
		{"node, the cluster's", agent, "/plasmid/units/x", true},
		{"node, an app's", agent, "/apps/hello/y", true},
		{"node, elsewhere", agent, "/other", false},
		{"app without a user", stranger, "/apps/other/x", false},
		{"etcd's own certificate", peer, "/apps/hello/x", false},
	} {
		_, perr := c.c.Put(ctx, c.key, "1")
		_, gerr := c.c.Get(ctx, c.key)
		if (perr == nil) != c.ok || (gerr == nil) != c.ok {
			t.Errorf("%s: put %v, get %v; allowed should be %v", c.name, perr, gerr, c.ok)
		}
	}
	if _, err := app.Get(ctx, "/apps/hello"); err != nil {
		t.Errorf("an app can't ask for its directory's own key, as confd does: %v", err)
	}
	if _, err := app.Get(ctx, "/apps/", clientv3.WithPrefix()); err == nil {
		t.Error("an app lists all apps")
	}
	if _, err := app.MemberAdd(ctx, []string{"https://127.43.8.200:2380"}); err == nil {
		t.Error("an app may add members")
	}
	if _, err := agent.Grant(ctx, 5); err != nil {
		t.Errorf("a node gets no lease: %v", err)
	}
	if err := agent.Sync(ctx); err != nil {
		t.Errorf("a node cannot follow the membership: %v", err)
	}
	get := func(crt tls.Certificate) error {
		cfg := l.access.ClientTLS()
		cfg.Certificates = []tls.Certificate{crt}
		tr := &http.Transport{TLSClientConfig: cfg}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get(peerURL("127.43.8.1") + "/version")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := get(appCert("hello")); err == nil {
		t.Error("an app's certificate is taken by the peers' port")
	}
	if err := get(l.pair(t.TempDir(), "etcd", Identity{Name: node.EtcdPeerName, Role: RoleNode, IPs: []string{"127.0.0.1"}})); err != nil {
		t.Errorf("a peer's is not: %v", err)
	}
	if err := DropApp(ctx, l.root(1), "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Get(ctx, "/apps/hello/x"); err == nil {
		t.Error("a removed app still reads")
	}
}
