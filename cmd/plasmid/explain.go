package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"plasmid/runtime/api"
	"plasmid/runtime/schedule"
	"plasmid/runtime/simulate"
)

// explanation is why a unit is where it is.
type explanation struct {
	Unit     api.Unit           `json:"unit"`
	Nowhere  string             `json:"nowhere,omitempty"` // why it runs nowhere
	Waits    string             `json:"waits,omitempty"`   // what it waits for to move or to change
	Machines []schedule.Verdict `json:"machines"`          // an empty why: it can run there
}

func newExplainCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "explain UNIT",
		Short: "Say why a unit is where it is, or why it can't run, machine by machine",
		Example: `  plasmid explain web@1.service
  plasmid explain web@1.service -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := argument(args[0])
			if err != nil {
				return err
			}
			c, err := g.Client()
			if err != nil {
				return err
			}
			cl, err := lookAt(cmd.Context(), c, true)
			if err != nil {
				return err
			}
			var e explanation
			for _, have := range cl.Units {
				if have.Name == u.name {
					e.Unit = have
				}
			}
			if e.Unit.Name == "" || e.Unit.Hash == "" {
				return fmt.Errorf("the cluster has no unit %s; what would become of a file: plasmid simulate %s", u.name, args[0])
			}
			e.Machines = schedule.Judge(cl.View(), u.name)
			if reasons, err := c.Reasons(cmd.Context(), []string{u.name}); err == nil {
				if why, ok := reasons[u.name]; ok {
					e.Nowhere = schedule.Explain(why)
				}
			} else {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning: the leader's reasons are missing:", err)
			}
			if waits, err := c.Waiting(cmd.Context()); err == nil {
				e.Waits = waits[u.name]
			}
			e.Unit.Text = ""
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), e)
			}
			return e.print(cmd.OutOrStdout(), cl)
		},
	}
}

func (e explanation) print(w io.Writer, cl simulate.Cluster) error {
	u := e.Unit
	fmt.Fprintf(w, "%s is to be %s\n", u.Name, u.Wish)
	on := map[string]bool{}
	for _, r := range u.On {
		on[r.Machine] = true
		fmt.Fprintf(w, "on %s: %s\n", r.Name, cmp.Or(r.Reason, "it is no longer meant to be there"))
		switch st := r.State; {
		case st == nil && r.Silent:
			fmt.Fprintf(w, "  the machine does not report; its units stay unless it is found to be gone\n")
		case st == nil:
			fmt.Fprintf(w, "  the machine has not taken it up yet\n")
		default:
			ready := ""
			if st.Active == "active" {
				ready = ", not ready"
				if st.Ready {
					ready = ", ready"
				}
			}
			fmt.Fprintf(w, "  %s (%s)%s%s\n", st.Active, st.Sub, ready, because(st.Message))
		}
	}
	if e.Nowhere != "" {
		fmt.Fprintf(w, "on no machine: %s\n", e.Nowhere)
	} else if len(u.On) == 0 {
		fmt.Fprintln(w, "on no machine")
	}
	if e.Waits != "" {
		fmt.Fprintf(w, "waits: %s\n", e.Waits)
	}
	fmt.Fprintln(w, "machines:")
	tw := tabwriter.NewWriter(w, 0, 8, 1, '\t', 0)
	for _, v := range e.Machines {
		name := v.Machine
		for _, m := range cl.Machines {
			if m.ID == v.Machine {
				name = m.Name
			}
		}
		says := cmp.Or(v.Why, "can run it")
		if on[v.Machine] && v.Why == "" {
			says = "has it"
		}
		fmt.Fprintf(tw, "  %s\t%s\n", name, says)
	}
	return tw.Flush()
}
