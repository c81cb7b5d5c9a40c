package config

import (
	"net/netip"
	"slices"

	"github.com/hashicorp/hcl/v2"
)

const (
	// reservedAddresses are those of a network that no machine gets: the first,
	// the last, the router's, and what OpenStack's DHCP servers take.
	reservedAddresses = 6
	maxVolumeGiB      = 16384
	sshPort           = 22
)

// defaultNetwork is made where the file names none.
const defaultNetwork = "10.42.0.0/24"

func (l *loader) openstack(b providerBlock) *OpenStack {
	var o openstackBlock
	l.decode(b.Body, &o)
	out := &OpenStack{Cloud: o.Cloud, Region: o.Region, Image: o.Image, ExternalNetwork: o.ExternalNetwork, SecurityGroups: o.SecurityGroups, KeyPair: o.KeyPair}
	l.required(o.Flavor, "flavor", b.Range)
	l.required(o.SSHAllow, "ssh_allow", b.Range)
	if l.value(o.Flavor, &out.Flavor) && out.Flavor == "" {
		l.problem(o.Flavor.Range(), "No flavor", "flavor is empty; it is the name or ID of one that openstack flavor list shows.")
	}
	l.value(o.Router, &out.Router)
	out.Network = l.network(o.Network)
	if out.Router != "" && !out.Network.Made() {
		l.problem(o.Router.Range(), "Router without a network", "router joins the network that is made to an existing router; an existing network has its own.")
	}
	out.DNS = l.addresses(o.DNS, "dns")
	if len(out.DNS) > 0 && !out.Network.Made() {
		l.problem(o.DNS.Range(), "DNS of an existing network", "dns is for the network that is made; an existing one keeps its own.")
	}
	out.AllowedAddresses = l.addresses(o.AllowedAddresses, "allowed_addresses")
	out.SSHAllow = l.prefixes(o.SSHAllow)
	out.PublicPorts = l.ports(o.PublicPorts)
	if l.value(o.AvailabilityZones, &out.AvailabilityZones) {
		for i, z := range out.AvailabilityZones {
			if z == "" || slices.Contains(out.AvailabilityZones[:i], z) {
				l.problem(o.AvailabilityZones.Range(), "Invalid availability_zones", "%q is empty or stands there twice.", z)
			}
		}
	}
	l.value(o.AntiAffinity, &out.AntiAffinity)
	if a := out.AntiAffinity; a != "" && a != "soft" && a != "hard" {
		l.problem(o.AntiAffinity.Range(), "Invalid anti_affinity", "%q is neither \"soft\" nor \"hard\".%s", a, nearest(a, []string{"soft", "hard"}))
	}
	if v := o.BootVolume; v != nil {
		out.BootVolume = &BootVolume{Type: v.Type, AvailabilityZone: v.AvailabilityZone}
		l.required(v.SizeGiB, "size_gib", v.Range)
		if l.value(v.SizeGiB, &out.BootVolume.SizeGiB) && (out.BootVolume.SizeGiB < 2 || out.BootVolume.SizeGiB > maxVolumeGiB) {
			l.problem(v.SizeGiB.Range(), "Invalid volume size", "size_gib is %d; it must be from 2 to %d.", out.BootVolume.SizeGiB, maxVolumeGiB)
		}
	}
	return out
}

func (l *loader) network(b *networkBlock) Network {
	if b == nil {
		return Network{CIDR: defaultNetwork}
	}
	n := Network{CIDR: l.cidr(b.CIDR), Name: b.Name, ID: b.ID}
	l.value(b.Subnet, &n.Subnet)
	given := 0
	for _, s := range []string{n.CIDR, n.Name, n.ID} {
		if s != "" {
			given++
		}
	}
	if given != 1 && (given > 1 || isMissing(b.CIDR)) {
		l.problem(b.Range, "Network not clear", "Give one of: cidr, for a network that is made; name or id, for one that exists.")
	} else if n.Subnet != "" && n.Made() {
		l.problem(b.Subnet.Range(), "Subnet of a network that is made", "subnet chooses among those of an existing network; the network that is made has only one.")
	}
	return n
}

// prefixes reads IPv4 networks.
func (l *loader) prefixes(e hcl.Expression) []string {
	var list []string
	if !l.value(e, &list) {
		return nil
	}
	if len(list) == 0 {
		l.problem(e.Range(), "Nobody may log in", "ssh_allow is empty, and machines are joined to the cluster over SSH. List the networks that you call from, such as \"203.0.113.0/24\".")
	}
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || !p.Addr().Is4():
			l.problem(e.Range(), "Invalid network", "%q is no IPv4 network such as \"203.0.113.0/24\"; one address is a /32.", s)
		case p.Masked() != p:
			l.problem(e.Range(), "Invalid network", "%q is an address in a network; the network is %q.", s, p.Masked())
		}
	}
	return list
}

func (l *loader) addresses(e hcl.Expression, what string) []string {
	var list []string
	if !l.value(e, &list) {
		return nil
	}
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err != nil || !a.Is4() {
			l.problem(e.Range(), "Invalid address", "%q in %s is no IPv4 address.", s, what)
		}
	}
	return list
}

func (l *loader) ports(e hcl.Expression) []int {
	var list []int
	if !l.value(e, &list) {
		return nil
	}
	for i, p := range list {
		switch {
		case p < 1 || p > 65535:
			l.problem(e.Range(), "Invalid port", "%d is no TCP port: 1 to 65535.", p)
		case p == sshPort:
			l.problem(e.Range(), "SSH open to the world", "Port 22 is opened by ssh_allow, to the networks that it lists.")
		case slices.Contains(list[:i], p):
			l.problem(e.Range(), "Duplicate port", "%d stands in public_ports twice.", p)
		}
	}
	return list
}

// nodesFitProvider checks what node groups say of a provider, and whether its
// network has room for all machines.
func (l *loader) nodesFitProvider(c *Cluster, b clusterBlock) {
	machines := 0
	for _, n := range b.Nodes {
		if c.Provider.Local != nil && !isMissing(n.Flavor) {
			l.problem(n.Flavor.Range(), "Flavor of a local machine", "Flavors are OpenStack's; local machines are limited by cpus and memory_mib.")
		}
		if c.Provider.OpenStack != nil && (n.CPUs != 0 || n.MemoryMiB != 0) {
			l.problem(n.Range, "Limits of a server", "cpus and memory_mib limit local machines; a server is as large as its flavor.")
		}
	}
	o := c.Provider.OpenStack
	if o == nil || !o.Network.Made() {
		return
	}
	p, err := netip.ParsePrefix(o.Network.CIDR)
	if err != nil {
		return // said already
	}
	for _, g := range c.Nodes {
		machines += g.Count
	}
	if room := 1<<(32-p.Bits()) - reservedAddresses; machines > room {
		l.problem(b.Range, "Network too small", "%s has room for %d machines, and the cluster has %d; take a wider one, such as a /%d.", p, room, machines, p.Bits()-2)
	}
}
