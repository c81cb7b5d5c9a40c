package openstack

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servergroups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"plasmid/provision/plan"
)

// Do carries out one step. Each looks first at what there is, so that it may be
// done again after whatever interruption.
func (p *Provider) Do(ctx context.Context, s plan.Step) error {
	type key struct {
		action plan.Action
		kind   string
	}
	do, ok := map[key]func(context.Context, plan.Step) error{
		{plan.Create, plan.KindNetwork}:  p.createNetwork,
		{plan.Create, kindSubnet}:        p.createSubnet,
		{plan.Create, kindRouter}:        p.createRouter,
		{plan.Update, kindRouter}:        p.updateRouter,
		{plan.Create, kindLink}:          p.createLink,
		{plan.Create, kindSecurityGroup}: p.createGroup,
		{plan.Create, kindRule}:          p.createRule,
		{plan.Delete, kindRule}:          p.deleteRule,
		{plan.Create, kindServerGroup}:   p.createServerGroup,
		{plan.Create, kindPort}:          p.createPort,
		{plan.Update, kindPort}:          p.updatePort,
		{plan.Create, kindPublicPort}:    p.createPort,
		{plan.Create, kindFloatingIP}:    p.createFloatingIP,
		{plan.Create, kindVolume}:        p.createVolume,
		{plan.Create, plan.KindMachine}:  p.createServer,
		{plan.Start, plan.KindMachine}:   p.startServer,
		{plan.Delete, plan.KindMachine}:  p.deleteServer,
		{plan.Delete, kindVolume}:        p.deleteVolume,
		{plan.Delete, kindFloatingIP}:    p.deleteFloatingIP,
		{plan.Delete, kindPort}:          p.deletePort,
		{plan.Delete, kindPublicPort}:    p.deletePort,
		{plan.Delete, kindDuplicate}:     p.deleteDuplicate,
		{plan.Delete, kindLink}:          p.deleteLink,
		{plan.Delete, kindRouter}:        p.deleteRouter,
		{plan.Delete, kindSubnet}:        p.deleteSubnet,
		{plan.Delete, plan.KindNetwork}:  p.deleteNetwork,
		{plan.Delete, kindSecurityGroup}: p.deleteGroup,
		{plan.Delete, kindServerGroup}:   p.deleteServerGroup,
	}[key{s.Action, s.Kind}]
	if !ok {
		return fmt.Errorf("OpenStack machines know no step %s", s.ID)
	}
	return do(ctx, s)
}

// change alters the state under the lock.
func (p *Provider) change(f func(*state)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := *p.state // readers keep the old one
	f(&s)
	p.state = &s
	p.changes++
}

func (p *Provider) createNetwork(ctx context.Context, _ plan.Step) error {
	n, err := maker[network]{
		what: "network",
		find: func(ctx context.Context) ([]network, error) { return p.c.networks(ctx, p.mark()) },
		create: func(ctx context.Context) (network, error) {
			n, err := networks.Create(ctx, p.c.network, networks.CreateOpts{Name: "plasmid-" + p.cluster.Name, Description: p.mark()}).Extract()
			if err != nil {
				return network{}, err
			}
			return network{object{n.ID, n.Name, n.CreatedAt}}, nil
		},
		remove: func(ctx context.Context, n network) error {
			return networks.Delete(ctx, p.c.network, n.ID).ExtractErr()
		},
		id: func(n network) string { return n.ID },
	}.ensure(ctx)
	if err == nil {
		p.change(func(s *state) { s.Networks = []network{n} })
	}
	return err
}

func (p *Provider) createSubnet(ctx context.Context, _ plan.Step) error {
	pl := p.planner()
	n, err := maker[subnet]{
		what: "subnet",
		find: func(ctx context.Context) ([]subnet, error) { return p.c.subnets(ctx, p.mark()) },
		create: func(ctx context.Context) (subnet, error) {
			opts := subnets.CreateOpts{
				NetworkID: pl.s.networkID(p.o), Name: "plasmid-" + p.cluster.Name, Description: p.mark(),
				CIDR: p.o.Network.CIDR, IPVersion: gophercloud.IPv4, DNSNameservers: p.o.DNS,
			}
			if !pl.routed() {
				none := "" // machines with a public NIC would have two ways out
				opts.GatewayIP = &none
			}
			n, err := subnets.Create(ctx, p.c.network, opts).Extract()
			if err != nil {
				return subnet{}, err
			}
			return toSubnet(*n), nil
		},
		remove: func(ctx context.Context, n subnet) error { return subnets.Delete(ctx, p.c.network, n.ID).ExtractErr() },
		id:     func(n subnet) string { return n.ID },
	}.ensure(ctx)
	if err == nil {
		p.change(func(s *state) { s.Subnets = []subnet{n} })
	}
	return err
}

func (p *Provider) gateway() *routers.GatewayInfo {
	if e := p.planner().s.External; e != nil {
		return &routers.GatewayInfo{NetworkID: e.ID}
	}
	return nil
}

func (p *Provider) createRouter(ctx context.Context, _ plan.Step) error {
	r, err := maker[router]{
		what: "router",
		find: func(ctx context.Context) ([]router, error) { return p.c.routers(ctx, p.mark()) },
		create: func(ctx context.Context) (router, error) {
			r, err := routers.Create(ctx, p.c.network, routers.CreateOpts{Name: "plasmid-" + p.cluster.Name, Description: p.mark(), GatewayInfo: p.gateway()}).Extract()
			if err != nil {
				return router{}, err
			}
			return toRouter(*r), nil
		},
		remove: func(ctx context.Context, r router) error { return routers.Delete(ctx, p.c.network, r.ID).ExtractErr() },
		id:     func(r router) string { return r.ID },
	}.ensure(ctx)
	if err == nil {
		p.change(func(s *state) { s.Routers = []router{r} })
	}
	return err
}

func (p *Provider) updateRouter(ctx context.Context, _ plan.Step) error {
	_, err := routers.Update(ctx, p.c.network, p.planner().routerID(), routers.UpdateOpts{GatewayInfo: p.gateway()}).Extract()
	return said(err)
}

// createLink joins the subnet to the router. Neutron refuses to do it twice.
func (p *Provider) createLink(ctx context.Context, _ plan.Step) error {
	pl := p.planner()
	l, err := maker[link]{
		what: "router interface",
		find: func(ctx context.Context) ([]link, error) {
			list, err := p.c.links(ctx, pl.s.networkID(p.o))
			return slices.DeleteFunc(list, func(l link) bool { return l.Router != pl.routerID() }), err
		},
		create: func(ctx context.Context) (link, error) {
			i, err := routers.AddInterface(ctx, p.c.network, pl.routerID(), routers.AddInterfaceOpts{SubnetID: pl.s.subnetID(p.o)}).Extract()
			if err != nil {
				return link{}, err
			}
			return link{pl.routerID(), i.SubnetID, i.PortID}, nil
		},
		remove: func(context.Context, link) error { return nil },
		id:     func(l link) string { return l.Router },
	}.ensure(ctx)
	if err == nil {
		p.change(func(s *state) { s.Links = []link{l} })
	}
	return err
}

func (p *Provider) createGroup(ctx context.Context, _ plan.Step) error {
	g, err := maker[securityGroup]{
		what: kindSecurityGroup,
		find: func(ctx context.Context) ([]securityGroup, error) { return p.c.groups(ctx, p.mark()) },
		create: func(ctx context.Context) (securityGroup, error) {
			g, err := groups.Create(ctx, p.c.network, groups.CreateOpts{Name: "plasmid-" + p.cluster.Name, Description: p.mark()}).Extract()
			if err != nil {
				return securityGroup{}, err
			}
			return toGroup(*g), nil
		},
		remove: func(ctx context.Context, g securityGroup) error {
			return groups.Delete(ctx, p.c.network, g.ID).ExtractErr()
		},
		id: func(g securityGroup) string { return g.ID },
	}.ensure(ctx)
	if err == nil {
		p.change(func(s *state) { s.Groups = []securityGroup{g} })
	}
	return err
}

func (p *Provider) createRule(ctx context.Context, st plan.Step) error {
	pl := p.planner()
	i := slices.IndexFunc(pl.rules(), func(r ruleKey) bool { return r.String() == st.Name })
	if i < 0 || len(pl.s.Groups) == 0 {
		return fmt.Errorf("the cluster has no rule %q, or no security group for it", st.Name)
	}
	r, group := pl.rules()[i], pl.s.Groups[0].ID
	opts := rules.CreateOpts{
		SecGroupID: group, Direction: rules.RuleDirection(r.Direction), EtherType: rules.RuleEtherType(r.EtherType),
		Protocol: rules.RuleProtocol(r.Protocol), PortRangeMin: r.Port, PortRangeMax: r.Port, RemoteIPPrefix: r.Remote,
	}
	if r.Remote == self {
		opts.RemoteIPPrefix, opts.RemoteGroupID = "", group
	}
	// Neutron refuses a rule that is there, so this can't make two.
	for try := 1; ; try++ {
		_, err := rules.Create(ctx, p.c.network, opts).Extract()
		var e *apiError
		if err = said(err); err == nil || asError(err, &e) && e.code == 409 && (e.kind == "SecurityGroupRuleExists" || strings.Contains(e.message, "already exists")) {
			return nil
		}
		if !undecided(err) || try == ensureTries {
			return err
		}
		if e := sleep(ctx, backOff(try)); e != nil {
			return e
		}
	}
}

func (p *Provider) deleteRule(ctx context.Context, st plan.Step) error {
	list, err := p.c.groups(ctx, p.mark())
	if err != nil {
		return err
	}
	for _, g := range list {
		for _, r := range g.Rules {
			if r.String() == st.Name {
				if err := rules.Delete(ctx, p.c.network, r.ID).ExtractErr(); err != nil && !isGone(err) {
					return said(err)
				}
			}
		}
	}
	return nil
}

func (p *Provider) createServerGroup(ctx context.Context, _ plan.Step) error {
	policy := map[string]string{"soft": "soft-anti-affinity", "hard": "anti-affinity"}[p.o.AntiAffinity]
	g, err := maker[serverGroup]{
		what: kindServerGroup,
		find: func(ctx context.Context) ([]serverGroup, error) { return p.c.serverGroups(ctx, p.mark()) },
		create: func(ctx context.Context) (serverGroup, error) {
			g, err := servergroups.Create(ctx, p.c.compute, servergroups.CreateOpts{Name: p.mark(), Policy: policy}).Extract()
			if err != nil {
				return serverGroup{}, err
			}
			return serverGroup{object{ID: g.ID, Name: g.Name}}, nil
		},
		remove: func(ctx context.Context, g serverGroup) error {
			return servergroups.Delete(ctx, p.c.compute, g.ID).ExtractErr()
		},
		id: func(g serverGroup) string { return g.ID },
	}.ensure(ctx)
	if err == nil {
		p.change(func(s *state) { s.ServerGroups = []serverGroup{g} })
	}
	return err
}

func (p *Provider) createPort(ctx context.Context, st plan.Step) error {
	pl := p.planner()
	opts := ports.CreateOpts{NetworkID: pl.s.networkID(p.o), Name: st.Name, Description: p.mark()}
	if st.Kind == kindPublicPort {
		if pl.s.External == nil {
			return fmt.Errorf("no network is known that public addresses come from")
		}
		opts.NetworkID, opts.Name = pl.s.External.ID, publicPort(st.Name)
	} else if id := pl.s.subnetID(p.o); id != "" {
		opts.FixedIPs = []ports.IP{{SubnetID: id}}
	}
	groups := pl.portGroups()
	opts.SecurityGroups = &groups
	if st.Kind == kindPort {
		for _, a := range p.o.AllowedAddresses {
			opts.AllowedAddressPairs = append(opts.AllowedAddressPairs, ports.AddressPair{IPAddress: a})
		}
	}
	_, err := maker[port]{
		what: kindPort,
		find: func(ctx context.Context) ([]port, error) { return p.c.ports(ctx, p.mark(), opts.Name) },
		create: func(ctx context.Context) (port, error) {
			n, err := ports.Create(ctx, p.c.network, opts).Extract()
			if err != nil {
				return port{}, err
			}
			return toPort(*n), nil
		},
		remove: func(ctx context.Context, n port) error { return ports.Delete(ctx, p.c.network, n.ID).ExtractErr() },
		id:     func(n port) string { return n.ID },
	}.ensure(ctx)
	return err
}

// updatePort puts a port into the cluster's security groups.
func (p *Provider) updatePort(ctx context.Context, st plan.Step) error {
	list, err := p.c.ports(ctx, p.mark(), st.Name)
	if err != nil {
		return err
	}
	groups := p.planner().portGroups()
	for _, n := range list {
		if _, err := ports.Update(ctx, p.c.network, n.ID, ports.UpdateOpts{SecurityGroups: &groups}).Extract(); err != nil {
			return said(err)
		}
	}
	return nil
}

func (p *Provider) deletePort(ctx context.Context, st plan.Step) error {
	name := st.Name
	if st.Kind == kindPublicPort {
		name = publicPort(name)
	}
	list, err := p.c.ports(ctx, p.mark(), name)
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := p.removePort(ctx, n.ID); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) removePort(ctx context.Context, id string) error {
	return untilGone(ctx, func(ctx context.Context) error { return ports.Delete(ctx, p.c.network, id).ExtractErr() }, nil)
}

// deleteLink takes the cluster's subnets off their routers, whichever kind of
// port those have there.
func (p *Provider) deleteLink(ctx context.Context, _ plan.Step) error {
	list, err := p.c.networks(ctx, p.mark())
	if err != nil {
		return err
	}
	for _, n := range list {
		links, err := p.c.links(ctx, n.ID)
		if err != nil {
			return err
		}
		for _, l := range links {
			err := untilGone(ctx, func(ctx context.Context) error {
				_, err := routers.RemoveInterface(ctx, p.c.network, l.Router, routers.RemoveInterfaceOpts{SubnetID: l.Subnet}).Extract()
				return err
			}, nil)
			if err != nil {
				return fmt.Errorf("taking subnet %s off router %s: %w", l.Subnet, l.Router, err)
			}
		}
	}
	return nil
}

func (p *Provider) deleteRouter(ctx context.Context, _ plan.Step) error {
	list, err := p.c.routers(ctx, p.mark())
	if err != nil {
		return err
	}
	for _, r := range list {
		// Without its gateway first, a distributed or highly available router
		// keeps ports that forbid its deletion.
		if r.External != "" {
			if _, err := routers.Update(ctx, p.c.network, r.ID, routers.UpdateOpts{GatewayInfo: &routers.GatewayInfo{}}).Extract(); err != nil && !isGone(err) {
				return fmt.Errorf("taking the gateway off router %s: %w", r.Name, said(err))
			}
		}
		if err := untilGone(ctx, func(ctx context.Context) error { return routers.Delete(ctx, p.c.network, r.ID).ExtractErr() }, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) deleteSubnet(ctx context.Context, _ plan.Step) error {
	if err := p.strangers(ctx); err != nil {
		return err
	}
	list, err := p.c.subnets(ctx, p.mark())
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := untilGone(ctx, func(ctx context.Context) error { return subnets.Delete(ctx, p.c.network, n.ID).ExtractErr() }, nil); err != nil {
			return err
		}
	}
	return nil
}

// strangers refuses to take away a network that somebody else uses: his ports
// are not ours to delete.
func (p *Provider) strangers(ctx context.Context) error {
	list, err := p.c.networks(ctx, p.mark())
	if err != nil {
		return err
	}
	for _, n := range list {
		found, err := all(ctx, ports.List(p.c.network, ports.ListOpts{NetworkID: n.ID}), ports.ExtractPorts)
		if err != nil {
			return err
		}
		for _, f := range found {
			// network: is Neutron's own, which go with the network.
			if f.Description != p.mark() && !strings.HasPrefix(f.DeviceOwner, "network:") {
				return fmt.Errorf("port %s on the cluster's network is not the cluster's (of %s %s); the network stays until it is gone: openstack port delete %s, and run plasmid down again",
					cmp.Or(f.Name, f.ID), cmp.Or(f.DeviceOwner, "nobody"), f.DeviceID, f.ID)
			}
		}
	}
	return nil
}

func (p *Provider) deleteNetwork(ctx context.Context, _ plan.Step) error {
	list, err := p.c.networks(ctx, p.mark())
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := untilGone(ctx, func(ctx context.Context) error { return networks.Delete(ctx, p.c.network, n.ID).ExtractErr() }, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) deleteGroup(ctx context.Context, _ plan.Step) error {
	list, err := p.c.groups(ctx, p.mark())
	if err != nil {
		return err
	}
	for _, g := range list {
		if err := untilGone(ctx, func(ctx context.Context) error { return groups.Delete(ctx, p.c.network, g.ID).ExtractErr() }, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) deleteServerGroup(ctx context.Context, _ plan.Step) error {
	list, err := p.c.serverGroups(ctx, p.mark())
	if err != nil {
		return err
	}
	for _, g := range list {
		if err := servergroups.Delete(ctx, p.c.compute, g.ID).ExtractErr(); err != nil && !isGone(err) {
			return said(err)
		}
	}
	return nil
}

// deleteDuplicate deletes one of several things that are the same, by its ID,
// if it still is the cluster's.
func (p *Provider) deleteDuplicate(ctx context.Context, st plan.Step) error {
	i := strings.LastIndexByte(st.Name, ' ')
	kind, id := st.Name[:i], st.Name[i+1:]
	s, err := p.c.observe(ctx, p.cluster)
	if err != nil {
		return err
	}
	has := func(list []object) bool { return slices.ContainsFunc(list, func(o object) bool { return o.ID == id }) }
	switch {
	case kind == plan.KindMachine && has(objects(s.Servers, serverObject)):
		return p.removeServer(ctx, id)
	case kind == kindPort && has(objects(s.Ports, portObject)):
		return p.removePort(ctx, id)
	case kind == kindFloatingIP && has(objects(s.FloatingIPs, floatingObject)):
		return p.removeFloatingIP(ctx, id)
	case kind == kindVolume && has(objects(s.Volumes, volumeObject)):
		return p.removeVolume(ctx, id)
	}
	return nil
}
