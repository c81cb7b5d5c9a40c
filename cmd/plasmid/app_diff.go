package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"plasmid/provision/app"
)

// appDiff is what app diff -o json prints of an app.
type appDiff struct {
	Name    string       `json:"name"`
	Changes []app.Change `json:"changes"`
}

func newAppDiffCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "diff [APP…]",
		Short: "Show what a deployment would change",
		Long: `Compares the apps' directories with what the cluster has. Images are built, for
units name them by their contents; the cluster is not changed.`,
		Example: "  plasmid app diff\n  plasmid app diff elk -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, access, cl, err := g.appCluster()
			if err != nil {
				return err
			}
			apps, err := which(c, args)
			if err != nil {
				return err
			}
			diffs := []appDiff{}
			for _, a := range apps {
				p, _, err := planApp(cmd.Context(), g, access, cl, c.Dir, a, g.Progress())
				if err != nil {
					return fmt.Errorf("app %s: %w", a.Name, err)
				}
				diffs = append(diffs, appDiff{a.Name, append([]app.Change{}, p.Changes...)})
			}
			out := cmd.OutOrStdout()
			if g.Output == "json" {
				return printJSON(out, diffs)
			}
			for _, d := range diffs {
				if len(d.Changes) == 0 {
					fmt.Fprintf(out, "App %s is as its directory says.\n", d.Name)
					continue
				}
				printChanges(out, d.Name, d.Changes, true)
			}
			return nil
		},
	}
}
