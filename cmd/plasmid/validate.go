package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newValidateCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check the cluster file",
		Long: `Checks the cluster file, its variables and the files it names, without
touching anything. Exits 1 if something is wrong, and shows where.`,
		Example: "  plasmid validate\n  plasmid validate --file other.hcl --var cloud=mycloud",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.Config()
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), c)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: cluster %q\n", g.File, c.Name)
			return err
		},
	}
}
