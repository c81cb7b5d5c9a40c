package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"plasmid/provision/app"
	"plasmid/provision/config"
)

func newAppBuildCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "build [APP…]",
		Short:   "Build apps' images, and change nothing else",
		Long:    "Builds the images whose directories have changed. No cluster is needed.",
		Example: "  plasmid app build\n  plasmid app build elk",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Config()
			if err != nil {
				return err
			}
			apps, err := which(c, args)
			if err != nil {
				return err
			}
			return buildApps(cmd, g, c, apps)
		},
	}
}

// buildApps prints the images, one a line.
func buildApps(cmd *cobra.Command, g *globals, c *config.Cluster, apps []config.App) error {
	out := []app.Built{}
	for _, a := range apps {
		loaded, err := loadApp(c.Dir, a)
		if err != nil {
			return err
		}
		builds, err := g.builder().Build(cmd.Context(), loaded)
		if err != nil {
			return fmt.Errorf("app %s: %w", a.Name, err)
		}
		out = append(out, builds...)
		for _, b := range builds {
			if g.Output != "json" {
				fmt.Fprintf(cmd.OutOrStdout(), "%s/%s  %s  %s\n", a.Name, b.Name, b.Digest, b.Layout)
			}
		}
	}
	if g.Output == "json" {
		return printJSON(cmd.OutOrStdout(), out)
	}
	return nil
}
