package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Sweep asks the kernel and the disk, not our own notes, what is left of the
// cluster.
func (p *Provider) Sweep(context.Context) ([]string, error) {
	var left []string
	namespaces, err := filepath.Glob("/run/netns/" + p.clusterNS() + "*")
	if err != nil {
		return nil, err
	}
	for _, n := range namespaces {
		left = append(left, "network namespace "+filepath.Base(n))
	}
	links, err := filepath.Glob("/sys/class/net/" + p.tag() + "*")
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		left = append(left, "network interface "+filepath.Base(l))
	}
	cgroups, err := groups(p.tag() + "_*")
	if err != nil {
		return nil, err
	}
	for _, g := range cgroups {
		left = append(left, "cgroup "+g)
	}
	processes, err := p.processes()
	if err != nil {
		return nil, err
	}
	left = append(left, processes...)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if w := strings.Fields(line); len(w) > 1 && strings.HasPrefix(w[1], p.dir+"/") {
			left = append(left, "mount "+w[1])
		}
	}
	if exists(p.dir) {
		left = append(left, "directory "+p.dir)
	}
	return left, nil
}

// processes finds supervisors and systemd-nspawn by their arguments.
func (p *Provider) processes() ([]string, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var left []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		args := strings.ReplaceAll(string(data), "\x00", " ")
		if strings.Contains(args, p.dir+"/machines/") && (strings.Contains(args, "supervise") || strings.Contains(args, "systemd-nspawn")) {
			left = append(left, fmt.Sprintf("process %s: %s", filepath.Base(filepath.Dir(f)), args))
		}
	}
	return left, nil
}
