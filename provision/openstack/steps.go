package openstack

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"plasmid/provision/config"
	"plasmid/provision/plan"
)

// Kinds of steps, beside the plan's own.
const (
	kindSubnet        = "subnet"
	kindRouter        = "router"
	kindLink          = "router interface"
	kindSecurityGroup = "security group"
	kindRule          = "security rule"
	kindServerGroup   = "server group"
	kindPort          = "port"
	kindPublicPort    = "public port"
	kindFloatingIP    = "floating IP"
	kindVolume        = "volume"
	kindDuplicate     = "duplicate" // its name is "<kind> <ID>"
)

func itoa(n int) string { return strconv.Itoa(n) }

// planner knows what is wanted and what there is, and says in steps how to get
// there. It is pure.
type planner struct {
	*config.Cluster
	o *config.OpenStack
	s *state
}

// has reports whether any node group has public addresses of a mode.
func (p planner) has(mode string) bool {
	return slices.ContainsFunc(p.Nodes, func(g config.NodeGroup) bool { return g.PublicIPv4 == mode })
}

// routed reports whether the network that is made has a way out: floating
// addresses need it, and machines without a public address use it if there is
// one. Those with direct addresses have their own.
func (p planner) routed() bool {
	if !p.o.Network.Made() {
		return false
	}
	return p.o.Router != "" || p.has("floating") || p.has("none") && p.s.External != nil
}

// routerID is the router that the made network hangs on, if it is there.
func (p planner) routerID() string {
	if p.o.Router != "" {
		if p.s.UsedRouter != nil {
			return p.s.UsedRouter.ID
		}
		return ""
	}
	if len(p.s.Routers) > 0 {
		return p.s.Routers[0].ID
	}
	return ""
}

// rules are all that the cluster's security group is to have: what Neutron puts
// into every new one, the cluster's machines among themselves, SSH, and the
// public ports.
func (p planner) rules() []ruleKey {
	rules := []ruleKey{
		{Direction: "egress", EtherType: "IPv4"},
		{Direction: "egress", EtherType: "IPv6"},
		{Direction: "ingress", EtherType: "IPv4", Remote: self},
	}
	for _, n := range p.o.SSHAllow {
		if n == "0.0.0.0/0" {
			n = ""
		}
		rules = append(rules, ruleKey{"ingress", "IPv4", "tcp", 22, n})
	}
	for _, port := range p.o.PublicPorts {
		rules = append(rules, ruleKey{"ingress", "IPv4", "tcp", port, ""})
	}
	var out []ruleKey
	for _, r := range rules {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// newGroupRules are in every security group when it is made.
func newGroupRules(r ruleKey) bool { return r.Direction == "egress" }

// steps collects steps; needs that are no steps of the plan are dropped at the
// end.
type steps []plan.Step

func (s *steps) add(a plan.Action, kind, name string, details []string, needs ...string) string {
	id := plan.StepID(a, kind, name)
	*s = append(*s, plan.Step{ID: id, Action: a, Kind: kind, Name: name, Details: details, Needs: needs})
	return id
}

func detail(format string, args ...any) []string { return []string{fmt.Sprintf(format, args...)} }

// shared are the steps that make what machines share.
func (p planner) shared() []plan.Step {
	var s steps
	if p.o.Network.Made() {
		net := plan.StepID(plan.Create, plan.KindNetwork, p.Name)
		sub := plan.StepID(plan.Create, kindSubnet, p.Name)
		if len(p.s.Networks) == 0 {
			s.add(plan.Create, plan.KindNetwork, p.Name, nil)
		}
		if len(p.s.Subnets) == 0 {
			s.add(plan.Create, kindSubnet, p.Name, detail("%s", p.o.Network.CIDR), net)
		}
		if p.routed() {
			p.route(&s, sub)
		}
	}
	sg := plan.StepID(plan.Create, kindSecurityGroup, p.Name)
	var have []rule
	if len(p.s.Groups) == 0 {
		s.add(plan.Create, kindSecurityGroup, p.Name, nil)
	} else {
		have = p.s.Groups[0].Rules
	}
	for _, r := range p.rules() {
		there := slices.ContainsFunc(have, func(h rule) bool { return h.ruleKey == r })
		if !there && (len(p.s.Groups) > 0 || !newGroupRules(r)) {
			s.add(plan.Create, kindRule, r.String(), nil, sg)
		}
	}
	for _, h := range have {
		if !slices.Contains(p.rules(), h.ruleKey) {
			s.add(plan.Delete, kindRule, h.String(), detail("not in the cluster file"))
		}
	}
	if p.o.AntiAffinity != "" && len(p.s.ServerGroups) == 0 {
		s.add(plan.Create, kindServerGroup, p.Name, detail("%s anti-affinity", p.o.AntiAffinity))
	}
	return s
}

// route joins the subnet to a router that has a way out.
func (p planner) route(s *steps, sub string) {
	r := ""
	if p.o.Router == "" {
		switch {
		case len(p.s.Routers) == 0:
			r = s.add(plan.Create, kindRouter, p.Name, p.gatewayDetail())
		case p.s.Routers[0].External == "" && p.s.External != nil:
			r = s.add(plan.Update, kindRouter, p.Name, p.gatewayDetail())
		}
	}
	linked := slices.ContainsFunc(p.s.Links, func(l link) bool { return l.Router != "" && l.Router == p.routerID() })
	if !linked {
		s.add(plan.Create, kindLink, p.Name, nil, sub, r)
	}
}

func (p planner) gatewayDetail() []string {
	if p.s.External == nil {
		return nil
	}
	return detail("gateway to %s", p.s.External.Name)
}

// refine puts the provider's own small steps into a plan: what machines share,
// and the ports, volumes and addresses of machines. A machine's own steps are
// those of its server. Where no machine is wanted, all is to go.
func (p planner) refine(in plan.Input, pl plan.Plan) plan.Plan {
	destroy := len(in.Wanted) == 0
	var s steps
	if !destroy {
		s = p.shared()
	}
	again := map[string]bool{} // machines that are made in this plan
	touched := map[string]bool{}
	for _, st := range pl.Steps {
		if st.Kind == plan.KindMachine && st.Action != plan.Start {
			touched[st.Name] = true
			again[st.Name] = again[st.Name] || st.Action == plan.Create
		}
	}
	s = append(s, p.mend(in, touched, pl)...)
	for _, st := range pl.Steps {
		switch {
		case st.Kind == plan.KindNetwork && st.Action == plan.Create:
			// It stands for all that machines share.
		case st.Kind == plan.KindNetwork && st.Action == plan.Delete:
			p.teardown(&s)
		case st.Kind == plan.KindMachine && st.Action == plan.Create:
			p.createMachine(&s, st)
		case st.Kind == plan.KindMachine && st.Action == plan.Delete:
			p.deleteMachine(&s, st, again[st.Name])
		default:
			s = append(s, st)
		}
	}
	if !destroy { // else all of a name is deleted
		s = append(s, p.duplicates()...)
	}
	return plan.Plan{Steps: tidy(s)}
}

// tidy drops needs that are no steps, and steps that stand there twice.
func tidy(s steps) []plan.Step {
	var out []plan.Step
	ids := map[string]bool{}
	for _, st := range s {
		if !ids[st.ID] {
			ids[st.ID] = true
			out = append(out, st)
		}
	}
	for i := range out {
		var needs []string
		for _, n := range out[i].Needs {
			if ids[n] && !slices.Contains(needs, n) {
				needs = append(needs, n)
			}
		}
		out[i].Needs = needs
	}
	return out
}

// createMachine makes a server and what it needs before it.
func (p planner) createMachine(s *steps, st plan.Step) {
	name := st.Name
	g, _ := nodeGroup(p.Cluster, st.Machine.Group)
	needs := p.createPorts(s, name, g)
	if p.o.BootVolume != nil {
		// The volume of a machine that is made anew is made anew with it.
		needs = append(needs, plan.StepID(plan.Create, kindVolume, name))
		gone := plan.StepID(plan.Delete, kindVolume, name)
		renewed := slices.ContainsFunc(*s, func(x plan.Step) bool { return x.ID == gone })
		v := p.s.volume(name)
		if v != nil && !renewed && (v.Image != st.Machine.Image || v.Shape != st.Machine.Shape) {
			// Of a server that never ran.
			server := s.add(plan.Delete, plan.KindMachine, name, detail("its volume is of another image or shape"))
			s.add(plan.Delete, kindVolume, name, nil, server)
			renewed = true
		}
		if v == nil || renewed {
			s.add(plan.Create, kindVolume, name, detail("%d GiB", p.o.BootVolume.SizeGiB), gone)
			(*s)[len(*s)-1].Machine = st.Machine
		}
	}
	needs = append(needs, plan.StepID(plan.Create, kindServerGroup, p.Name))
	for _, r := range p.rules() {
		needs = append(needs, plan.StepID(plan.Create, kindRule, r.String()))
	}
	if sv := p.s.server(name); sv != nil && sv.Fault != "" {
		st.Details = append(slices.Clone(st.Details), "it failed: "+sv.Fault)
	}
	st.Needs = append(slices.Clone(st.Needs), needs...)
	*s = append(*s, st)
}

// createPorts makes the ports and the floating address of a machine as far as
// they are missing, and returns the steps to wait for.
func (p planner) createPorts(s *steps, name string, g config.NodeGroup) []string {
	shared := []string{
		plan.StepID(plan.Create, plan.KindNetwork, p.Name), plan.StepID(plan.Create, kindSubnet, p.Name),
		plan.StepID(plan.Create, kindSecurityGroup, p.Name),
	}
	if p.s.port(name) == nil {
		s.add(plan.Create, kindPort, name, nil, shared...)
	}
	needs := []string{plan.StepID(plan.Create, kindPort, name)}
	if p.o.TwoNICs(g) {
		if p.s.port(publicPort(name)) == nil {
			s.add(plan.Create, kindPublicPort, name, nil, shared...)
		}
		needs = append(needs, plan.StepID(plan.Create, kindPublicPort, name))
	}
	if g.PublicIPv4 == "floating" {
		needs = append(needs, p.createFloatingIP(s, name))
	}
	return needs
}

// createFloatingIP gives a machine's port a floating address. Neutron refuses
// one before the router is joined to both sides.
func (p planner) createFloatingIP(s *steps, name string) string {
	id := plan.StepID(plan.Create, kindFloatingIP, name)
	pt, f := p.s.port(name), p.s.floatingIP(name)
	if pt == nil || f == nil || f.Port != pt.ID {
		s.add(plan.Create, kindFloatingIP, name, nil, plan.StepID(plan.Create, kindPort, name),
			plan.StepID(plan.Create, kindLink, p.Name), plan.StepID(plan.Create, kindRouter, p.Name), plan.StepID(plan.Update, kindRouter, p.Name))
	}
	return id
}

// deleteMachine deletes a server, and with it what only it had. A machine that
// is to be made again keeps its ports, and so its addresses.
func (p planner) deleteMachine(s *steps, st plan.Step, again bool) {
	*s = append(*s, st)
	if p.s.volume(st.Name) != nil {
		s.add(plan.Delete, kindVolume, st.Name, nil, st.ID)
	}
	if again {
		return
	}
	// The address goes before its port, and after the machine, which may be
	// needed until then.
	before := []string{st.ID}
	if p.s.floatingIP(st.Name) != nil {
		before = append(before, s.add(plan.Delete, kindFloatingIP, st.Name, nil, st.ID))
	}
	if p.s.port(st.Name) != nil {
		s.add(plan.Delete, kindPort, st.Name, nil, before...)
	}
	if p.s.port(publicPort(st.Name)) != nil {
		s.add(plan.Delete, kindPublicPort, st.Name, nil, before...)
	}
}

// mend finds what is wrong with machines that stay: addresses that are missing
// or no longer wanted, ports without the cluster's rules.
func (p planner) mend(in plan.Input, touched map[string]bool, pl plan.Plan) []plan.Step {
	var s steps
	for _, w := range in.Wanted {
		if touched[w.Name] || p.s.server(w.Name) == nil {
			continue
		}
		g, _ := nodeGroup(p.Cluster, w.Group)
		before := len(s)
		if g.PublicIPv4 == "floating" {
			p.createFloatingIP(&s, w.Name)
		} else if p.s.floatingIP(w.Name) != nil {
			s.add(plan.Delete, kindFloatingIP, w.Name, detail("public_ipv4 = %q", g.PublicIPv4))
		}
		if len(s) > before {
			p.reconfigure(&s, in, w, pl, s[len(s)-1].ID)
		}
	}
	for _, pt := range p.s.Ports {
		if len(p.s.Groups) > 0 && !sameSet(pt.Groups, p.portGroups()) && slices.ContainsFunc(in.Wanted, func(w plan.Machine) bool { return w.Name == pt.Name || publicPort(w.Name) == pt.Name }) {
			s.add(plan.Update, kindPort, pt.Name, detail("its security groups are not as wanted"))
		}
	}
	return s
}

// reconfigure tells a member of its new address, unless the plan does anyway.
func (p planner) reconfigure(s *steps, in plan.Input, w plan.Machine, pl plan.Plan, after string) {
	for _, st := range pl.Steps {
		if st.Kind == plan.KindMember && st.Name == w.Name {
			return
		}
	}
	if !slices.ContainsFunc(in.Members, func(m plan.Member) bool { return m.Name == w.Name }) {
		return
	}
	s.add(plan.Update, plan.KindMember, w.Name, detail("its public address changes"), after)
	(*s)[len(*s)-1].Machine = &w
}

// portGroups are the security groups of every port.
func (p planner) portGroups() []string {
	var ids []string
	if len(p.s.Groups) > 0 {
		ids = append(ids, p.s.Groups[0].ID)
	}
	return append(ids, p.s.UsedGroups...)
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// duplicates deletes things that were made twice, by two operators at once.
func (p planner) duplicates() []plan.Step {
	var s steps
	drop := func(kind string, list []object) {
		seen := map[string]bool{}
		for _, o := range list {
			if seen[o.Name] {
				s.add(plan.Delete, kindDuplicate, kind+" "+o.ID, detail("a second %s", o.Name))
			}
			seen[o.Name] = true
		}
	}
	drop(plan.KindMachine, objects(p.s.Servers, serverObject))
	drop(kindPort, objects(p.s.Ports, portObject))
	drop(kindFloatingIP, objects(p.s.FloatingIPs, floatingObject))
	drop(kindVolume, objects(p.s.Volumes, volumeObject))
	// A port that a second server is plugged into goes after it.
	servers := []string{}
	for _, st := range s {
		if strings.HasPrefix(st.Name, plan.KindMachine+" ") {
			servers = append(servers, st.ID)
		}
	}
	for i := range s {
		if !strings.HasPrefix(s[i].Name, plan.KindMachine+" ") {
			s[i].Needs = servers
		}
	}
	return s
}

func objects[T any](list []T, of func(T) object) []object {
	out := make([]object, len(list))
	for i, t := range list {
		out[i] = of(t)
	}
	return out
}

// teardown deletes all that is left when the machines are gone, in the order
// in which OpenStack lets it.
func (p planner) teardown(s *steps) {
	var addresses, ports []string
	for _, st := range *s {
		if st.Action == plan.Delete {
			switch st.Kind {
			case kindFloatingIP:
				addresses = append(addresses, st.ID)
			case kindPort, kindPublicPort, plan.KindMachine:
				ports = append(ports, st.ID)
			}
		}
	}
	name := p.Name
	unlinked := []string{}
	if len(p.s.Links) > 0 {
		unlinked = append(unlinked, s.add(plan.Delete, kindLink, name, nil, slices.Concat(addresses, ports)...))
	}
	if len(p.s.Routers) > 0 {
		s.add(plan.Delete, kindRouter, name, nil, slices.Concat(unlinked, addresses)...)
	}
	if len(p.s.Networks) > 0 || len(p.s.Subnets) > 0 {
		sub := s.add(plan.Delete, kindSubnet, name, nil, slices.Concat(unlinked, ports)...)
		s.add(plan.Delete, plan.KindNetwork, name, nil, sub)
	}
	if len(p.s.Groups) > 0 {
		s.add(plan.Delete, kindSecurityGroup, name, nil, ports...)
	}
	if len(p.s.ServerGroups) > 0 {
		s.add(plan.Delete, kindServerGroup, name, nil, ports...)
	}
}
