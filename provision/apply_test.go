package provision

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"plasmid/internal/progress"
	"plasmid/provision/plan"
)

// record collects the steps that were done, in their order.
type record struct {
	mu   sync.Mutex
	done []string
}

func (r *record) add(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, id)
}

func quiet() *progress.Log { return progress.New(io.Discard, false) }

func steps(lines ...string) plan.Plan {
	var p plan.Plan
	for _, l := range lines {
		id, needs, _ := strings.Cut(l, " after ")
		s := plan.Step{ID: id, Name: id}
		if needs != "" {
			s.Needs = strings.Split(needs, " ")
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

func TestApplyKeepsTheOrder(t *testing.T) {
	r := &record{}
	p := steps("c after a b", "a", "b", "d after c")
	if err := Apply(t.Context(), p, func(_ context.Context, s plan.Step) error { r.add(s.ID); return nil }, quiet()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(r.done, ""); got != "abcd" && got != "bacd" {
		t.Errorf("done in the order %s", got)
	}
}

// Steps that need nothing of each other run at once.
func TestApplyRunsInParallel(t *testing.T) {
	var all sync.WaitGroup
	all.Add(3)
	err := Apply(t.Context(), steps("a", "b", "c"), func(context.Context, plan.Step) error {
		all.Done()
		all.Wait() // for ever, if one had to wait for another
		return nil
	}, quiet())
	if err != nil {
		t.Error(err)
	}
}

// A failure begins nothing new, but what is under way ends, and all errors are
// told.
func TestApplyStopsAtAFailure(t *testing.T) {
	r := &record{}
	failed := make(chan struct{})
	err := Apply(t.Context(), steps("bad", "slow", "later after slow", "never after bad"), func(_ context.Context, s plan.Step) error {
		r.add(s.ID)
		switch s.ID {
		case "bad":
			defer close(failed)
			return errors.New("it broke")
		case "slow":
			<-failed
			return errors.New("it broke too")
		}
		return nil
	}, quiet())
	if err == nil || !strings.Contains(err.Error(), "it broke too") || strings.Count(err.Error(), "it broke") != 2 {
		t.Errorf("got %v", err)
	}
	slices.Sort(r.done)
	if !slices.Equal(r.done, []string{"bad", "slow"}) {
		t.Errorf("done: %v", r.done)
	}
}

func TestApplyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &record{}
	err := Apply(ctx, steps("a", "b after a"), func(_ context.Context, s plan.Step) error {
		r.add(s.ID)
		cancel()
		return nil
	}, quiet())
	if !errors.Is(err, context.Canceled) || !slices.Equal(r.done, []string{"a"}) {
		t.Errorf("%v after %v", err, r.done)
	}
}

func TestApplyTellsOfARing(t *testing.T) {
	err := Apply(t.Context(), steps("a after b", "b after a"), func(context.Context, plan.Step) error { return nil }, quiet())
	if err == nil || !strings.Contains(err.Error(), "wait for each other") {
		t.Errorf("got %v", err)
	}
}

func TestLock(t *testing.T) {
	state := t.TempDir()
	unlock, err := Lock(state, "c")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(state, "c"); err == nil || !strings.Contains(err.Error(), "being changed by process") {
		t.Errorf("locked twice: %v", err)
	}
	if other, err := Lock(state, "d"); err != nil {
		t.Error(err)
	} else {
		other()
	}
	unlock()
	again, err := Lock(state, "c")
	if err != nil {
		t.Fatal(err)
	}
	again()
}
