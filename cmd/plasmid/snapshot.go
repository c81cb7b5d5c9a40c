package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newSnapshotCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot FILE",
		Short: "Save what the cluster's store holds to a file",
		Long: `Saves what etcd holds to a new file: units, where they run, what apps have
registered, and secrets, so that only its owner can read it. It is one that
etcdutl snapshot restore takes; docs/operations.md says how to go back to it.`,
		Example: "  plasmid snapshot before-upgrade.db\n  plasmid snapshot /var/backups/plasmid-$(date +%F).db -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.access()
			if err != nil {
				return err
			}
			n, err := a.Snapshot(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]any{"file": args[0], "bytes": n})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s holds the store, %d KiB.\n", args[0], n>>10)
			return nil
		},
	}
}
