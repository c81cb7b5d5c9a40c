package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"plasmid/internal/version"
)

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "plasmid version %s\n", version.Version)
			return err
		},
	}
}
