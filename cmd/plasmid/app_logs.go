package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"plasmid/runtime/client"
)

func newAppLogsCommand(g *globals) *cobra.Command {
	var lines int
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs APP [UNIT…]",
		Short: "Show the logs of an app's units, wherever they run",
		Long: `Shows what the app's units wrote to the journal, each line with the name of its
unit before it. UNIT may be a pattern, such as 'sinatra@*'.`,
		Example: "  plasmid app logs elk\n  plasmid app logs -f elk collector.service 'sinatra@*'",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := g.Config()
			if err != nil {
				return err
			}
			if _, err := which(c, args[:1]); err != nil {
				return err
			}
			cl, err := g.Client()
			if err != nil {
				return err
			}
			units, err := unitsOf(cmd.Context(), cl, args[0], args[1:])
			if err != nil {
				return err
			}
			return appLogs(cmd.Context(), cmd.OutOrStdout(), cl, units, lines, follow)
		},
	}
	cmd.Flags().IntVar(&lines, "lines", 10, "how many lines of the past, of each unit")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	return cmd
}

// unitsOf are an app's units that match one of the patterns, or all.
func unitsOf(ctx context.Context, cl *client.Client, name string, patterns []string) ([]string, error) {
	list, err := cl.Units(ctx, nil, false, 0)
	if err != nil {
		return nil, err
	}
	var units []string
	for _, u := range list.Units {
		if u.App != name || len(u.On) == 0 {
			continue
		}
		for _, p := range append(patterns[:len(patterns):len(patterns)], "*")[:max(1, len(patterns))] {
			ok, err := path.Match(p, u.Name)
			if err != nil {
				return nil, fmt.Errorf("%q is no pattern: %w", p, err)
			}
			if ok || p+".service" == u.Name {
				units = append(units, u.Name)
				break
			}
		}
	}
	if len(units) == 0 {
		return nil, fmt.Errorf("no unit of app %s that runs is meant by: %s", name, strings.Join(append([]string{name}, patterns...), " "))
	}
	return units, nil
}

// appLogs copies the units' logs: one after the other, or, followed, as their
// lines come.
func appLogs(ctx context.Context, w io.Writer, cl *client.Client, units []string, lines int, follow bool) error {
	widest := 0
	for _, u := range units {
		widest = max(widest, len(u))
	}
	var mu sync.Mutex
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	copyOne := func(u string) {
		r, out := io.Pipe()
		go func() { out.CloseWithError(cl.Journal(ctx, out, u, "", lines, follow, "short-iso")) }()
		in := bufio.NewReader(r)
		for {
			line, err := in.ReadString('\n')
			if line != "" {
				mu.Lock()
				fmt.Fprintf(w, "%-*s  %s\n", widest, u, strings.TrimSuffix(line, "\n"))
				mu.Unlock()
			}
			if err != nil {
				if err != io.EOF && ctx.Err() == nil {
					cancel(fmt.Errorf("%s: %w", u, err))
				}
				return
			}
		}
	}
	var wg sync.WaitGroup
	for _, u := range units {
		if !follow {
			copyOne(u)
			continue
		}
		wg.Go(func() { copyOne(u) })
	}
	wg.Wait()
	return context.Cause(ctx)
}
