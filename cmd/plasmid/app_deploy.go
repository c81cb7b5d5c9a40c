package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"plasmid/internal/progress"
	"plasmid/provision/app"
	"plasmid/provision/config"
	"plasmid/provision/join"
	"plasmid/runtime/client"
)

func newAppDeployCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "deploy [APP…]",
		Example: "  plasmid app deploy\n  plasmid app deploy elk",
		Short:   "Build apps' images, hand them to the machines and start the units",
		Long: `Builds what has changed, shows what will change on the cluster and asks. Then it
hands images to the machines, sets keys, and starts units in their order, each
when those before it are ready. Instances of a template are replaced one after
the other; when a new version does not become ready within the unit's timeout,
the old one is brought back. What has not changed is left alone.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, access, cl, err := g.appCluster()
			if err != nil {
				return err
			}
			apps, err := which(c, args)
			if err != nil {
				return err
			}
			for _, a := range apps {
				r, err := deployApp(cmd.Context(), g, access, cl, c.Dir, a, g.Progress(), false)
				if err != nil {
					return fmt.Errorf("app %s: %w", a.Name, err)
				}
				if err := printApp(cmd, g, r); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// appResult is what became of an app.
type appResult struct {
	Name    string   `json:"name"`
	Changed bool     `json:"changed"`
	Units   []string `json:"units,omitempty"` // those that changed
	Removed []string `json:"removed,omitempty"`
	Front   string   `json:"front,omitempty"`
}

// deployApps deploys the apps of the cluster file.
func deployApps(ctx context.Context, g *globals, c *cluster, skip bool, log *progress.Log) ([]appResult, error) {
	if skip || len(c.config.Apps) == 0 {
		return nil, nil
	}
	hosts, err := c.access.Endpoints()
	if err != nil {
		return nil, err
	}
	var endpoints []string
	for _, h := range hosts {
		endpoints = append(endpoints, "https://"+h)
	}
	cl, err := client.New(client.Config{Endpoints: endpoints, TLS: c.access.ClientTLS(), Via: c.access.DialContext})
	if err != nil {
		return nil, err
	}
	var out []appResult
	for _, a := range c.config.Apps {
		r, err := deployApp(ctx, g, c.access, cl, c.config.Dir, a, log, true)
		if err != nil {
			return nil, fmt.Errorf("app %s: %w", a.Name, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// deployApp shows what will change, asks unless it was asked before, and does
// it.
func deployApp(ctx context.Context, g *globals, access *join.Access, cl *client.Client, dir string, a config.App, log *progress.Log, asked bool) (appResult, error) {
	p, target, err := planApp(ctx, g, access, cl, dir, a, log)
	if err != nil {
		return appResult{}, err
	}
	if len(p.Changes) > 0 {
		printChanges(os.Stderr, a.Name, p.Changes, false)
		if !asked {
			if err := g.confirm("Do this?"); err != nil {
				return appResult{}, err
			}
		}
	}
	r, err := app.Deploy(ctx, target, p)
	return appResult{a.Name, len(p.Changes) > 0, r.Changed, r.Removed, r.Front}, err
}

func printApp(cmd *cobra.Command, g *globals, r appResult) error {
	out := cmd.OutOrStdout()
	if g.Output == "json" {
		return printJSON(out, r)
	}
	if !r.Changed {
		fmt.Fprintf(out, "App %s is as its directory says; nothing was changed.\n", r.Name)
	} else {
		fmt.Fprintf(out, "App %s is deployed: %d units changed, %d removed.\n", r.Name, len(r.Units), len(r.Removed))
	}
	if r.Front != "" {
		fmt.Fprintf(out, "front: %s\n", r.Front)
	}
	return nil
}
