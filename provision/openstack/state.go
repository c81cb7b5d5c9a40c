package openstack

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"plasmid/provision/config"
	"plasmid/provision/plan"
)

// object is what all things in the cloud have.
type object struct {
	ID      string
	Name    string
	Created time.Time
}

type network struct{ object }

type subnet struct {
	object
	Network, CIDR, Gateway string
}

type router struct {
	object
	External string // ID of the network of its gateway; empty: none
}

// link joins a subnet to a router, by a port.
type link struct{ Router, Subnet, Port string }

// rule is one of a security group. Remote is a network, self for the group
// itself, or empty for anywhere.
type rule struct {
	ID string
	ruleKey
}

type ruleKey struct {
	Direction, EtherType, Protocol string
	Port                           int // 0: any
	Remote                         string
}

const self = "self"

// String is the rule in a user's words.
func (k ruleKey) String() string {
	what, remote := cmp.Or(k.Protocol, "all"), cmp.Or(k.Remote, "anywhere")
	if k.Port != 0 {
		what += " " + itoa(k.Port)
	}
	if remote == self {
		remote = "the cluster"
	}
	if k.Direction == "egress" {
		return what + " to " + remote + " (" + k.EtherType + ")"
	}
	return what + " from " + remote + " (" + k.EtherType + ")"
}

type securityGroup struct {
	object
	Rules []rule
}

type serverGroup struct{ object }

// port is of a machine, which it is named after; a public one has the suffix
// that publicPort adds.
type port struct {
	object
	Network, Address, MAC string
	Server                string // that it is plugged into
	Groups                []string
}

type floatingIP struct {
	object  // named after its machine
	Address string
	Port    string
}

type volume struct {
	object // named after its machine
	Status string
	Image  string // that it was made from, as in a machine's
	Shape  string
}

type server struct {
	object
	Status string
	Fault  string
	Meta   map[string]string
}

// state is what there is in the cloud: the things that carry the cluster's
// mark, and those that it uses. Lists are in the order in which things were
// made: of several that are the same, the first counts.
type state struct {
	Networks     []network
	Subnets      []subnet
	Routers      []router
	Links        []link // of the cluster's subnets
	Groups       []securityGroup
	ServerGroups []serverGroup
	Ports        []port
	FloatingIPs  []floatingIP
	Volumes      []volume
	Servers      []server

	External    *network // that addresses come from; nil if none is found
	UsedNetwork *network // existing, of the cluster file
	UsedSubnet  *subnet
	UsedRouter  *router
	UsedGroups  []string  // IDs
	Unresolved  []Finding // what the cluster file names and is not there
}

// Names of the keys of a server's metadata. cloud-init hands them on to
// plasmidd, which reads the cluster's name and the addresses.
const (
	metaCluster = "plasmid_cluster"
	metaGroup   = "plasmid_group"
	metaImage   = "plasmid_image"
	metaShape   = "plasmid_shape"
	metaPrivate = "plasmid_private_ipv4"
	metaPublic  = "plasmid_public_ipv4"
)

// mark is the description of everything that belongs to a cluster and can have
// one; it is given at birth.
func mark(cluster string) string { return "plasmid-cluster=" + cluster }

// machineMark is for what has no name of its own.
func machineMark(cluster, machine string) string {
	return mark(cluster) + " plasmid-machine=" + machine
}

func publicPort(machine string) string { return machine + "-public" }

// oldest orders things that are the same: all operators agree on the first.
func oldest(a, b object) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
}

// first finds a thing by name.
func first[T any](list []T, name string, of func(T) object) *T {
	i := slices.IndexFunc(list, func(t T) bool { return of(t).Name == name })
	if i < 0 {
		return nil
	}
	return &list[i]
}

func portObject(p port) object              { return p.object }
func floatingObject(f floatingIP) object    { return f.object }
func volumeObject(v volume) object          { return v.object }
func serverObject(s server) object          { return s.object }
func (s *state) port(name string) *port     { return first(s.Ports, name, portObject) }
func (s *state) server(name string) *server { return first(s.Servers, name, serverObject) }
func (s *state) volume(name string) *volume { return first(s.Volumes, name, volumeObject) }
func (s *state) floatingIP(machine string) *floatingIP {
	return first(s.FloatingIPs, machine, floatingObject)
}

// networkID is where machines have their private address; empty if it is not
// made yet.
func (s *state) networkID(o *config.OpenStack) string {
	switch {
	case !o.Network.Made() && s.UsedNetwork != nil:
		return s.UsedNetwork.ID
	case o.Network.Made() && len(s.Networks) > 0:
		return s.Networks[0].ID
	}
	return ""
}

func (s *state) subnetID(o *config.OpenStack) string {
	switch {
	case !o.Network.Made() && s.UsedSubnet != nil:
		return s.UsedSubnet.ID
	case o.Network.Made() && len(s.Subnets) > 0:
		return s.Subnets[0].ID
	}
	return ""
}

// runningStates are those of a server whose machine has power. A server that
// is moved or rebooted runs, or soon will.
var runningStates = []string{"ACTIVE", "REBOOT", "HARD_REBOOT", "PASSWORD", "MIGRATING", "RESIZE", "VERIFY_RESIZE", "REVERT_RESIZE"}

// group is the node group of a machine, by its name.
func group(c *config.Cluster, machine string) string {
	g := strings.TrimPrefix(machine, c.Name+"-")
	if i := strings.LastIndexByte(g, '-'); i >= 0 {
		return g[:i]
	}
	return g
}

// nodeGroup is the group of a machine as the cluster file has it.
func nodeGroup(c *config.Cluster, name string) (config.NodeGroup, bool) {
	for _, g := range c.Nodes {
		if g.Name == name {
			return g, true
		}
	}
	return config.NodeGroup{}, false
}

// observed are the machines, of which there may be only a part.
func observed(c *config.Cluster, s *state) []plan.Observed {
	names := map[string]bool{}
	for _, v := range s.Servers {
		names[v.Name] = true
	}
	for _, v := range s.FloatingIPs {
		names[v.Name] = true
	}
	for _, v := range s.Volumes {
		names[v.Name] = true
	}
	for _, p := range s.Ports {
		names[strings.TrimSuffix(p.Name, publicPort(""))] = true
	}
	out := []plan.Observed{}
	for name := range names {
		out = append(out, observeMachine(c, s, name))
	}
	slices.SortFunc(out, func(a, b plan.Observed) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func observeMachine(c *config.Cluster, s *state, name string) plan.Observed {
	o := plan.Observed{Name: name, Group: group(c, name)}
	private, public, sv := s.port(name), s.port(publicPort(name)), s.server(name)
	if private != nil {
		o.PrivateIPv4 = private.Address
	}
	g, known := nodeGroup(c, o.Group)
	switch f := s.floatingIP(name); {
	case public != nil:
		o.PublicIPv4 = public.Address
	case f != nil && private != nil && f.Port == private.ID:
		o.PublicIPv4 = f.Address
	case known && g.PublicIPv4 == "direct" && private != nil:
		o.PublicIPv4 = private.Address
	}
	if sv == nil {
		return o
	}
	o.Image, o.Shape = sv.Meta[metaImage], sv.Meta[metaShape]
	o.Running = slices.Contains(runningStates, sv.Status)
	plugged := private != nil && private.Server == sv.ID
	if known && c.Provider.OpenStack.TwoNICs(g) && o.Shape == c.Shape(g) {
		plugged = plugged && public != nil && public.Server == sv.ID
	}
	o.Complete = plugged && sv.Status != "ERROR" && sv.Status != "BUILD" && sv.Status != "DELETED"
	return o
}
