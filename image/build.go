package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"plasmid/internal/progress"
	"plasmid/provision/config"
)

// Options of a build.
type Options struct {
	Config    config.Image
	Dir       string // of the cluster file; relative playbooks start here
	Playbooks string // the directory with node.yml
	Binaries  string // the directory with plasmid, plasmidd and confd
	State     string
	Place     string // names the cloud, for an image that is built there
	TreeOnly  bool   // leave the qcow2 out
	Refresh   bool   // fetch the packages again, though a tree of them is there
	Log       *progress.Log
}

// Programs are Plasmid's own in an image.
var Programs = []string{"plasmid", "plasmidd", "confd"}

// needBytes is the free space that a build asks for: two trees and a disk.
const needBytes = 4 << 30

type build struct {
	Options
	apt       aptPolicy
	playbooks []string
	dir       string // where the image is made; renamed to its place at the end
	phases    []PhaseTime
}

// Build makes the image of the options, or finds that it is there already.
// built says which. A build that fails or is cancelled leaves nothing that a
// later one takes for an image.
func Build(ctx context.Context, o Options) (img *Image, built bool, err error) {
	b := &build{Options: o}
	if err := b.prepare(ctx); err != nil {
		return nil, false, err
	}
	unlock, err := b.lock(".lock", ".build-*", ".removed-*")
	if err != nil {
		return nil, false, err
	}
	defer unlock()

	packages, err := b.packageTree(ctx)
	if err != nil {
		return nil, false, err
	}
	versions, err := installed(packages)
	if err != nil {
		return nil, false, err
	}
	id, err := identity(versions, b.Config, b.playbooks, b.Binaries)
	if err != nil {
		return nil, false, err
	}
	if img, err = ByID(b.State, id); err != nil {
		if img, err = b.tree(ctx, id, packages, versions); err != nil {
			return nil, false, err
		}
		built = true
	}
	if !b.TreeOnly && !img.HasDisk() {
		if err := b.disk(ctx, img); err != nil {
			return nil, false, err
		}
		built = true
	}
	return img, built, markLatest(b.State, id, ".latest", b.link())
}

// link is the name by which For finds the image of an image block.
func (o Options) link() string { return ".for-" + purpose(o.Config, playbooks(o), o.Place) }

// prepare finds out what can be found out before anything is written.
func (b *build) prepare(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("building an image needs root: it makes a Debian tree with its owners and runs programs in it; use sudo")
	}
	if err := b.inputs("mmdebstrap", "ansible-playbook"); err != nil {
		return err
	}
	var err error
	if b.apt, err = hostPolicy(ctx); err != nil {
		return err
	}
	b.apt.override(b.Config)
	return nil
}

// inputs sees to it that all is there that an image is made of.
func (b *build) inputs(tools ...string) error {
	for _, tool := range tools {
		if err := installedTool(tool); err != nil {
			return err
		}
	}
	for _, p := range Programs {
		if _, err := os.Stat(filepath.Join(b.Binaries, p)); err != nil {
			return fmt.Errorf("%w; build the programs first with: make build", err)
		}
	}
	b.playbooks = playbooks(b.Options)
	for _, p := range b.playbooks {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("playbook: %w", err)
		}
	}
	return os.MkdirAll(imagesDir(b.State), 0o755)
}

// playbooks lists what is run, node.yml first.
func playbooks(o Options) []string {
	list := []string{filepath.Join(o.Playbooks, "node.yml")}
	for _, p := range o.Config.Playbooks {
		if !filepath.IsAbs(p) {
			p = filepath.Join(o.Dir, p)
		}
		if !slices.Contains(list, p) && !sameFile(p, list[0]) {
			list = append(list, p)
		}
	}
	return list
}

func sameFile(a, b string) bool {
	ai, aerr := os.Stat(a)
	bi, berr := os.Stat(b)
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// lock keeps builds of a kind apart, and clears what one that was cut off left.
func (b *build) lock(name string, left ...string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(imagesDir(b.State), name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.New("another image build is running; wait for it to end")
	}
	for _, dir := range []string{imagesDir(b.State), b.cache()} {
		for _, pattern := range left {
			stale, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, s := range stale {
				if err := os.RemoveAll(s); err != nil {
					f.Close()
					return nil, err
				}
			}
		}
	}
	return func() { f.Close() }, nil
}

func (b *build) cache() string { return filepath.Join(b.State, "cache", "packages") }

// phase runs one step of the build and takes its time.
func (b *build) phase(name string, f func(*progress.Task) error) error {
	task := b.Log.Start("%s", name)
	start := time.Now()
	err := task.Done(f(task))
	b.phases = append(b.phases, PhaseTime{name, time.Since(start).Round(10 * time.Millisecond).Seconds()})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// free refuses to begin what would fill the disk.
func (b *build) free() error {
	var st unix.Statfs_t
	if err := unix.Statfs(b.State, &st); err != nil {
		return err
	}
	if have := st.Bavail * uint64(st.Bsize); have < needBytes {
		return fmt.Errorf("%s has %d MiB free, a build needs about %d; make room (plasmid image prune), or set PLASMID_STATE to a directory on a larger disk",
			b.State, have>>20, needBytes>>20)
	}
	return nil
}

// packageTree returns the tree of Debian packages, from the cache if it is
// there. It is fetched again only when asked for: otherwise an image would
// change with every day's archive.
func (b *build) packageTree(ctx context.Context) (string, error) {
	final := filepath.Join(b.cache(), packageKey(b.Config, b.apt))
	if _, err := os.Stat(final); err == nil && !b.Refresh {
		return final, nil
	}
	if err := b.free(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(b.cache(), 0o700); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(b.cache(), ".build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	tree := filepath.Join(tmp, "tree")
	err = b.phase("Debian packages", func(t *progress.Task) error {
		return mmdebstrap(ctx, t, tree, b.Config.Suite, "minbase", treePackages(b.Config), b.apt)
	})
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(final); err != nil {
		return "", err
	}
	return final, os.Rename(tree, final)
}

// tree makes the image's tree from that of the packages and puts it in place.
func (b *build) tree(ctx context.Context, id, packages string, versions []Package) (*Image, error) {
	if err := b.free(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(imagesDir(b.State), ".build-")
	if err != nil {
		return nil, err
	}
	b.dir = dir
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "tree")
	if err := b.phase("copy of the package tree", func(t *progress.Task) error {
		return run(ctx, t, nil, "", "cp", "-a", "--reflink=auto", packages, tree)
	}); err != nil {
		return nil, err
	}
	if err := b.phase("playbooks", func(t *progress.Task) error { return b.ansible(ctx, t, tree) }); err != nil {
		return nil, err
	}
	if err := b.phase("boot files and clean-up", func(*progress.Task) error {
		return errors.Join(writeBootFiles(tree), cleanTree(tree))
	}); err != nil {
		return nil, err
	}
	if err := b.phase("checks", func(*progress.Task) error { return Check(tree) }); err != nil {
		return nil, err
	}
	m := Manifest{ID: id, Format: format, Created: time.Now().UTC().Truncate(time.Second), Suite: b.Config.Suite, Packages: versions,
		Inputs: Inputs{PackageKey: filepath.Base(packages), Playbooks: b.playbooks, Vars: b.Config.Vars}}
	// A playbook may have installed more.
	if m.Packages, err = installed(tree); err != nil {
		return nil, err
	}
	if m.TreeBytes, err = diskUsage(tree); err != nil {
		return nil, err
	}
	return b.put(dir, m)
}

// put completes the directory of an image and puts it in its place.
func (b *build) put(dir string, m Manifest) (*Image, error) {
	var err error
	if m.Inputs.Binaries, err = hashFiles(b.Binaries, Programs); err != nil {
		return nil, err
	}
	m.Phases = b.phases
	if err := errors.Join(
		writeJSON(filepath.Join(dir, "manifest.json"), m),
		writeJSON(filepath.Join(dir, "sbom.spdx.json"), sbom(m)),
		os.Chmod(dir, 0o755),
	); err != nil {
		return nil, err
	}
	unix.Sync() // the rename must not reach the disk before what it names
	if err := os.Rename(dir, filepath.Join(imagesDir(b.State), m.ID)); err != nil {
		return nil, err
	}
	return ByID(b.State, m.ID)
}

// hashFiles returns the SHA-256 of files by name.
func hashFiles(dir string, names []string) (map[string]string, error) {
	sums := map[string]string{}
	for _, n := range names {
		sum, err := hashFile(filepath.Join(dir, n))
		if err != nil {
			return nil, err
		}
		sums[n] = sum
	}
	return sums, nil
}

func hashFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Finish removes from a tree what building it left, so that every machine starts
// as new, and checks it.
func Finish(tree string) error {
	if err := cleanTree(tree); err != nil {
		return err
	}
	return Check(tree)
}

// cleanTree removes what building left, so that every machine starts as new.
func cleanTree(tree string) error {
	var errs []error
	for _, pattern := range []string{
		"var/lib/apt/lists/*", "var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "etc/apt/apt.conf.d/99mmdebstrap",
		"etc/ssh/ssh_host_*", "var/lib/cloud/*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
		"var/log/*.log", "var/log/apt/*", "var/log/journal/*", "tmp/*", "tmp/.[!.]*", "var/tmp/*", "run/*",
		"root/.ansible", "root/.*_history", "home/*/.*_history", "usr/sbin/policy-rc.d",
		// What cloud-init wrote for the machine that an image is built on.
		"etc/netplan/50-cloud-init.yaml", "etc/systemd/network/10-cloud-init-*", "etc/network/interfaces.d/50-cloud-init*",
		"etc/sudoers.d/90-cloud-init-users",
	} {
		matches, err := filepath.Glob(filepath.Join(tree, pattern))
		errs = append(errs, err)
		for _, m := range matches {
			errs = append(errs, os.RemoveAll(m))
		}
	}
	errs = append(errs, os.MkdirAll(filepath.Join(tree, "var/lib/apt/lists/partial"), 0o755))
	errs = append(errs, os.WriteFile(filepath.Join(tree, "etc/machine-id"), nil, 0o444))
	errs = append(errs, os.WriteFile(filepath.Join(tree, "etc/hostname"), []byte("localhost\n"), 0o644))
	return errors.Join(errs...)
}

// kernelVersion finds the newest kernel in the tree.
func kernelVersion(tree string) (string, error) {
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil {
		return "", err
	}
	if len(kernels) == 0 {
		return "", fmt.Errorf("/boot: %w: no kernel", fs.ErrNotExist)
	}
	slices.Sort(kernels)
	return strings.TrimPrefix(filepath.Base(kernels[len(kernels)-1]), "vmlinuz-"), nil
}
