package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Sweep asks the kernel and the disk, not our own notes, what is left of the
// cluster.
func (p *Provider) Sweep(context.Context) ([]string, error) {
	var left []string
	namespaces, err := p.namespaces()
	if err != nil {
		return nil, err
	}
	for _, n := range namespaces {
		left = append(left, "network namespace "+n)
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
	for _, pr := range processes {
		left = append(left, fmt.Sprintf("process %d: %s", pr.pid, pr.args))
	}
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

// namespaces lists the cluster's network namespaces.
func (p *Provider) namespaces() ([]string, error) {
	var names []string
	for _, pattern := range []string{p.clusterNS(), p.clusterNS() + "-*"} {
		files, err := filepath.Glob(nsPath(pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			names = append(names, filepath.Base(f))
		}
	}
	return names, nil
}

type process struct {
	pid  int
	args string
}

// processes finds supervisors and systemd-nspawn by their arguments.
func (p *Provider) processes() ([]process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		args := strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
		if !strings.Contains(args, p.dir+"/machines/") || !strings.Contains(args, "supervise") && !strings.Contains(args, "systemd-nspawn") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			return nil, err
		}
		found = append(found, process{pid, args})
	}
	return found, nil
}

// killStrays ends what runs of the cluster, also of machines that nothing is
// known of any more.
func (p *Provider) killStrays(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, powerOffTimeout)
	defer cancel()
	return until(ctx, func() error {
		strays, err := p.processes()
		if err != nil {
			return err
		}
		for _, s := range strays {
			if err := syscall.Kill(s.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		if err := killGroup(ctx, p.tag()+"_*"); err != nil {
			return err
		}
		if len(strays) > 0 {
			return fmt.Errorf("process %d is still ending: %s", strays[0].pid, strays[0].args)
		}
		return nil
	})
}
