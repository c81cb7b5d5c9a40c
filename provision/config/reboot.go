package config

import (
	"time"

	"github.com/hashicorp/hcl/v2"

	"plasmid/runtime/reboot"
)

// reboots fills in how each node group reboots, and sees to it that etcd can't
// lose its majority by it.
func (l *loader) reboots(c clusterBlock, groups []NodeGroup) {
	var shared *Reboot
	if c.Reboot != nil {
		shared = l.reboot(c.Reboot, reboot.DefaultGroup)
	}
	for i, b := range c.Nodes {
		if groups[i].Reboot = shared; b.Reboot != nil {
			groups[i].Reboot = l.reboot(b.Reboot, b.Name)
		}
	}
	l.majority(c, groups)
}

// majority adds up how many etcd members may be away at a time.
func (l *loader) majority(c clusterBlock, groups []NodeGroup) {
	voters, away := 0, 0
	limit := map[string]int{}
	members := map[string]int{}
	var at hcl.Range
	for i, g := range groups {
		voters += g.Etcd
		if g.Reboot == nil || g.Etcd == 0 {
			continue
		}
		limit[g.Reboot.Group] = max(limit[g.Reboot.Group], g.Reboot.Max)
		members[g.Reboot.Group] += g.Etcd
		block := c.Nodes[i].Reboot
		if block == nil {
			block = c.Reboot
		}
		if at = block.Range; !isMissing(block.Max) {
			at = block.Max.Range()
		}
	}
	for group, n := range limit {
		away += min(n, members[group])
	}
	if spare := max((voters-1)/2, 1); away > spare {
		l.problem(at, "Too many reboots at a time", "%d of the %d etcd members could reboot at a time, and etcd would lose its majority with more than %d away. Lower max, or give the groups that have members the same reboot group.", away, voters, spare)
	}
}

func (l *loader) reboot(b *rebootBlock, group string) *Reboot {
	r := &Reboot{Group: group, Max: reboot.DefaultMax, Drain: reboot.DefaultDrain, Patience: reboot.DefaultPatience}
	if l.value(b.Group, &r.Group) {
		if err := reboot.CheckGroup(r.Group); err != nil {
			l.problem(b.Group.Range(), "Invalid reboot group", "%v.", err)
		}
	}
	if l.value(b.Max, &r.Max) && (r.Max < 1 || r.Max > maxCount) {
		l.problem(b.Max.Range(), "Invalid max", "max is %d; it must be from 1 to %d. To have no machine reboot by itself, leave the block out.", r.Max, maxCount)
	}
	l.duration(b.Drain, "drain", &r.Drain, time.Second, 24*time.Hour)
	l.duration(b.Patience, "patience", &r.Patience, reboot.MinPatience, 24*time.Hour)
	if !l.value(b.Window, &r.Window) {
		if !isMissing(b.Length) {
			l.problem(b.Length.Range(), "Length without window", "length is how long the window is open; there is no window here, so machines reboot at any time.")
		}
		return r
	}
	r.Length = reboot.DefaultLength
	l.duration(b.Length, "length", &r.Length, time.Minute, 7*24*time.Hour)
	if _, err := reboot.ParseWindow(r.Window, reboot.DefaultLength); err != nil {
		l.problem(b.Window.Range(), "Invalid window", "%v.", err)
	} else if _, err := reboot.ParseWindow(r.Window, r.Length); err != nil {
		l.problem(b.Length.Range(), "Invalid length", "%v.", err)
	}
	return r
}

// duration reads a number of whole seconds within limits.
func (l *loader) duration(e hcl.Expression, name string, to *time.Duration, least, most time.Duration) {
	var s string
	if !l.value(e, &s) {
		return
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < least || d > most || d%time.Second != 0 {
		l.problem(e.Range(), "Invalid "+name, "%q is no number of whole seconds from %v to %v, such as %q.", s, least, most, "30m")
		return
	}
	*to = d
}
