package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// network is the cluster's own file, network.json.
type network struct {
	CIDR string `json:"cidr"`
}

// firstIndex is the last part of the first machine's address; those below are
// kept for the host and for the user.
const firstIndex = 11

const bridge = "br0" // in the cluster's namespace

func (p *Provider) loadNetwork() (*network, error) {
	data, err := os.ReadFile(filepath.Join(p.dir, "network.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var n network
	if err := json.Unmarshal(data, &n); err != nil {
		return nil, fmt.Errorf("network.json: %w", err)
	}
	return &n, nil
}

// address is host number i of the network.
func (n *network) address(i int) (netip.Addr, int, error) {
	prefix, err := netip.ParsePrefix(n.CIDR)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	a := prefix.Masked().Addr().As4()
	v := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	v += uint32(i)
	addr := netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	if !prefix.Contains(addr) {
		return addr, 0, fmt.Errorf("network %s has no room for host %d", n.CIDR, i)
	}
	return addr, prefix.Bits(), nil
}

// clusterNS is the network namespace that holds the bridge. The host's own
// firewall has no say in it.
func (p *Provider) clusterNS() string { return "plasmid-" + p.tag() }

func (p *Provider) machineNS(index int) string { return fmt.Sprintf("plasmid-%s-%d", p.tag(), index) }

// port is the bridge's end of a machine's cable.
func port(index int) string { return fmt.Sprintf("port%d", index) }

func nsPath(ns string) string { return filepath.Join("/run/netns", ns) }

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func (p *Provider) networkUp(*network) bool {
	return exists(nsPath(p.clusterNS())) && exists(filepath.Join("/sys/class/net", p.tag()))
}

func (p *Provider) namespaceExists(m *machine) bool { return exists(nsPath(p.machineNS(m.Index))) }

// createNetwork makes the cluster's namespace and bridge, and a cable from the
// bridge to the host.
func (p *Provider) createNetwork(ctx context.Context) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	n, err := p.chooseNetwork(ctx)
	if err != nil {
		return err
	}
	host, bits, err := n.address(1)
	if err != nil {
		return err
	}
	ns, link := p.clusterNS(), p.tag()
	if p.networkUp(n) {
		return nil
	}
	// What is there of a network that was cut off is made anew.
	if err := p.removeLinks(ctx); err != nil {
		return err
	}
	return ip(ctx,
		"netns add "+ns,
		"-n "+ns+" link set lo up",
		"-n "+ns+" link add "+bridge+" type bridge",
		"-n "+ns+" link set "+bridge+" up",
		"link add "+link+" type veth peer name host netns "+ns,
		"-n "+ns+" link set host master "+bridge+" up",
		fmt.Sprintf("address add %s/%d dev %s", host, bits, link),
		"link set "+link+" up",
	)
}

// chooseNetwork returns the network that is recorded, or records one. Clusters
// that start at the same time choose one after the other.
func (p *Provider) chooseNetwork(ctx context.Context) (*network, error) {
	n, err := p.loadNetwork()
	if err != nil || n != nil {
		return n, err
	}
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(filepath.Dir(p.dir)), ".networks.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	taken, err := p.takenNetworks(ctx)
	if err != nil {
		return nil, err
	}
	n = &network{CIDR: p.cidr}
	if n.CIDR == "" {
		if n.CIDR = firstFree(taken); n.CIDR == "" {
			return nil, errors.New("every network of 10.42.0.0/16 is in use on this host; name another one: provider \"local\" { cidr = \"…\" }")
		}
	} else if by := overlapping(netip.MustParsePrefix(n.CIDR), taken); by != "" {
		return nil, fmt.Errorf("network %s is in use on this host (%s); choose another one: provider \"local\" { cidr = \"…\" }, or leave cidr out", n.CIDR, by)
	}
	return n, writeJSON(filepath.Join(p.dir, "network.json"), n)
}

// takenNetworks are the host's routes and the networks of other clusters.
func (p *Provider) takenNetworks(ctx context.Context) (map[netip.Prefix]string, error) {
	taken := map[netip.Prefix]string{}
	out, err := exec.CommandContext(ctx, "ip", "-j", "-4", "route", "show", "table", "all").Output()
	if err != nil {
		return nil, fmt.Errorf("asking for this host's routes: %w", err)
	}
	var routes []struct{ Dst, Dev string }
	if err := json.Unmarshal(out, &routes); err != nil {
		return nil, err
	}
	for _, r := range routes {
		if prefix, err := netip.ParsePrefix(r.Dst); err == nil && r.Dev != p.tag() {
			taken[prefix] = "a route by way of " + r.Dev
		} else if addr, err := netip.ParseAddr(r.Dst); err == nil && r.Dev != p.tag() {
			taken[netip.PrefixFrom(addr, 32)] = "an address of " + r.Dev
		}
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(p.dir)), "*", "local", "network.json"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		var n network
		if data, err := os.ReadFile(f); err == nil && json.Unmarshal(data, &n) == nil {
			if prefix, err := netip.ParsePrefix(n.CIDR); err == nil {
				taken[prefix] = "cluster " + filepath.Base(filepath.Dir(filepath.Dir(f)))
			}
		}
	}
	return taken, nil
}

func firstFree(taken map[netip.Prefix]string) string {
	for i := range 256 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(i), 0}), 24)
		if overlapping(prefix, taken) == "" {
			return prefix.String()
		}
	}
	return ""
}

// overlapping says what the prefix collides with. A default route is no
// obstacle.
func overlapping(prefix netip.Prefix, taken map[netip.Prefix]string) string {
	for t, by := range taken {
		if t.Bits() > 0 && t.Overlaps(prefix) {
			return by
		}
	}
	return ""
}

// plug makes a machine's namespace and its cable to the bridge.
func (p *Provider) plug(ctx context.Context, m *machine) error {
	ns, link := p.machineNS(m.Index), port(m.Index)
	if exists(nsPath(ns)) {
		return nil
	}
	return ip(ctx,
		"netns add "+ns,
		fmt.Sprintf("-n %s link add %s type veth peer name host0 address %s netns %s", p.clusterNS(), link, m.MAC, ns),
		"-n "+p.clusterNS()+" link set "+link+" master "+bridge+" up",
		"-n "+ns+" link set lo up",
	)
}

// unplug takes the cable away first: the kernel removes a namespace, and what
// is in it, some time after it was told to.
func (p *Provider) unplug(ctx context.Context, index int) error {
	if exists(nsPath(p.clusterNS())) {
		out, err := exec.CommandContext(ctx, "ip", "-n", p.clusterNS(), "link", "delete", port(index)).CombinedOutput()
		if err != nil && !bytes.Contains(out, []byte("Cannot find device")) {
			return fmt.Errorf("taking away %s: %w: %s", port(index), err, bytes.TrimSpace(out))
		}
	}
	if !exists(nsPath(p.machineNS(index))) {
		return nil
	}
	return ip(ctx, "netns delete "+p.machineNS(index))
}

// Partition cuts a machine's cable; Heal mends it. Both are for tests.
func (p *Provider) Partition(ctx context.Context, name string) error {
	return p.cable(ctx, name, "down")
}

// Heal mends the cable that Partition cut.
func (p *Provider) Heal(ctx context.Context, name string) error { return p.cable(ctx, name, "up") }

func (p *Provider) cable(ctx context.Context, name, state string) error {
	m, err := p.load(name)
	if err != nil {
		return err
	}
	return ip(ctx, "-n "+p.clusterNS()+" link set "+port(m.Index)+" "+state)
}

func (p *Provider) deleteNetwork(ctx context.Context) error {
	if err := p.removeLinks(ctx); err != nil {
		return err
	}
	return os.RemoveAll(p.dir)
}

// removeLinks takes away what createNetwork made, as far as it is there.
func (p *Provider) removeLinks(ctx context.Context) error {
	var commands []string
	if exists(filepath.Join("/sys/class/net", p.tag())) {
		commands = append(commands, "link delete "+p.tag())
	}
	if exists(nsPath(p.clusterNS())) {
		commands = append(commands, "netns delete "+p.clusterNS())
	}
	return ip(ctx, commands...)
}

// ip runs commands of iproute2 one after the other.
func ip(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		cmd := exec.CommandContext(ctx, "ip", strings.Fields(c)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, bytes.TrimSpace(out))
		}
	}
	return nil
}
