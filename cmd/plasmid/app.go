package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"plasmid/internal/progress"
	"plasmid/provision/app"
	"plasmid/provision/config"
	"plasmid/provision/join"
	"plasmid/runtime/client"
)

// planApp builds the app's images and compares; first of all it looks whether
// the cluster has what they need.
func planApp(ctx context.Context, g *globals, access *join.Access, cl *client.Client, dir string, a config.App, log *progress.Log) (*app.Plan, app.Cluster, error) {
	target := appTarget(access, cl, log, isReady, "")
	loaded, err := loadApp(dir, a)
	if err != nil {
		return nil, target, err
	}
	if err := app.CheckSecrets(ctx, target, loaded); err != nil {
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
	cmd.AddCommand(newAppBuildCommand(g), newAppDiffCommand(g), newAppDeployCommand(g), newAppStatusCommand(g),
		newAppScaleCommand(g), newAppLogsCommand(g), newAppDestroyCommand(g))
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
