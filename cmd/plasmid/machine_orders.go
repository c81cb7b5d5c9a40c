package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/simulate"
)

// lookAt reads the cluster as it is.
func lookAt(ctx context.Context, c *client.Client, texts bool) (simulate.Cluster, error) {
	machines, err := c.Machines(ctx)
	if err != nil {
		return simulate.Cluster{}, err
	}
	list, err := c.Units(ctx, nil, texts, 0)
	return simulate.Cluster{Units: list.Units, Machines: machines}, err
}

// onMachines makes a command that does something to each machine named. All
// names are looked up before anything is done.
func onMachines(g *globals, cmd *cobra.Command, f func(cmd *cobra.Command, c *client.Client, ms []api.Machine) error) *cobra.Command {
	cmd.Use += " MACHINE…"
	cmd.Args = cobra.MinimumNArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := g.Client()
		if err != nil {
			return err
		}
		all, err := c.Machines(cmd.Context())
		if err != nil {
			return err
		}
		var ms []api.Machine
		for _, a := range args {
			m, err := simulate.Cluster{Machines: all}.Find(a)
			if err != nil {
				return err
			}
			ms = append(ms, m)
		}
		return f(cmd, c, ms)
	}
	return cmd
}

func newCordonCommand(g *globals) *cobra.Command {
	return onMachines(g, &cobra.Command{
		Use:     "cordon",
		Short:   "Give machines no more units; they keep those they have",
		Example: "  plasmid cordon core-2\n  plasmid uncordon core-2",
	}, func(cmd *cobra.Command, c *client.Client, ms []api.Machine) error {
		for _, m := range ms {
			if m.Order != nil && m.Order.Drain {
				fmt.Fprintf(cmd.OutOrStdout(), "Machine %s is being drained already\n", m.Name)
				continue
			}
			if err := c.Order(cmd.Context(), m.ID, api.Order{}); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Machine %s gets no more units\n", m.Name)
		}
		return nil
	})
}

func newUncordonCommand(g *globals) *cobra.Command {
	return onMachines(g, &cobra.Command{
		Use:     "uncordon",
		Short:   "Let machines have units again, after a cordon or a drain",
		Long:    "Nothing moves back by itself; plasmid rebalance evens the units out.",
		Example: "  plasmid uncordon core-2\n  plasmid uncordon core-2 && plasmid rebalance",
	}, func(cmd *cobra.Command, c *client.Client, ms []api.Machine) error {
		for _, m := range ms {
			if err := c.Uncordon(cmd.Context(), m.ID); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Machine %s may have units again\n", m.Name)
		}
		return nil
	})
}

func newDrainCommand(g *globals) *cobra.Command {
	var w waiting
	var budget int
	cmd := onMachines(g, &cobra.Command{
		Use:   "drain",
		Short: "Take the units off machines, a few at a time, and give them no more",
		Long: `Each unit goes to another machine that can run it; the next ones follow when it is
ready there, or has failed. Global units stay. The order is the cluster's: it is
carried on when this command is interrupted, whatever becomes of the machine it
was given to, until plasmid uncordon takes it back.

It waits until the machines are empty. If units are left that can't run anywhere
else it says why and exits 1.`,
		Example: "  plasmid simulate --drain core-2\n  plasmid drain core-2 --budget 3",
	}, func(cmd *cobra.Command, c *client.Client, ms []api.Machine) error {
		if budget < 1 {
			return fmt.Errorf("--budget %d: at least one unit has to move at a time", budget)
		}
		ids := map[string]bool{}
		var names []string
		for _, m := range ms {
			if err := c.Order(cmd.Context(), m.ID, api.Order{Drain: true, Budget: budget}); err != nil {
				return err
			}
			ids[m.ID] = true
			names = append(names, m.Name)
		}
		if w.noBlock {
			return nil
		}
		if err := awaitDrain(cmd.Context(), g, c, ids, w.timeout, "draining "+strings.Join(names, ", ")); err != nil {
			return err
		}
		for _, n := range names {
			fmt.Fprintf(cmd.OutOrStdout(), "Machine %s is drained\n", n)
		}
		return nil
	})
	cmd.Flags().BoolVar(&w.noBlock, "no-block", false, "do not wait")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 0, "how long to wait; 0: for ever")
	cmd.Flags().IntVar(&budget, "budget", 1, "how many units may be on the move at a `time`")
	return cmd
}

// awaitDrain waits until machines have no units but global ones, or only such
// as can't leave.
func awaitDrain(ctx context.Context, g *globals, c *client.Client, machines map[string]bool, timeout time.Duration, title string) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	task := g.Progress().Start("%s", title)
	err := c.AwaitDrained(ctx, machines, func(left int) { task.Update("%d units left", left) })
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("after %v %w\nthe drain goes on; plasmid uncordon ends it", timeout, err)
	}
	return task.Done(err)
}

func newRebalanceCommand(g *globals) *cobra.Command {
	var w waiting
	var budget int
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Even out the numbers of units of the machines, a few at a time",
		Long: `Moves units from the machines that have the most to those that have the fewest, as
far as they may run there. Units that are tied to a machine or to others stay. The
cluster does it: interrupting this command does not end it.`,
		Example: "  plasmid rebalance\n  plasmid rebalance --budget 5 --no-block",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if budget < 1 {
				return fmt.Errorf("--budget %d: at least one unit has to move at a time", budget)
			}
			c, err := g.Client()
			if err != nil {
				return err
			}
			if err := c.Rebalance(cmd.Context(), budget); err != nil {
				return err
			}
			if w.noBlock {
				return nil
			}
			return awaitRebalance(cmd.Context(), g, c, w.timeout)
		},
	}
	w.register(cmd)
	cmd.Flags().IntVar(&budget, "budget", 1, "how many units may be on the move at a `time`")
	return cmd
}

func awaitRebalance(ctx context.Context, g *globals, c *client.Client, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	task := g.Progress().Start("evening out the units")
	var revision int64
	for {
		o, err := c.Rebalancing(ctx)
		if err == nil && o == nil {
			return task.Done(nil)
		}
		if err == nil {
			var list api.UnitList
			list, err = c.Units(ctx, nil, false, revision) // until something changes
			revision = list.Revision
		}
		if err != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return task.Done(fmt.Errorf("not done after %v; the cluster goes on with it", timeout))
			}
			return task.Done(err)
		}
	}
}
