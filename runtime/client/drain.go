package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Left is the error of a drain that is not done: units that are still there,
// each with where it is or what it waits for.
type Left struct {
	Units map[string]string
	Stuck bool // none of them can run on any other machine
}

func (e *Left) Error() string {
	what := "these units are still there"
	if e.Stuck {
		what = "these units can't run on any other machine"
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(e.Units)) {
		lines = append(lines, fmt.Sprintf("  %s: %s", name, e.Units[name]))
	}
	return what + ":\n" + strings.Join(lines, "\n")
}

// AwaitDrained waits until machines, named by their IDs, have no units but
// global ones, and tells each time how many are left. The error is a *Left if
// all that are left can't run anywhere else, or if ctx ends.
func (c *Client) AwaitDrained(ctx context.Context, machines map[string]bool, tell func(left int)) error {
	var revision int64
	left := map[string]string{}
	for {
		list, err := c.Units(ctx, nil, false, revision)
		if err != nil {
			if ctx.Err() != nil && len(left) > 0 {
				return &Left{Units: left}
			}
			return err
		}
		revision = list.Revision
		clear(left)
		for _, u := range list.Units {
			for _, r := range u.On {
				if machines[r.Machine] && !u.Global {
					left[u.Name] = "is on " + r.Name
				}
			}
		}
		if len(left) == 0 {
			return nil
		}
		tell(len(left))
		why, err := c.Waiting(ctx)
		if err != nil {
			continue // nobody leads for a moment
		}
		stuck := true
		for name := range left {
			reason, known := why[name]
			if known {
				left[name] = reason
			}
			stuck = stuck && known && strings.HasPrefix(reason, "no machine")
		}
		if stuck {
			return &Left{left, true}
		}
	}
}
