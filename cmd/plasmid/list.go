package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"plasmid/runtime/api"
	"plasmid/runtime/schedule"
	"plasmid/runtime/unit"
)

// table are the flags of fleetctl's lists.
type table struct {
	full     bool
	noLegend bool
	fields   []string
	columns  map[string]bool
}

func (t *table) register(cmd *cobra.Command, defaults, all []string) {
	cmd.Flags().BoolVarP(&t.full, "full", "l", false, "do not shorten")
	cmd.Flags().BoolVar(&t.noLegend, "no-legend", false, "leave the heading out")
	cmd.Flags().StringSliceVar(&t.fields, "fields", defaults, "`columns`, out of "+strings.Join(all, ","))
	t.columns = map[string]bool{}
	for _, c := range all {
		t.columns[c] = true
	}
}

// print writes rows, given as values by column.
func (t *table) print(w io.Writer, rows []map[string]string) error {
	for _, f := range t.fields {
		if !t.columns[f] {
			return fmt.Errorf("there is no column %q", f)
		}
	}
	tw := tabwriter.NewWriter(w, 0, 8, 1, '\t', 0)
	line := func(value func(string) string) {
		cells := make([]string, len(t.fields))
		for i, f := range t.fields {
			if cells[i] = value(f); cells[i] == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if !t.noLegend {
		line(strings.ToUpper)
	}
	for _, r := range rows {
		line(func(f string) string { return r[f] })
	}
	return tw.Flush()
}

func (t *table) machine(id, address string) string {
	if !t.full {
		id = shortID(id)
	}
	return id + "/" + address
}

func (t *table) hash(h string) string {
	if !t.full {
		return h[:min(7, len(h))]
	}
	return h
}

func newListUnitsCommand(g *globals) *cobra.Command {
	var t table
	cmd := &cobra.Command{
		Use:   "list-units",
		Short: "List units machine by machine, as systemd sees them",
		Long: `One row for each unit on each machine. A unit that is to run and is on no machine
has a row too, which says why.`,
		Example: "  plasmid list-units\n  plasmid list-units --fields unit,name,active,ready,message",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			list, err := c.Units(cmd.Context(), nil, false, 0)
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), list.Units)
			}
			var nowhere []string
			for _, u := range list.Units {
				if len(u.On) == 0 && u.Wish != "inactive" {
					nowhere = append(nowhere, u.Name)
				}
			}
			reasons := map[string][]schedule.Verdict{}
			if len(nowhere) > 0 {
				if reasons, err = c.Reasons(cmd.Context(), nowhere); err != nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "warning: why units are on no machine can't be told:", err)
				}
			}
			rows := unitRows(&t, list.Units, reasons)
			if waits, err := c.Waiting(cmd.Context()); err == nil {
				for _, row := range rows {
					if why := waits[row["unit"]]; why != "" && row["message"] == "" {
						row["message"] = "waits: " + why
					}
				}
			}
			return t.print(cmd.OutOrStdout(), rows)
		},
	}
	t.register(cmd, []string{"unit", "machine", "active", "sub", "ready", "message"},
		[]string{"unit", "machine", "name", "active", "sub", "load", "hash", "ready", "message", "reason"})
	return cmd
}

func unitRows(t *table, units []api.Unit, reasons map[string][]schedule.Verdict) []map[string]string {
	var rows []map[string]string
	for _, u := range units {
		for _, r := range u.On {
			row := map[string]string{"unit": u.Name, "machine": t.machine(r.Machine, r.Address), "name": r.Name, "hash": t.hash(r.Hash), "reason": r.Reason}
			if st := r.State; st != nil {
				row["active"], row["sub"], row["load"], row["message"] = st.Active, st.Sub, st.Load, st.Message
				row["ready"] = yesNo(st.Ready)
			} else if r.Silent {
				row["message"] = "the machine does not report"
			}
			rows = append(rows, row)
		}
		if why, ok := reasons[u.Name]; ok {
			rows = append(rows, map[string]string{"unit": u.Name, "hash": t.hash(u.Hash), "message": schedule.Explain(why)})
		}
	}
	return rows
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func newListUnitFilesCommand(g *globals) *cobra.Command {
	var t table
	cmd := &cobra.Command{
		Use:     "list-unit-files",
		Example: "  plasmid list-unit-files\n  plasmid list-unit-files -o json",
		Short:   "List the units that the cluster knows, with what is wished and what is",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			list, err := c.Units(cmd.Context(), nil, slices.Contains(t.fields, "desc"), 0)
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), list.Units)
			}
			var rows []map[string]string
			for _, u := range list.Units {
				row := map[string]string{"unit": u.Name, "hash": t.hash(u.Hash), "dstate": string(u.Wish), "state": "inactive", "global": fmt.Sprint(u.Global), "app": u.App, "desc": description(u.Text)}
				if u.Global {
					row["state"] = ""
				} else if len(u.On) > 0 {
					row["target"] = t.machine(u.On[0].Machine, u.On[0].Address)
					if u.On[0].State != nil {
						row["state"] = string(u.On[0].Wish)
					}
				}
				row["tmachine"] = row["target"]
				rows = append(rows, row)
			}
			return t.print(cmd.OutOrStdout(), rows)
		},
	}
	t.register(cmd, []string{"unit", "hash", "dstate", "state", "target"}, []string{"unit", "hash", "dstate", "state", "target", "tmachine", "global", "desc", "app"})
	return cmd
}

func newListMachinesCommand(g *globals) *cobra.Command {
	var t table
	cmd := &cobra.Command{
		Use:     "list-machines",
		Example: "  plasmid list-machines\n  plasmid list-machines -o json",
		Short:   "List the machines of the cluster",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := g.Client()
			if err != nil {
				return err
			}
			ms, err := c.Machines(cmd.Context())
			if err != nil {
				return err
			}
			slices.SortFunc(ms, func(a, b api.Machine) int { return cmp.Compare(a.Name, b.Name) })
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), ms)
			}
			var rows []map[string]string
			for _, m := range ms {
				var meta []string
				for k, v := range m.Metadata {
					meta = append(meta, k+"="+v)
				}
				slices.Sort(meta)
				row := map[string]string{"machine": m.ID, "name": m.Name, "ip": m.PublicIPv4, "metadata": strings.Join(meta, ","), "state": "up", "units": fmt.Sprint(m.Units), "version": m.Version}
				if !t.full {
					row["machine"] = shortID(m.ID)
				}
				if !m.Alive {
					row["state"] = "silent"
				} else if m.Leader {
					row["state"] = "up, leads"
				}
				if m.Order != nil && m.Order.Drain {
					row["state"] += ", is drained"
				} else if m.Order != nil {
					row["state"] += ", cordoned"
				}
				rows = append(rows, row)
			}
			return t.print(cmd.OutOrStdout(), rows)
		},
	}
	t.register(cmd, []string{"machine", "name", "ip", "metadata", "state", "units"}, []string{"machine", "name", "ip", "metadata", "state", "units", "version"})
	return cmd
}

// description is a unit's own, from its text.
func description(text string) string {
	f, err := unit.Parse(text)
	if err != nil {
		return ""
	}
	ds := f.Values("Unit", "Description")
	if len(ds) == 0 {
		return ""
	}
	return ds[len(ds)-1]
}
