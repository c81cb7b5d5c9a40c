package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"plasmid/runtime/simulate"
)

func newSimulateCommand(g *globals) *cobra.Command {
	var drain, lose, destroy []string
	var from, save string
	cmd := &cobra.Command{
		Use:   "simulate [UNIT…]",
		Short: "Say what units, a drain or a lost machine would bring about, without doing it",
		Long: `Runs the scheduler here, over what the cluster says of itself: nothing is changed.
Units are files, or units that the cluster knows and that would be started. With
--save the cluster is kept in a file, over which --view asks again, also without a
cluster. Exits 1 if a unit would run nowhere.`,
		Example: `  plasmid simulate web@{1..5}.service
  plasmid simulate --lose core-1
  plasmid simulate --save cluster.json; plasmid simulate --view cluster.json --drain core-2`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := viewOf(cmd, g, from)
			if err != nil {
				return err
			}
			if save != "" {
				data, err := json.MarshalIndent(cl, "", " ")
				if err != nil {
					return err
				}
				if err := os.WriteFile(save, append(data, '\n'), 0o600); err != nil {
					return err
				}
			}
			what := simulate.What{Start: map[string]string{}, Destroy: destroy}
			if err := startOf(cl, args, what.Start); err != nil {
				return err
			}
			for _, x := range []struct {
				names []string
				ids   *[]string
			}{{drain, &what.Drain}, {lose, &what.Lose}} {
				for _, n := range x.names {
					m, err := cl.Find(n)
					if err != nil {
						return err
					}
					*x.ids = append(*x.ids, m.ID)
				}
			}
			out, err := simulate.Run(cl.View(), what)
			if err != nil {
				return err
			}
			if g.Output == "json" {
				err = printJSON(cmd.OutOrStdout(), out)
			} else {
				printOutcome(cmd.OutOrStdout(), cl, out)
			}
			if err == nil && len(out.Nowhere) > 0 {
				err = exitCode(1)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&drain, "drain", nil, "`machines` that would be drained")
	f.StringSliceVar(&lose, "lose", nil, "`machines` that would be lost")
	f.StringSliceVar(&destroy, "destroy", nil, "`units` that would be destroyed")
	f.StringVar(&from, "view", "", "ask a `file` that --save wrote instead of the cluster")
	f.StringVar(&save, "save", "", "keep the cluster as it is in a `file`")
	return cmd
}

// viewOf reads the cluster, or the file that stands for it.
func viewOf(cmd *cobra.Command, g *globals, file string) (cl simulate.Cluster, err error) {
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return cl, err
		}
		if err := json.Unmarshal(data, &cl); err != nil {
			return cl, fmt.Errorf("%s was not written by plasmid simulate --save: %w", file, err)
		}
		return cl, nil
	}
	c, err := g.Client()
	if err != nil {
		return cl, err
	}
	return lookAt(cmd.Context(), c, true)
}

// startOf finds the texts of units: of the file, else the cluster's.
func startOf(cl simulate.Cluster, args []string, start map[string]string) error {
	for _, a := range args {
		u, err := argument(a)
		if err != nil {
			return err
		}
		text := u.text
		for _, have := range cl.Units {
			if have.Name == u.name && text == "" {
				text = have.Text
			}
		}
		if text == "" {
			return fmt.Errorf("unit %s is neither a file here nor known to the cluster", u.name)
		}
		start[u.name] = text
	}
	return nil
}

func printOutcome(w io.Writer, cl simulate.Cluster, out simulate.Outcome) {
	name := map[string]string{"": "nowhere"}
	for _, m := range cl.Machines {
		name[m.ID] = m.Name
	}
	for _, s := range out.Steps {
		switch {
		case s.From == s.To:
			fmt.Fprintf(w, "%s changes on %s: %s\n", s.Unit, name[s.To], s.Reason)
		case s.From == "":
			fmt.Fprintf(w, "%s is placed on %s: %s\n", s.Unit, name[s.To], s.Reason)
		case s.To == "":
			fmt.Fprintf(w, "%s leaves %s: %s\n", s.Unit, name[s.From], s.Reason)
		default:
			fmt.Fprintf(w, "%s moves from %s to %s: %s\n", s.Unit, name[s.From], name[s.To], s.Reason)
		}
	}
	for _, u := range slices.Sorted(maps.Keys(out.Stays)) {
		fmt.Fprintf(w, "%s stays: %s\n", u, out.Stays[u])
	}
	for _, u := range slices.Sorted(maps.Keys(out.Nowhere)) {
		fmt.Fprintf(w, "%s would run nowhere: %s\n", u, out.Nowhere[u])
	}
	if len(out.Steps)+len(out.Stays)+len(out.Nowhere) == 0 {
		fmt.Fprintln(w, "nothing would change")
	}
}
