package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"plasmid/runtime/api"
)

func newEventsCommand(g *globals) *cobra.Command {
	var machine string
	cmd := &cobra.Command{
		Use:     "events [UNIT…]",
		Short:   "Show what happens in the cluster, as it happens",
		Long:    "Shows what happens from now on, until it is interrupted. With -o json each line is an object.",
		Example: "  plasmid events\n  plasmid events web@1.service web@2.service\n  plasmid events --machine demo-core-1 -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			var units []string
			for _, a := range args {
				u, err := argument(a)
				if err != nil {
					return err
				}
				units = append(units, u.name)
			}
			out := cmd.OutOrStdout()
			err = c.Events(cmd.Context(), units, machine, func(e api.Event) error {
				if g.Output == "json" {
					return json.NewEncoder(out).Encode(e)
				}
				if e.Kind == "current" {
					return nil
				}
				_, err := fmt.Fprintf(out, "%s %s\n", time.Now().Format(time.TimeOnly), eventLine(e))
				return err
			})
			if cmd.Context().Err() != nil {
				return exitInterrupted
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return errors.New("the machine that was asked has gone; run the command again to ask another")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&machine, "machine", "", "only on this machine")
	return cmd
}

// exitInterrupted is the exit of what goes on until it is interrupted: there
// is nothing to say about it.
const exitInterrupted = exitCode(130)

// eventLine is an event in a sentence.
func eventLine(e api.Event) string {
	who := cmp.Or(e.Unit, e.Name)
	text := e.Text
	if e.Unit != "" && e.Name != "" {
		// "is placed there" reads better with the name in it.
		if strings.Contains(text, "there") {
			text = strings.Replace(text, "there", "on "+e.Name, 1)
		} else {
			text = "on " + e.Name + " " + text
		}
	}
	return strings.TrimSpace(who + " " + text)
}

func newAuditCommand(g *globals) *cobra.Command {
	var lines int
	cmd := &cobra.Command{
		Use:     "audit",
		Example: "  plasmid audit\n  plasmid audit --lines 500",
		Short:   "Show who changed what",
		Long:    "Shows the newest changes to units and machines, and attempts that were refused, from all machines' journals. Needs the role admin.",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			log, err := c.Audit(cmd.Context(), lines)
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), log)
			}
			for _, e := range log.Entries {
				line := fmt.Sprintf("%s %s", e.Time.Local().Format(time.DateTime), e)
				if e.Revision > 0 {
					line += fmt.Sprintf(" [%d]", e.Revision)
				}
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			if len(log.Silent) > 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning: what was asked of these machines is missing, they do not answer:", strings.Join(log.Silent, ", "))
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&lines, "lines", 100, "how many")
	return cmd
}
