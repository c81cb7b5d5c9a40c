package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"plasmid/image"
	"plasmid/provision/config"
	"plasmid/provision/openstack"
)

func newImageCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build and look after node images",
	}
	cmd.AddCommand(newImageBuildCommand(g), newImageListCommand(g), newImageInspectCommand(g), newImageTestCommand(g), newImagePushCommand(g), newImagePruneCommand(g), newImageFinishCommand())
	return cmd
}

func newImageBuildCommand(g *globals) *cobra.Command {
	var o image.Options
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the image that the cluster file describes",
		Long: `Makes a tree of Debian Testing, runs the playbooks against it, checks it, and
packs it: a tree for local machines and a qcow2 for OpenStack. Nothing is
booted. An image is named by what went in; if it is there already, nothing is
built.

With build = "cloud" in the image block it boots the source image on a server in
the cluster file's cloud instead, runs the same playbooks there over SSH, checks
it, and makes a snapshot. Everything but that is removed again, also when the
build fails or is interrupted; of one that was killed, by the next.`,
		Example: "  plasmid image build\n  plasmid image build --refresh   # with today's packages",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.Config()
			if err != nil {
				return err
			}
			from := g.imageOptions(c)
			from.TreeOnly, from.Refresh = o.TreeOnly, o.Refresh
			o = from
			start := time.Now()
			img, built, err := g.buildImage(cmd.Context(), c, o)
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), img)
			}
			if !built {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "image %s is up to date%s\n", img.ID, inCloud(img))
				return err
			}
			if img.InCloud() {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "image %s is in the cloud (%s)\n", img.ID, time.Since(start).Round(100*time.Millisecond))
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "image %s: %s in %s\n", img.ID, sizes(img), time.Since(start).Round(100*time.Millisecond))
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.TreeOnly, "tree-only", false, "build no qcow2; local machines do not need it")
	f.BoolVar(&o.Refresh, "refresh", false, "fetch the newest packages")
	return cmd
}

// buildImage builds here, or on a server in the cloud.
func (g *globals) buildImage(ctx context.Context, c *config.Cluster, o image.Options) (*image.Image, bool, error) {
	if c.Image.Cloud == nil {
		return image.Build(ctx, o)
	}
	switch {
	case o.TreeOnly:
		return nil, false, errors.New("--tree-only is for local machines; the image block says build = \"cloud\"")
	case o.Refresh:
		return nil, false, errors.New("--refresh fetches packages for builds on this host; for newer ones with build = \"cloud\" name a newer source, or change anything else that goes in, such as a variable")
	}
	cloud, err := openCloud(ctx, c)
	if err != nil {
		return nil, false, err
	}
	owner, err := g.owner()
	if err != nil {
		return nil, false, err
	}
	return image.BuildInCloud(ctx, o, openstack.NewBuilder(cloud, c, owner, o.Log))
}

// owner names this host's state directory, and no other's.
func (g *globals) owner() (string, error) {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return "", err
	}
	dir, err := filepath.Abs(g.StateDir())
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(string(id) + dir))
	return hex.EncodeToString(sum[:4]), nil
}

// inCloud says where an image is, if it is not here.
func inCloud(i *image.Image) string {
	if i.InCloud() {
		return ", in the cloud"
	}
	return ""
}

// imageOptions are what the cluster file wants built, of the playbooks and
// programs that belong to this one.
func (g *globals) imageOptions(c *config.Cluster) image.Options {
	place := ""
	if o := c.Provider.OpenStack; o != nil {
		place = strings.Join([]string{cmp.Or(o.Cloud, os.Getenv("OS_CLOUD"), os.Getenv("OS_AUTH_URL")), o.Region}, " ")
	}
	return image.Options{
		Place:  place,
		Config: c.Image, Dir: c.Dir, State: g.StateDir(), Log: g.Progress(),
		Playbooks: beside("playbooks", "/usr/share/plasmid/playbooks"),
		Binaries:  beside("bin", "/usr/bin"),
	}
}

// beside finds what belongs to this program: in the source tree whose bin/ it
// runs from, else where a package would have put it.
func beside(name, packaged string) string {
	self, err := os.Executable()
	if err != nil {
		return packaged
	}
	dir := filepath.Join(filepath.Dir(filepath.Dir(self)), name)
	if _, err := os.Stat(dir); err != nil {
		return packaged
	}
	return dir
}

func sizes(i *image.Image) string {
	if i.InCloud() {
		return "in the cloud"
	}
	s := fmt.Sprintf("tree %d MiB", i.Manifest.TreeBytes>>20)
	if d := i.Manifest.Disk; d != nil {
		s += fmt.Sprintf(", qcow2 %d MiB", d.Bytes>>20)
	}
	return s
}

func newImageListCommand(g *globals) *cobra.Command {
	cloud := false
	cmd := &cobra.Command{
		Use:     "list",
		Example: "  plasmid image list\n  plasmid image list --cloud",
		Short:   "List the images, newest first",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cloud {
				return cloudImages(cmd, g, false, 0)
			}
			images, err := image.List(g.StateDir())
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), images)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tCREATED\tSUITE\tPACKAGES\tSIZE")
			for _, i := range images {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", i.ID, i.Manifest.Created.Local().Format(time.DateTime), i.Manifest.Suite, len(i.Manifest.Packages), sizes(i))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&cloud, "cloud", false, "those that were pushed to the cluster file's cloud")
	return cmd
}

func newImageInspectCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "inspect [IMAGE]",
		Short:   "Show what an image is made of; by default the latest",
		Example: "  plasmid image inspect | jq '.manifest.packages | length'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := findImage(g, args)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), i)
		},
	}
}

// findImage is the image that was named, or else the latest.
func findImage(g *globals, args []string) (*image.Image, error) {
	if len(args) == 0 {
		return image.Latest(g.StateDir())
	}
	return image.ByID(g.StateDir(), args[0])
}

func newImageTestCommand(g *globals) *cobra.Command {
	o := image.BootOptions{Firmware: []string{image.BIOS, image.UEFI}, Timeout: 15 * time.Minute}
	cmd := &cobra.Command{
		Use:   "test [IMAGE]",
		Short: "Boot an image under QEMU and look whether all is well; by default the latest",
		Long: `Boots the image's qcow2 with a config drive, once by BIOS and once by UEFI, side
by side; takes the SSH host key from the console, logs in, and looks: systemd
runs with no failed unit, Docker answers, plasmidd waits to be joined, the
machine-id is its own, the addresses are in /etc/environment, the root has grown
to its disk. Without KVM QEMU emulates the processor, which takes minutes.`,
		Example: "  plasmid image test\n  plasmid image test --firmware uefi --accel tcg",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := findImage(g, args)
			if err != nil {
				return err
			}
			for _, f := range o.Firmware {
				if f != image.BIOS && f != image.UEFI {
					return fmt.Errorf("--firmware is %q, expected bios, uefi or both", f)
				}
			}
			if !slices.Contains([]string{"", "kvm", "tcg"}, o.Accel) {
				return fmt.Errorf("--accel is %q, expected kvm or tcg", o.Accel)
			}
			o.Log = g.Progress()
			boots, err := image.TestBoot(cmd.Context(), i, o)
			if err != nil {
				return err
			}
			return printBoots(cmd.OutOrStdout(), g.Output, i, boots)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Firmware, "firmware", o.Firmware, "what boots it")
	f.StringVar(&o.Accel, "accel", "", "kvm or tcg (emulation); by default kvm if this host has it")
	f.DurationVar(&o.Timeout, "timeout", o.Timeout, "how long it may take")
	return cmd
}

func printBoots(w io.Writer, output string, i *image.Image, boots []image.Boot) error {
	problems := 0
	for _, b := range boots {
		problems += len(b.Problems)
	}
	if output == "json" {
		if err := printJSON(w, boots); err != nil {
			return err
		}
	} else {
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "FIRMWARE\tACCEL\tSSH\tUP\tMEMORY\tMACHINE-ID\tPROBLEMS")
		for _, b := range boots {
			fmt.Fprintf(t, "%s\t%s\t%.0fs\t%.0fs\t%d MiB\t%s\t%d\n", b.Firmware, b.Accel, b.SSHSeconds, b.UpSeconds, b.UsedMiB, b.MachineID, len(b.Problems))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, b := range boots {
			for _, p := range b.Problems {
				fmt.Fprintf(w, "%s: %s\n", b.Firmware, p)
			}
		}
	}
	if problems > 0 {
		return fmt.Errorf("image %s: %d problems", i.ID, problems)
	}
	return nil
}

// newImageFinishCommand is run on the server that an image is built on.
func newImageFinishCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "finish DIRECTORY",
		Short:  "Remove from a tree what building it left, and check it",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return image.Finish(args[0]) },
	}
}

func newImagePruneCommand(g *globals) *cobra.Command {
	keep, cloud := 2, false
	cmd := &cobra.Command{
		Use:     "prune",
		Example: "  plasmid image prune\n  plasmid image prune --keep 1",
		Short:   "Remove old images that no machine runs from",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cloud {
				return cloudImages(cmd, g, true, keep)
			}
			removed, err := image.Prune(g.StateDir(), keep, func(id string) bool { return imageInUse(g.StateDir(), id) })
			for _, id := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), "removed", id)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&keep, "keep", keep, "how many of the newest images to keep")
	cmd.Flags().BoolVar(&cloud, "cloud", false, "those that were pushed to the cluster file's cloud")
	return cmd
}

// imageInUse reports whether a local machine lies on the image's tree.
func imageInUse(state, id string) bool {
	links, _ := filepath.Glob(filepath.Join(state, "clusters", "*", "local", "machines", "*", "tree"))
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && filepath.Base(filepath.Dir(target)) == id {
			return true
		}
	}
	return false
}
