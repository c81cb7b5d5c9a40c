// Package config reads cluster.hcl into a validated Cluster.
package config

import (
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

// OpenStack is read and validated; its provider comes later.
type OpenStack struct {
	Cloud             string
	Flavor            string
	ExternalNetwork   string
	Network           Network
	SSHAllow          []string
	PublicPorts       []int
	AvailabilityZones []string
	AntiAffinity      string // "", soft, hard
	BootVolume        *BootVolume
}

// Network is made with CIDR, or an existing one is used by Name.
type Network struct {
	CIDR string
	Name string
}

// BootVolume boots servers from a volume instead of the flavor's disk.
type BootVolume struct {
	SizeGiB int
	Type    string
}

// Image says how the node image is built.
type Image struct {
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
