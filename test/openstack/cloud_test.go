//go:build openstack

package openstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"plasmid/internal/progress"
	"plasmid/provision"
	"plasmid/provision/config"
	"plasmid/provision/openstack"
	"plasmid/provision/plan"
)

// image is the identity of the image that machines run.
const image = "test-1"

// TestMain puts the fault proxy between the provider and the services, and
// uploads what machines run.
func TestMain(m *testing.M) {
	if os.Getenv("OS_CLOUD") == "" {
		fmt.Fprintln(os.Stderr, "these tests run in a lab: make test-openstack")
		os.Exit(1)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "openstack")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		stop, err := theProxy.start()
		if err == nil {
			defer stop()
			err = errors.Join(ownClouds(dir), pushImages(dir))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// pushImages uploads what the machines of all projects run, if it is not there.
func pushImages(dir string) error {
	c, err := connect(context.Background(), admin)
	if err != nil {
		return err
	}
	for _, id := range []string{image, "test-2"} {
		file := filepath.Join(dir, id)
		if err := os.WriteFile(file, []byte(strings.Repeat(id, 1000)), 0o600); err != nil {
			return err
		}
		u := uploadOf(id, file)
		u.Visibility = "public"
		if _, err := c.Push(context.Background(), u, nil); err != nil {
			return err
		}
	}
	return nil
}

// cluster is one of a test's own, with as much of joining as plans need: it
// remembers who is a member.
type cluster struct {
	*project
	t       testing.TB
	c       *config.Cluster
	client  *openstack.Client
	image   string
	mu      sync.Mutex
	members map[string]plan.Member
	seen    []plan.Observed // of the last plan
	did     []string        // steps, in the order in which they ended
	gone    bool            // down was the last that was done
	before  func(plan.Step)
	after   func(plan.Step)
}

// newCluster is a cluster in a project of its own. groups are "name count mode".
func newCluster(t testing.TB, name string, o config.OpenStack, groups ...string) *cluster {
	t.Helper()
	return newProject(t).cluster(t, name, o, groups...)
}

// cluster is one in the project, which is as it was when the test has ended.
func (p *project) cluster(t testing.TB, name string, o config.OpenStack, groups ...string) *cluster {
	t.Helper()
	o.Flavor = "m1.tiny"
	if o.SSHAllow == nil {
		o.SSHAllow = []string{"172.24.4.0/24"}
	}
	if o.ExternalNetwork == "" && o.Network.Made() {
		o.ExternalNetwork = "ext-net"
	}
	c := &cluster{project: p, t: t, c: &config.Cluster{Name: name, Provider: config.Provider{OpenStack: &o}}, client: p.connect(t), image: image, members: map[string]plan.Member{}}
	c.groups(groups...)
	before := p.census(t)
	t.Cleanup(func() {
		theProxy.clear(p)
		if !c.gone {
			c.down()
		}
		if left := diff(before, p.census(t)); left != "" {
			t.Errorf("the cloud is not as it was:\n%s", left)
		}
	})
	return c
}

func (c *cluster) groups(groups ...string) {
	c.c.Nodes = nil
	for i, g := range groups {
		n := config.NodeGroup{}
		if _, err := fmt.Sscan(g, &n.Name, &n.Count, &n.PublicIPv4); err != nil {
			c.t.Fatal(err)
		}
		if i == 0 {
			n.Etcd = min(3, n.Count)
		}
		c.c.Nodes = append(c.c.Nodes, n)
	}
}

func (c *cluster) provider() *openstack.Provider {
	return openstack.New(c.client, c.c, []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK0wmN/Cr3JXqmLW7u+g9pTh+wyqDHpSQEIQczXkVx9q plasmid"})
}

// plan is what plasmid plan does.
func (c *cluster) plan(ctx context.Context, p *openstack.Provider) (plan.Plan, error) {
	network, observed, err := p.Observe(ctx)
	if err != nil {
		return plan.Plan{}, err
	}
	in := plan.Input{Cluster: c.c.Name, Network: network, Wanted: provision.Wanted(c.c, c.image), Observed: observed}
	c.seen = observed
	c.mu.Lock()
	in.Members = slices.Collect(maps.Values(c.members))
	c.mu.Unlock()
	pl, err := plan.Make(in)
	if err != nil {
		return pl, err
	}
	pl = p.Refine(in, pl)
	_, err = p.Preflight(ctx, pl)
	return pl, err
}

// tryUp is what plasmid up does, but that no machine is joined.
func (c *cluster) tryUp(ctx context.Context) (plan.Plan, error) {
	p := c.provider()
	c.gone = false
	pl, err := c.plan(ctx, p)
	if err != nil {
		return pl, err
	}
	return pl, provision.Apply(ctx, pl, func(ctx context.Context, s plan.Step) error { return c.do(ctx, p, s) }, quiet())
}

func (c *cluster) do(ctx context.Context, p *openstack.Provider, s plan.Step) error {
	if c.before != nil {
		c.before(s)
	}
	if s.Kind != plan.KindMember {
		if err := p.Do(ctx, s); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Kind == plan.KindMember {
		if s.Action == plan.Delete {
			delete(c.members, s.Name)
		} else {
			c.members[s.Name] = plan.Member{Name: s.Name, Etcd: s.Machine.Etcd, Spec: s.Machine.Spec()}
		}
	}
	c.did = append(c.did, s.ID)
	if c.after != nil {
		c.after(s)
	}
	return nil
}

func quiet() *progress.Log { return progress.New(io.Discard, false) }

// up makes the cluster, and then there is nothing more to do.
func (c *cluster) up() plan.Plan {
	c.t.Helper()
	pl, err := c.tryUp(c.t.Context())
	if err != nil {
		c.t.Fatalf("up: %v", err)
	}
	c.settled()
	return pl
}

// settled expects all to be as wanted.
func (c *cluster) settled() {
	c.t.Helper()
	pl, err := c.plan(c.t.Context(), c.provider())
	if err != nil {
		c.t.Fatal(err)
	}
	if !pl.Empty() {
		c.t.Fatalf("after up there is still to do: %v", ids(pl))
	}
	if want := len(provision.Wanted(c.c, c.image)); len(c.seen) != want {
		c.t.Errorf("%d machines, want %d", len(c.seen), want)
	}
	for _, o := range c.seen {
		if !o.Running || !o.Complete || o.PrivateIPv4 == "" || o.Image != c.image {
			c.t.Errorf("%+v", o)
		}
	}
}

// down is what plasmid down does.
func (c *cluster) down() {
	c.t.Helper()
	ctx := context.Background() // that of the test has ended
	p := c.provider()
	network, observed, err := p.Observe(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	left, err := p.Sweep(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	in := plan.Input{Cluster: c.c.Name, Network: network || len(left) > 0, Observed: observed}
	pl := p.Refine(in, plan.Destroy(in))
	if err := provision.Apply(ctx, pl, func(ctx context.Context, s plan.Step) error { return c.do(ctx, p, s) }, quiet()); err != nil {
		c.t.Errorf("down: %v", err)
	}
	if left, err = p.Sweep(ctx); err != nil || len(left) > 0 {
		c.t.Errorf("left after down: %v %v", left, err)
	}
	c.gone = !c.t.Failed()
	clear(c.members)
}

func ids(p plan.Plan) []string {
	var out []string
	for _, s := range p.Steps {
		out = append(out, s.ID)
	}
	return out
}

// diff says what is more or less than before.
func diff(before, after map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[k]; !ok {
			fmt.Fprintf(&b, "more: %s %s\n", k, after[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[k]; !ok {
			fmt.Fprintf(&b, "less: %s %s\n", k, before[k])
		}
	}
	return b.String()
}

// count is how many things of a kind there are more than before.
func count(before, after map[string]string, kind string) int {
	n := 0
	for k := range after {
		if _, ok := before[k]; !ok && strings.HasPrefix(k, kind+" ") {
			n++
		}
	}
	return n
}

// findings are those of a plan that is refused.
func findings(t *testing.T, err error) string {
	t.Helper()
	var f openstack.Findings
	if !errors.As(err, &f) {
		t.Fatalf("no findings: %v", err)
	}
	return f.Error()
}

func uploadOf(id, file string) openstack.Upload {
	return openstack.Upload{Identity: id, File: file, Suite: "testing", VirtualGiB: 2}
}
