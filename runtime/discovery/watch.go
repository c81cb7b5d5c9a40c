package discovery

import (
	"context"
	"time"

	"plasmid/runtime/container"
	"plasmid/runtime/unit"
)

// failuresToUnready in a row are needed before a ready unit counts as unready:
// one may be chance. The second try follows the first at once.
const failuresToUnready = 2

const (
	// untilReady is the longest pause between checks of a unit that is not
	// ready: most are soon. One that is not after so many checks is checked
	// at its own interval.
	untilReady, soon = 250 * time.Millisecond, 120
	// secondTry is the pause before a failed check is done again.
	secondTry = 100 * time.Millisecond
	// unasked is the pause between two looks at a container when Docker is to
	// tell of changes itself.
	unasked = 30 * time.Second
)

// watch is the readiness of one unit over time.
type watch struct {
	spec    unit.Spec
	inspect func(context.Context) (container.State, error) // nil: the unit has no container
	nudged  <-chan struct{}                                // the container may have changed
	report  func(ready bool, c container.State, why error) // with the first outcome and every change
}

// run checks until ctx ends.
func (w *watch) run(ctx context.Context) {
	var c container.State
	ready, reported, known, failures := false, false, w.inspect == nil, 0
	for {
		var err error
		if !known {
			c, err = w.inspect(ctx)
		}
		if err == nil {
			err = probe(ctx, w.spec, c)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
		} else {
			failures++
		}
		// What is known of the container holds until a check fails or Docker
		// says that something changed.
		known = err == nil || w.inspect == nil
		now := err == nil || ready && failures < failuresToUnready
		if now != ready || !reported {
			ready, reported = now, true
			w.report(ready, c, err)
		}
		pause := w.spec.Ready.Interval
		switch {
		case ready && failures > 0:
			pause = min(pause, secondTry)
		case !ready && failures < soon:
			pause = min(pause, untilReady)
		case !ready:
		case w.spec.Ready.Kind == "" && w.inspect == nil:
			pause = 0 // nothing can change but what systemd says
		case w.spec.Ready.Kind == "":
			pause, known = unasked, false
		}
		if !w.rest(ctx, pause, &known) {
			return
		}
	}
}

// rest waits for the pause to end (0: never), or for a nudge. It returns false
// when ctx has ended.
func (w *watch) rest(ctx context.Context, pause time.Duration, known *bool) bool {
	var over <-chan time.Time
	if pause > 0 {
		t := time.NewTimer(pause)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-over:
	case <-w.nudged:
		*known = w.inspect == nil
	}
	return true
}
