package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"plasmid/provision/openstack"
)

func newImagePushCommand(g *globals) *cobra.Command {
	var u openstack.Upload
	cmd := &cobra.Command{
		Use:   "push [IMAGE]",
		Short: "Upload an image to OpenStack; by default the cluster file's",
		Long: `Uploads the image's qcow2 to the Glance of the cloud that the cluster file names,
with the properties that its machines need, and checks that it arrived whole. An
image that is there already is not uploaded again. If it is cut off, nothing of
it stays.`,
		Example: "  plasmid image push\n  plasmid image push --share 5f0c…   # with another project",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Config()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				id, err := g.wantedImage(c)
				if err != nil {
					return err
				}
				args = []string{id}
			}
			i, err := findImage(g, args)
			if err != nil {
				return err
			}
			if i.InCloud() {
				return fmt.Errorf("image %s was built in a cloud and is there already; for another one, build it there: plasmid image build", i.ID)
			}
			if i.Manifest.Disk == nil || !i.HasDisk() {
				return fmt.Errorf("image %s was built for local machines only, without a qcow2; build it with: plasmid image build", i.ID)
			}
			cloud, err := openCloud(cmd.Context(), c)
			if err != nil {
				return err
			}
			u.Identity, u.File, u.Suite, u.VirtualGiB = i.ID, i.Disk(), i.Manifest.Suite, i.Manifest.Disk.VirtualGiB
			p, err := cloud.Push(cmd.Context(), u, g.Progress())
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), p)
			}
			how := "is in the cloud already"
			if p.Uploaded {
				how = "is in the cloud"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "image %s %s: %s (%s)\n", i.ID, how, p.Name, p.ID)
			return err
		},
	}
	cmd.Flags().StringVar(&u.Visibility, "visibility", "", "private, shared, community or public; by default private")
	cmd.Flags().StringSliceVar(&u.Share, "share", nil, "`ID` of a project that may use it too")
	return cmd
}

// printPushed lists the images in the cloud.
func printPushed(cmd *cobra.Command, g *globals, list []openstack.Pushed) error {
	if g.Output == "json" {
		return printJSON(cmd.OutOrStdout(), list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tCREATED\tSTATUS\tSIZE\tSERVERS\tID")
	for _, p := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d MiB\t%d\t%s\n", p.Identity, p.Created.Local().Format(time.DateTime), p.Status, p.Bytes>>20, p.InUse, p.ID)
	}
	return w.Flush()
}

// cloudImages lists, or prunes, those that were pushed.
func cloudImages(cmd *cobra.Command, g *globals, prune bool, keep int) error {
	c, err := g.Config()
	if err != nil {
		return err
	}
	cloud, err := openCloud(cmd.Context(), c)
	if err != nil {
		return err
	}
	if !prune {
		list, err := cloud.Images(cmd.Context())
		if err != nil {
			return err
		}
		return printPushed(cmd, g, list)
	}
	gone, err := cloud.Prune(cmd.Context(), keep)
	for _, p := range gone {
		fmt.Fprintf(cmd.OutOrStdout(), "removed %s (%s)\n", p.Name, p.ID)
	}
	return err
}
