package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"plasmid/provision/configdrive"
	"plasmid/provision/plan"
)

// needBytes is the free space that a machine asks for.
const needBytes = 512 << 20

// indexes keeps machines that are made at the same time from choosing the same
// address.
var indexes sync.Mutex

// create makes a machine, or completes one whose making was cut off.
func (p *Provider) create(ctx context.Context, want plan.Machine) error {
	tree, err := p.tree(want.Image)
	if err != nil {
		return err
	}
	m, err := p.allot(want)
	if err != nil {
		return err
	}
	if err := m.writeDisk(p, tree); err != nil {
		return err
	}
	m.Complete = true
	if err := m.save(); err != nil {
		return err
	}
	return p.Start(ctx, want.Name)
}

// allot gives the machine its directory, address and IDs, once.
func (p *Provider) allot(want plan.Machine) (*machine, error) {
	indexes.Lock()
	defer indexes.Unlock()
	n, err := p.loadNetwork()
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, errors.New("the cluster's network is missing; run plasmid up again")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.dir, &st); err != nil {
		return nil, err
	}
	if free := st.Bavail * uint64(st.Bsize); free < needBytes {
		return nil, fmt.Errorf("%s has %d MiB free, machine %s needs about %d; make room, or set PLASMID_STATE to a directory on a larger disk", p.dir, free>>20, want.Name, needBytes>>20)
	}
	ms, err := p.machines()
	if err != nil {
		return nil, err
	}
	used := map[int]bool{}
	for _, m := range ms {
		if m.Name == want.Name && m.Index != 0 {
			m.Machine = want
			return m, nil
		}
		used[m.Index] = true
	}
	m := &machine{Machine: want, Index: firstIndex, dir: p.machineDir(want.Name)}
	// demo-core-3 gets the third address, if it is free.
	if n := number(want.Name); n > 0 && !used[firstIndex+n-1] {
		m.Index = firstIndex + n - 1
	}
	for used[m.Index] {
		m.Index++
	}
	addr, _, err := n.address(m.Index)
	if err != nil {
		return nil, err
	}
	m.Address = addr.String()
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a random UUID, RFC 9562 version 4
	m.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	m.MAC = fmt.Sprintf("02:%s:%02x:%02x", p.macPart(), m.Index>>8, m.Index&0xff)
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	return m, m.save()
}

// number is the number at the end of a machine's name, 0 if there is none.
func number(name string) int {
	n, err := strconv.Atoi(name[strings.LastIndexByte(name, '-')+1:])
	if err != nil {
		return 0
	}
	return n
}

// macPart is three bytes of a locally administered address, of the cluster's.
func (p *Provider) macPart() string {
	h := strings.TrimPrefix(p.tag(), "pl")
	return h[0:2] + ":" + h[2:4] + ":" + h[4:6]
}

// writeDisk makes the machine's layer over the image's tree.
func (m *machine) writeDisk(p *Provider, tree string) error {
	n, err := p.loadNetwork()
	if err != nil {
		return err
	}
	gateway, bits, err := n.address(1)
	if err != nil {
		return err
	}
	for _, d := range []string{"upper", "work", "root", "docker", "containerd"} {
		if err := makeDir(m.dir, d); err != nil {
			return err
		}
	}
	drive := configdrive.Machine{
		UUID: m.UUID, Name: m.Name, Cluster: p.cluster, MAC: m.MAC, Address: m.Address,
		Netmask: net.IP(net.CIDRMask(bits, 32)).String(), Gateway: gateway.String(), SSHKeys: p.sshKeys,
	}
	files := map[string]file{}
	for path, data := range drive.Files() {
		files["var/lib/cloud/seed/config_drive/"+path] = file{data, 0o600}
	}
	for path, f := range containerFiles {
		files[path] = f
	}
	if hybridHost() {
		for path, f := range cgroup1Files {
			files[path] = f
		}
	}
	for path, f := range files {
		if err := f.write(filepath.Join(m.dir, "upper"), path); err != nil {
			return fmt.Errorf("making the disk of machine %s: %w", m.Name, err)
		}
	}
	if err := os.Remove(filepath.Join(m.dir, "tree")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(tree, filepath.Join(m.dir, "tree"))
}

// containerFiles keep quiet what only a machine with a disk of its own needs.
var containerFiles = map[string]file{
	"etc/fstab": {nil, 0o644},
	"etc/systemd/system/grub2-common.service.d/90-container.conf": {[]byte("[Unit]\nConditionVirtualization=!container\n"), 0o644},
}

type file struct {
	data []byte
	mode os.FileMode
}

// write makes the file at a path below root, with the mode it is to have,
// whatever this process's umask.
func (f file) write(root, path string) error {
	if err := makeDir(root, filepath.Dir(path)); err != nil {
		return err
	}
	name := filepath.Join(root, path)
	if err := os.WriteFile(name, f.data, f.mode); err != nil {
		return err
	}
	return os.Chmod(name, f.mode)
}

// makeDir makes the directories of a path below root. They cover the image's
// own, so that everybody must be able to enter them.
func makeDir(root, path string) error {
	dir := root
	for _, d := range strings.Split(path, "/") {
		dir = filepath.Join(dir, d)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// delete takes a machine away with all it has, whatever state it is in.
func (p *Provider) delete(ctx context.Context, name string) error {
	m, err := p.load(name)
	if err != nil {
		// Nothing is known of it but its directory.
		return os.RemoveAll(p.machineDir(name))
	}
	if err := p.PowerOff(ctx, name); err != nil {
		return err
	}
	return os.RemoveAll(m.dir)
}
