package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"plasmid/internal/progress"
	"plasmid/runtime/api"
	"plasmid/runtime/client"
	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
)

// reached says whether a unit is as it was wished, and if not, what it is.
type reached func(u api.Unit, exists bool) (ok bool, is string)

// isPlaced is what load waits for.
func isPlaced(u api.Unit, _ bool) (bool, string) {
	for _, r := range u.On {
		if r.Hash == u.Hash && r.State != nil && r.State.Hash == u.Hash && r.State.Load == "loaded" {
			return true, ""
		}
	}
	return u.Global && len(u.On) > 0, where(u)
}

// isActive is what start waits for. A unit that has run to its end counts.
func isActive(u api.Unit, _ bool) (bool, string) {
	if u.Done != nil {
		if u.Done.OK {
			return true, ""
		}
		return false, failedPrefix + "failed, and runs once; see: plasmid journal " + u.Name
	}
	if len(u.On) == 0 {
		return false, where(u)
	}
	for _, r := range u.On {
		st := r.State
		if st == nil || st.Hash != u.Hash || r.Hash != u.Hash {
			return false, "is not started on " + r.Name + " yet"
		}
		switch {
		case st.Active == "active", st.Active == "inactive" && st.Message == "" && r.Wish == store.Launched && !st.Since.IsZero():
		case st.Active == "failed" || st.GaveUp:
			// The state can be known before the agent's word on it.
			return false, failedPrefix + "failed on " + r.Name + ": " + cmp.Or(st.Message, "see: plasmid journal "+u.Name)
		default:
			return false, fmt.Sprintf("is %s on %s%s", st.Active, r.Name, because(st.Message))
		}
	}
	return true, ""
}

// isReady is what app deploy waits for.
func isReady(u api.Unit, exists bool) (bool, string) {
	if ok, is := isActive(u, exists); !ok {
		return ok, is
	}
	for _, r := range u.On {
		if u.Done == nil && r.Wish == store.Launched && !r.State.Ready {
			return false, fmt.Sprintf("is not ready on %s%s", r.Name, because(r.State.Message))
		}
	}
	return true, ""
}

// isStopped is what stop waits for.
func isStopped(u api.Unit, _ bool) (bool, string) {
	for _, r := range u.On {
		if r.State != nil && r.State.Active != "inactive" && r.State.Active != "failed" && !r.Silent {
			return false, fmt.Sprintf("is %s on %s", r.State.Active, r.Name)
		}
	}
	return true, ""
}

// isNowhere is what unload and destroy wait for.
func isNowhere(u api.Unit, exists bool) (bool, string) {
	for _, r := range u.On {
		if !r.Silent {
			return false, "is still on " + r.Name
		}
	}
	return true, ""
}

// failedPrefix marks what waiting longer will not cure.
const failedPrefix = "\x00"

func because(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}

func where(u api.Unit) string {
	if len(u.On) == 0 {
		return "is on no machine"
	}
	return "is being loaded on " + u.On[0].Name
}

// await waits until all units are as wished. It is told of changes and does
// not poll. When the time is over it says what each unit lacks.
func await(ctx context.Context, c *client.Client, names []string, timeout time.Duration, log *progress.Log, title string, ok reached) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var task *progress.Task
	begun := time.Now()
	var revision int64
	var lacking map[string]string
	for {
		list, err := c.Units(ctx, names, false, revision)
		if err != nil {
			if ctx.Err() == nil {
				return task.Done(err)
			}
			break
		}
		revision = list.Revision
		lacking = lacks(list, names, ok)
		if len(lacking) == 0 {
			return task.Done(nil)
		}
		hopeless := false
		for _, is := range lacking {
			hopeless = hopeless || strings.HasPrefix(is, failedPrefix)
		}
		if hopeless {
			break
		}
		if task == nil && time.Since(begun) > 2*time.Second {
			task = log.Start("%s", title)
		}
		task.Update("%d of %d", len(names)-len(lacking), len(names))
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return task.Done(ctx.Err())
	}
	return task.Done(explain(c, lacking, timeout, ctx.Err() != nil))
}

func lacks(list api.UnitList, names []string, ok reached) map[string]string {
	found := map[string]api.Unit{}
	for _, u := range list.Units {
		found[u.Name] = u
	}
	lacking := map[string]string{}
	for _, n := range names {
		u, exists := found[n]
		if done, is := ok(u, exists); !done {
			lacking[n] = is
		}
	}
	return lacking
}

// explain asks the engine why units are on no machine.
func explain(c *client.Client, lacking map[string]string, timeout time.Duration, late bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var ask []string
	for n := range lacking {
		ask = append(ask, n)
	}
	sort.Strings(ask)
	reasons, err := c.Reasons(ctx, ask)
	if err != nil {
		reasons = nil // what is known without is said
	}
	var lines []string
	for _, n := range ask {
		is := strings.TrimPrefix(lacking[n], failedPrefix)
		if why, ok := reasons[n]; ok {
			is += ": " + schedule.Explain(why)
		}
		lines = append(lines, n+" "+is)
	}
	if late {
		lines = append(lines, fmt.Sprintf("(waited %v; --no-block does not wait, --timeout waits longer)", timeout))
	}
	return errors.New(strings.Join(lines, "\n"))
}
