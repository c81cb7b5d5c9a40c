//go:build openstack

package lxc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCluster has one cluster live its whole life: three machines form it and
// serve an app, lose a machine, are made anew one after the other, are changed
// by Ansible, go over to another workstation, and are gone. Each part begins
// with what the one before has left.
func TestCluster(t *testing.T) {
	cl := newCloud(t)
	c := newCluster(t, "lxc")
	app := everywhere(t)
	c.write("m1.small", app)
	before := cl.mustCensus(t)
	t.Cleanup(func() {
		if t.Failed() {
			c.logs(cl)
		}
		if _, err := c.run(context.Background(), "down", "--yes"); err != nil {
			t.Error(err)
		}
		if left := more(before, cl.mustCensus(t)); left != "" {
			t.Errorf("left in the cloud:\n%s", left)
		}
	})

	parts := []struct {
		name string
		do   func(t *testing.T)
	}{
		{"up", func(t *testing.T) {
			start := time.Now()
			out := c.mustRun("up", "--yes")
			var url string
			for line := range strings.Lines(out) {
				if at, ok := strings.CutPrefix(line, "front: "); ok {
					url = strings.TrimSpace(at)
				}
			}
			if _, err := get(t.Context(), url); err != nil || !strings.HasPrefix(url, "http://172.24.4.") {
				t.Fatalf("the app does not answer at %q: %v\n%s", url, err, out)
			}
			t.Logf("%.0f s from plasmid up to an answer on a floating address", time.Since(start).Seconds())
			c.wantMembers()
			if steps := c.plan(); len(steps) > 0 {
				t.Errorf("there is still to do: %v", steps)
			}
		}},
		{"a machine deleted by somebody else", func(t *testing.T) {
			lost := c.name + "-core-2"
			cl.remove(t, lost)
			if steps := c.plan(); !slices.Equal(steps, []string{"create machine " + lost, "update member " + lost}) {
				t.Errorf("the plan is %v", steps)
			}
			v := visit(t, c.public())
			start := time.Now()
			c.mustRun("up", "--yes")
			t.Logf("%.0f s to heal it; %s", time.Since(start).Seconds(), v.stop())
			c.wantMembers()
		}},
		{"replaced one at a time", func(t *testing.T) {
			old, err := cl.servers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			addresses := c.public()
			v, w := visit(t, addresses), c.watch(t, cl)
			c.write("m1.medium", app)
			start := time.Now()
			c.mustRun("up", "--yes")
			t.Logf("%.0f s to make three machines anew; %s; %s", time.Since(start).Seconds(), v.stop(), w.stop())
			now, err := cl.servers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for name, id := range old {
				if now[name] == id || now[name] == "" {
					t.Errorf("%s is %q and was %q", name, now[name], id)
				}
			}
			if now := c.public(); !slices.Equal(now, addresses) {
				t.Errorf("the addresses were %v and are %v", addresses, now)
			}
			c.wantMembers()
		}},
		{"Ansible", func(t *testing.T) {
			c.ansible(t)
		}},
		{"another workstation", func(t *testing.T) {
			file, phrase := filepath.Join(c.dir, "access.age"), filepath.Join(c.dir, "phrase")
			if err := os.WriteFile(phrase, []byte("a phrase that is only the test's\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c.mustRun("access", "export", file, "--passphrase-file", phrase)
			here := c.state
			c.workstation()
			if _, err := os.Stat(filepath.Join(c.state, "clusters")); err == nil {
				t.Fatal("it is not new")
			}
			c.mustRun("access", "import", file, "--passphrase-file", phrase)
			// The first one is gone.
			if err := os.RemoveAll(filepath.Join(here, "clusters")); err != nil {
				t.Fatal(err)
			}
			if steps := c.plan(); len(steps) > 0 {
				t.Errorf("the plan there is %v", steps)
			}
			if out := c.mustRun("up", "--yes"); !strings.Contains(out, "nothing was changed") {
				t.Errorf("up there: %s", out)
			}
			c.wantMembers()
			if out := c.mustRun("ssh", "--machine", c.name+"-core-3", "hostname"); strings.TrimSpace(out) != c.name+"-core-3" {
				t.Errorf("ssh there: %q", out)
			}
		}},
		{"down", func(t *testing.T) {
			start := time.Now()
			c.mustRun("down", "--yes")
			t.Logf("%.0f s to take it down", time.Since(start).Seconds())
			left := more(before, cl.mustCensus(t))
			if left != "" {
				t.Errorf("left in the cloud:\n%s", left)
			}
		}},
	}
	for _, p := range parts {
		if !t.Run(p.name, func(t *testing.T) {
			outer := c.t
			c.t = t
			defer func() { c.t = outer }()
			p.do(t)
		}) {
			return
		}
	}
}

// everywhere is the sample app with an nginx on every machine, so that visitors
// who know all addresses always find one.
func everywhere(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hello")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(repo, "apps/hello"))); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "units/nginx.service"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("\n[X-Fleet]\nGlobal=yes\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// watcher looks at something until it is stopped, and then says what it saw.
type watcher struct {
	cancel context.CancelFunc
	said   chan string
}

func (w watcher) stop() string {
	w.cancel()
	return <-w.said
}

func watching(t *testing.T, f func(ctx context.Context) string) watcher {
	ctx, cancel := context.WithCancel(t.Context())
	w := watcher{cancel, make(chan string, 1)}
	go func() { w.said <- f(ctx) }()
	t.Cleanup(cancel)
	return w
}

// visit has a visitor who asks for a page, at one address after the other until
// one answers, and then for the next. That none does is an error.
func visit(t *testing.T, addresses []string) watcher {
	return watching(t, func(ctx context.Context) string {
		asked, elsewhere := 0, 0
		for tick := time.NewTicker(200 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			var errs []error
			for i := range addresses {
				_, err := get(ctx, "http://"+addresses[(asked+i)%len(addresses)]+"/")
				if err == nil || ctx.Err() != nil {
					break
				}
				errs = append(errs, err)
			}
			if len(errs) == len(addresses) && ctx.Err() == nil {
				t.Errorf("visit %d: nobody answers: %v", asked, errors.Join(errs...))
			}
			if len(errs) > 0 {
				elsewhere++
			}
			asked++
		}
		return fmt.Sprintf("%d visits, %d of them at a second address", asked, elsewhere)
	})
}

// watch looks at the machines while they are made anew: two at least are there
// and report, and each is drained before it goes.
func (c *cluster) watch(t *testing.T, cl *cloud) watcher {
	return watching(t, func(ctx context.Context) string {
		drained := map[string]bool{}
		looks := 0
		for tick := time.NewTicker(time.Second); ctx.Err() == nil; <-tick.C {
			active, err := cl.servers(ctx)
			if ctx.Err() != nil {
				break
			}
			if err != nil {
				t.Errorf("the servers: %v", err)
			} else if len(active) < 2 {
				t.Errorf("only these servers are active: %v", active)
			}
			ms, err := c.machines(ctx)
			if ctx.Err() != nil {
				break
			}
			if err != nil {
				t.Logf("the machines: %v", err) // the one asked may just be leaving
				continue
			}
			alive := 0
			for _, m := range ms {
				if m.Alive {
					alive++
				}
				if m.Order != nil && m.Order.Drain {
					drained[m.Name] = true
				}
			}
			if alive < 2 {
				t.Errorf("only %d machines report", alive)
			}
			looks++
		}
		if len(drained) != 3 {
			t.Errorf("of the three machines these were drained: %v", drained)
		}
		return fmt.Sprintf("%d looks at the machines", looks)
	})
}

// ansible runs the example of docs/image.md on the machines, by docs/openstack.md.
func (c *cluster) ansible(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repo, "docs/image.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "    # site.yml\n")
	text, _, ends := strings.Cut(text, "\n\nThe tree")
	if !found || !ends {
		t.Fatal("the example is not where it was")
	}
	if err := os.WriteFile(filepath.Join(c.dir, "site.yml"), []byte(strings.ReplaceAll("\n"+text, "\n    ", "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := c.command(ctx, "ansible-playbook", "-i", filepath.Join(repo, "playbooks/inventory"), "--limit", "core", "-e", `{"greeting": "well met"}`, "site.yml").CombinedOutput()
	if err != nil || strings.Count(string(out), "changed=1") != 3 {
		t.Fatalf("%v\n%s", err, out)
	}
	for i := range 3 {
		if out := c.mustRun("ssh", "--machine", fmt.Sprintf("%s-core-%d", c.name, i+1), "cat /etc/motd"); out != "well met\n" {
			t.Errorf("the greeting there: %q", out)
		}
	}
	var inventory map[string]json.RawMessage
	if err := json.Unmarshal([]byte(c.mustRun("inventory", "--list")), &inventory); err != nil || inventory["core"] == nil || inventory["etcd"] == nil {
		t.Errorf("the inventory has these groups: %v %v", inventory, err)
	}
}

// logs are what is known of a failure.
func (c *cluster) logs(cl *cloud) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{{"status"}, {"list-units"}} {
		out, err := c.run(ctx, args...)
		c.t.Logf("plasmid %s: %v\n%s", args[0], err, out)
	}
	for i := range 3 {
		out, err := c.run(ctx, "ssh", "--machine", fmt.Sprintf("%s-core-%d", c.name, i+1), "sudo journalctl -n 60 --no-pager -u plasmidd -u etcd -u docker -p info -o short-precise")
		c.t.Logf("machine %d: %v\n%s", i+1, err, out)
	}
	active, err := cl.servers(ctx)
	c.t.Logf("servers: %v %v", active, err)
}
