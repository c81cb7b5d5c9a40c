package provision

import (
	"context"
	"errors"
	"fmt"

	"plasmid/internal/progress"
	"plasmid/provision/plan"
)

// parallel is how many steps are under way at once.
const parallel = 8

// Apply carries out a plan: every step as soon as those it needs are done.
// When one fails, or ctx ends, no new ones are begun; those under way end, and
// all errors are returned. To carry on, make a new plan.
func Apply(ctx context.Context, p plan.Plan, do func(context.Context, plan.Step) error, log *progress.Log) error {
	type result struct {
		step plan.Step
		err  error
	}
	results := make(chan result)
	waiting, done := p.Steps, map[string]bool{}
	running := 0
	var errs []error
	for {
		var later []plan.Step
		for _, s := range waiting {
			if ctx.Err() != nil || len(errs) > 0 || running == parallel || !ready(s, done) {
				later = append(later, s)
				continue
			}
			running++
			go func() {
				task := log.Start("%s", s.Title())
				results <- result{s, task.Done(do(ctx, s))}
			}()
		}
		waiting = later
		if running == 0 {
			break
		}
		r := <-results
		running--
		if r.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.step.Title(), r.err))
			continue
		}
		done[r.step.ID] = true
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(errs) == 0 && len(waiting) > 0:
		return fmt.Errorf("the plan has steps that wait for each other: %s needs %v", waiting[0].ID, waiting[0].Needs)
	}
	return errors.Join(errs...)
}

// ready reports whether all that a step needs is done.
func ready(s plan.Step, done map[string]bool) bool {
	for _, n := range s.Needs {
		if !done[n] {
			return false
		}
	}
	return true
}
