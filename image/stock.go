package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"plasmid/internal/progress"
	"plasmid/provision/config"
)

const stockTable = "LABEL=" + rootLabel + " / ext4 defaults,errors=remount-ro 0 1\n"

// StockTree makes a tree of what clouds have to begin with: Debian with
// cloud-init and SSH, all as the packages set it up. It is for labs. Of the
// packages of a node those in without are left out, which a build then has to
// fetch.
func StockTree(ctx context.Context, suite string, without []string, tree string, log *progress.Log) error {
	b := &build{Options: Options{Config: config.Image{Suite: suite}, Log: log}}
	if err := installedTool("mmdebstrap"); err != nil {
		return err
	}
	var err error
	if b.apt, err = hostPolicy(ctx); err != nil {
		return err
	}
	packages := slices.DeleteFunc(treePackages(b.Config), func(p string) bool { return slices.Contains(without, p) })
	if err := b.phase("Debian packages", func(t *progress.Task) error {
		return mmdebstrap(ctx, t, tree, suite, "minbase", packages, b.apt)
	}); err != nil {
		return err
	}
	if err := run(ctx, nil, nil, "", "chroot", tree, "systemctl", "enable", "systemd-networkd.service", "systemd-resolved.service"); err != nil {
		return err
	}
	return errors.Join(writeBootFiles(tree), cleanTree(tree), os.WriteFile(filepath.Join(tree, "etc/fstab"), []byte(stockTable), 0o644))
}

// Stock makes such a tree into a qcow2. dir is for what is made on the way,
// about 2 GiB.
func Stock(ctx context.Context, suite string, without []string, file, dir string, log *progress.Log) error {
	b := &build{Options: Options{Log: log}}
	for _, tool := range []string{"mkfs.ext4", "mkfs.vfat", "mcopy", "sfdisk", "qemu-img"} {
		if err := installedTool(tool); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(dir, ".stock-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	tree, raw, out := filepath.Join(tmp, "tree"), filepath.Join(tmp, "disk.raw"), filepath.Join(tmp, "disk.qcow2")
	if err := StockTree(ctx, suite, without, tree, log); err != nil {
		return err
	}
	if err := b.phase("file system", func(t *progress.Task) error {
		return b.layOut(ctx, t, tree, tmp, raw, DefaultDiskGiB<<30/sector)
	}); err != nil {
		return err
	}
	if err := b.phase("qcow2", func(t *progress.Task) error {
		return run(ctx, t, nil, "", "qemu-img", "convert", "-O", "qcow2", raw, out)
	}); err != nil {
		return err
	}
	if err := os.Rename(out, file); err != nil {
		return fmt.Errorf("putting the image in its place: %w", err)
	}
	return nil
}
