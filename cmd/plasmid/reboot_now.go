package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"plasmid/runtime/client"
	"plasmid/runtime/reboot"
)

func newRebootNowCommand(g *globals) *cobra.Command {
	var noBlock bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "now MACHINE…",
		Short: "Reboot machines one after the other, outside their window too",
		Long: `Each machine takes its group's lock, has its units moved away, reboots and comes
back before the command goes on to the next. Ctrl-C, or the end of the time,
takes back what was asked for unless the machine is going down already.`,
		Example: "  plasmid reboot now demo-core-2\n  plasmid reboot now --no-block demo-core-1 demo-core-2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			var done []reboot.Status
			for _, a := range args {
				st, err := c.RebootNow(cmd.Context(), a)
				if err == nil && !noBlock {
					st, err = awaitReboot(cmd.Context(), g, c, a, st, timeout)
				}
				if err != nil {
					return err
				}
				done = append(done, st)
				switch {
				case g.Output == "json":
				case noBlock:
					fmt.Fprintf(cmd.OutOrStdout(), "Machine %s will reboot: plasmid reboot status shows what it waits for\n", st.Name)
				default:
					fmt.Fprintf(cmd.OutOrStdout(), "Machine %s has rebooted\n", st.Name)
				}
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), done)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&noBlock, "no-block", false, "do not wait")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Minute, "how long to wait for each machine")
	return cmd
}

// awaitReboot waits until a machine has another boot ID and has given its lock
// back.
func awaitReboot(ctx context.Context, g *globals, c *client.Client, machine string, before reboot.Status, timeout time.Duration) (reboot.Status, error) {
	wctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	task := g.Progress().Start("rebooting %s", before.Name)
	reason := before.Reason
	for {
		st, err := c.RebootStatus(wctx, machine)
		switch {
		case err != nil: // it is on its way
		case st.Boot != before.Boot && st.Known && (!st.Holds || st.Operator):
			return st, task.Done(nil)
		case st.Reason != "" && st.Reason != reason:
			reason = st.Reason
			task.Update("%s", reason)
		}
		select {
		case <-wctx.Done():
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_, cancelErr := c.CancelReboot(rctx, machine)
			why := fmt.Errorf("machine %s has not rebooted within %v: %s", before.Name, timeout, reason)
			if ctx.Err() != nil {
				why = ctx.Err()
			}
			return st, task.Done(errors.Join(why, cancelErr))
		case <-time.After(time.Second):
		}
	}
}
