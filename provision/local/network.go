package local

import (
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
	// The last address is the broadcast's.
	if !prefix.Contains(addr) || !prefix.Contains(addr.Next()) {
		return addr, 0, fmt.Errorf("network %s has no room for host %d", n.CIDR, i)
	}
	return addr, prefix.Bits(), nil
}

// port is the bridge's end of a machine's cable.
func port(index int) string { return fmt.Sprintf("port%d", index) }

// hostLink is the host's end of its cable to the bridge.
func (p *Provider) hostLink() string { return p.tag() }

// networkUp reports whether all of the network is there: putting up the
// host's end of the cable is the last thing that createNetwork does.
func (p *Provider) networkUp() bool {
	state, err := os.ReadFile(filepath.Join("/sys/class/net", p.hostLink(), "operstate"))
	return err == nil && strings.TrimSpace(string(state)) == "up"
}

// createNetwork makes the cluster's namespace and bridge, and a cable from the
// bridge to the host. What is there already stays: machines may hang on it.
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
	ns, link := p.clusterNS(), p.hostLink()
	if err := addNS(ctx, ns); err != nil {
		return err
	}
	there, err := links(ctx, ns)
	if err != nil {
		return err
	}
	commands := []string{"-n " + ns + " link set lo up"}
	if !there[bridge] {
		commands = append(commands, "-n "+ns+" link add "+bridge+" type bridge")
	}
	if !exists(filepath.Join("/sys/class/net", link)) {
		commands = append(commands, "link add "+link+" type veth peer name host netns "+ns)
	}
	return ip(ctx, append(commands,
		"-n "+ns+" link set "+bridge+" up",
		"-n "+ns+" link set host master "+bridge+" up",
		fmt.Sprintf("address replace %s/%d dev %s", host, bits, link),
		"link set "+link+" up",
	)...)
}

// chooseNetwork returns the network that is recorded, or records one. Clusters
// that start at the same time choose one after the other.
func (p *Provider) chooseNetwork(ctx context.Context) (*network, error) {
	n, err := p.loadNetwork()
	if err != nil || n != nil {
		if err == nil && !p.wants(n) {
			err = fmt.Errorf("cluster %s has network %s, the cluster file says %s; put it back, or take the cluster down first: plasmid down", p.cluster, n.CIDR, p.cidr)
		}
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

// wants reports whether the network is the one that the cluster file names.
func (p *Provider) wants(n *network) bool { return p.cidr == "" || p.cidr == n.CIDR }

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

// widest is the size of network that a route counts from. Wider ones are a
// default route, or the halves that VPNs make of it.
const widest = 8

// overlapping says what the prefix collides with: of several, the widest, which
// tells most.
func overlapping(prefix netip.Prefix, taken map[netip.Prefix]string) string {
	best, found := netip.Prefix{}, ""
	for t, by := range taken {
		if t.Bits() >= widest && t.Overlaps(prefix) && (found == "" || t.Compare(best) < 0 && t.Bits() == best.Bits() || t.Bits() < best.Bits()) {
			best, found = t, by
		}
	}
	return found
}

// plug makes a machine's namespace and its cable to the bridge, as far as they
// are missing.
func (p *Provider) plug(ctx context.Context, m *machine) error {
	ns, link := p.machineNS(m.Index), port(m.Index)
	if !alive(p.clusterNS()) {
		return fmt.Errorf("the network of cluster %s is missing; make it with: plasmid up", p.cluster)
	}
	if err := addNS(ctx, ns); err != nil {
		return err
	}
	ports, err := links(ctx, p.clusterNS())
	if err != nil {
		return err
	}
	commands := []string{"-n " + ns + " link set lo up"}
	if !ports[link] {
		commands = append(commands, fmt.Sprintf("-n %s link add %s type veth peer name host0 address %s netns %s", p.clusterNS(), link, m.MAC, ns))
	}
	return ip(ctx, append(commands, "-n "+p.clusterNS()+" link set "+link+" master "+bridge+" up")...)
}

// unplug takes away what plug made. The cable goes first: the kernel takes its
// time with a namespace's interfaces.
func (p *Provider) unplug(ctx context.Context, index int) error {
	ports, err := links(ctx, p.clusterNS())
	if err != nil {
		return err
	}
	if ports[port(index)] {
		if err := ip(ctx, "-n "+p.clusterNS()+" link delete "+port(index)); err != nil {
			return err
		}
	}
	return removeNS(ctx, p.machineNS(index))
}

// Partition makes the bridge drop all that a machine sends and all that is
// sent to it, the host's included; the machine's link stays up. Heal ends
// that.
func (p *Provider) Partition(ctx context.Context, name string) error {
	return p.setPort(ctx, name, "0") // disabled
}

// Heal ends what Partition began.
func (p *Provider) Heal(ctx context.Context, name string) error {
	return p.setPort(ctx, name, "3") // forwarding
}

// setPort sets the state of the bridge's port, as the spanning tree protocol
// numbers them.
func (p *Provider) setPort(ctx context.Context, name, state string) error {
	m, err := p.load(name)
	if err != nil {
		return err
	}
	return ip(ctx, "-n "+p.clusterNS()+" link set "+port(m.Index)+" type bridge_slave state "+state)
}

// deleteNetwork removes all that the kernel and the disk still have of the
// cluster, known or not.
func (p *Provider) deleteNetwork(ctx context.Context) error {
	if err := p.killStrays(ctx); err != nil {
		return err
	}
	if exists(filepath.Join("/sys/class/net", p.hostLink())) {
		if err := ip(ctx, "link delete "+p.hostLink()); err != nil {
			return err
		}
	}
	namespaces, err := p.namespaces()
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		if err := removeNS(ctx, ns); err != nil {
			return err
		}
	}
	if err := unmountNetns(); err != nil {
		return err
	}
	return os.RemoveAll(p.dir)
}
