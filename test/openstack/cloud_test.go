//go:build openstack

package openstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	gopenstack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"

	"plasmid/internal/progress"
	"plasmid/provision"
	"plasmid/provision/config"
	"plasmid/provision/openstack"
	"plasmid/provision/plan"
)

// image is the identity of the image that all machines run, which is uploaded
// once.
const image = "test-1"

// TestMain puts the fault proxy between the provider and the services.
func TestMain(m *testing.M) {
	if os.Getenv("OS_CLOUD") == "" {
		fmt.Fprintln(os.Stderr, "these tests run in a lab: make test-openstack")
		os.Exit(1)
	}
	stop, err := theProxy.start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

func connect(t testing.TB, cloud string) *openstack.Client {
	t.Helper()
	creds, err := openstack.FindCredentials(cloud, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := openstack.Connect(t.Context(), creds)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pushImages uploads what machines run, if it is not there.
func pushImages() error {
	creds, err := openstack.FindCredentials("", "")
	if err != nil {
		return err
	}
	c, err := openstack.Connect(context.Background(), creds)
	if err != nil {
		return err
	}
	for _, id := range []string{image, "test-2"} {
		f, err := os.CreateTemp("", "image")
		if err != nil {
			return err
		}
		defer os.Remove(f.Name())
		if _, err := f.WriteString(strings.Repeat(id, 1000)); err != nil {
			return err
		}
		if _, err := c.Push(context.Background(), openstack.Upload{Identity: id, File: f.Name(), Suite: "testing", VirtualGiB: 2}, nil); err != nil {
			return err
		}
	}
	return nil
}

// cluster is one of a test's own, with as much of joining as plans need: it
// remembers who is a member.
type cluster struct {
	t       testing.TB
	c       *config.Cluster
	client  *openstack.Client
	image   string
	mu      sync.Mutex
	members map[string]plan.Member
	did     []string // steps, in the order in which they ended
	before  func(plan.Step)
	after   func(plan.Step)
}

// groups are "name count mode".
func newCluster(t testing.TB, name string, o config.OpenStack, groups ...string) *cluster {
	t.Helper()
	if err := pushImages(); err != nil {
		t.Fatal(err)
	}
	o.Flavor = "m1.tiny"
	if o.SSHAllow == nil {
		o.SSHAllow = []string{"172.24.4.0/24"}
	}
	if o.ExternalNetwork == "" && o.Network.Made() {
		o.ExternalNetwork = "ext-net"
	}
	c := &cluster{t: t, c: &config.Cluster{Name: name, Provider: config.Provider{OpenStack: &o}}, client: connect(t, ""), image: image, members: map[string]plan.Member{}}
	c.groups(groups...)
	before := census(t)
	t.Cleanup(func() {
		theProxy.clear()
		c.down()
		if left := diff(before, census(t)); left != "" {
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
	p := c.provider()
	pl, err := c.plan(c.t.Context(), p)
	if err != nil {
		c.t.Fatal(err)
	}
	if !pl.Empty() {
		c.t.Fatalf("after up there is still to do: %v", ids(pl))
	}
	_, observed, err := p.Observe(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	wanted := provision.Wanted(c.c, c.image)
	if len(observed) != len(wanted) {
		c.t.Errorf("%d machines, want %d", len(observed), len(wanted))
	}
	for _, o := range observed {
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
	clear(c.members)
}

func ids(p plan.Plan) []string {
	var out []string
	for _, s := range p.Steps {
		out = append(out, s.ID)
	}
	return out
}

// service is a client of the test's own, beside the provider's.
func service(t testing.TB, cloud string, make func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)) *gophercloud.ServiceClient {
	t.Helper()
	auth, endpoint, _, err := clouds.Parse(clouds.WithCloudName(cloud))
	if err != nil {
		t.Fatal(err)
	}
	p, err := gopenstack.AuthenticatedClient(context.Background(), auth)
	if err != nil {
		t.Fatal(err)
	}
	c, err := make(p, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func network(t testing.TB) *gophercloud.ServiceClient {
	return service(t, os.Getenv("OS_CLOUD"), gopenstack.NewNetworkV2)
}

func compute(t testing.TB) *gophercloud.ServiceClient {
	c := service(t, os.Getenv("OS_CLOUD"), gopenstack.NewComputeV2)
	c.Microversion = "2.64"
	return c
}

// census lists everything that there is in the project, by the services' own
// lists.
func census(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	list := func(c *gophercloud.ServiceClient, path, key string) {
		var body map[string][]map[string]any
		if _, err := c.Get(context.Background(), c.ServiceURL(path), &body, nil); err != nil {
			t.Fatal(err)
		}
		for _, o := range body[key] {
			out[fmt.Sprint(key, " ", o["id"])] = fmt.Sprint(o["name"], " ", o["description"])
		}
	}
	n, c := network(t), compute(t)
	for _, k := range []string{"networks", "subnets", "routers", "ports", "floatingips"} {
		list(n, k, k)
	}
	list(n, "security-groups", "security_groups")
	list(n, "security-group-rules", "security_group_rules")
	list(c, "servers", "servers")
	list(c, "os-server-groups", "server_groups")
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
