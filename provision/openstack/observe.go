package openstack

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servergroups"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/external"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
	"github.com/gophercloud/gophercloud/v2/pagination"
	"golang.org/x/sync/errgroup"

	"plasmid/provision/config"
)

// all reads every page of a list.
func all[T any](ctx context.Context, p pagination.Pager, extract func(pagination.Page) ([]T, error)) ([]T, error) {
	pages, err := p.AllPages(ctx)
	if err != nil {
		return nil, said(err)
	}
	return extract(pages)
}

// convert keeps what belongs to the cluster, the oldest first.
func convert[T, U any](list []T, ours func(T) bool, to func(T) U, of func(U) object) []U {
	var out []U
	for _, t := range list {
		if ours(t) {
			out = append(out, to(t))
		}
	}
	slices.SortStableFunc(out, func(a, b U) int { return oldest(of(a), of(b)) })
	return out
}

// The lists of what carries a cluster's mark. Services filter what they can; what
// they return is looked at again, since older ones ignore filters that they do
// not know.

func (c *Client) networks(ctx context.Context, m string) ([]network, error) {
	list, err := all(ctx, networks.List(c.network, networks.ListOpts{Description: m, ProjectID: c.project}), networks.ExtractNetworks)
	return convert(list, func(n networks.Network) bool { return n.Description == m },
		func(n networks.Network) network { return network{object{n.ID, n.Name, n.CreatedAt}} },
		func(n network) object { return n.object }), err
}

func (c *Client) subnets(ctx context.Context, m string) ([]subnet, error) {
	list, err := all(ctx, subnets.List(c.network, subnets.ListOpts{Description: m, ProjectID: c.project}), subnets.ExtractSubnets)
	return convert(list, func(n subnets.Subnet) bool { return n.Description == m }, toSubnet, func(n subnet) object { return n.object }), err
}

func toSubnet(n subnets.Subnet) subnet {
	return subnet{object{n.ID, n.Name, n.CreatedAt}, n.NetworkID, n.CIDR, n.GatewayIP}
}

func (c *Client) routers(ctx context.Context, m string) ([]router, error) {
	list, err := all(ctx, routers.List(c.network, routers.ListOpts{Description: m, ProjectID: c.project}), routers.ExtractRouters)
	return convert(list, func(r routers.Router) bool { return r.Description == m }, toRouter, func(r router) object { return r.object }), err
}

func toRouter(r routers.Router) router {
	return router{object{r.ID, r.Name, r.CreatedAt}, r.GatewayInfo.NetworkID}
}

func (c *Client) groups(ctx context.Context, m string) ([]securityGroup, error) {
	list, err := all(ctx, groups.List(c.network, groups.ListOpts{Description: m, ProjectID: c.project}), groups.ExtractGroups)
	return convert(list, func(g groups.SecGroup) bool { return g.Description == m }, toGroup, func(g securityGroup) object { return g.object }), err
}

func toGroup(g groups.SecGroup) securityGroup {
	out := securityGroup{object: object{g.ID, g.Name, g.CreatedAt}}
	for _, r := range g.Rules {
		k := ruleKey{Direction: r.Direction, EtherType: r.EtherType, Protocol: r.Protocol, Port: r.PortRangeMin, Remote: r.RemoteIPPrefix}
		switch {
		case r.RemoteGroupID == g.ID:
			k.Remote = self
		case r.RemoteGroupID != "":
			k.Remote = "security group " + r.RemoteGroupID
		case r.RemoteIPPrefix == "0.0.0.0/0":
			k.Remote = "" // the same, says Neutron
		}
		if r.PortRangeMin != r.PortRangeMax {
			k.Protocol += fmt.Sprintf(" %d to %d", r.PortRangeMin, r.PortRangeMax)
			k.Port = 0
		}
		out.Rules = append(out.Rules, rule{r.ID, k})
	}
	return out
}

func (c *Client) ports(ctx context.Context, m, name string) ([]port, error) {
	list, err := all(ctx, ports.List(c.network, ports.ListOpts{Description: m, ProjectID: c.project, Name: name}), ports.ExtractPorts)
	return convert(list, func(p ports.Port) bool { return p.Description == m && (name == "" || p.Name == name) }, toPort, portObject), err
}

func toPort(p ports.Port) port {
	out := port{object: object{p.ID, p.Name, p.CreatedAt}, Network: p.NetworkID, MAC: p.MACAddress, Server: p.DeviceID, Groups: p.SecurityGroups}
	for _, ip := range p.FixedIPs {
		if !strings.Contains(ip.IPAddress, ":") {
			out.Address = ip.IPAddress
			break
		}
	}
	return out
}

// floatingIPs have no names: the mark holds their machine's.
func (c *Client) floatingIPs(ctx context.Context, cluster, machine string) ([]floatingIP, error) {
	opts := floatingips.ListOpts{ProjectID: c.project}
	prefix := machineMark(cluster, "")
	if machine != "" {
		opts.Description = machineMark(cluster, machine)
	}
	list, err := all(ctx, floatingips.List(c.network, opts), floatingips.ExtractFloatingIPs)
	return convert(list,
		func(f floatingips.FloatingIP) bool {
			name, ours := strings.CutPrefix(f.Description, prefix)
			return ours && (machine == "" || name == machine)
		},
		func(f floatingips.FloatingIP) floatingIP {
			return floatingIP{object{f.ID, strings.TrimPrefix(f.Description, prefix), f.CreatedAt}, f.FloatingIP, f.PortID}
		}, floatingObject), err
}

// servers lists those of one machine, or of all if it is empty.
func (c *Client) servers(ctx context.Context, cluster, machine string) ([]server, error) {
	var opts servers.ListOpts
	if machine != "" {
		opts.Name = "^" + machine + "$" // Nova takes it for a regular expression
	}
	list, err := all(ctx, servers.List(c.compute, opts), servers.ExtractServers)
	return convert(list,
		func(s servers.Server) bool {
			return s.Metadata[metaCluster] == cluster && (machine == "" || s.Name == machine)
		},
		func(s servers.Server) server {
			return server{object{s.ID, s.Name, s.Created}, s.Status, s.Fault.Message, s.Metadata}
		}, serverObject), err
}

// serverGroups carry nothing but a name, which is the mark.
func (c *Client) serverGroups(ctx context.Context, m string) ([]serverGroup, error) {
	list, err := all(ctx, servergroups.List(c.compute, nil), servergroups.ExtractServerGroups)
	return convert(list, func(g servergroups.ServerGroup) bool { return g.Name == m },
		func(g servergroups.ServerGroup) serverGroup { return serverGroup{object{ID: g.ID, Name: g.Name}} },
		func(g serverGroup) object { return g.object }), err
}

func (c *Client) volumes(ctx context.Context, cluster string) ([]volume, error) {
	if c.volume == nil {
		return nil, nil
	}
	list, err := all(ctx, volumes.List(c.volume, volumes.ListOpts{Metadata: map[string]string{metaCluster: cluster}}), volumes.ExtractVolumes)
	return convert(list, func(v volumes.Volume) bool { return v.Metadata[metaCluster] == cluster },
		func(v volumes.Volume) volume {
			return volume{object{v.ID, v.Name, v.CreatedAt}, v.Status, v.Metadata[metaImage], v.Metadata[metaShape]}
		}, volumeObject), err
}

// routerOwners are the kinds of ports by which routers have a foot in a
// network: plain, distributed (DVR) and highly available (L3 HA) ones.
var routerOwners = []string{"network:router_interface", "network:router_interface_distributed", "network:ha_router_replicated_interface"}

// links finds the routers that subnets of a network are joined to.
func (c *Client) links(ctx context.Context, network string) ([]link, error) {
	list, err := all(ctx, ports.List(c.network, ports.ListOpts{NetworkID: network}), ports.ExtractPorts)
	if err != nil {
		return nil, err
	}
	var out []link
	for _, p := range list {
		for _, ip := range p.FixedIPs {
			l := link{Router: p.DeviceID, Subnet: ip.SubnetID, Port: p.ID}
			same := func(o link) bool { return o.Router == l.Router && o.Subnet == l.Subnet }
			if slices.Contains(routerOwners, p.DeviceOwner) && !slices.ContainsFunc(out, same) {
				out = append(out, l)
			}
		}
	}
	return out, nil
}

// observe lists all that carries the cluster's mark, and looks up what the
// cluster file names.
func (c *Client) observe(ctx context.Context, cl *config.Cluster) (*state, error) {
	s := &state{}
	m := mark(cl.Name)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if s.Networks, err = c.networks(gctx, m); err != nil {
			return err
		}
		for _, n := range s.Networks {
			l, err := c.links(gctx, n.ID)
			if err != nil {
				return err
			}
			s.Links = append(s.Links, l...)
		}
		return nil
	})
	g.Go(func() (err error) { s.Subnets, err = c.subnets(gctx, m); return })
	g.Go(func() (err error) { s.Routers, err = c.routers(gctx, m); return })
	g.Go(func() (err error) { s.Groups, err = c.groups(gctx, m); return })
	g.Go(func() (err error) { s.Ports, err = c.ports(gctx, m, ""); return })
	g.Go(func() (err error) { s.FloatingIPs, err = c.floatingIPs(gctx, cl.Name, ""); return })
	g.Go(func() (err error) { s.Servers, err = c.servers(gctx, cl.Name, ""); return })
	g.Go(func() (err error) { s.ServerGroups, err = c.serverGroups(gctx, m); return })
	g.Go(func() (err error) { s.Volumes, err = c.volumes(gctx, cl.Name); return })
	g.Go(func() error { return c.resolve(gctx, cl, s) })
	return s, g.Wait()
}

// resolve looks up what the cluster file names.
func (c *Client) resolve(ctx context.Context, cl *config.Cluster, s *state) error {
	o := cl.Provider.OpenStack
	p := planner{cl, o, s}
	needed := p.has("floating") || slices.ContainsFunc(cl.Nodes, o.TwoNICs)
	var err error
	if s.External, err = c.externalNetwork(ctx, o.ExternalNetwork, needed, s); err != nil {
		return err
	}
	if !o.Network.Made() {
		if err := c.existingNetwork(ctx, o.Network, s); err != nil {
			return err
		}
	}
	if o.Router != "" {
		list, err := all(ctx, routers.List(c.network, routers.ListOpts{}), routers.ExtractRouters)
		if err != nil {
			return err
		}
		if r, f := pick(list, "router", o.Router, func(r routers.Router) (string, string) { return r.ID, r.Name }); f != nil {
			s.Unresolved = append(s.Unresolved, *f)
		} else {
			found := toRouter(*r)
			s.UsedRouter = &found
		}
	}
	if len(o.SecurityGroups) > 0 {
		list, err := all(ctx, groups.List(c.network, groups.ListOpts{ProjectID: c.project}), groups.ExtractGroups)
		if err != nil {
			return err
		}
		for _, want := range o.SecurityGroups {
			if g, f := pick(list, "security group", want, func(g groups.SecGroup) (string, string) { return g.ID, g.Name }); f != nil {
				s.Unresolved = append(s.Unresolved, *f)
			} else {
				s.UsedGroups = append(s.UsedGroups, g.ID)
			}
		}
	}
	return nil
}

// pick chooses from a list by ID, or by name if only one has it.
func pick[T any](list []T, what, want string, of func(T) (id, name string)) (*T, *Finding) {
	var found []*T
	var names []string
	for i := range list {
		id, name := of(list[i])
		if id == want {
			return &list[i], nil
		}
		if name == want {
			found = append(found, &list[i])
		}
		names = append(names, cmp.Or(name, id))
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		remedy := "The project sees none at all."
		if len(names) > 0 {
			slices.Sort(names)
			names = slices.Compact(names)
			more := ""
			if len(names) > 12 {
				names, more = names[:12], " …"
			}
			remedy = "The project sees: " + strings.Join(names, ", ") + more
		}
		return nil, &Finding{fmt.Sprintf("there is no %s %q", what, want), remedy}
	}
	return nil, &Finding{fmt.Sprintf("%d %ss are named %q", len(found), what, want), "Give the ID instead: openstack " + what + " list"}
}

type externalOrNot struct {
	networks.Network
	external.NetworkExternalExt
}

func extractExternal(p pagination.Page) ([]externalOrNot, error) {
	var out []externalOrNot
	err := networks.ExtractNetworksInto(p, &out)
	return out, err
}

func networkNames(n externalOrNot) (string, string) { return n.ID, n.Name }

// externalNetwork finds the one that is named, else the only one.
func (c *Client) externalNetwork(ctx context.Context, name string, needed bool, s *state) (*network, error) {
	var opts networks.ListOptsBuilder = networks.ListOpts{}
	if name == "" {
		yes := true
		opts = external.ListOptsExt{ListOptsBuilder: opts, External: &yes}
	}
	list, err := all(ctx, networks.List(c.network, opts), extractExternal)
	if err != nil {
		return nil, err
	}
	if name != "" {
		n, f := pick(list, "network", name, networkNames)
		if f != nil {
			s.Unresolved = append(s.Unresolved, *f)
			return nil, nil
		}
		return &network{object{n.ID, n.Name, n.CreatedAt}}, nil
	}
	list = slices.DeleteFunc(list, func(n externalOrNot) bool { return !n.External })
	switch {
	case len(list) == 1:
		return &network{object{list[0].ID, list[0].Name, list[0].CreatedAt}}, nil
	case needed && len(list) == 0:
		s.Unresolved = append(s.Unresolved, Finding{"the cloud has no external network, from which public addresses come", `Set public_ipv4 = "none" for the node groups, or ask the cloud's operators.`})
	case needed:
		var names []string
		for _, n := range list {
			names = append(names, n.Name)
		}
		slices.Sort(names)
		s.Unresolved = append(s.Unresolved, Finding{fmt.Sprintf("the cloud has %d external networks: %s", len(list), strings.Join(names, ", ")), "Choose one: external_network = " + fmt.Sprintf("%q", names[0])})
	}
	return nil, nil
}

func (c *Client) existingNetwork(ctx context.Context, want config.Network, s *state) error {
	list, err := all(ctx, networks.List(c.network, networks.ListOpts{}), extractExternal)
	if err != nil {
		return err
	}
	n, f := pick(list, "network", cmp.Or(want.ID, want.Name), networkNames)
	if f != nil {
		s.Unresolved = append(s.Unresolved, *f)
		return nil
	}
	s.UsedNetwork = &network{object{n.ID, n.Name, n.CreatedAt}}
	subs, err := all(ctx, subnets.List(c.network, subnets.ListOpts{NetworkID: n.ID, IPVersion: 4}), subnets.ExtractSubnets)
	if err != nil {
		return err
	}
	if want.Subnet == "" && len(subs) == 1 {
		found := toSubnet(subs[0])
		s.UsedSubnet = &found
		return nil
	}
	if want.Subnet == "" {
		f := Finding{fmt.Sprintf("network %s has %d IPv4 subnets", n.Name, len(subs)), "Choose one in the network block: subnet = \"…\""}
		if len(subs) == 0 {
			f.Remedy = "Machines need one; give the network a subnet, or let one be made: network { cidr = \"10.42.0.0/24\" }"
		}
		s.Unresolved = append(s.Unresolved, f)
		return nil
	}
	sub, f := pick(subs, "subnet", want.Subnet, func(s subnets.Subnet) (string, string) { return s.ID, s.Name })
	if f != nil {
		s.Unresolved = append(s.Unresolved, *f)
		return nil
	}
	found := toSubnet(*sub)
	s.UsedSubnet = &found
	return nil
}

// absent treats what the cloud does not have, or does not show to this user, as
// nothing.
func absent(err error) bool {
	return hasCode(err, http.StatusNotFound, http.StatusForbidden, http.StatusNotImplemented)
}
