package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// hybridHost reports whether this host has its memory controller on cgroup v1,
// so that v2 can't limit what the machines and their containers use.
func hybridHost() bool {
	data, err := os.ReadFile("/proc/self/cgroup")
	return err == nil && memoryOnV1(string(data))
}

// memoryOnV1 reads the contents of /proc/<pid>/cgroup: lines of number,
// controllers and path, of which v2's is number 0 and names no controllers.
func memoryOnV1(cgroups string) bool {
	for line := range strings.Lines(cgroups) {
		if f := strings.SplitN(line, ":", 3); len(f) == 3 && f[0] != "0" && slices.Contains(strings.Split(f[1], ","), "memory") {
			return true
		}
	}
	return false
}

// group is the name of a machine's cgroup in every hierarchy, or of its slice
// where systemd makes the cgroups.
func (p *Provider) group(m *machine) string { return fmt.Sprintf("%s_%d", p.tag(), m.Index) }

// hierarchies are the mounted cgroup trees of the host, v1 and v2.
func hierarchies() ([]string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var dirs []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if w := strings.Fields(s.Text()); len(w) > 2 && (w[2] == "cgroup" || w[2] == "cgroup2") {
			dirs = append(dirs, w[1])
		}
	}
	return dirs, nil
}

// groups finds the directories of the cluster's cgroups, or of one machine's.
func groups(pattern string) ([]string, error) {
	roots, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, r := range roots {
		// At the top, or below the cgroup that plasmid itself runs in.
		err := filepath.WalkDir(r, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // a cgroup may go while we look
			}
			if ok, _ := filepath.Match(pattern, strings.TrimSuffix(d.Name(), ".slice")); ok {
				found = append(found, path)
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// killGroup ends every process of a machine at once and removes its cgroups.
// They must go: what is started later in a group that was killed dies at birth.
func killGroup(ctx context.Context, name string) error {
	dirs, err := groups(name)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		file := filepath.Join(d, "cgroup.kill")
		if !exists(file) {
			continue // v1: its processes are in v2 too
		}
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return err
		}
	}
	return until(ctx, func() error {
		for _, d := range dirs {
			if err := removeTree(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// removeTree removes a cgroup with all below it, the deepest first.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, d := range dirs {
		if err := syscall.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing cgroup %s: %w", d, err)
		}
	}
	return nil
}

// cgroup1Files give Docker, and only Docker, a view of the v1 controllers:
// systemd in the machine takes v2 only, which has none on such a host.
var cgroup1Files = map[string]file{
	"usr/local/sbin/plasmid-cgroup1": {[]byte(cgroup1Script), 0o755},
	"etc/systemd/system/docker.service.d/90-cgroup1.conf": {[]byte("[Service]\nExecStart=\n" +
		"ExecStart=/usr/local/sbin/plasmid-cgroup1 /usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock\n"), 0o644},
	"etc/systemd/system/containerd.service.d/90-cgroup1.conf": {[]byte("[Service]\nExecStart=\n" +
		"ExecStart=/usr/local/sbin/plasmid-cgroup1 /usr/bin/containerd\n"), 0o644},
}

const cgroup1Script = `#!/bin/sh
# Runs a program with the cgroup v1 controllers at /sys/fs/cgroup.
set -eu
if [ "${1:-}" != --inside ]; then
	# Mounts that the program makes elsewhere must stay visible to all.
	exec unshare --mount --propagation unchanged "$0" --inside "$@"
fi
shift
mount --make-private /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
while IFS=: read -r id controllers path; do
	[ "$id" != 0 ] && [ -n "$controllers" ] || continue
	name=${controllers#name=}
	mkdir -p "/sys/fs/cgroup/$name"
	case $controllers in
	name=*) mount -t cgroup -o "none,$controllers" cgroup "/sys/fs/cgroup/$name" ;;
	*) mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$name" ;;
	esac
done </proc/self/cgroup
exec "$@"
`
