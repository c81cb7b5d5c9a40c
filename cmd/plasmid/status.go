package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"plasmid/provision/plan"
)

// clusterState is what status -o json prints.
type clusterState struct {
	Cluster  string          `json:"cluster"`
	Machines []plan.Observed `json:"machines"`
	Members  []plan.Member   `json:"members"`
}

// clusterStatus shows the machines as the provider and the cluster see them.
func clusterStatus(cmd *cobra.Command, g *globals) error {
	c, err := g.cluster(cmd.Context(), false)
	if err != nil {
		return err
	}
	in, err := c.observe(cmd.Context(), "")
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if g.Output == "json" {
		return printJSON(out, clusterState{c.config.Name, in.Observed, in.Members})
	}
	if len(in.Observed) == 0 {
		_, err := fmt.Fprintf(out, "Cluster %q has no machines; plasmid up makes them.\n", c.config.Name)
		return err
	}
	members := map[string]plan.Member{}
	for _, m := range in.Members {
		members[m.Name] = m
	}
	reports, units := map[string]string{}, map[string]int{}
	if cl, err := g.Client(); err == nil {
		ms, err := cl.Machines(cmd.Context())
		if err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "warning: the cluster does not answer:", err)
		}
		for _, m := range ms {
			reports[m.Name], units[m.Name] = "silent", m.Units
			if m.Alive {
				reports[m.Name] = "reports"
			}
			if m.Leader {
				reports[m.Name] = "reports, leads"
			}
		}
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tADDRESS\tIMAGE\tPOWER\tETCD\tCLUSTER\tUNITS")
	for _, o := range in.Observed {
		power := "off"
		if o.Running {
			power = "on"
		}
		state := reports[o.Name]
		if _, joined := members[o.Name]; !joined {
			state = "not joined"
		} else if state == "" {
			state = "unknown"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", o.Name, o.PrivateIPv4, o.Image, power, yesNo(members[o.Name].Etcd), state, units[o.Name])
	}
	return w.Flush()
}
