package local

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// nsfs is what statfs(2) calls the file system of namespaces.
const nsfs = 0x6e736673

// clusterNS is the network namespace that holds the bridge. The host's own
// firewall has no say in it.
func (p *Provider) clusterNS() string { return "plasmid-" + p.tag() }

func (p *Provider) machineNS(index int) string { return fmt.Sprintf("plasmid-%s-%d", p.tag(), index) }

func nsPath(ns string) string { return filepath.Join("/run/netns", ns) }

// alive reports whether a network namespace exists. Where /run is on disk, a
// file of its name outlives the host's own reboot.
func alive(ns string) bool {
	var st unix.Statfs_t
	return unix.Statfs(nsPath(ns), &st) == nil && st.Type == nsfs
}

func addNS(ctx context.Context, ns string) error {
	if alive(ns) {
		return nil
	}
	if err := removeNS(ctx, ns); err != nil {
		return err
	}
	return ip(ctx, "netns add "+ns)
}

func removeNS(ctx context.Context, ns string) error {
	switch {
	case alive(ns):
		return ip(ctx, "netns delete "+ns)
	case exists(nsPath(ns)):
		return os.Remove(nsPath(ns))
	}
	return nil
}

// unmountNetns undoes what "ip netns add" does besides: it mounts the directory
// of the names over itself, and leaves it so when the last name is gone.
// Whoever adds the next one mounts it again.
func unmountNetns() error {
	const dir = "/run/netns"
	names, err := os.ReadDir(dir)
	if err != nil || len(names) > 0 {
		return nil
	}
	// EINVAL: it is no mount. EBUSY: somebody has just added a name.
	err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if err != nil && err != unix.EINVAL && err != unix.EBUSY {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	return nil
}

// links lists the interfaces in a namespace.
func links(ctx context.Context, ns string) (map[string]bool, error) {
	if !alive(ns) {
		return nil, nil
	}
	out, err := exec.CommandContext(ctx, "ip", "-n", ns, "-j", "link", "show").Output()
	if err != nil {
		return nil, fmt.Errorf("asking for the interfaces in namespace %s: %w", ns, err)
	}
	var ls []struct{ Ifname string }
	if err := json.Unmarshal(out, &ls); err != nil {
		return nil, fmt.Errorf("reading what ip says of namespace %s: %w", ns, err)
	}
	names := map[string]bool{}
	for _, l := range ls {
		names[l.Ifname] = true
	}
	return names, nil
}

// ip runs commands of iproute2 one after the other.
func ip(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		cmd := exec.CommandContext(ctx, "ip", strings.Fields(c)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
