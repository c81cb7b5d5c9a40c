package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"plasmid/runtime/reboot"
)

func newRebootSetMaxCommand(g *globals) *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use:   "set-max N|default",
		Short: "Set how many machines of a group may reboot at a time",
		Long: `Holds until it is set again; default takes it back to what the cluster file says.
With 0 no machine of the group reboots. Whatever it is set to, an etcd member
that can't be spared does not reboot.`,
		Example: "  plasmid reboot set-max 0                # stop reboots\n  plasmid reboot set-max default          # and let them go on\n  plasmid reboot set-max 3 --group web",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var limit *int
			if args[0] != "default" {
				n, err := strconv.Atoi(args[0])
				if err != nil || n < 0 {
					return fmt.Errorf("%q is neither a number of machines nor default", args[0])
				}
				limit = &n
			}
			c, err := g.Client()
			if err != nil {
				return err
			}
			gr, err := c.SetRebootMax(cmd.Context(), group, limit)
			if err != nil {
				return err
			}
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), gr)
			}
			if limit == nil {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "Group %s reboots as its machines are configured\n", group)
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "At most %d machines of group %s reboot at a time\n", *limit, group)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&group, "group", reboot.DefaultGroup, "the reboot `group`")
	return cmd
}
