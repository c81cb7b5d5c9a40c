// Command plasmidd is the daemon of a machine: its agent, its API and, on one
// machine at a time, the engine.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"plasmid/internal/version"
	"plasmid/runtime/node"
)

func main() {
	// After SIGHUP systemd starts the daemon again, with its configuration read
	// anew; units do not notice.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	root := &cobra.Command{
		Use:           "plasmidd",
		Short:         "Plasmid's daemon; systemd starts it",
		Args:          cobra.NoArgs,
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := node.Load(node.ConfigFile)
			if err != nil {
				return err
			}
			return run(cmd.Context(), c, log)
		},
	}
	root.AddCommand(
		&cobra.Command{
			Use:   "csr",
			Short: "Make this machine's keys and print certificate requests",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				r, err := node.CSR()
				if err != nil {
					return err
				}
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			},
		},
		&cobra.Command{
			Use:   "configure",
			Short: "Make this machine a member, as standard input says",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				var b node.Bundle
				if err := json.NewDecoder(cmd.InOrStdin()).Decode(&b); err != nil {
					return fmt.Errorf("standard input: %w", err)
				}
				o, err := node.Configure(cmd.Context(), b)
				if err != nil {
					return err
				}
				return json.NewEncoder(cmd.OutOrStdout()).Encode(o)
			},
		},
		&cobra.Command{
			Use:   "facts",
			Short: "Write this machine's addresses to /etc/environment",
			Args:  cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				f, err := node.GatherFacts()
				if err != nil {
					return err
				}
				return node.WriteFacts(f)
			},
		},
		&cobra.Command{
			Use:   "guard",
			Short: "Stop this machine's singletons when the daemon does not; systemd starts it",
			Args:  cobra.NoArgs,
			RunE:  func(cmd *cobra.Command, _ []string) error { return runGuard(cmd.Context(), log) },
		},
	)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "plasmidd:", err)
		os.Exit(1)
	}
}

// withoutTime leaves the time to the journal.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}
