package openstack

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	volumezones "github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/availabilityzones"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumetypes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/availabilityzones"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/keypairs"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/limits"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/routers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/quotas"
	"golang.org/x/sync/errgroup"

	"plasmid/provision/plan"
)

// quota is how much of something a project may have, and has.
type quota struct {
	Name        string // in the words of openstack quota show
	Limit, Used int    // Limit below 0: none
}

// facts are what the cloud says of what a plan needs.
type facts struct {
	Quotas      map[string]quota // by what is counted; see needs
	Flavors     map[string]flavorFacts
	Image       *imageFacts // nil: see Findings
	Zones       []string
	VolumeZones []string
	VolumeTypes []string
	Volumes     bool // there is block storage
	// Reached are the external networks that the existing subnet has a way to.
	Reached  []string
	UserData int // bytes as Nova gets it
	Findings []Finding
}

type flavorFacts struct {
	Name             string
	VCPUs, RAM, Disk int // RAM in MiB, Disk in GiB
}

type imageFacts struct {
	Name            string
	MinDisk, MinRAM int // GiB, MiB
	VirtualSize     int64
}

// What is counted against quotas.
const (
	needInstances    = "instances"
	needCores        = "cores"
	needRAM          = "MiB of RAM"
	needServerGroups = "server groups"
	needVolumes      = "volumes"
	needGigabytes    = "GiB of volumes"
)

// needs adds up what a plan makes. Machines that are replaced one by one give
// back what they need before.
func needs(p plan.Plan, flavorOf func(group string) flavorFacts, volumeGiB int) map[string]int {
	n := map[string]int{}
	deleted := map[string]bool{}
	for _, s := range p.Steps {
		if s.Action == plan.Delete {
			deleted[s.Kind+" "+s.Name] = true
		}
	}
	for _, s := range p.Steps {
		if s.Action != plan.Create || deleted[s.Kind+" "+s.Name] {
			continue
		}
		switch s.Kind {
		case plan.KindMachine:
			f := flavorOf(s.Machine.Group)
			n[needInstances]++
			n[needCores] += f.VCPUs
			n[needRAM] += f.RAM
		case kindVolume:
			n[needVolumes]++
			n[needGigabytes] += volumeGiB
		case kindServerGroup:
			n[needServerGroups]++
		case kindPublicPort:
			n[kindPort+"s"]++
		case kindSecurityGroup:
			n[kindSecurityGroup+"s"]++
			n[kindRule+"s"] += 2 // that every new group has
		case kindLink:
			n[kindPort+"s"]++
		case plan.KindNetwork, kindSubnet, kindRouter, kindPort, kindFloatingIP, kindRule:
			n[s.Kind+"s"]++
		}
	}
	return n
}

// check finds all that the cloud would refuse. It is pure.
func (p planner) check(pl plan.Plan, f facts) (uses []string, found Findings) {
	out := Findings(slices.Concat(p.s.Unresolved, f.Findings))
	add := func(problem, remedy string, args ...any) {
		out = append(out, Finding{fmt.Sprintf(problem, args...), remedy})
	}
	makes := slices.ContainsFunc(pl.Steps, func(s plan.Step) bool { return s.Kind == plan.KindMachine && s.Action == plan.Create })
	p.checkNetwork(add)
	if slices.ContainsFunc(pl.Steps, func(s plan.Step) bool { return s.Kind == kindFloatingIP && s.Action == plan.Create }) {
		p.checkReach(add, f)
	}
	if makes {
		p.checkMachines(add, f)
	}
	flavorOf := func(group string) flavorFacts {
		g, _ := nodeGroup(p.Cluster, group)
		return f.Flavors[cmp.Or(g.Flavor, p.o.Flavor)]
	}
	gib := 0
	if p.o.BootVolume != nil {
		gib = p.o.BootVolume.SizeGiB
	}
	need := needs(pl, flavorOf, gib)
	kinds := make([]string, 0, len(need))
	for k := range need {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		q, known := f.Quotas[k]
		if !known || q.Limit < 0 {
			continue
		}
		uses = append(uses, fmt.Sprintf("%s: %d, and %d of %d are used", k, need[k], q.Used, q.Limit))
		if free := q.Limit - q.Used; need[k] > free {
			add("the plan needs %d more %s, and the project's quota has room for %d (%d of %d used)",
				fmt.Sprintf("Free some, or ask for a higher quota %q.", q.Name), need[k], k, max(0, free), q.Used, q.Limit)
		}
	}
	return uses, out
}

type adder func(problem, remedy string, args ...any)

// checkNetwork looks at what a cluster already has.
func (p planner) checkNetwork(add adder) {
	if len(p.s.Subnets) > 0 && p.o.Network.Made() && p.s.Subnets[0].CIDR != "" && p.s.Subnets[0].CIDR != p.o.Network.CIDR {
		add("the cluster has network %s, the cluster file says %s", "A network can't be changed under its machines: put it back, or take the cluster down first: plasmid down", p.s.Subnets[0].CIDR, p.o.Network.CIDR)
	}
	if !p.o.Network.Made() && len(p.s.Networks) > 0 {
		add("the cluster has a network of its own, the cluster file names an existing one", "Put it back, or take the cluster down first: plasmid down")
	}
	if len(p.s.Subnets) > 0 && p.s.Subnets[0].Gateway == "" && p.routed() && p.s.Subnets[0].CIDR != "" {
		add("the cluster's subnet was made without a gateway, for direct addresses alone, and now some machines need one", "Take the cluster down and make it anew, or keep public_ipv4 = \"direct\" for all node groups.")
	}
}

// checkReach sees to it that a floating address would find its port, before
// one is taken from the pool.
func (p planner) checkReach(add adder, f facts) {
	if p.s.External == nil {
		return // said already
	}
	if p.o.Router != "" && p.s.UsedRouter != nil && p.s.UsedRouter.External != p.s.External.ID {
		add("router %s has no gateway to network %s, from which floating addresses come", fmt.Sprintf("Give it one: openstack router set --external-gateway %s %s", p.s.External.Name, p.o.Router), p.o.Router, p.s.External.Name)
	}
	if !p.o.Network.Made() && p.s.UsedNetwork != nil && !slices.Contains(f.Reached, p.s.External.ID) {
		add("no router joins network %s to network %s, from which floating addresses come", "Join them (openstack router add subnet), use public_ipv4 = \"none\" or \"direct\", or let a network be made: network { cidr = … }", p.s.UsedNetwork.Name, p.s.External.Name)
	}
}

func (p planner) checkMachines(add adder, f facts) {
	for name, fl := range f.Flavors {
		if f.Image == nil || fl.Name == "" {
			continue
		}
		if fl.RAM < f.Image.MinRAM {
			add("flavor %s has %d MiB of RAM, image %s needs %d", "Take a larger flavor: openstack flavor list", name, fl.RAM, f.Image.Name, f.Image.MinRAM)
		}
		disk, what := fl.Disk, fmt.Sprintf("flavor %s has a disk", name)
		if p.o.BootVolume != nil {
			disk, what = p.o.BootVolume.SizeGiB, "boot_volume has a size"
		}
		if least := max(f.Image.MinDisk, int((f.Image.VirtualSize+1<<30-1)>>30)); disk < least && (disk > 0 || p.o.BootVolume != nil) {
			add("%s of %d GiB, image %s needs %d", "Take a larger one, or give the cluster a boot_volume.", what, disk, f.Image.Name, least)
		}
		if disk == 0 && p.o.BootVolume == nil {
			add("flavor %s has no disk of its own", "Give the cluster a boot_volume { size_gib = 20 }, or take a flavor with a disk.", name)
		}
	}
	for _, z := range p.o.AvailabilityZones {
		if !slices.Contains(f.Zones, z) {
			add("there is no availability zone %q for servers", "The project sees: "+strings.Join(f.Zones, ", "), z)
		}
	}
	if b := p.o.BootVolume; b != nil {
		switch {
		case !f.Volumes:
			add("the cloud has no block storage for boot_volume", "Leave boot_volume out, and take a flavor with a disk.")
		case b.AvailabilityZone != "" && !slices.Contains(f.VolumeZones, b.AvailabilityZone):
			add("there is no availability zone %q for volumes, which are not those of servers", "The project sees: "+strings.Join(f.VolumeZones, ", "), b.AvailabilityZone)
		}
		if f.Volumes && b.Type != "" && !slices.Contains(f.VolumeTypes, b.Type) {
			add("there is no volume type %q", "The project sees: "+strings.Join(f.VolumeTypes, ", "), b.Type)
		}
	}
	if f.UserData > maxUserData {
		add("user-data would have %d bytes, and Nova takes %d", "It holds the keys of those who may log in: shorten ssh_keys.", f.UserData, maxUserData)
	}
}

// Preflight asks the cloud whether a refined plan can be carried out, and says
// what it uses of the project's quota. What is in the way are Findings, all at
// once.
func (p *Provider) Preflight(ctx context.Context, pl plan.Plan) (uses []string, err error) {
	if !slices.ContainsFunc(pl.Steps, func(s plan.Step) bool { return s.Action == plan.Create && s.Kind != plan.KindMember }) {
		return nil, nil // what is deleted needs nothing
	}
	f, err := p.facts(ctx, pl)
	if err != nil {
		return nil, err
	}
	uses, found := p.planner().check(pl, f)
	if len(found) > 0 {
		return uses, found
	}
	return uses, nil
}

// facts gathers what check looks at.
func (p *Provider) facts(ctx context.Context, pl plan.Plan) (facts, error) {
	f := facts{Quotas: map[string]quota{}, Flavors: map[string]flavorFacts{}, Volumes: p.c.volume != nil}
	f.UserData = base64.StdEncoding.EncodedLen(len(p.userData("fa:16:3e:00:00:00")))
	machines := slices.ContainsFunc(pl.Steps, func(s plan.Step) bool { return s.Kind == plan.KindMachine && s.Action == plan.Create })
	s := p.planner().s
	var flavorFindings, imageFindings, keyFindings []Finding
	var compute, network, volume map[string]quota
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { compute, err = p.c.computeQuotas(gctx); return })
	g.Go(func() (err error) { network, err = p.c.networkQuotas(gctx); return })
	if p.o.BootVolume != nil && p.c.volume != nil {
		g.Go(func() (err error) { volume, err = p.c.volumeQuotas(gctx); return })
		g.Go(func() error { return p.volumeFacts(gctx, &f) })
	}
	if machines {
		g.Go(func() (err error) { flavorFindings, err = p.flavorFacts(gctx, &f); return })
		g.Go(func() (err error) { imageFindings, err = p.imageFacts(gctx, &f, pl); return })
		g.Go(func() error {
			zones, err := all(gctx, availabilityzones.List(p.c.compute), availabilityzones.ExtractAvailabilityZones)
			for _, z := range zones {
				if z.ZoneState.Available {
					f.Zones = append(f.Zones, z.ZoneName)
				}
			}
			return err
		})
	}
	if p.o.KeyPair != "" {
		g.Go(func() error {
			err := keypairs.Get(gctx, p.c.compute, p.o.KeyPair, nil).Err
			if isGone(err) {
				keyFindings = append(keyFindings, Finding{fmt.Sprintf("there is no key pair %q", p.o.KeyPair), "Key pairs belong to a user of the cloud: openstack keypair list"})
				return nil
			}
			return said(err)
		})
	}
	if s.UsedNetwork != nil {
		g.Go(func() (err error) { f.Reached, err = p.c.reached(gctx, s.UsedNetwork.ID); return })
	}
	if err := g.Wait(); err != nil {
		return f, err
	}
	f.Findings = slices.Concat(flavorFindings, imageFindings, keyFindings)
	for _, qs := range []map[string]quota{compute, network, volume} {
		for k, q := range qs {
			f.Quotas[k] = q
		}
	}
	return f, nil
}

func (c *Client) computeQuotas(ctx context.Context) (map[string]quota, error) {
	l, err := limits.Get(ctx, c.compute, nil).Extract()
	if err != nil {
		return nil, said(err)
	}
	a := l.Absolute
	return map[string]quota{
		needInstances:    {"instances", a.MaxTotalInstances, a.TotalInstancesUsed},
		needCores:        {"cores", a.MaxTotalCores, a.TotalCoresUsed},
		needRAM:          {"ram", a.MaxTotalRAMSize, a.TotalRAMUsed},
		needServerGroups: {"server-groups", a.MaxServerGroups, a.TotalServerGroupsUsed},
	}, nil
}

// networkQuotas are empty where the cloud does not show them to users.
func (c *Client) networkQuotas(ctx context.Context) (map[string]quota, error) {
	d, err := quotas.GetDetail(ctx, c.network, c.project).Extract()
	if absent(err) || c.project == "" {
		return nil, nil
	}
	if err != nil {
		return nil, said(err)
	}
	of := func(name string, q quotas.QuotaDetail) quota { return quota{name, q.Limit, q.Used + q.Reserved} }
	return map[string]quota{
		plan.KindNetwork + "s":  of("networks", d.Network),
		kindSubnet + "s":        of("subnets", d.Subnet),
		kindRouter + "s":        of("routers", d.Router),
		kindPort + "s":          of("ports", d.Port),
		kindFloatingIP + "s":    of("floating-ips", d.FloatingIP),
		kindSecurityGroup + "s": of("secgroups", d.SecurityGroup),
		kindRule + "s":          of("secgroup-rules", d.SecurityGroupRule),
	}, nil
}

func (c *Client) volumeQuotas(ctx context.Context) (map[string]quota, error) {
	q, err := quotasets.GetUsage(ctx, c.volume, c.project).Extract()
	if absent(err) || c.project == "" {
		return nil, nil
	}
	if err != nil {
		return nil, said(err)
	}
	return map[string]quota{
		needVolumes:   {"volumes", q.Volumes.Limit, q.Volumes.InUse + q.Volumes.Reserved},
		needGigabytes: {"gigabytes", q.Gigabytes.Limit, q.Gigabytes.InUse + q.Gigabytes.Reserved},
	}, nil
}

func (p *Provider) volumeFacts(ctx context.Context, f *facts) error {
	types, err := all(ctx, volumetypes.List(p.c.volume, volumetypes.ListOpts{}), volumetypes.ExtractVolumeTypes)
	if err != nil {
		return err
	}
	for _, t := range types {
		f.VolumeTypes = append(f.VolumeTypes, t.Name)
	}
	zones, err := all(ctx, volumezones.List(p.c.volume), volumezones.ExtractAvailabilityZones)
	for _, z := range zones {
		f.VolumeZones = append(f.VolumeZones, z.ZoneName)
	}
	return err
}

// flavorFacts looks up the flavors of all node groups.
func (p *Provider) flavorFacts(ctx context.Context, f *facts) ([]Finding, error) {
	list, err := all(ctx, flavors.ListDetail(p.c.compute, nil), flavors.ExtractFlavors)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, g := range p.cluster.Nodes {
		name := cmp.Or(g.Flavor, p.o.Flavor)
		if _, done := f.Flavors[name]; done {
			continue
		}
		fl, missing := pick(list, "flavor", name, func(f flavors.Flavor) (string, string) { return f.ID, f.Name })
		if missing != nil {
			out = append(out, *missing)
			f.Flavors[name] = flavorFacts{}
			continue
		}
		f.Flavors[name] = flavorFacts{Name: fl.Name, VCPUs: fl.VCPUs, RAM: fl.RAM, Disk: fl.Disk}
	}
	return out, nil
}

func (p *Provider) imageFacts(ctx context.Context, f *facts, pl plan.Plan) ([]Finding, error) {
	var out []Finding
	seen := map[string]bool{}
	for _, s := range pl.Steps {
		if s.Kind != plan.KindMachine || s.Action != plan.Create || seen[s.Machine.Image] {
			continue
		}
		seen[s.Machine.Image] = true
		i, missing, err := p.findImage(ctx, s.Machine.Image)
		if err != nil {
			return nil, err
		}
		if missing != nil {
			out = append(out, *missing)
			continue
		}
		f.Image = factsOf(i)
	}
	return out, nil
}

func factsOf(i *images.Image) *imageFacts {
	return &imageFacts{i.Name, i.MinDiskGigabytes, i.MinRAMMegabytes, i.VirtualSize}
}

// reached lists the external networks that a network's routers have a gateway
// to.
func (c *Client) reached(ctx context.Context, network string) ([]string, error) {
	links, err := c.links(ctx, network)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, l := range links {
		r, err := routers.Get(ctx, c.network, l.Router).Extract()
		if absent(err) {
			continue // of another project
		}
		if err != nil {
			return nil, said(err)
		}
		out = append(out, r.GatewayInfo.NetworkID)
	}
	return out, nil
}
