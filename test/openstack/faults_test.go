//go:build openstack

package openstack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	gopenstack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/external"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/quotas"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"plasmid/provision"
	"plasmid/provision/config"
	"plasmid/provision/plan"
)

// A server that the cloud can't place has a port and an address by then. They
// are used again, or go with the cluster.
func TestServerFailsAfterItsPort(t *testing.T) {
	t.Parallel()
	hard := made
	hard.AntiAffinity = "hard" // and the lab has one host
	c := newCluster(t, "novalid", hard, "core 2 floating")
	before := c.census(t)
	if _, err := c.tryUp(t.Context()); err == nil || !strings.Contains(err.Error(), "the cloud can't run server novalid-core-") {
		t.Errorf("up: %v", err)
	}
	if _, err := c.tryUp(t.Context()); err == nil {
		t.Error("up again went well")
	}
	if n := count(before, c.census(t), "ports"); n > 4 {
		t.Errorf("%d ports", n) // two machines, the router, DHCP
	}
}

// The same, refused at once; then all is well.
func TestServerRefusedAfterItsPort(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "refused", made, "core 2 floating")
	c.spoil("POST", "/servers$", fault{times: 1, code: 400, body: `{"badRequest": {"code": 400, "message": "Invalid key_name provided."}}`})
	if _, err := c.tryUp(t.Context()); err == nil || !strings.Contains(err.Error(), "Invalid key_name") {
		t.Errorf("up: %v", err)
	}
	before := c.census(t)
	c.up()
	if n := count(before, c.census(t), "floatingips"); n > 1 {
		t.Errorf("%d more floating addresses", n)
	}
}

// The pool is empty: the error says so, and no address is allocated over and
// over.
func TestFloatingPoolEmpty(t *testing.T) {
	t.Parallel()
	ac := asAdmin(t, gopenstack.NewNetworkV2)
	yes := true
	ext, err := networks.Create(t.Context(), ac, external.CreateOptsExt{CreateOptsBuilder: networks.CreateOpts{Name: "small-ext"}, External: &yes}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := networks.Delete(context.Background(), ac, ext.ID).ExtractErr(); err != nil {
			t.Error(err)
		}
	}()
	no := false
	if _, err := subnets.Create(t.Context(), ac, subnets.CreateOpts{
		NetworkID: ext.ID, CIDR: "198.51.100.0/24", IPVersion: gophercloud.IPv4, EnableDHCP: &no,
		AllocationPools: []subnets.AllocationPool{{Start: "198.51.100.10", End: "198.51.100.11"}}, // the router's and one
	}).Extract(); err != nil {
		t.Fatal(err)
	}
	t.Run("", func(t *testing.T) { // so that the cluster is gone before its network
		o := made
		o.ExternalNetwork = "small-ext"
		c := newCluster(t, "pool", o, "core 2 floating")
		before := c.census(t)
		for range 2 {
			if _, err := c.tryUp(t.Context()); err == nil || !strings.Contains(err.Error(), "no floating address left") {
				t.Errorf("up: %v", err)
			}
		}
		if n := count(before, c.census(t), "floatingips"); n > 1 {
			t.Errorf("%d floating addresses", n)
		}
	})
}

// Floating addresses on a network that no router joins to the outside are
// refused before anything is made.
func TestNetworkWithoutRouter(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	net, err := networks.Create(t.Context(), p.network, networks.CreateOpts{Name: "island"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	defer networks.Delete(context.Background(), p.network, net.ID)
	if _, err := subnets.Create(t.Context(), p.network, subnets.CreateOpts{NetworkID: net.ID, CIDR: "10.79.0.0/24", IPVersion: gophercloud.IPv4}).Extract(); err != nil {
		t.Fatal(err)
	}
	t.Run("", func(t *testing.T) {
		c := p.cluster(t, "island", config.OpenStack{Network: config.Network{Name: "island"}, ExternalNetwork: "ext-net"}, "core 1 floating")
		before := c.census(t)
		_, err := c.tryUp(t.Context())
		if f := findings(t, err); !strings.Contains(f, "no router joins network island") {
			t.Error(f)
		}
		if d := diff(before, c.census(t)); d != "" {
			t.Error(d)
		}
	})
}

// A quota that is short by one is found beforehand, with all others.
func TestQuotaShortByOne(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "quota", made, "core 2 floating")
	project := c.client.Project()
	nova, neutron := asAdmin(t, gopenstack.NewComputeV2), asAdmin(t, gopenstack.NewNetworkV2)
	set := func(cores, addresses int) {
		if _, err := quotasets.Update(context.Background(), nova, project, quotasets.UpdateOpts{Cores: &cores}).Extract(); err != nil {
			t.Fatal(err)
		}
		if _, err := quotas.Update(context.Background(), neutron, project, quotas.UpdateOpts{FloatingIP: &addresses}).Extract(); err != nil {
			t.Fatal(err)
		}
	}
	defer set(200, 100)
	set(1, 1)
	before := c.census(t)
	_, err := c.tryUp(t.Context())
	f := findings(t, err)
	for _, want := range []string{"needs 2 more cores", "room for 1", "needs 2 more floating IPs", `"floating-ips"`} {
		if !strings.Contains(f, want) {
			t.Errorf("no %q in: %s", want, f)
		}
	}
	if d := diff(before, c.census(t)); d != "" {
		t.Error(d)
	}
	set(2, 2)
	c.up()
}

// Things of others, by whatever name, are neither used nor touched; and one that
// is in the way of down is named.
func TestStranger(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	n, co := p.network, p.compute
	// The network of a stranger has the name that ours will have, and the
	// server too.
	net, err := networks.Create(t.Context(), n, networks.CreateOpts{Name: "plasmid-alone"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	sub, err := subnets.Create(t.Context(), n, subnets.CreateOpts{NetworkID: net.ID, Name: "plasmid-alone", CIDR: "10.77.0.0/24", IPVersion: gophercloud.IPv4}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	sg, err := groups.Create(t.Context(), n, groups.CreateOpts{Name: "plasmid-alone", Description: "plasmid-cluster=alone-too"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	port, err := ports.Create(t.Context(), n, ports.CreateOpts{NetworkID: net.ID, Name: "alone-core-1", FixedIPs: []ports.IP{{SubnetID: sub.ID}}}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	imageID, flavorID := p.anyServer(t)
	sv, err := servers.Create(t.Context(), co, servers.CreateOpts{Name: "alone-core-1", ImageRef: imageID, FlavorRef: flavorID, Networks: []servers.Network{{Port: port.ID}}, Metadata: map[string]string{"plasmid_cluster": "alone-too"}}, nil).Extract()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx := context.Background()
		servers.Delete(ctx, co, sv.ID)
		servers.WaitForStatus(ctx, co, sv.ID, "DELETED")
		for _, err := range []error{ports.Delete(ctx, n, port.ID).ExtractErr(), networks.Delete(ctx, n, net.ID).ExtractErr(), groups.Delete(ctx, n, sg.ID).ExtractErr()} {
			if err != nil {
				t.Error("a thing of the stranger's was touched:", err)
			}
		}
	}()
	if err := servers.WaitForStatus(t.Context(), co, sv.ID, "ACTIVE"); err != nil {
		t.Fatal(err)
	}
	t.Run("", func(t *testing.T) {
		c := p.cluster(t, "alone", made, "core 1 floating")
		c.up()
		// A stranger comes into our network.
		pages, err := networks.List(n, networks.ListOpts{Description: "plasmid-cluster=alone"}).AllPages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ours, err := networks.ExtractNetworks(pages)
		if err != nil || len(ours) != 1 {
			t.Fatal(len(ours), err)
		}
		guest, err := ports.Create(t.Context(), n, ports.CreateOpts{NetworkID: ours[0].ID, Name: "guest"}).Extract()
		if err != nil {
			t.Fatal(err)
		}
		p := c.provider()
		network, observed, err := p.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		in := plan.Input{Cluster: c.c.Name, Network: network, Observed: observed}
		err = provision.Apply(t.Context(), p.Refine(in, plan.Destroy(in)), p.Do, quiet())
		if err == nil || !strings.Contains(err.Error(), "port guest on the cluster's network is not the cluster's") {
			t.Errorf("down: %v", err)
		}
		if err := ports.Delete(t.Context(), n, guest.ID).ExtractErr(); err != nil {
			t.Errorf("the guest: %v", err)
		}
	})
}

// anyServer is what a server of no cluster's is made of.
func (p *project) anyServer(t testing.TB) (imageID, flavorID string) {
	t.Helper()
	list, err := p.connect(t).Images(t.Context())
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	var body struct{ Flavors []struct{ ID, Name string } }
	if _, err := p.compute.Get(t.Context(), p.compute.ServiceURL("flavors"), &body, nil); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(body.Flavors, func(f struct{ ID, Name string }) bool { return f.Name == "m1.tiny" })
	return list[0].ID, body.Flavors[i].ID
}

// Faults of the services and of the network change neither what is there in the
// end nor how much of it.
func TestFaults(t *testing.T) {
	t.Parallel()
	everything := "/(networks|subnets|routers|ports|security-groups|security-group-rules|floatingips|servers)$"
	for _, f := range []struct {
		name   string
		faults func(*cluster)
	}{
		{"errors while looking", func(c *cluster) {
			c.spoil("GET", "", fault{times: 6, skip: 3, code: 500})
			c.spoil("GET", "", fault{times: 4, skip: 20, code: 503})
		}},
		{"too many calls", func(c *cluster) {
			c.spoil("", "", fault{times: 4, skip: 10, code: 429, after: "1"})
			c.spoil("POST", everything, fault{times: 4, skip: 2, code: 429, after: "1"})
		}},
		{"cut connections while looking", func(c *cluster) { c.spoil("GET", "", fault{times: 6, skip: 8}) }},
		{"things are made, and the answers are lost", func(c *cluster) {
			for _, k := range []string{"networks", "subnets", "routers", "ports", "security-groups", "security-group-rules", "floatingips", "servers"} {
				c.spoil("POST", "/"+k+"$", fault{times: 1, late: true})
			}
			c.spoil("PUT", "add_router_interface", fault{times: 1, late: true})
		}},
		{"things are made, and the answers are errors", func(c *cluster) {
			for _, k := range []string{"networks", "subnets", "routers", "ports", "security-groups", "floatingips", "servers"} {
				c.spoil("POST", "/"+k+"$", fault{times: 1, late: true, code: 502})
			}
		}},
		{"conflicts", func(c *cluster) {
			c.spoil("POST", "/(ports|floatingips)$", fault{times: 2, code: 409, body: `{"NeutronError": {"type": "Conflict", "message": "busy"}}`})
		}},
		{"deletions that fail at first", func(c *cluster) {
			c.spoil("DELETE", "/ports/", fault{times: 3, code: 409, body: `{"NeutronError": {"type": "PortInUse", "message": "Port is in use"}}`})
			c.spoil("DELETE", "/(networks|subnets|routers|security-groups)/", fault{times: 4, code: 409})
			c.spoil("DELETE", "/servers/", fault{times: 1, late: true})
			c.spoil("DELETE", "/floatingips/", fault{times: 1, late: true, code: 500})
		}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, "faults", made, "core 2 floating")
			before := c.census(t)
			f.faults(c)
			if _, err := c.tryUp(t.Context()); err != nil {
				t.Errorf("up: %v", err)
			}
			now := c.census(t)
			for kind, n := range map[string]int{"servers": 2, "floatingips": 2, "networks": 1, "subnets": 1, "routers": 1, "security_groups": 1, "security_group_rules": 5} {
				if got := count(before, now, kind); got != n {
					t.Errorf("%d %s, want %d", got, kind, n)
				}
			}
			c.down()
			if left := theProxy.unused(c.project); len(left) > 0 {
				t.Errorf("no call met %v", left)
			}
		})
	}
}

// plasmid is killed at any step, of up and of down, and run again.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "killed", made, "core 3 floating")
	nothing := c.census(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	killed := func(run func(context.Context) error) bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		left := 1 + r.IntN(8)
		c.before = func(plan.Step) {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				cancel()
			}
		}
		defer func() { c.before = nil }()
		return run(ctx) != nil
	}
	kills := 0
	for range 12 {
		if !killed(func(ctx context.Context) error { _, err := c.tryUp(ctx); return err }) {
			break
		}
		kills++
	}
	before := c.census(t)
	c.up()
	now := c.census(t)
	t.Logf("killed %d times on the way up; then %d things were missing", kills, len(now)-len(before))
	for kind, n := range map[string]int{"servers": 3, "floatingips": 3, "networks": 1, "routers": 1} {
		if got := count(nothing, now, kind); got != n {
			t.Errorf("%d %s, want %d", got, kind, n)
		}
	}
	for range 4 {
		killed(func(ctx context.Context) error {
			p := c.provider()
			network, observed, err := p.Observe(ctx)
			if err != nil {
				return err
			}
			left, err := p.Sweep(ctx)
			if err != nil {
				return err
			}
			in := plan.Input{Cluster: c.c.Name, Network: network || len(left) > 0, Observed: observed}
			return provision.Apply(ctx, p.Refine(in, plan.Destroy(in)), func(ctx context.Context, s plan.Step) error { return c.do(ctx, p, s) }, quiet())
		})
	}
}

// Two operators make the same cluster at the same time, from two workstations.
func TestTwoOperators(t *testing.T) {
	t.Parallel()
	a := newCluster(t, "both", made, "core 2 floating")
	b := &cluster{project: a.project, t: t, c: a.c, client: a.connect(t), image: a.image, members: map[string]plan.Member{}}
	before := a.census(t)
	var wg sync.WaitGroup
	for _, c := range []*cluster{a, b} {
		wg.Go(func() {
			if _, err := c.tryUp(t.Context()); err != nil {
				t.Logf("one of them: %v", err)
			}
		})
	}
	wg.Wait()
	a.up()
	now := a.census(t)
	for kind, n := range map[string]int{"servers": 2, "floatingips": 2, "networks": 1, "subnets": 1, "routers": 1, "security_groups": 1} {
		if got := count(before, now, kind); got != n {
			t.Errorf("%d %s, want %d", got, kind, n)
		}
	}
}

// An image is uploaded once, and pruned when nothing runs from it. The project is
// lent to other tests afterwards, which expect it to be empty.
func TestPush(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	c := p.connect(t)
	var names []string
	for i := range 3 {
		id := fmt.Sprintf("push-%d-%d", time.Now().UnixNano(), i) // a lab may be kept from run to run
		file := t.TempDir() + "/disk"
		if err := os.WriteFile(file, make([]byte, 3<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		u := uploadOf(id, file)
		first, err := c.Push(t.Context(), u, nil)
		if err != nil || !first.Uploaded || first.Status != "active" || first.Bytes != 3<<20 {
			t.Fatalf("%+v %v", first, err)
		}
		again, err := c.Push(t.Context(), u, nil)
		if err != nil || again.Uploaded || again.ID != first.ID {
			t.Errorf("%+v %v", again, err)
		}
		names = append(names, id)
	}
	// An upload that is cut off leaves nothing.
	p.spoil("PUT", "/images/.*/file$", fault{times: 1, code: 500})
	defer theProxy.clear(p)
	file := t.TempDir() + "/disk"
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Push(t.Context(), uploadOf("push-cut", file), nil); err == nil {
		t.Error("an upload that failed went well")
	}
	list, err := c.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		if i.Identity == "push-cut" {
			t.Errorf("%+v is left of an upload that failed", i)
		}
	}
	gone, err := c.Prune(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if list, err = c.Images(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, g := range gone {
		for _, kept := range list {
			if slices.Contains(names, kept.Identity) && g.Created.After(kept.Created) {
				t.Errorf("%+v was pruned, the older %+v was kept", g, kept)
			}
		}
	}
	if len(gone) < 2 {
		t.Errorf("pruned %+v", gone)
	}
	if _, err := c.Prune(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if left := p.images(t); len(left) > 0 {
		t.Errorf("images left: %v", left)
	}
}
