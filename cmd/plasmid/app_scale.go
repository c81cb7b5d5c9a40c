package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"plasmid/provision/app"
)

func newAppScaleCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "scale APP TEMPLATE=COUNT…",
		Short: "Change how many instances of a template run",
		Long: `Starts or destroys instances until there are so many, numbered from 1, and waits
for it. TEMPLATE is sinatra@.service, or sinatra for short. The next deployment
goes back to the count in app.hcl; plasmid app diff shows it.`,
		Example: "  plasmid app scale elk sinatra=3\n  plasmid app scale elk sinatra@.service=0",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			counts := map[string]int{}
			var order []string
			for _, arg := range args[1:] {
				name, number, ok := strings.Cut(arg, "=")
				n, err := strconv.Atoi(number)
				if !ok || err != nil || name == "" {
					return fmt.Errorf("%q is not of the form TEMPLATE=COUNT", arg)
				}
				if !strings.Contains(name, "@") {
					name += "@.service"
				}
				counts[name] = n
				order = append(order, name)
			}
			c, access, cl, err := g.appCluster()
			if err != nil {
				return err
			}
			apps, err := which(c, args[:1])
			if err != nil {
				return err
			}
			loaded, err := loadApp(c.Dir, apps[0])
			if err != nil {
				return err
			}
			ctx, log := cmd.Context(), g.Progress()
			result := appResult{Name: loaded.Name}
			for _, name := range order {
				r, err := app.Scale(ctx, appTarget(access, cl, log, isReady, ""), loaded, name, counts[name], func() ([]app.Built, error) { return g.builder().Build(ctx, loaded) })
				if err != nil {
					return err
				}
				if err := await(ctx, cl, r.Removed, app.DefaultTimeout, log, "destroying instances of "+name, isNowhere); err != nil {
					return err
				}
				result.Units = append(result.Units, r.Changed...)
				result.Removed = append(result.Removed, r.Removed...)
				if g.Output != "json" {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %d instances (%d started, %d destroyed)\n", name, counts[name], len(r.Changed), len(r.Removed))
				}
			}
			result.Changed = len(result.Units)+len(result.Removed) > 0
			if g.Output == "json" {
				return printJSON(cmd.OutOrStdout(), result)
			}
			return nil
		},
	}
}
