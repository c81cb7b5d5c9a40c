package main

import (
	"github.com/spf13/cobra"

	"plasmid/provision/local"
)

// newLocalCommand has what only local machines can do.
func newLocalCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Do to local machines what happens to real ones",
	}
	each := func(use, short string, do func(*cobra.Command, *local.Provider, string) error) *cobra.Command {
		return &cobra.Command{
			Use:     use + " MACHINE…",
			Example: "  plasmid local " + use + " demo-core-2",
			Short:   short,
			Args:    cobra.MinimumNArgs(1),
			RunE: func(cmd *cobra.Command, names []string) error {
				p, err := g.localProvider(cmd.Context())
				if err != nil {
					return err
				}
				for _, n := range names {
					if err := do(cmd, p, n); err != nil {
						return err
					}
				}
				return nil
			},
		}
	}
	run := &cobra.Command{
		Use:     "exec MACHINE COMMAND…",
		Short:   "Run a command in a machine, as root, without SSH",
		Example: "  plasmid local exec demo-core-1 systemctl --failed",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := g.localProvider(cmd.Context())
			if err != nil {
				return err
			}
			c, err := p.Exec(cmd.Context(), args[0], args[1:]...)
			if err != nil {
				return err
			}
			c.Stdin, c.Stdout, c.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return passExitCode(c.Run())
		},
	}
	run.Flags().SetInterspersed(false) // the command has flags of its own
	cmd.AddCommand(
		each("power-off", "Take the power away, at once", func(cmd *cobra.Command, p *local.Provider, n string) error { return p.PowerOff(cmd.Context(), n) }),
		each("power-on", "Boot machines that are off", func(cmd *cobra.Command, p *local.Provider, n string) error { return p.Start(cmd.Context(), n) }),
		each("shut-down", "Shut down as the power button does, and wait", func(cmd *cobra.Command, p *local.Provider, n string) error { return p.Stop(cmd.Context(), n) }),
		each("unplug", "Cut off from the network", func(cmd *cobra.Command, p *local.Provider, n string) error { return p.Partition(cmd.Context(), n) }),
		each("plug", "Connect to the network again", func(cmd *cobra.Command, p *local.Provider, n string) error { return p.Heal(cmd.Context(), n) }),
		run,
		&cobra.Command{
			Use:    "supervise DIR",
			Hidden: true, // what keeps a machine running; plasmid starts it
			Args:   cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return local.Supervise(cmd.Context(), args[0])
			},
		},
	)
	return cmd
}
