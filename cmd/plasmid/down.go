package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"plasmid/provision"
	"plasmid/provision/plan"
)

func newDownCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take the cluster down; nothing is left",
		Long: `Lists what there is of the cluster, asks, deletes it, and then looks for anything
that is left. Only what belongs to this cluster is touched. Images stay.`,
		Example: "  plasmid down\n  plasmid down --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return down(cmd, g)
		},
	}
}

func down(cmd *cobra.Command, g *globals) error {
	ctx := cmd.Context()
	cfg, err := g.Config()
	if err != nil {
		return err
	}
	if err := checkUser(cfg); err != nil {
		return err
	}
	unlock, err := provision.Lock(g.StateDir(), cfg.Name)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := g.cluster(ctx, false)
	if err != nil {
		return err
	}
	in, err := c.observe(ctx, "")
	if err != nil {
		return err
	}
	left, err := c.provider.Sweep(ctx)
	if err != nil {
		return err
	}
	// What is left of a network may not look like one: it was cut off, or the
	// host was rebooted.
	in.Network = in.Network || len(left) > 0
	in.Wanted = nil
	p := c.refine(in, plan.Destroy(in))
	if !p.Empty() {
		printPlan(cmd.ErrOrStderr(), p, nil)
		if err := g.confirm("Destroy all of this?"); err != nil {
			return err
		}
		if err := provision.Apply(ctx, p, c.do, g.Progress()); err != nil {
			return err
		}
	}
	if left, err = c.provider.Sweep(ctx); err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("this is left of cluster %q:\n  %s\nrun plasmid down again", cfg.Name, strings.Join(left, "\n  "))
	}
	if err := g.forget(cfg.Name); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if g.Output == "json" {
		return printJSON(out, map[string]any{"cluster": cfg.Name, "steps": p.Steps, "left": []string{}})
	}
	if p.Empty() {
		_, err = fmt.Fprintf(out, "There is nothing of cluster %q.\n", cfg.Name)
		return err
	}
	_, err = fmt.Fprintf(out, "Cluster %q is gone; nothing is left.\n", cfg.Name)
	return err
}
