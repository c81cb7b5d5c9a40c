package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"plasmid/provision/plan"
)

// hostKeyTimeout is how long cloud-init in a machine may take to make its SSH
// host key, on a busy host.
const hostKeyTimeout = 5 * time.Minute

// Provider runs the machines of one cluster.
type Provider struct {
	cluster string
	dir     string // <state>/clusters/<cluster>/local
	cidr    string // wanted; empty: choose one
	tree    func(image string) (string, error)
	sshKeys []string
	self    string // the program that supervises machines
}

// Config of a provider.
type Config struct {
	Cluster string
	State   string                                     // the state directory
	CIDR    string                                     // of the cluster's network; empty: a free one
	Tree    func(image string) (dir string, err error) // where an image's tree is
	SSHKeys []string                                   // authorized_keys lines for the login user
}

// New returns a provider. It needs root and systemd-nspawn, and says so.
func New(c Config) (*Provider, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("local machines need root: they have network namespaces and mounts of their own; use sudo")
	}
	for _, tool := range []string{"systemd-nspawn", "ip", "nsenter", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is not installed; run: make deps", tool)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	state, err := realPath(c.State)
	if err != nil {
		return nil, err
	}
	return &Provider{
		cluster: c.Cluster,
		dir:     filepath.Join(state, "clusters", c.Cluster, "local"),
		cidr:    c.CIDR, tree: c.Tree, sshKeys: c.SSHKeys, self: self,
	}, nil
}

// realPath is the one path that a directory has, though it need not exist yet:
// the names of the cluster's things in the kernel depend on it.
func realPath(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) && dir != "/" {
		parent, err := realPath(filepath.Dir(dir))
		return filepath.Join(parent, filepath.Base(dir)), err
	}
	return real, err
}

// open returns the machine that lives in a directory, with its provider, for
// the supervisor, which is told nothing else.
func open(dir string) (*Provider, *machine, error) {
	local := filepath.Dir(filepath.Dir(dir))
	p := &Provider{cluster: filepath.Base(filepath.Dir(local)), dir: local}
	m, err := p.load(filepath.Base(dir))
	return p, m, err
}

// tag is what the cluster's names begin with. Interface names have room for 15 bytes only. It is of the directory,
// since clusters in two state directories may have the same name.
func (p *Provider) tag() string { return Tag(p.dir) }

// Tag is what every name in the kernel that belongs to a cluster begins with: the
// one that lives in a directory.
func Tag(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "pl" + hex.EncodeToString(sum[:3])
}

func (p *Provider) machineDir(name string) string { return filepath.Join(p.dir, "machines", name) }

// Observe finds the network and the machines. A machine runs if it boots, is
// up or is shutting down, and is plugged in.
func (p *Provider) Observe(ctx context.Context) (bool, []plan.Observed, error) {
	n, err := p.loadNetwork()
	if err != nil {
		return false, nil, err
	}
	ms, err := p.machines()
	if err != nil {
		return false, nil, err
	}
	ports, err := links(ctx, p.clusterNS())
	if err != nil {
		return false, nil, err
	}
	var out []plan.Observed
	for _, m := range ms {
		out = append(out, plan.Observed{
			Name: m.Name, Group: m.Group, Image: m.Image, PrivateIPv4: m.Address, PublicIPv4: m.Address,
			Running: m.running() && ports[port(m.Index)], Complete: m.Complete,
		})
	}
	return n != nil && p.wants(n) && p.networkUp(), out, nil
}

// Do carries out a step for the network or a machine.
func (p *Provider) Do(ctx context.Context, s plan.Step) error {
	switch {
	case s.Kind == plan.KindNetwork && s.Action == plan.Create:
		return p.createNetwork(ctx)
	case s.Kind == plan.KindNetwork && s.Action == plan.Delete:
		return p.deleteNetwork(ctx)
	case s.Kind == plan.KindMachine && s.Action == plan.Create:
		return p.create(ctx, *s.Machine)
	case s.Kind == plan.KindMachine && s.Action == plan.Start:
		return p.Start(ctx, s.Name)
	case s.Kind == plan.KindMachine && s.Action == plan.Delete:
		return p.delete(ctx, s.Name)
	}
	return fmt.Errorf("local machines know no step %s", s.ID)
}

// HostKey reads the key from the machine's disk, where nobody comes between.
func (p *Provider) HostKey(ctx context.Context, name string) (ssh.PublicKey, error) {
	m, err := p.load(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, hostKeyTimeout)
	defer cancel()
	var key ssh.PublicKey
	off := false
	err = until(ctx, func() error {
		data, err := os.ReadFile(filepath.Join(m.dir, "upper/etc/ssh/ssh_host_ed25519_key.pub"))
		if err != nil {
			off = !m.running()
			if off {
				return nil // it will make none
			}
			return err
		}
		key, _, _, _, err = ssh.ParseAuthorizedKey(data)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("machine %s has made no SSH host key yet; its console is in %s: %w", name, p.consoleLog(name), err)
	}
	if off {
		return nil, fmt.Errorf("machine %s is off and has made no SSH host key; the reason may be in %s; start it with: plasmid up", name, p.consoleLog(name))
	}
	return key, nil
}

func (p *Provider) consoleLog(name string) string {
	return filepath.Join(p.machineDir(name), "console.log")
}

// until calls f until it returns nil or ctx ends. It serves for what can't be
// watched: another kernel namespace's state.
func until(ctx context.Context, f func() error) error {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-t.C:
		}
	}
}

// machine is a machine's own file, machine.json.
type machine struct {
	plan.Machine
	Index    int    `json:"index"` // the last part of its address
	Address  string `json:"address"`
	MAC      string `json:"mac"`
	UUID     string `json:"uuid"` // its machine-id
	Complete bool   `json:"complete"`

	dir string
}

func (p *Provider) load(name string) (*machine, error) {
	m := &machine{dir: p.machineDir(name)}
	data, err := os.ReadFile(filepath.Join(m.dir, "machine.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no machine %s in cluster %s", name, p.cluster)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%s: %w", m.dir, err)
	}
	return m, nil
}

// machines lists the machines by name. A directory without a machine.json is
// of a machine whose making or deletion was cut off.
func (p *Provider) machines() ([]*machine, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, "machines"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ms []*machine
	for _, e := range entries {
		m, err := p.load(e.Name())
		if err != nil {
			m = &machine{Machine: plan.Machine{Name: e.Name()}, dir: p.machineDir(e.Name())}
		}
		ms = append(ms, m)
	}
	slices.SortFunc(ms, func(a, b *machine) int { return a.Index - b.Index })
	return ms, nil
}

func (m *machine) save() error { return writeJSON(filepath.Join(m.dir, "machine.json"), m) }

// writeJSON writes a file whole or not at all.
func writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
