package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"plasmid/provision/app"
	"plasmid/provision/config"
	"plasmid/runtime/api"
	"plasmid/runtime/client"
)

func newAppStatusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
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
	}
}

func appStatus(cmd *cobra.Command, g *globals, c *config.Cluster, cl *client.Client, a config.App) error {
	loaded, err := loadApp(c.Dir, a)
	if err != nil {
		return err
	}
	list, err := cl.Units(cmd.Context(), nil, false, 0)
	if err != nil {
		return err
	}
	list.Units = slices.DeleteFunc(list.Units, func(u api.Unit) bool { return u.App != a.Name })
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
