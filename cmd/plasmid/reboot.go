package main

import (
	"github.com/spf13/cobra"
)

// newRebootCommand has all that concerns reboots of machines.
func newRebootCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reboot",
		Short: "See and steer how machines reboot, one after the other",
		Long: `Machines of a reboot group share a lock. One that has to reboot takes the lock
within its window, has its units moved away, reboots, and gives the lock back when
it is well again. What they do by themselves stands in the reboot block of the
cluster file.`,
	}
	cmd.AddCommand(newRebootStatusCommand(g), newRebootNowCommand(g), newRebootLockCommand(g), newRebootUnlockCommand(g), newRebootSetMaxCommand(g))
	return cmd
}
