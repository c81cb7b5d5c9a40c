package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// changes is plan's exit code when there is something to do.
const changes exitCode = 2

func newPlanCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "plan",
		Short: "Show what up would do",
		Long: `Compares the cluster file with what exists and prints the steps from one to the
other: + something is made, ~ changed, - destroyed. Nothing is changed. The exit
code is 0 if there is nothing to do, 2 if there is, and 1 for errors.`,
		Example: "  plasmid plan\n  plasmid plan -o json | jq '.steps[].id'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.cluster(cmd.Context(), false)
			if err != nil {
				return err
			}
			id, err := c.image(g)
			if err != nil {
				return err
			}
			in, err := c.observe(cmd.Context(), id)
			if err != nil {
				return err
			}
			p, uses, err := c.plan(cmd.Context(), in)
			if err != nil && p.Empty() {
				return err
			}
			if g.Output == "json" {
				if err := printJSON(cmd.OutOrStdout(), p); err != nil {
					return err
				}
			} else if p.Empty() {
				fmt.Fprintf(cmd.OutOrStdout(), "Cluster %q is as %s wants it.\n", c.config.Name, g.File)
			} else {
				printPlan(cmd.OutOrStdout(), p, uses)
			}
			if err != nil {
				return err
			}
			if !p.Empty() {
				return changes
			}
			return nil
		},
	}
}
