package config

import (
	"github.com/hashicorp/hcl/v2"
)

// The blocks of a cluster file as gohcl decodes them. Attributes that can be
// wrong in ways of their own are kept as expressions, so that a message can
// point at them.

type fileBlock struct {
	Variables []variableBlock `hcl:"variable,block"`
	Locals    []localsBlock   `hcl:"locals,block"`
	Clusters  []clusterBlock  `hcl:"cluster,block"`
	Providers []providerBlock `hcl:"provider,block"`
}

type variableBlock struct {
	Name        string         `hcl:"name,label"`
	Description *string        `hcl:"description"`
	Type        hcl.Expression `hcl:"type,optional"`
	Default     hcl.Expression `hcl:"default,optional"`
	Range       hcl.Range      `hcl:",def_range"`
}

type localsBlock struct {
	Values hcl.Attributes `hcl:",remain"`
}

type clusterBlock struct {
	Name      string          `hcl:"name,label"`
	SSHKeys   []string        `hcl:"ssh_keys,optional"`
	Lease     hcl.Expression  `hcl:"lease,optional"`
	Reboot    *rebootBlock    `hcl:"reboot,block"`
	Providers []providerBlock `hcl:"provider,block"`
	Image     *imageBlock     `hcl:"image,block"`
	Nodes     []nodesBlock    `hcl:"nodes,block"`
	Apps      []appBlock      `hcl:"app,block"`
	Range     hcl.Range       `hcl:",def_range"`
}

type providerBlock struct {
	Kind  string    `hcl:"kind,label"`
	Body  hcl.Body  `hcl:",remain"`
	Range hcl.Range `hcl:",def_range"`
}

type localBlock struct {
	CIDR hcl.Expression `hcl:"cidr,optional"`
}

type openstackBlock struct {
	Cloud             string         `hcl:"cloud,optional"`
	Region            string         `hcl:"region,optional"`
	Image             string         `hcl:"image,optional"`
	Flavor            hcl.Expression `hcl:"flavor"`
	ExternalNetwork   string         `hcl:"external_network,optional"`
	Network           *networkBlock  `hcl:"network,block"`
	Router            hcl.Expression `hcl:"router,optional"`
	DNS               hcl.Expression `hcl:"dns,optional"`
	SSHAllow          hcl.Expression `hcl:"ssh_allow"`
	PublicPorts       hcl.Expression `hcl:"public_ports,optional"`
	SecurityGroups    []string       `hcl:"security_groups,optional"`
	KeyPair           string         `hcl:"key_pair,optional"`
	AllowedAddresses  hcl.Expression `hcl:"allowed_addresses,optional"`
	AvailabilityZones hcl.Expression `hcl:"availability_zones,optional"`
	AntiAffinity      hcl.Expression `hcl:"anti_affinity,optional"`
	BootVolume        *volumeBlock   `hcl:"boot_volume,block"`
}

type networkBlock struct {
	CIDR   hcl.Expression `hcl:"cidr,optional"`
	Name   string         `hcl:"name,optional"`
	ID     string         `hcl:"id,optional"`
	Subnet hcl.Expression `hcl:"subnet,optional"`
	Range  hcl.Range      `hcl:",def_range"`
}

type volumeBlock struct {
	SizeGiB          hcl.Expression `hcl:"size_gib"`
	Type             string         `hcl:"type,optional"`
	AvailabilityZone string         `hcl:"availability_zone,optional"`
	Range            hcl.Range      `hcl:",def_range"`
}

type imageBlock struct {
	Build           hcl.Expression `hcl:"build,optional"`
	Source          hcl.Expression `hcl:"source,optional"`
	Flavor          hcl.Expression `hcl:"flavor,optional"`
	Playbooks       hcl.Expression `hcl:"playbooks,optional"`
	Vars            hcl.Expression `hcl:"vars,optional"`
	Packages        []string       `hcl:"packages,optional"`
	Suite           hcl.Expression `hcl:"suite,optional"`
	Mirror          string         `hcl:"mirror,optional"`
	Proxy           string         `hcl:"proxy,optional"`
	CheckValidUntil *bool          `hcl:"check_valid_until,optional"`
	DiskGiB         hcl.Expression `hcl:"disk_gib,optional"`
	Range           hcl.Range      `hcl:",def_range"`
}

type nodesBlock struct {
	Name       string            `hcl:"name,label"`
	Count      hcl.Expression    `hcl:"count"`
	Etcd       hcl.Expression    `hcl:"etcd,optional"`
	PublicIPv4 hcl.Expression    `hcl:"public_ipv4,optional"`
	Flavor     hcl.Expression    `hcl:"flavor,optional"`
	Metadata   map[string]string `hcl:"metadata,optional"`
	CPUs       float64           `hcl:"cpus,optional"`
	MemoryMiB  int               `hcl:"memory_mib,optional"`
	Reboot     *rebootBlock      `hcl:"reboot,block"`
	Range      hcl.Range         `hcl:",def_range"`
}

type rebootBlock struct {
	Group    hcl.Expression `hcl:"group,optional"`
	Max      hcl.Expression `hcl:"max,optional"`
	Window   hcl.Expression `hcl:"window,optional"`
	Length   hcl.Expression `hcl:"length,optional"`
	Drain    hcl.Expression `hcl:"drain,optional"`
	Patience hcl.Expression `hcl:"patience,optional"`
	Range    hcl.Range      `hcl:",def_range"`
}

type appBlock struct {
	Name   string         `hcl:"name,label"`
	Source hcl.Expression `hcl:"source"`
	Vars   hcl.Expression `hcl:"vars,optional"`
	Range  hcl.Range      `hcl:",def_range"`
}
