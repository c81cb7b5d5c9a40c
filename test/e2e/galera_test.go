//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"plasmid/apps/galera/ledger"
	"plasmid/apps/galera/member"
	"plasmid/provision/join"
)

// galera is the app on a cluster, as its clients and its operator see it.
type galera struct {
	*cluster
	etcd   *clientv3.Client
	access ledger.Access
	writer *ledger.Writer
	size   int
}

// members are the addresses of the members that are registered.
func (g *galera) members(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	resp, err := g.etcd.Get(ctx, "/apps/galera/members/", clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	var out []string
	for _, kv := range resp.Kvs {
		out = append(out, string(kv.Value))
	}
	return out, nil
}

// secret reads one of the app's own keys.
func (g *galera) key(key string) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return g.etcd.Get(ctx, "/apps/galera/"+key)
}

func (g *galera) mustKey(key string) string {
	g.t.Helper()
	resp, err := g.key(key)
	if err != nil || len(resp.Kvs) != 1 {
		g.t.Fatalf("key %s: %v %v", key, resp, err)
	}
	return string(resp.Kvs[0].Value)
}

// view is what etcd has of the members.
func (g *galera) view() (member.View, error) {
	return member.NewStore(g.etcd, "/apps/galera", "test").View(context.Background())
}

// whole is an error unless all members are ready and see one cluster, the one
// that was made first and last.
func (g *galera) whole() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addresses, err := g.members(ctx)
	if err != nil || len(addresses) != g.size {
		return fmt.Errorf("%d members are ready: %v %w", len(addresses), addresses, err)
	}
	record, err := g.key("cluster/record")
	if err != nil || len(record.Kvs) != 1 {
		return fmt.Errorf("the record of the bootstrap: %v %w", record, err)
	}
	if kv := record.Kvs[0]; kv.CreateRevision != kv.ModRevision {
		g.t.Errorf("the cluster was made more than once: %v", kv)
	}
	for _, a := range addresses {
		uuid, size, err := g.access.Cluster(ctx, a)
		if err != nil {
			return err
		}
		if !strings.Contains(string(record.Kvs[0].Value), uuid) {
			g.t.Errorf("%s is in cluster %s, the record says %s", a, uuid, record.Kvs[0].Value)
		}
		if size != g.size {
			return fmt.Errorf("%s sees a cluster of %d", a, size)
		}
	}
	v, err := g.view()
	if err == nil && len(v.Known) != g.size {
		err = fmt.Errorf("%d members are known: %v", len(v.Known), v.Known)
	}
	return err
}

// noneLost fails the test if a member lacks an acknowledged write.
func (g *galera) noneLost() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	addresses, err := g.members(ctx)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, a := range addresses {
		lost, err := g.writer.Lost(ctx, a)
		if err != nil {
			g.t.Errorf("reading the ledger at %s: %v", a, err)
		}
		if len(lost) > 0 {
			g.t.Errorf("%s lacks %d acknowledged writes: %v", a, len(lost), lost)
		}
	}
	g.t.Logf("%d acknowledged writes are at all of %v", g.writer.Acknowledged(), addresses)
}

// writes waits for the writer to have written on.
func (g *galera) writes(limit time.Duration) {
	g.t.Helper()
	before := g.writer.Acknowledged()
	g.until(limit, "writes are acknowledged", func() error {
		if n := g.writer.Acknowledged() - before; n < 20 {
			return fmt.Errorf("%d were", n)
		}
		return nil
	})
}

// where maps units to machines, all of which must differ.
func (g *galera) where() map[string]string {
	g.t.Helper()
	at, err := g.places()
	if err != nil {
		g.t.Fatal(err)
	}
	if n := len(slices.Compact(slices.Sorted(maps.Values(at)))); n != g.size || len(at) != g.size {
		g.t.Errorf("%d members are on %d machines: %v", len(at), n, at)
	}
	return at
}

// TestGalera makes a database cluster and takes servers, containers, a machine
// and all machines from it, while a client writes.
func TestGalera(t *testing.T) {
	four := strings.Replace(threeMachines, "count = 3", "count = 4", 1)
	c := newCluster(t, "e2egalera", four+fmt.Sprintf("\napp \"galera\" { source = %q }", filepath.Join(repo(), "apps/galera")))
	start := time.Now()
	c.mustRun("up", "--yes")
	t.Logf("up took %v", time.Since(start).Round(time.Second))
	g := &galera{cluster: c, size: 3}
	t.Cleanup(g.memberLogs)

	state := os.Getenv("PLASMID_STATE")
	if state == "" {
		state = "/var/lib/plasmid"
	}
	access, err := join.LoadAccess(filepath.Join(state, "clusters", c.name, "access"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := access.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	g.etcd = s.Client()
	g.access = ledger.Access{Password: g.mustKey("secrets/" + member.SecretPassword), TLS: g.mustKey("secrets/" + member.SecretTLS)}
	g.writer = &ledger.Writer{Name: "e2e", Access: g.access}

	c.until(60*time.Second, "three members are one cluster", g.whole)
	first, err := g.members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.writer.Create(t.Context(), first[0]); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	defer writing.Wait()
	defer stop()
	failures := 0
	writing.Go(func() { g.writer.Run(ctx, g.members, func(string, error) { failures++ }) })
	g.writes(10 * time.Second)
	at := g.where()

	t.Run("only with TLS and a password", func(t *testing.T) {
		for what, wrong := range map[string]ledger.Access{
			"a wrong password": {Password: "x", TLS: g.access.TLS},
		} {
			if _, _, err := wrong.Cluster(t.Context(), first[0]); err == nil || !strings.Contains(err.Error(), "Access denied") {
				t.Errorf("%s: %v", what, err)
			}
		}
		m := at["galera@1.service"]
		if out, err := c.run("local", "exec", m, "docker", "exec", "galera-1", "mariadb", "--no-defaults", "--skip-ssl", "-h", strings.TrimSuffix(first[0], ":3306"), "-u", member.User, "-p"+g.access.Password, "-e", "SELECT 1"); err == nil {
			t.Errorf("without TLS: %s", out)
		}
		for line := range strings.Lines(c.in(m, "ss -Hltn | awk '{print $4}'")) {
			if host, port, _ := net.SplitHostPort(strings.TrimSpace(line)); slices.Contains([]string{"3306", "4567", "4568", "4444", "3380"}, port) && (host == "0.0.0.0" || host == "*" || host == "::") {
				t.Errorf("%s listens on %s", m, line)
			}
		}
	})

	t.Run("a server and a container are killed", func(t *testing.T) {
		c.in(at["galera@1.service"], "pkill -KILL mariadbd")
		c.until(10*time.Second, "the member is seen to be away", func() error {
			if g.whole() == nil {
				return errors.New("it is not")
			}
			return nil
		})
		took := c.until(60*time.Second, "the member is back", g.whole)
		t.Logf("a killed server is back in step after %v", took.Round(100*time.Millisecond))
		c.in(at["galera@2.service"], "docker kill galera-2")
		c.until(10*time.Second, "the member is seen to be away", func() error {
			if g.whole() == nil {
				return errors.New("it is not")
			}
			return nil
		})
		took = c.until(60*time.Second, "the member is back", g.whole)
		t.Logf("a killed container is back in step after %v", took.Round(100*time.Millisecond))
		g.writes(10 * time.Second)
		g.noneLost()
	})

	t.Run("a machine is lost", func(t *testing.T) {
		victim := at["galera@3.service"]
		c.mustRun("local", "power-off", victim)
		begun := time.Now()
		g.writes(30 * time.Second)
		t.Logf("writes go on %v after a machine was lost", time.Since(begun).Round(100*time.Millisecond))
		c.until(120*time.Second, "another machine has the member", func() error {
			if now, err := c.places(); err != nil || now["galera@3.service"] == victim {
				return fmt.Errorf("it is on %s: %w", now["galera@3.service"], err)
			}
			return g.whole()
		})
		t.Logf("the member is replaced and in step %v after its machine was lost", time.Since(begun).Round(100*time.Millisecond))
		g.noneLost()
		c.mustRun("local", "power-on", victim)
		c.until(60*time.Second, victim+" is back", func() error {
			for _, m := range c.machines() {
				if m.Name == victim && m.Alive {
					return nil
				}
			}
			return errors.New("it does not report")
		})
	})

	t.Run("all machines lose power", func(t *testing.T) {
		g.writes(10 * time.Second)
		all := []string{c.machine(1), c.machine(2), c.machine(3), c.machine(4)}
		c.mustRun(append([]string{"local", "power-off"}, all...)...)
		begun := time.Now()
		c.mustRun(append([]string{"local", "power-on"}, all...)...)
		c.until(150*time.Second, "the cluster is whole again", g.whole)
		t.Logf("the cluster is whole %v after all machines lost their power", time.Since(begun).Round(100*time.Millisecond))
		g.writes(20 * time.Second)
		g.noneLost()
		for unit, m := range g.where() {
			if out := c.in(m, "journalctl -b --no-pager -o cat -u "+unit+" | grep 'which is furthest' | tail -n 1"); out != "" {
				t.Logf("%s: %s", unit, strings.TrimSpace(out))
			}
		}
	})
	stop()
	writing.Wait()
	t.Logf("%d writes were acknowledged, %d attempts failed", g.writer.Acknowledged(), failures)
}

// memberLogs shows what the members say, if the test failed.
func (g *galera) memberLogs() {
	if !g.t.Failed() {
		return
	}
	if v, err := g.view(); err == nil {
		g.t.Logf("etcd has: %+v", v)
	}
	for i := range 4 {
		out, err := g.run("local", "exec", g.machine(i+1), "sh", "-c", "journalctl --no-pager -o short-precise -u 'galera@*' | grep -v Note | tail -n 40")
		g.t.Logf("== %s %v\n%s", g.machine(i+1), err, out)
	}
}
