package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"plasmid/image"
	"plasmid/internal/progress"
	"plasmid/test/lab/openstack/conf"
)

// stockSuite is what a plain Debian is of.
const stockSuite = "testing"

// stockLacks is what a plain Debian does not have of a node's packages.
var stockLacks = []string{"docker.io", "docker-cli", "etcd-server", "etcd-client", "nftables", "less"}

// stockImage puts a plain Debian with cloud-init into a lab that is up. It is
// made once.
func (s site) stockImage(ctx context.Context, log *progress.Log, name string) error {
	pid := s.process1()
	if pid == 0 {
		return errNotUp
	}
	st, err := s.status()
	if err != nil {
		return err
	}
	if st.Tier == string(conf.LXC) {
		tree := filepath.Join(s.cache(), "stock-tree")
		if err := s.once(tree, func(partial string) error {
			return image.StockTree(ctx, stockSuite, stockLacks, partial, log)
		}); err != nil {
			return err
		}
		return s.guestImage(ctx, log, tree, "", name)
	}
	// Where servers are emulated, to install what it lacks takes longer than all
	// else.
	dir := filepath.Join(s.cache(), "stock")
	if err := s.once(dir, func(partial string) error {
		return image.Stock(ctx, stockSuite, nil, filepath.Join(partial, "disk.qcow2"), partial, log)
	}); err != nil {
		return err
	}
	in, err := os.Open(filepath.Join(dir, "disk.qcow2"))
	if err != nil {
		return err
	}
	defer in.Close()
	return s.upload(ctx, log, pid, in, name, "--disk-format=qcow2")
}

// once makes a directory of the cache, unless it is there.
func (s site) once(dir string, fill func(partial string) error) error {
	held, err := lock(filepath.Join(s.dir, "cache.lock"), "the cache")
	if err != nil {
		return err
	}
	defer held.Close()
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	return whole(dir, fill)
}

func stockCommand(o *options) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "stock",
		Short: "put a plain Debian with cloud-init into a lab of tier lxc or qemu",
		Long: `Makes an image like those that clouds have to begin with, the first time, and
puts it into the lab. It is what images are built from with build = "cloud".`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := o.site()
			if err != nil {
				return err
			}
			return s.stockImage(c.Context(), newLog(), name)
		},
	}
	c.Flags().StringVar(&name, "as", "debian", "name of the image in the lab")
	return c
}
