//go:build openstack

package openstack

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	gopenstack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
)

// cost is what making and deleting a cluster took.
type cost struct {
	calls   int64
	seconds float64
}

// BenchmarkUpDown makes clusters and deletes them, and the same things by a
// client that does one call after the other and checks nothing, in the same lab
// and run. Nothing is asserted but that both leave the cloud as it was.
//
//	test/openstack/run -test.run '^$' -test.bench UpDown -test.benchtime 1x
func BenchmarkUpDown(b *testing.B) {
	for _, n := range []int{5, 50} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			o := made
			o.Network.CIDR = "10.77.0.0/24"
			for range b.N {
				var table strings.Builder
				p := newProject(b)
				before := p.census(b)
				bare := newSequential(b, p)
				bareUp := bare.measure(func() { bare.up(n) })
				bareDown := bare.measure(bare.down)
				if d := diff(before, p.census(b)); d != "" {
					b.Errorf("the sequential client left something:\n%s", d)
				}

				c := p.cluster(b, "figures", o, fmt.Sprintf("core %d floating", n))
				measure := func(do func()) cost {
					start, calls := time.Now(), c.client.Calls()
					do()
					return cost{c.client.Calls() - calls, time.Since(start).Seconds()}
				}
				up := measure(func() {
					if _, err := c.tryUp(b.Context()); err != nil {
						b.Fatal(err)
					}
				})
				settled := measure(c.settled)
				down := measure(c.down)
				row := func(what string, ours, base cost) {
					fmt.Fprintf(&table, "%d machines %-5s plasmid %4d calls %6.1f s   sequential %4d calls %6.1f s   ratio %.2f calls, %.2f time\n",
						n, what, ours.calls, ours.seconds, base.calls, base.seconds, float64(ours.calls)/float64(base.calls), ours.seconds/base.seconds)
				}
				row("up", up, bareUp)
				row("down", down, bareDown)
				fmt.Fprintf(&table, "%d machines plan, nothing to do: %d calls %.1f s", n, settled.calls, settled.seconds)
				b.Log("\n" + table.String())
				b.ReportMetric(up.seconds, "s-up")
				b.ReportMetric(down.seconds, "s-down")
			}
		})
	}
}

// sequential is a client without any of the provider's care.
type sequential struct {
	p                *project
	t                testing.TB
	calls            atomic.Int64
	network, compute *gophercloud.ServiceClient

	netID, subnetID, routerID, groupID string
	servers, ports, addresses          []string
}

func (s *sequential) RoundTrip(r *http.Request) (*http.Response, error) {
	s.calls.Add(1)
	return http.DefaultTransport.RoundTrip(r)
}

func newSequential(t testing.TB, project *project) *sequential {
	s := &sequential{t: t, p: project}
	auth, endpoint, _, err := clouds.Parse(clouds.WithCloudName(project.cloud))
	if err != nil {
		t.Fatal(err)
	}
	p, err := gopenstack.NewClient(auth.IdentityEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	p.HTTPClient = http.Client{Transport: s}
	if err := gopenstack.Authenticate(t.Context(), p, auth); err != nil {
		t.Fatal(err)
	}
	if s.network, err = gopenstack.NewNetworkV2(p, endpoint); err != nil {
		t.Fatal(err)
	}
	if s.compute, err = gopenstack.NewComputeV2(p, endpoint); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sequential) measure(do func()) cost {
	start, calls := time.Now(), s.calls.Load()
	do()
	return cost{s.calls.Load() - calls, time.Since(start).Seconds()}
}

func (s *sequential) must(what string, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

func (s *sequential) up(n int) {
	ctx := s.t.Context()
	var ext struct{ Networks []struct{ ID string } }
	_, err := s.network.Get(ctx, s.network.ServiceURL("networks")+"?name=ext-net", &ext, nil)
	s.must("external network", err)
	image, flavor := s.p.anyServer(s.t)

	net, err := networks.Create(ctx, s.network, networks.CreateOpts{Name: "bare"}).Extract()
	s.must("network", err)
	sub, err := subnets.Create(ctx, s.network, subnets.CreateOpts{NetworkID: net.ID, CIDR: "10.78.0.0/24", IPVersion: gophercloud.IPv4}).Extract()
	s.must("subnet", err)
	r, err := routers.Create(ctx, s.network, routers.CreateOpts{Name: "bare", GatewayInfo: &routers.GatewayInfo{NetworkID: ext.Networks[0].ID}}).Extract()
	s.must("router", err)
	_, err = routers.AddInterface(ctx, s.network, r.ID, routers.AddInterfaceOpts{SubnetID: sub.ID}).Extract()
	s.must("interface", err)
	g, err := groups.Create(ctx, s.network, groups.CreateOpts{Name: "bare"}).Extract()
	s.must("security group", err)
	s.netID, s.subnetID, s.routerID, s.groupID = net.ID, sub.ID, r.ID, g.ID
	for _, o := range []rules.CreateOpts{
		{PortRangeMin: 22, PortRangeMax: 22, Protocol: rules.ProtocolTCP, RemoteIPPrefix: "172.24.4.0/24"},
		{PortRangeMin: 80, PortRangeMax: 80, Protocol: rules.ProtocolTCP},
		{RemoteGroupID: g.ID},
	} {
		o.SecGroupID, o.Direction, o.EtherType = g.ID, rules.DirIngress, rules.EtherType4
		s.must("rule", rules.Create(ctx, s.network, o).Err)
	}
	for i := range n {
		name := fmt.Sprintf("bare-%d", i+1)
		port, err := ports.Create(ctx, s.network, ports.CreateOpts{NetworkID: net.ID, Name: name, SecurityGroups: &[]string{g.ID}}).Extract()
		s.must("port", err)
		s.ports = append(s.ports, port.ID)
		fip, err := floatingips.Create(ctx, s.network, floatingips.CreateOpts{FloatingNetworkID: ext.Networks[0].ID, PortID: port.ID}).Extract()
		s.must("floating IP", err)
		s.addresses = append(s.addresses, fip.ID)
		sv, err := servers.Create(ctx, s.compute, servers.CreateOpts{Name: name, ImageRef: image, FlavorRef: flavor, Networks: []servers.Network{{Port: port.ID}}}, nil).Extract()
		s.must("server", err)
		s.servers = append(s.servers, sv.ID)
		s.must("server", servers.WaitForStatus(ctx, s.compute, sv.ID, "ACTIVE")) // asks each second
	}
}

func (s *sequential) down() {
	ctx := context.Background()
	for _, id := range s.servers {
		s.must("server", servers.Delete(ctx, s.compute, id).ExtractErr())
		if err := servers.WaitForStatus(ctx, s.compute, id, "DELETED"); err != nil && !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			s.t.Fatal(err)
		}
	}
	for _, id := range s.addresses {
		s.must("floating IP", floatingips.Delete(ctx, s.network, id).ExtractErr())
	}
	for _, id := range s.ports {
		s.must("port", ports.Delete(ctx, s.network, id).ExtractErr())
	}
	_, err := routers.RemoveInterface(ctx, s.network, s.routerID, routers.RemoveInterfaceOpts{SubnetID: s.subnetID}).Extract()
	s.must("interface", err)
	s.must("router", routers.Delete(ctx, s.network, s.routerID).ExtractErr())
	s.must("network", networks.Delete(ctx, s.network, s.netID).ExtractErr())
	s.must("security group", groups.Delete(ctx, s.network, s.groupID).ExtractErr())
}
