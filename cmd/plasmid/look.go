package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/quadlet"
)

func newCatCommand(g *globals) *cobra.Command {
	var generated bool
	cmd := &cobra.Command{
		Use:     "cat UNIT…",
		Short:   "Print unit files as the cluster has them",
		Example: "  plasmid cat web.service\n  plasmid cat --generated web.container",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			for _, a := range args {
				u, err := theUnit(cmd, c, a)
				if err != nil {
					return err
				}
				if generated {
					if u.Text, err = quadlet.Unit(u.Name, u.Text); err != nil {
						return err
					}
				}
				fmt.Fprint(cmd.OutOrStdout(), u.Text)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&generated, "generated", false, "print what systemd gets: of a Quadlet, the service that is made of it")
	return cmd
}

// theUnit finds one unit by the name on the command line.
func theUnit(cmd *cobra.Command, c *client.Client, arg string) (api.Unit, error) {
	u, err := argument(arg)
	if err != nil {
		return api.Unit{}, err
	}
	list, err := c.Units(cmd.Context(), []string{u.name}, true, 0)
	if err != nil {
		return api.Unit{}, err
	}
	if len(list.Units) == 0 {
		return api.Unit{}, fmt.Errorf("unit %s is not known to the cluster; plasmid list-unit-files shows those that are", u.name)
	}
	return list.Units[0], nil
}

func newJournalCommand(g *globals) *cobra.Command {
	var lines int
	var follow bool
	var output, machine string
	cmd := &cobra.Command{
		Use:     "journal UNIT",
		Short:   "Show a unit's log, wherever it runs",
		Example: "  plasmid journal -f nginx.service\n  plasmid journal --lines 100 --machine demo-core-2 agent.service",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			u, err := argument(args[0])
			if err != nil {
				return err
			}
			return c.Journal(cmd.Context(), cmd.OutOrStdout(), u.name, machine, lines, follow, output)
		},
	}
	cmd.Flags().IntVar(&lines, "lines", 10, "how many lines of the past")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	cmd.Flags().StringVarP(&output, "output", "o", "short", "journalctl's output `format`")
	cmd.Flags().StringVar(&machine, "machine", "", "only on this machine")
	return cmd
}

func newStatusCommand(g *globals) *cobra.Command {
	var machine string
	cmd := &cobra.Command{
		Use:   "status [UNIT…]",
		Short: "Show the cluster, or units as systemctl does",
		Long: `Without a unit: the cluster and its machines. With units: what systemctl status
says, on every machine that has them; exits 3 if one of them does not run.`,
		Example: "  plasmid status\n  plasmid status nginx.service",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return clusterStatus(cmd, g)
			}
			c, err := g.Client()
			if err != nil {
				return err
			}
			var names []string
			for _, a := range args {
				u, err := argument(a)
				if err != nil {
					return err
				}
				if err := c.Status(cmd.Context(), cmd.OutOrStdout(), u.name, machine); err != nil {
					return err
				}
				names = append(names, u.name)
			}
			return running(cmd, c, names, machine)
		},
	}
	cmd.Flags().StringVar(&machine, "machine", "", "only on this machine")
	return cmd
}

// running exits 3, as systemctl status does, unless all units are active.
func running(cmd *cobra.Command, c *client.Client, names []string, machine string) error {
	list, err := c.Units(cmd.Context(), names, false, 0)
	if err != nil {
		return err
	}
	for _, u := range list.Units {
		for _, r := range u.On {
			if (machine == "" || r.Name == machine || strings.HasPrefix(r.Machine, machine)) && (r.State == nil || r.State.Active != "active") {
				return exitCode(3)
			}
		}
	}
	return nil
}
