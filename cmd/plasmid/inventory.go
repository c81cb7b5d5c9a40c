package main

import (
	"github.com/spf13/cobra"
)

func newInventoryCommand(g *globals) *cobra.Command {
	var host string
	cmd := &cobra.Command{
		Use:   "inventory",
		Short: "Print the machines as Ansible's dynamic inventory",
		Long: `Prints the cluster's machines in the format that ansible-playbook takes from an
inventory script: a group for each node group, a group of the etcd members, and
how to log in to each machine. playbooks/inventory is such a script.`,
		Example: "  ansible-playbook -i playbooks/inventory my.yml\n  plasmid inventory | jq ._meta.hostvars",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if host != "" {
				// All variables are under _meta already.
				return printJSON(cmd.OutOrStdout(), struct{}{})
			}
			c, err := g.cluster(cmd.Context(), false)
			if err != nil {
				return err
			}
			a, err := g.access()
			if err != nil {
				return err
			}
			in, err := c.observe(cmd.Context(), "")
			if err != nil {
				return err
			}
			inv, err := a.Inventory(in.Observed, in.Members)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), inv)
		},
	}
	f := cmd.Flags()
	f.Bool("list", true, "print all; it is the default")
	f.StringVar(&host, "host", "", "print the variables of one host")
	return cmd
}
