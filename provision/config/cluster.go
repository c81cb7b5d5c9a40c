// Package config reads cluster.hcl into a validated Cluster.
package config

import (
	"cmp"
	"fmt"
	"time"
)

// Cluster is one validated cluster block with its defaults filled in.
type Cluster struct {
	Name     string
	Dir      string // of the cluster file, absolute; relative paths start here
	Provider Provider
	Image    Image
	Nodes    []NodeGroup
	Apps     []App
	SSHKeys  []string      // authorized_keys lines for the login user, beside Plasmid's own key
	Lease    time.Duration // a machine is suspect when not heard of for this long
}

// Reboot says how machines reboot when their system asks for it.
type Reboot struct {
	Group    string        // machines of a group share a lock
	Max      int           // how many of the group may reboot at a time
	Window   string        // as reboot.ParseWindow reads it; empty: always
	Length   time.Duration // of the window; 0 without one
	Drain    time.Duration // how long moving a machine's units away may take
	Patience time.Duration // how long a machine may be gone while it has the lock
}

// Provider says where machines come from. One of the pointers is set.
type Provider struct {
	Local     *Local
	OpenStack *OpenStack
}

// Local runs machines on this host.
type Local struct {
	CIDR string // of the cluster's bridge; empty: the first free /24 of 10.42.0.0/16
}

// OpenStack makes machines in a project of an OpenStack cloud. Things that exist
// are given by name or ID.
type OpenStack struct {
	Cloud             string // entry of clouds.yaml; empty: OS_CLOUD, or the OS_* variables alone
	Region            string // empty: as the cloud's entry says
	Image             string // in Glance; empty: the one that plasmid image push made
	Flavor            string
	ExternalNetwork   string // for floating and direct addresses; empty: the only one there is
	Network           Network
	Router            string   // existing; empty: one is made if it is needed
	DNS               []string // of the subnet that is made; empty: the cloud's own
	SSHAllow          []string // IPv4 networks
	PublicPorts       []int    // TCP, open to the world
	SecurityGroups    []string // existing, beside the cluster's own
	KeyPair           string   // existing, beside Plasmid's own key
	AllowedAddresses  []string // that machines may speak from beside their own, such as virtual ones
	AvailabilityZones []string
	AntiAffinity      string // "", soft, hard
	BootVolume        *BootVolume
}

// Network is made with CIDR, or an existing one is used by Name or ID.
type Network struct {
	CIDR   string
	Name   string
	ID     string
	Subnet string // of an existing network; empty: its only IPv4 subnet
}

// Made reports whether the cluster has a network of its own.
func (n Network) Made() bool { return n.Name == "" && n.ID == "" }

// BootVolume boots servers from a volume instead of the flavor's disk.
type BootVolume struct {
	SizeGiB          int
	Type             string // empty: the cloud's default
	AvailabilityZone string // of the block storage, which has zones of its own
}

// Image says how the node image is built.
type Image struct {
	Cloud     *CloudBuild    // on a server of the provider's cloud; nil: here, without one
	Playbooks []string       // files, relative to Dir; playbooks/node.yml is always first
	Vars      map[string]any // extra Ansible variables (string, bool, float64, []any, map[string]any)
	Packages  []string       // extra Debian packages
	Suite     string         // default "testing"
	Mirror    string         // empty: as the host's apt has it
	Proxy     string         // empty: as the host's apt has it
	// CheckValidUntil is nil when the host's apt policy is inherited.
	CheckValidUntil *bool
	DiskGiB         int // virtual size of the qcow2, default 10
}

// CloudBuild builds an image on a server, from one that the cloud has.
type CloudBuild struct {
	Source string // in Glance, by name or ID: a Debian with cloud-init
	Flavor string // of the server; empty: the provider's
}

// String names every setting, so that a change of one shows.
func (r *Reboot) String() string {
	if r == nil {
		return ""
	}
	window := "always"
	if r.Window != "" {
		window = fmt.Sprintf("%s+%v", r.Window, r.Length)
	}
	return fmt.Sprintf("%s,max=%d,window=%s,drain=%v,patience=%v", r.Group, r.Max, window, r.Drain, r.Patience)
}

// NodeGroup is N machines of one kind. Machines are named
// <cluster>-<group>-<i>, i from 1.
type NodeGroup struct {
	Name       string
	Count      int    // at least 1
	Etcd       int    // how many of them vote; odd over the whole cluster
	PublicIPv4 string // floating, direct, none
	Flavor     string // on OpenStack; empty: the provider's
	Metadata   map[string]string
	CPUs       float64 // limit on local machines; 0: none
	MemoryMiB  int     // limit on local machines; 0: none
	Reboot     *Reboot // nil: only when an operator says so
}

// App is an app directory to deploy after the cluster is up.
type App struct {
	Name   string
	Source string // directory with app.hcl, relative to Dir
	Vars   map[string]any
}

// Shape says, in a line, what the provider makes machines of a group from
// beside their image; a machine of another shape has to be made anew. It is
// empty for local machines, which change in place.
func (c *Cluster) Shape(g NodeGroup) string {
	o := c.Provider.OpenStack
	if o == nil {
		return ""
	}
	s := "flavor " + cmp.Or(g.Flavor, o.Flavor)
	if v := o.BootVolume; v != nil {
		s += fmt.Sprintf(", volume %d GiB", v.SizeGiB)
		if v.Type != "" {
			s += " " + v.Type
		}
	}
	if o.TwoNICs(g) {
		s += ", a NIC on the public network"
	}
	if o.AntiAffinity != "" {
		s += ", " + o.AntiAffinity + " anti-affinity"
	}
	return s
}

// TwoNICs reports whether machines of a group have a NIC on the external
// network beside the one on the cluster's own. Those with direct addresses on an
// existing network, when no other is named, have that one only.
func (o *OpenStack) TwoNICs(g NodeGroup) bool {
	return g.PublicIPv4 == "direct" && (o.Network.Made() || o.ExternalNetwork != "" && o.ExternalNetwork != o.Network.Name && o.ExternalNetwork != o.Network.ID)
}
