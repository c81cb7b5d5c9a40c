// Command plasmid is the operator's command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"plasmid/internal/version"
)

// exitCode is an error whose message has been shown already, or needs none.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second Ctrl-C ends the process at once.
	context.AfterFunc(ctx, stop)

	err := newRootCommand().ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "plasmid: interrupted; run the same command again to carry on")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "plasmid:", err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:           "plasmid",
		Short:         "Debian machines that run containers together",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if g.envErr != nil {
				return fmt.Errorf("environment: %w", g.envErr)
			}
			if g.Output != "text" && g.Output != "json" {
				return fmt.Errorf("--output %q is neither text nor json", g.Output)
			}
			return nil
		},
	}
	cobra.EnablePrefixMatching = true // unambiguous beginnings of commands, as fleetctl took them
	g.register(root)
	root.AddCommand(
		newValidateCommand(g), newFmtCommand(g), newImageCommand(g), newLocalCommand(g),
		newPlanCommand(g), newUpCommand(g), newDownCommand(g), newStatusCommand(g),
		newSubmitCommand(g), newLoadCommand(g), newStartCommand(g), newStopCommand(g),
		newUnloadCommand(g), newDestroyCommand(g), newRestartCommand(g), newCatCommand(g), newRebootCommand(g),
		newJournalCommand(g), newSSHCommand(g), newAppCommand(g), newSecretCommand(g),
		newListUnitsCommand(g), newListUnitFilesCommand(g), newListMachinesCommand(g), newInventoryCommand(g),
		newEventsCommand(g), newAuditCommand(g), newAccessCommand(g), newSnapshotCommand(g), newVersionCommand(), newForwardCommand(),
		newExplainCommand(g), newSimulateCommand(g),
		newCordonCommand(g), newUncordonCommand(g), newDrainCommand(g), newRebalanceCommand(g),
	)
	withHints(root)
	return root
}
