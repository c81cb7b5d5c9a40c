package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"plasmid/internal/progress"
	"plasmid/provision/app"
	"plasmid/provision/config"
	"plasmid/provision/join"
	"plasmid/runtime/api"
	"plasmid/runtime/client"
)

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
	cl, err := client.New(client.Config{Endpoints: endpoints, TLS: c.access.ClientTLS()})
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

// planApp builds the app's images and compares.
func planApp(ctx context.Context, g *globals, access *join.Access, cl *client.Client, dir string, a config.App, log *progress.Log) (*app.Plan, app.Cluster, error) {
	target := appTarget(access, cl, log, isReady, "")
	loaded, err := loadApp(dir, a)
	if err != nil {
		return nil, target, err
	}
	builds, err := g.builder().Build(ctx, loaded)
	if err != nil {
		return nil, target, err
	}
	p, err := app.MakePlan(ctx, target, loaded, builds)
	return p, target, err
}

// appTarget is the cluster, as apps are deployed to it.
func appTarget(access *join.Access, cl *client.Client, log *progress.Log, until reached, title string) app.Cluster {
	shown := log
	if title == "" {
		shown = nil // the deployment says itself what it waits for
	}
	return app.Cluster{Access: access, Client: cl, Log: log, Await: func(ctx context.Context, units []string, timeout time.Duration) error {
		return await(ctx, cl, units, timeout, shown, title, until)
	}}
}

// printChanges shows what a deployment would change; lines adds in what units
// differ.
func printChanges(w io.Writer, name string, changes []app.Change, lines bool) {
	fmt.Fprintf(w, "App %s:\n", name)
	count := map[string]int{}
	for _, c := range changes {
		count[c.Op]++
		fmt.Fprintf(w, "  %s %s %s\n", c.Op, c.Kind, c.Name)
		if lines {
			for _, l := range c.Lines {
				fmt.Fprintf(w, "      %s\n", l)
			}
		}
	}
	fmt.Fprintf(w, "%d to add, %d to change, %d to remove\n", count["+"], count["~"], count["-"])
}

func (g *globals) builder() *app.Builder {
	return &app.Builder{State: g.StateDir(), Binaries: beside("bin", "/usr/bin"), Log: g.Progress()}
}

// buildApps prints the images, one a line.
func buildApps(cmd *cobra.Command, g *globals, c *config.Cluster, apps []config.App) error {
	out := []app.Built{}
	for _, a := range apps {
		loaded, err := loadApp(c.Dir, a)
		if err != nil {
			return err
		}
		builds, err := g.builder().Build(cmd.Context(), loaded)
		if err != nil {
			return fmt.Errorf("app %s: %w", a.Name, err)
		}
		out = append(out, builds...)
		for _, b := range builds {
			if g.Output != "json" {
				fmt.Fprintf(cmd.OutOrStdout(), "%s/%s  %s  %s\n", a.Name, b.Name, b.Digest, b.Layout)
			}
		}
	}
	if g.Output == "json" {
		return printJSON(cmd.OutOrStdout(), out)
	}
	return nil
}

// loadApp reads an app's directory; what is wrong in app.hcl is shown with its
// lines.
func loadApp(dir string, a config.App) (*app.App, error) {
	source := a.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(dir, source)
	}
	loaded, err := app.Load(source, a.Vars)
	var bad *app.Error
	if errors.As(err, &bad) {
		if err := hcl.NewDiagnosticTextWriter(os.Stderr, bad.Files, 0, colored(os.Stderr)).WriteDiagnostics(bad.Diagnostics); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s has errors; nothing was changed", filepath.Join(source, "app.hcl"))
	}
	if err == nil && loaded.Name != a.Name {
		return nil, fmt.Errorf("%s is of app %q, the cluster file calls it %q", filepath.Join(source, "app.hcl"), loaded.Name, a.Name)
	}
	return loaded, err
}

// which finds the apps of the cluster file that the arguments name: all when
// there are none.
func which(c *config.Cluster, args []string) ([]config.App, error) {
	if len(args) == 0 {
		return c.Apps, nil
	}
	var out []config.App
	for _, n := range args {
		i := slices.IndexFunc(c.Apps, func(a config.App) bool { return a.Name == n })
		if i < 0 {
			return nil, fmt.Errorf("the cluster file has no app %q", n)
		}
		out = append(out, c.Apps[i])
	}
	return out, nil
}

func newAppCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "app",
		Short: "Deploy apps, and look after them",
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "build [APP…]",
		Short:   "Build apps' images, and change nothing else",
		Long:    "Builds the images whose directories have changed. No cluster is needed.",
		Example: "  plasmid app build\n  plasmid app build elk",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Config()
			if err != nil {
				return err
			}
			apps, err := which(c, args)
			if err != nil {
				return err
			}
			return buildApps(cmd, g, c, apps)
		},
	}, &cobra.Command{
		Use:     "deploy [APP…]",
		Example: "  plasmid app deploy\n  plasmid app deploy hello",
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
	}, newAppDiffCommand(g), newAppScaleCommand(g), newAppLogsCommand(g), &cobra.Command{
		Use:     "status [APP…]",
		Example: "  plasmid app status",
		Short:   "Show the units of apps, and where they answer",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, cl, err := g.appCluster()
			if err != nil {
				return err
			}
			apps, err := which(c, args)
			if err != nil {
				return err
			}
			for _, a := range apps {
				if err := appStatus(cmd, g, c, cl, a); err != nil {
					return err
				}
			}
			return nil
		},
	}, &cobra.Command{
		Use:     "destroy APP…",
		Example: "  plasmid app destroy hello",
		Short:   "Take apps off the cluster, with their keys",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, access, cl, err := g.appCluster()
			if err != nil {
				return err
			}
			for _, n := range args {
				if err := g.confirm(fmt.Sprintf("Destroy app %s with all its keys?", n)); err != nil {
					return err
				}
				units, err := app.Destroy(cmd.Context(), appTarget(access, cl, g.Progress(), isNowhere, "destroying "+n), n)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "App %s destroyed: %s\n", n, strings.Join(units, ", "))
			}
			return nil
		},
	})
	return cmd
}

func (g *globals) appCluster() (*config.Cluster, *join.Access, *client.Client, error) {
	c, err := g.Config()
	if err != nil {
		return nil, nil, nil, err
	}
	access, err := g.access()
	if err != nil {
		return nil, nil, nil, err
	}
	cl, err := g.Client()
	return c, access, cl, err
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

func appStatus(cmd *cobra.Command, g *globals, c *config.Cluster, cl *client.Client, a config.App) error {
	loaded, err := loadApp(c.Dir, a)
	if err != nil {
		return err
	}
	var names []string
	for _, u := range loaded.Units {
		names = append(names, u.Names...)
	}
	list, err := cl.Units(cmd.Context(), names, false, 0)
	if err != nil {
		return err
	}
	front, err := app.FrontURL(cmd.Context(), cl, loaded)
	if err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", err)
	}
	if g.Output == "json" {
		return printJSON(cmd.OutOrStdout(), struct {
			Name  string     `json:"name"`
			Front string     `json:"front,omitempty"`
			Units []api.Unit `json:"units"`
		}{a.Name, front, list.Units})
	}
	t := table{fields: []string{"unit", "name", "active", "ready", "message"}, columns: map[string]bool{"unit": true, "name": true, "active": true, "ready": true, "message": true}}
	if err := t.print(cmd.OutOrStdout(), unitRows(&t, list.Units, nil)); err != nil {
		return err
	}
	if front != "" {
		fmt.Fprintf(cmd.OutOrStdout(), "front: %s\n", front)
	}
	return nil
}
