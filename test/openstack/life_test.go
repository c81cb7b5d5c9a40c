//go:build openstack

package openstack

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"plasmid/provision/config"
	"plasmid/provision/plan"
)

var made = config.OpenStack{Network: config.Network{CIDR: "10.77.0.0/24"}, PublicPorts: []int{80}}

// Five machines in every way to give them addresses: what is made is counted
// by the cloud's own lists, and all of it is gone in the end.
func TestLife(t *testing.T) {
	t.Parallel()
	soft := made
	soft.AntiAffinity, soft.AvailabilityZones = "soft", []string{"nova"}
	nics := made
	nics.ExternalNetwork = "provider-net"
	provider := config.OpenStack{Network: config.Network{Name: "provider-net"}}
	for _, c := range []struct {
		name   string
		o      config.OpenStack
		groups []string
		want   map[string]int
		public func(plan.Observed) bool
	}{
		{"floating", soft, []string{"core 5 floating"},
			map[string]int{"servers": 5, "floatingips": 5, "networks": 1, "subnets": 1, "routers": 1, "security_groups": 1, "security_group_rules": 5, "server_groups": 1},
			func(o plan.Observed) bool { return strings.HasPrefix(o.PublicIPv4, "172.24.4.") }},
		{"two NICs", nics, []string{"core 5 direct"},
			map[string]int{"servers": 5, "floatingips": 0, "networks": 1, "subnets": 1, "routers": 0, "security_groups": 1},
			func(o plan.Observed) bool {
				return strings.HasPrefix(o.PublicIPv4, "172.24.5.") && o.PrivateIPv4 != o.PublicIPv4
			}},
		{"on a provider network", provider, []string{"core 5 direct"},
			map[string]int{"servers": 5, "floatingips": 0, "networks": 0, "subnets": 0, "routers": 0, "ports": 5, "security_groups": 1},
			func(o plan.Observed) bool {
				return strings.HasPrefix(o.PublicIPv4, "172.24.5.") && o.PrivateIPv4 == o.PublicIPv4
			}},
		{"one way in", made, []string{"core 4 none", "edge 1 floating"},
			map[string]int{"servers": 5, "floatingips": 1, "networks": 1, "routers": 1},
			func(o plan.Observed) bool { return (o.PublicIPv4 != "") == (o.Group == "edge") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, "life", c.o, c.groups...)
			before := cl.census(t)
			start, calls := time.Now(), cl.client.Calls()
			if _, err := cl.tryUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("up: %d API calls in %.1f s", cl.client.Calls()-calls, time.Since(start).Seconds())
			cl.settled()
			now := cl.census(t)
			for kind, n := range c.want {
				if got := count(before, now, kind); got != n {
					t.Errorf("%d %s, want %d", got, kind, n)
				}
			}
			for _, m := range cl.seen {
				if !c.public(m) {
					t.Errorf("addresses of %+v", m)
				}
			}
			metadata(t, cl)
			start, calls = time.Now(), cl.client.Calls()
			cl.down()
			t.Logf("down: %d API calls in %.1f s", cl.client.Calls()-calls, time.Since(start).Seconds())
		})
	}
}

// metadata is what a machine learns of itself: its addresses are told to it.
func metadata(t *testing.T, c *cluster) {
	t.Helper()
	pages, err := servers.List(c.compute, nil).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := servers.ExtractServers(pages)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.seen {
		i := slices.IndexFunc(list, func(s servers.Server) bool { return s.Name == m.Name })
		if i < 0 {
			t.Errorf("no server %s", m.Name)
			continue
		}
		if md := list[i].Metadata; md["plasmid_private_ipv4"] != m.PrivateIPv4 || md["plasmid_public_ipv4"] != m.PublicIPv4 || md["plasmid_group"] != m.Group {
			t.Errorf("machine %+v is told %v", m, md)
		}
	}
}

func TestScale(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "scale", made, "core 3 floating")
	c.up()
	c.groups("core 5 floating")
	if pl := c.up(); !slices.Contains(ids(pl), "create machine scale-core-5") || slices.ContainsFunc(pl.Steps, func(s plan.Step) bool { return s.Action == plan.Delete }) {
		t.Errorf("up to five: %v", ids(pl))
	}
	c.groups("core 2 floating")
	c.c.Nodes[0].Etcd = 1
	c.did = nil
	c.up()
	for _, gone := range []string{"3", "4", "5"} {
		m := "scale-core-" + gone
		left, power, port := slices.Index(c.did, "delete member "+m), slices.Index(c.did, "delete machine "+m), slices.Index(c.did, "delete port "+m)
		if left < 0 || left > power || power > port {
			t.Errorf("machine %s left in the order %v", m, c.did)
		}
	}
}

// A new image or flavor makes machines anew, one at a time; they keep their
// addresses.
func TestReplace(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "replace", made, "core 3 floating")
	c.up()
	addresses := func() string {
		var b strings.Builder
		for _, m := range c.seen {
			b.WriteString(m.Name + " " + m.PrivateIPv4 + " " + m.PublicIPv4 + "\n")
		}
		return b.String()
	}
	before := addresses()
	for _, change := range []func(){func() { c.image = "test-2" }, func() { c.c.Provider.OpenStack.Flavor = "m1.small" }} {
		change()
		down := 0
		c.after = func(s plan.Step) {
			switch s.ID {
			case "delete member " + s.Name:
				down++
			case "create member " + s.Name:
				down--
			}
			if down > 1 {
				t.Errorf("%d machines are away at once", down)
			}
		}
		c.up()
		c.after = nil
		if now := addresses(); now != before {
			t.Errorf("the addresses were\n%sand are\n%s", before, now)
		}
	}
}

// What others change is seen by plan and put right by up.
func TestDrift(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "drift", made, "core 3 floating")
	c.up()
	n, co := c.network, c.compute
	server := func(name string) servers.Server {
		pages, err := servers.List(co, servers.ListOpts{Name: name}).AllPages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		list, err := servers.ExtractServers(pages)
		if err != nil || len(list) != 1 {
			t.Fatal(len(list), err)
		}
		return list[0]
	}
	for _, d := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"a rule deleted, another added", func() error {
			pages, err := rules.List(n, rules.ListOpts{}).AllPages(t.Context())
			if err != nil {
				return err
			}
			list, err := rules.ExtractRules(pages)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(list, func(r rules.SecGroupRule) bool { return r.PortRangeMin == 80 })
			if err := rules.Delete(t.Context(), n, list[i].ID).ExtractErr(); err != nil {
				return err
			}
			return rules.Create(t.Context(), n, rules.CreateOpts{SecGroupID: list[i].SecGroupID, Direction: rules.DirIngress, EtherType: rules.EtherType4, Protocol: rules.ProtocolTCP, PortRangeMin: 2379, PortRangeMax: 2380}).Err
		}, []string{"create security rule tcp 80 from anywhere (IPv4)", "delete security rule tcp 2379 to 2380 from anywhere (IPv4)"}},
		{"a server deleted", func() error {
			s := server("drift-core-2")
			if err := servers.Delete(t.Context(), co, s.ID).ExtractErr(); err != nil {
				return err
			}
			return servers.WaitForStatus(t.Context(), co, s.ID, "DELETED")
		}, []string{"create machine drift-core-2", "update member drift-core-2"}},
		{"a server stopped", func() error {
			s := server("drift-core-3")
			if err := servers.Stop(t.Context(), co, s.ID).ExtractErr(); err != nil {
				return err
			}
			return servers.WaitForStatus(t.Context(), co, s.ID, "SHUTOFF")
		}, []string{"start machine drift-core-3"}},
		{"a floating address deleted", func() error {
			pages, err := floatingips.List(n, floatingips.ListOpts{Description: "plasmid-cluster=drift plasmid-machine=drift-core-1"}).AllPages(t.Context())
			if err != nil {
				return err
			}
			list, err := floatingips.ExtractFloatingIPs(pages)
			if err != nil || len(list) != 1 {
				t.Fatal(len(list), err)
			}
			return floatingips.Delete(t.Context(), n, list[0].ID).ExtractErr()
		}, []string{"create floating IP drift-core-1", "update member drift-core-1"}},
		{"a port without rules", func() error {
			pages, err := ports.List(n, ports.ListOpts{Name: "drift-core-1"}).AllPages(t.Context())
			if err != nil {
				return err
			}
			list, err := ports.ExtractPorts(pages)
			if err != nil || len(list) != 1 {
				t.Fatal(len(list), err)
			}
			return ports.Update(t.Context(), n, list[0].ID, ports.UpdateOpts{SecurityGroups: &[]string{}}).Err
		}, []string{"update port drift-core-1"}},
	} {
		if err := d.do(); err != nil && !strings.Contains(err.Error(), "404") {
			t.Fatalf("%s: %v", d.name, err)
		}
		if got := ids(c.up()); !slices.Equal(got, d.want) {
			t.Errorf("%s: the plan is %v, want %v", d.name, got, d.want)
		}
	}
}

// The console of an imagined server shows no host key: nobody is trusted, and
// the error says what the console says.
func TestNoHostKeyNoTrust(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "key", made, "core 1 none")
	c.up()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.spoil("POST", "/action$", fault{skip: 1, times: 1, met: cancel}) // it is read a second time
	if _, err := c.provider().HostKey(ctx, "key-core-1"); err == nil || !strings.Contains(err.Error(), "LAST LINE") {
		t.Errorf("%v", err)
	}
}
