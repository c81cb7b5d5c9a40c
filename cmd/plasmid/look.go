package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"plasmid/provision/join"
	"plasmid/runtime/api"
	"plasmid/runtime/client"
)

func newCatCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "cat UNIT…",
		Example: "  plasmid cat hello.service",
		Short:   "Print unit files as the cluster has them",
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
				fmt.Fprint(cmd.OutOrStdout(), u.Text)
			}
			return nil
		},
	}
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
	cmd.Flags().StringVar(&output, "format", "short", "journalctl's output `format`")
	cmd.Flags().StringVar(&machine, "machine", "", "only on this machine")
	return cmd
}

func newStatusCommand(g *globals) *cobra.Command {
	var machine string
	cmd := &cobra.Command{
		Use:     "status [UNIT…]",
		Short:   "Show the cluster, or units as systemctl does",
		Example: "  plasmid status\n  plasmid status nginx.service",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return clusterStatus(cmd, g)
			}
			c, err := g.Client()
			if err != nil {
				return err
			}
			for _, a := range args {
				u, err := argument(a)
				if err != nil {
					return err
				}
				if err := c.Status(cmd.Context(), cmd.OutOrStdout(), u.name, machine); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&machine, "machine", "", "only on this machine")
	return cmd
}

func newSSHCommand(g *globals) *cobra.Command {
	var machine, unit string
	cmd := &cobra.Command{
		Use:   "ssh [MACHINE | UNIT] [COMMAND…]",
		Short: "Log in to a machine, or to the machine of a unit",
		Long: `Runs ssh(1) with the operator's key and the pinned host keys. A machine is named
by its name, its ID or the beginning of its ID. The exit code is the command's.`,
		Example: "  plasmid ssh demo-core-1\n  plasmid ssh --unit nginx.service sudo docker ps",
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := g.access()
			if err != nil {
				return err
			}
			c, err := g.Client()
			if err != nil {
				return err
			}
			target := machine
			if target == "" && unit == "" {
				if len(args) == 0 {
					return fmt.Errorf("name a machine or a unit; plasmid list-machines shows the machines")
				}
				target, args = args[0], args[1:]
			}
			addr, err := address(cmd, c, target, unit)
			if err != nil {
				return err
			}
			return runSSH(cmd, a, addr, args)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&machine, "machine", "", "the machine")
	cmd.Flags().StringVar(&unit, "unit", "", "the unit")
	return cmd
}

// address finds where to log in.
func address(cmd *cobra.Command, c *client.Client, machine, unit string) (string, error) {
	ms, err := c.Machines(cmd.Context())
	if err != nil {
		return "", err
	}
	for _, m := range ms {
		if machine != "" && (m.Name == machine || len(machine) >= 4 && strings.HasPrefix(m.ID, machine)) {
			return m.PrivateIPv4, nil
		}
	}
	if unit == "" {
		unit = machine
	}
	u, err := theUnit(cmd, c, unit)
	if err != nil {
		return "", fmt.Errorf("%q is neither a machine nor a unit: %w", unit, err)
	}
	if len(u.On) == 0 {
		return "", fmt.Errorf("unit %s is on no machine", u.Name)
	}
	return u.On[0].Address, nil
}

func runSSH(cmd *cobra.Command, a *join.Access, addr string, args []string) error {
	line := []string{"-i", a.Dir + "/ssh_ed25519", "-o", "UserKnownHostsFile=" + a.Dir + "/known_hosts",
		"-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-l", join.LoginUser, addr}
	if len(args) > 0 {
		line = append(append(line, "--"), args...)
	}
	c := exec.CommandContext(cmd.Context(), "ssh", line...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
	return passExitCode(c.Run())
}
