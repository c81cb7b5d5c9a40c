package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/store"
)

// defaultTimeout is how long commands wait for units.
const defaultTimeout = time.Minute

// blockAttempt is the time between two of fleetctl's attempts.
const blockAttempt = 500 * time.Millisecond

// waiting are the flags of commands that wait for units.
type waiting struct {
	noBlock  bool
	timeout  time.Duration
	attempts int
}

func (w *waiting) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.noBlock, "no-block", false, "do not wait")
	cmd.Flags().DurationVar(&w.timeout, "timeout", defaultTimeout, "how long to wait; 0: for ever")
	cmd.Flags().IntVar(&w.attempts, "block-attempts", 0, "how long to wait, as fleetctl counted: in halves of a second; 0: for ever")
	cmd.MarkFlagsMutuallyExclusive("no-block", "timeout")
	cmd.MarkFlagsMutuallyExclusive("timeout", "block-attempts")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case !cmd.Flags().Changed("block-attempts"):
		case w.attempts < 0:
			w.noBlock = true
		default:
			w.timeout = time.Duration(w.attempts) * blockAttempt
		}
		return nil
	}
}

// wishCommand makes a command that brings units to a wish.
func wishCommand(g *globals, use, short, long string, wish store.Wish, title string, ok reached, takesFiles bool) *cobra.Command {
	var w waiting
	var replace bool
	cmd := &cobra.Command{
		Use:     use + " UNIT…",
		Short:   short,
		Example: "  plasmid " + use + " hello.service",
		Long:    long,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			changes, err := changesFor(cmd.Context(), c, args, wish, replace, func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), "warning:", s) })
			if err != nil {
				return err
			}
			if !takesFiles {
				for i := range changes {
					if changes[i].Text != "" {
						return fmt.Errorf("unit %s is not known to the cluster; submit it first", changes[i].Name)
					}
				}
			}
			if err := applyWish(cmd.Context(), c, changes, wish); err != nil {
				return err
			}
			if !w.noBlock && ok != nil {
				if err := await(cmd.Context(), c, names(changes), w.timeout, g.Progress(), title, ok); err != nil {
					return err
				}
			}
			return report(cmd, g, c, names(changes))
		},
	}
	if ok != nil {
		w.register(cmd)
	}
	if takesFiles {
		cmd.Flags().BoolVar(&replace, "replace", false, "take the file even if the cluster has another text")
	}
	return cmd
}

// applyWish sends the changes. A unit that is to run, that nothing changes for
// and that has failed is started again: wishing for it once more means that.
func applyWish(ctx context.Context, c *client.Client, changes []api.Change, wish store.Wish) error {
	if _, err := c.Apply(ctx, changes); err != nil {
		return err
	}
	if wish != store.Launched {
		return nil
	}
	list, err := c.Units(ctx, names(changes), false, 0)
	if err != nil {
		return err
	}
	for _, u := range list.Units {
		if slices.ContainsFunc(u.On, func(r api.Row) bool {
			return r.Wish == store.Launched && r.Hash == u.Hash && r.State != nil && r.State.Hash == u.Hash && r.State.Active == "failed"
		}) {
			if err := c.Restart(ctx, u.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// report prints what became of units.
func report(cmd *cobra.Command, g *globals, c *client.Client, names []string) error {
	list, err := c.Units(cmd.Context(), names, false, 0)
	if err != nil {
		return err
	}
	if g.Output == "json" {
		return printJSON(cmd.OutOrStdout(), list.Units)
	}
	found := map[string]api.Unit{}
	for _, u := range list.Units {
		found[u.Name] = u
	}
	for _, n := range names {
		u, ok := found[n]
		switch {
		case !ok:
			fmt.Fprintf(cmd.OutOrStdout(), "Unit %s destroyed\n", n)
		case len(u.On) == 0:
			fmt.Fprintf(cmd.OutOrStdout(), "Unit %s %s\n", n, u.Wish)
		default:
			for _, r := range u.On {
				fmt.Fprintf(cmd.OutOrStdout(), "Unit %s %s on %s/%s\n", n, u.Wish, shortID(r.Machine), r.Address)
			}
		}
	}
	return nil
}

func shortID(id string) string { return id[:min(8, len(id))] + "..." }

func newSubmitCommand(g *globals) *cobra.Command {
	return wishCommand(g, "submit", "Give units to the cluster, without placing them", "", "", "", nil, true)
}

func newLoadCommand(g *globals) *cobra.Command {
	return wishCommand(g, "load", "Place units on machines, without starting them", "", store.Loaded, "loading", isPlaced, true)
}

func newStartCommand(g *globals) *cobra.Command {
	cmd := wishCommand(g, "start", "Start units, and wait until they are active",
		`Starts units that the cluster knows, or that are files here: a file is submitted
first, an instance takes the text of its template. If a unit can't be started in
time the command says why, machine by machine, and exits 1. A unit that has
failed is started again.`, store.Launched, "starting", isActive, true)
	cmd.Example = "  plasmid start hello.service\n  plasmid start web@{1..5}.service --timeout 2m"
	return cmd
}

func newStopCommand(g *globals) *cobra.Command {
	return wishCommand(g, "stop", "Stop units; they stay on their machines", "", store.Loaded, "stopping", isStopped, false)
}

func newUnloadCommand(g *globals) *cobra.Command {
	return wishCommand(g, "unload", "Take units off their machines; the cluster keeps them", "", store.Inactive, "unloading", isNowhere, false)
}

func newDestroyCommand(g *globals) *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:     "destroy UNIT…",
		Example: "  plasmid destroy hello.service web@{1..5}.service",
		Short:   "Stop units and forget them",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			var changes []api.Change
			for _, a := range args {
				u, err := argument(a)
				if err != nil {
					return err
				}
				changes = append(changes, api.Change{Name: u.name, Delete: true})
			}
			if _, err := c.Apply(cmd.Context(), changes); err != nil {
				return err
			}
			if !w.noBlock {
				if err := await(cmd.Context(), c, names(changes), w.timeout, g.Progress(), "destroying", isNowhere); err != nil {
					return err
				}
			}
			return report(cmd, g, c, names(changes))
		},
	}
	w.register(cmd)
	return cmd
}

func newRestartCommand(g *globals) *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:     "restart UNIT…",
		Example: "  plasmid restart hello.service",
		Short:   "Stop units and start them again where they are",
		Long:    "Stops units and starts them again where they are, on all their machines. Units that were stopped are started.",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			var units []string
			for _, a := range args {
				u, err := argument(a)
				if err != nil {
					return err
				}
				units = append(units, u.name)
			}
			if err := restart(cmd.Context(), c, units); err != nil {
				return err
			}
			if !w.noBlock {
				if err := await(cmd.Context(), c, units, w.timeout, g.Progress(), "restarting", isActive); err != nil {
					return err
				}
			}
			return report(cmd, g, c, units)
		},
	}
	w.register(cmd)
	return cmd
}

// restart stops and starts units where they are; those that were stopped are
// started.
func restart(ctx context.Context, c *client.Client, units []string) error {
	list, err := c.Units(ctx, units, false, 0)
	if err != nil {
		return err
	}
	stopped := map[string]bool{}
	var changes []api.Change
	for _, u := range list.Units {
		if u.Wish != store.Launched {
			stopped[u.Name] = true
			changes = append(changes, api.Change{Name: u.Name, Wish: store.Launched})
		}
	}
	if len(changes) > 0 {
		if _, err := c.Apply(ctx, changes); err != nil {
			return err
		}
	}
	for _, n := range units {
		if !stopped[n] {
			if err := c.Restart(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}
