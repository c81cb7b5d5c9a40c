package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"plasmid/provision/app"
)

func newAppDestroyCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "destroy APP…",
		Example: "  plasmid app destroy elk",
		Short:   "Take apps off the cluster, with their keys",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, access, cl, err := g.appCluster()
			if err != nil {
				return err
			}
			for _, n := range args {
				if err := g.confirm(fmt.Sprintf("Destroy app %s with all its keys?", n)); err != nil {
					return err
				}
				units, err := app.Destroy(cmd.Context(), appTarget(access, cl, g.Progress(), isNowhere, "destroying "+n), n)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "App %s destroyed: %s\n", n, strings.Join(units, ", "))
			}
			return nil
		},
	}
}
