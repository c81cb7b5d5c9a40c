package config

import (
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Defaults and limits.
const (
	DefaultLease = 3 * time.Second
	minLease     = 2 * time.Second
	maxLease     = time.Minute
	maxCount     = 200
	maxEtcd      = 7
)

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}[a-z0-9]$|^[a-z]$`)

func (l *loader) name(what, name string, at hcl.Range) {
	if !namePattern.MatchString(name) {
		l.problem(at, "Invalid name", "The name of a %s, %q, becomes part of host names: use lower-case letters, digits and hyphens, at most 32, beginning with a letter.", what, name)
	}
}

func (l *loader) cluster(b clusterBlock, outer []providerBlock) *Cluster {
	l.name("cluster", b.Name, b.Range)
	c := &Cluster{Name: b.Name, Dir: l.dir, SSHKeys: b.SSHKeys, Lease: DefaultLease}
	var lease string
	if l.value(b.Lease, &lease) {
		d, err := time.ParseDuration(lease)
		if err != nil || d < minLease || d > maxLease || d%time.Second != 0 {
			l.problem(b.Lease.Range(), "Invalid lease", "%q is no number of whole seconds from %v to %v, such as \"3s\".", lease, minLease, maxLease)
		}
		c.Lease = d
	}
	providers := append(b.Providers, outer...)
	switch len(providers) {
	case 0:
		c.Provider.Local = &Local{}
	case 1:
		c.Provider = l.provider(providers[0])
	default:
		l.problem(providers[1].Range, "More than one provider", "A cluster's machines come from one provider; another one stands in %s.", providers[0].Range)
	}
	c.Image = l.image(b.Image, c.Provider)
	c.Nodes = l.nodes(b)
	l.nodesFitProvider(c, b)
	c.Apps = l.apps(b.Apps)
	return c
}

func (l *loader) provider(b providerBlock) Provider {
	switch b.Kind {
	case "local":
		var lb localBlock
		l.decode(b.Body, &lb)
		return Provider{Local: &Local{CIDR: l.cidr(lb.CIDR)}}
	case "openstack":
		return Provider{OpenStack: l.openstack(b)}
	}
	l.problem(b.Range, "Unknown provider", "There is no provider %q; there are \"local\" and \"openstack\".%s", b.Kind, nearest(b.Kind, []string{"local", "openstack"}))
	return Provider{}
}

// cidr reads an IPv4 network with room for machines.
func (l *loader) cidr(e hcl.Expression) string {
	var s string
	if !l.value(e, &s) || s == "" {
		return ""
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 27 {
		l.problem(e.Range(), "Invalid network", "%q is no IPv4 network from /8 to /27, such as \"10.42.0.0/24\".", s)
		return ""
	}
	if p.Masked() != p {
		l.problem(e.Range(), "Invalid network", "%q is an address in a network; the network is %q.", s, p.Masked())
	}
	return s
}

func (l *loader) image(b *imageBlock, p Provider) Image {
	img := Image{Suite: "testing"}
	if b == nil {
		return img
	}
	img.Packages, img.Mirror, img.Proxy, img.CheckValidUntil = b.Packages, b.Mirror, b.Proxy, b.CheckValidUntil
	var suite string
	if l.value(b.Suite, &suite) && suite != "" {
		img.Suite = suite
	}
	img.Cloud = l.cloudBuild(b, p)
	l.value(b.Playbooks, &img.Playbooks)
	for _, p := range img.Playbooks {
		if !filepath.IsAbs(p) {
			p = filepath.Join(l.dir, p)
		}
		if info, err := os.Stat(p); err != nil || info.IsDir() {
			l.problem(b.Playbooks.Range(), "No such playbook", "%s is no file; paths start at the directory of the cluster file.", p)
		}
	}
	if l.value(b.DiskGiB, &img.DiskGiB) && (img.DiskGiB < 2 || img.DiskGiB > 1024) {
		l.problem(b.DiskGiB.Range(), "Invalid disk size", "disk_gib is %d; it must be from 2 to 1024.", img.DiskGiB)
	}
	img.Vars = l.object(b.Vars, "vars")
	return img
}

// cloudBuild says how an image is built on a server; nil: it is built here.
func (l *loader) cloudBuild(b *imageBlock, p Provider) *CloudBuild {
	build := "local"
	if l.value(b.Build, &build) && build != "local" && build != "cloud" {
		l.problem(b.Build.Range(), "Invalid build", "%q is neither \"local\" nor \"cloud\".%s", build, nearest(build, []string{"local", "cloud"}))
		return nil
	}
	if build == "local" {
		l.refuse(b.Source, "Not for a local build", "source is the image to begin with when build is \"cloud\".")
		l.refuse(b.Flavor, "Not for a local build", "flavor is of the server that an image is built on when build is \"cloud\".")
		return nil
	}
	if p.OpenStack == nil {
		l.problem(b.Build.Range(), "No cloud to build in", "build = \"cloud\" makes a server in the provider's cloud, and the provider is not \"openstack\".")
	}
	l.refuse(b.Suite, "Not for a build in the cloud", "The source image is of some suite already.")
	l.refuse(b.DiskGiB, "Not for a build in the cloud", "The image's disk is as large as that of the server's flavor.")
	c := &CloudBuild{}
	l.required(b.Source, "source", b.Range)
	if l.value(b.Source, &c.Source) && c.Source == "" {
		l.problem(b.Source.Range(), "No source", "source is empty; it is the name or ID of a Debian image that openstack image list shows.")
	}
	l.value(b.Flavor, &c.Flavor)
	return c
}

// refuse complains of an attribute that is there.
func (l *loader) refuse(e hcl.Expression, summary, why string) {
	if !isMissing(e) {
		l.problem(e.Range(), summary, "%s", why)
	}
}

// object evaluates an expression to a map of plain values.
func (l *loader) object(e hcl.Expression, what string) map[string]any {
	if isMissing(e) {
		return nil
	}
	v, diags := e.Value(l.ctx)
	l.diags = append(l.diags, didYouMean(diags, nil, l.ctx)...)
	if diags.HasErrors() || v.IsNull() {
		return nil
	}
	if !v.Type().IsObjectType() && !v.Type().IsMapType() {
		l.problem(e.Range(), "Wrong type", "%s is an object: { name = value … }.", what)
		return nil
	}
	m, _ := plain(v).(map[string]any)
	return m
}

// plain turns a known value into what encoding/json would make of it.
func plain(v cty.Value) any {
	switch t := v.Type(); {
	case v.IsNull():
		return nil
	case t == cty.String:
		return v.AsString()
	case t == cty.Bool:
		return v.True()
	case t == cty.Number:
		if i, acc := v.AsBigFloat().Int64(); acc == big.Exact {
			return i
		}
		f, _ := v.AsBigFloat().Float64()
		return f
	case t.IsObjectType() || t.IsMapType():
		m := map[string]any{}
		for k, e := range v.AsValueMap() {
			m[k] = plain(e)
		}
		return m
	default:
		list := []any{}
		for _, e := range v.AsValueSlice() {
			list = append(list, plain(e))
		}
		return list
	}
}

func (l *loader) nodes(c clusterBlock) []NodeGroup {
	if len(c.Nodes) == 0 {
		l.problem(c.Range, "No machines", "A cluster needs at least one nodes block.")
		return nil
	}
	var groups []NodeGroup
	voters, asked := 0, false
	names := map[string]bool{}
	for _, b := range c.Nodes {
		l.name("node group", b.Name, b.Range)
		if names[b.Name] {
			l.problem(b.Range, "Duplicate node group", "There is another nodes %q.", b.Name)
		}
		names[b.Name] = true
		g := NodeGroup{Name: b.Name, PublicIPv4: "floating", Metadata: b.Metadata, CPUs: b.CPUs, MemoryMiB: b.MemoryMiB}
		l.required(b.Count, "count", b.Range)
		if l.value(b.Count, &g.Count) && (g.Count < 1 || g.Count > maxCount) {
			l.problem(b.Count.Range(), "Invalid count", "count is %d; a node group has from 1 to %d machines. To have none, leave the block out.", g.Count, maxCount)
		}
		if l.value(b.Etcd, &g.Etcd) {
			asked = true
			if g.Etcd < 0 || g.Etcd > g.Count {
				l.problem(b.Etcd.Range(), "Invalid etcd", "etcd is %d, but the group has %d machines.", g.Etcd, g.Count)
			}
		}
		voters += g.Etcd
		l.value(b.Flavor, &g.Flavor)
		if l.value(b.PublicIPv4, &g.PublicIPv4) && g.PublicIPv4 != "floating" && g.PublicIPv4 != "direct" && g.PublicIPv4 != "none" {
			l.problem(b.PublicIPv4.Range(), "Invalid public_ipv4", "%q is none of \"floating\", \"direct\", \"none\".%s", g.PublicIPv4, nearest(g.PublicIPv4, []string{"floating", "direct", "none"}))
		}
		for k, v := range b.Metadata {
			if k == "" || strings.ContainsAny(k+v, "=\n \"") || v == "" {
				l.problem(b.Range, "Invalid metadata", "%q = %q: keys and values are words without spaces, quotes and equals signs.", k, v)
			}
		}
		groups = append(groups, g)
	}
	l.voters(c, groups, voters, asked)
	l.reboots(c, groups)
	return groups
}

// voters sees to it that an odd number of machines has a vote in etcd. Where
// the file says nothing, the first group has 3, or 1 if it is smaller.
func (l *loader) voters(c clusterBlock, groups []NodeGroup, voters int, asked bool) {
	if !asked {
		if groups[0].Etcd = 1; groups[0].Count >= 3 {
			groups[0].Etcd = 3
		}
		return
	}
	at := c.Range
	for _, b := range c.Nodes {
		if !isMissing(b.Etcd) {
			at = b.Etcd.Range()
		}
	}
	switch {
	case voters == 0:
		l.problem(at, "No etcd member", "At least one machine must be an etcd member; 3 survive the loss of one.")
	case voters%2 == 0:
		l.problem(at, "Even number of etcd members", "The cluster has %d etcd members: no more can be lost than with %d, and more can fail. Use an odd number.", voters, voters-1)
	case voters > maxEtcd:
		l.problem(at, "Too many etcd members", "The cluster has %d etcd members; more than %d only make it slower.", voters, maxEtcd)
	}
}

func (l *loader) apps(blocks []appBlock) []App {
	var apps []App
	names := map[string]bool{}
	for _, b := range blocks {
		l.name("app", b.Name, b.Range)
		if names[b.Name] {
			l.problem(b.Range, "Duplicate app", "There is another app %q.", b.Name)
		}
		names[b.Name] = true
		a := App{Name: b.Name, Vars: l.object(b.Vars, "vars")}
		l.required(b.Source, "source", b.Range)
		if l.value(b.Source, &a.Source) {
			dir := a.Source
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(l.dir, dir)
			}
			if _, err := os.Stat(filepath.Join(dir, "app.hcl")); err != nil {
				l.problem(b.Source.Range(), "No such app", "%s has no app.hcl; the path starts at the directory of the cluster file.", dir)
			}
		}
		apps = append(apps, a)
	}
	return apps
}
