package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"plasmid/runtime/api"
)

func newRebootStatusCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show who has to reboot, who has the lock, and what is waited for",
		Example: "  plasmid reboot status\n  plasmid reboot status -o json | jq '.machines[] | select(.required) | .name'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			r, err := c.Reboots(cmd.Context())
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return printReboots(cmd.OutOrStdout(), r)
		},
	}
}

func printReboots(out io.Writer, r api.Reboot) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tMAX\tHOLDER\tSINCE\tBY")
	for _, gr := range r.Groups {
		limit := maxOf(gr, r.Machines)
		if len(gr.Holders) == 0 {
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\n", gr.Group, limit)
		}
		for _, h := range gr.Holders {
			by := "itself"
			if h.Operator {
				by = "operator"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", gr.Group, limit, h.Name, h.Since.Local().Format(time.DateTime), by)
		}
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "MACHINE\tGROUP\tREQUIRED\tWINDOW\tWHAT IT DOES")
	for _, m := range r.Machines {
		window := cmp.Or(m.Window, "-")
		switch {
		case m.Error != "":
			window = "-"
		case !m.Auto:
			window = "by hand"
		}
		required := yesNo(m.Required)
		if m.Asked {
			required = "asked"
		}
		if m.Error != "" {
			required = "unknown"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.Group, required, window, cmp.Or(m.Error, m.Reason, "-"))
	}
	return w.Flush()
}

// maxOf is a group's limit: an operator's, or what its machines say.
func maxOf(g api.RebootGroup, machines []api.RebootMachine) string {
	if g.Max != nil {
		return fmt.Sprintf("%d (set)", *g.Max)
	}
	for _, m := range machines {
		if m.Group == g.Group && m.Max > 0 {
			return fmt.Sprint(m.Max)
		}
	}
	return "-"
}
