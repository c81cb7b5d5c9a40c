package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"plasmid/provision"
	"plasmid/provision/plan"
)

func newUpCommand(g *globals) *cobra.Command {
	var noApps bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make the cluster what the cluster file says",
		Long: `Makes the plan that plasmid plan shows, asks, and carries it out: machines, their
joining, and then the apps of the cluster file. It may be interrupted and run
again at any point, and carries on. If all is as it should be, it says so.`,
		Example: "  plasmid up\n  plasmid up --yes --no-apps",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return up(cmd, g, noApps)
		},
	}
	cmd.Flags().BoolVar(&noApps, "no-apps", false, "do not deploy the apps of the cluster file")
	return cmd
}

func up(cmd *cobra.Command, g *globals, noApps bool) error {
	ctx, start := cmd.Context(), time.Now()
	cfg, err := g.Config()
	if err != nil {
		return err
	}
	if err := checkUser(cfg); err != nil {
		return err
	}
	if _, err := g.wantedImage(cfg); err != nil {
		return err // before anything is made
	}
	unlock, err := provision.Lock(g.StateDir(), cfg.Name)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := g.cluster(ctx, true)
	if err != nil {
		return err
	}
	id, err := c.image(g)
	if err != nil {
		return err
	}
	in, err := c.observe(ctx, id)
	if err != nil {
		return err
	}
	p, uses, err := c.plan(ctx, in)
	if err != nil {
		return err
	}
	log := g.Progress()
	if !p.Empty() {
		printPlan(cmd.ErrOrStderr(), p, uses)
		if err := g.confirm("Do this?"); err != nil {
			return err
		}
		if err := provision.Apply(ctx, p, c.do, log); err != nil {
			return err
		}
	}
	deployed, err := deployApps(ctx, g, c, noApps, log)
	if err != nil {
		return err
	}
	return reportUp(cmd, g, c, p, deployed, time.Since(start))
}

// upResult is what up -o json prints.
type upResult struct {
	Cluster string          `json:"cluster"`
	Changed bool            `json:"changed"`
	Steps   []plan.Step     `json:"steps"`
	Nodes   []plan.Observed `json:"machines"`
	Apps    []appResult     `json:"apps,omitempty"`
	Seconds float64         `json:"seconds"`
}

func reportUp(cmd *cobra.Command, g *globals, c *cluster, p plan.Plan, apps []appResult, took time.Duration) error {
	_, machines, err := c.provider.Observe(cmd.Context())
	if err != nil {
		return err
	}
	changed := !p.Empty()
	for _, a := range apps {
		changed = changed || a.Changed
	}
	out := cmd.OutOrStdout()
	if g.Output == "json" {
		return printJSON(out, upResult{c.config.Name, changed, p.Steps, machines, apps, took.Seconds()})
	}
	took = took.Round(100 * time.Millisecond)
	if !changed {
		fmt.Fprintf(out, "Cluster %q is as %s wants it; nothing was changed (%v).\n", c.config.Name, g.File, took)
	} else {
		fmt.Fprintf(out, "Cluster %q is up with %d machines (%v).\n", c.config.Name, len(machines), took)
	}
	for _, a := range apps {
		if a.Front != "" {
			fmt.Fprintf(out, "front: %s\n", a.Front)
		}
	}
	// As it was called: bin/plasmid is in nobody's PATH.
	self := os.Args[0]
	if g.File != defaultFile {
		self += " --file " + g.File
	}
	fmt.Fprintf(out, "\nWorth trying next:\n  %s list-units\n  %s status\n", self, self)
	if c.config.Provider.Local != nil {
		fmt.Fprintf(out, "  %s local power-off %s    # and see its units move\n", self, machines[len(machines)-1].Name)
	} else {
		fmt.Fprintf(out, "  %s ssh %s\n", self, machines[len(machines)-1].Name)
	}
	return nil
}
