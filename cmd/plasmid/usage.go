package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// withHints has every command that is called with the wrong arguments or flags
// say where its usage is shown.
func withHints(cmd *cobra.Command) {
	hint := func(cmd *cobra.Command, err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())
	}
	cmd.SetFlagErrorFunc(hint)
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error { return hint(cmd, check(cmd, args)) }
	}
	for _, c := range cmd.Commands() {
		withHints(c)
	}
}
