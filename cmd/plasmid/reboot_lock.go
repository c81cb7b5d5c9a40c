package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newRebootLockCommand(g *globals) *cobra.Command {
	return lockCommand(g, true, &cobra.Command{
		Use:   "lock MACHINE…",
		Short: "Take the lock for machines, so that as many fewer of their group reboot",
		Long: `Takes the reboot lock of the machines' group on their behalf, above the group's
max if need be. Only reboot unlock gives it back. A machine that has the lock in
this way may still be told to reboot, with reboot now.`,
		Example: "  plasmid reboot lock demo-core-2",
	})
}

func newRebootUnlockCommand(g *globals) *cobra.Command {
	return lockCommand(g, false, &cobra.Command{
		Use:   "unlock MACHINE…",
		Short: "Give back the lock that machines hold",
		Long: `Takes the lock from machines, whoever took it: from one that came back unwell and
is being repaired, say, so that the others go on. A machine that is known no more
is named by its ID or as reboot status shows it.`,
		Example: "  plasmid reboot unlock demo-core-2",
	})
}

func lockCommand(g *globals, lock bool, cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.MinimumNArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := g.Client()
		if err != nil {
			return err
		}
		var groups []any
		for _, a := range args {
			gr, err := c.RebootLock(cmd.Context(), a, lock)
			if err != nil {
				return err
			}
			groups = append(groups, gr)
			if g.Output != "json" {
				what := "no longer has"
				if lock {
					what = "has"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Machine %s %s the reboot lock of group %s\n", a, what, gr.Group)
			}
		}
		if g.Output == "json" {
			return printJSON(cmd.OutOrStdout(), groups)
		}
		return nil
	}
	return cmd
}
