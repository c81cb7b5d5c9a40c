package store

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plasmid/runtime/reboot"
)

func rebootHolder(id string) reboot.Holder {
	return reboot.Holder{Machine: id, Name: "m-" + id, Boot: "boot", Since: time.Now().UTC().Truncate(time.Second)}
}

func take(h reboot.Holder) func(reboot.Semaphore) (reboot.Semaphore, error) {
	return func(s reboot.Semaphore) (reboot.Semaphore, error) { return s.Take(h, 1) }
}

// Of many that want the lock at once one gets it, and the others are told who.
func TestRebootLockIsTakenOnce(t *testing.T) {
	st, _ := newStore(t)
	var won, full atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_, err := st.ChangeReboot(t.Context(), "g", take(rebootHolder(fmt.Sprint(i))))
			var f *reboot.FullError
			switch {
			case err == nil:
				won.Add(1)
			case errors.As(err, &f):
				full.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || full.Load() != 7 {
		t.Errorf("%d took the lock, %d were refused", won.Load(), full.Load())
	}
}

func TestRebootLock(t *testing.T) {
	st, s := newStore(t)
	m := st.Mirror(t.Context())
	<-m.Ready()
	a := rebootHolder("a")
	r, err := st.ChangeReboot(t.Context(), "g", take(a))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if have, known := m.Reboots("g"); !known || len(have.Holders) != 1 || have.Holders[0] != a {
		t.Errorf("the mirror has %+v, %v", have, known)
	}
	// What changes nothing writes nothing.
	if r, err := st.ChangeReboot(t.Context(), "g", take(rebootHolder("a"))); r != 0 || err != nil {
		t.Errorf("taking it again: revision %d, %v", r, err)
	}
	if _, err := st.ChangeReboot(t.Context(), "../schema", take(a)); err == nil {
		t.Error("a group may be called anything")
	}
	if r, err = st.ChangeReboot(t.Context(), "g", func(s reboot.Semaphore) (reboot.Semaphore, error) { return s.Release("a"), nil }); err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if resp, err := s.Client().Get(t.Context(), DefaultPrefix+"reboot/g"); err != nil || resp.Count != 0 {
		t.Errorf("an empty lock is kept: %v, %v", resp, err)
	}
}

// A leader takes the lock from a lost machine, unless it took it anew since;
// one that was deposed takes nothing.
func TestReleaseRebootIsFenced(t *testing.T) {
	st, _ := newStore(t)
	a := join(t, st, "a", 5*time.Second)
	leader, err := st.Campaign(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	h := rebootHolder("x")
	put := func() {
		t.Helper()
		if _, err := st.ChangeReboot(t.Context(), "g", take(h)); err != nil {
			t.Fatal(err)
		}
	}
	put()
	older := h
	older.Since = h.Since.Add(-time.Hour)
	if r, err := leader.ReleaseReboot(t.Context(), "g", older); r != 0 || err != nil {
		t.Errorf("an older holding: %d, %v", r, err)
	}
	if r, err := leader.ReleaseReboot(t.Context(), "g", h); r == 0 || err != nil {
		t.Errorf("releasing: %d, %v", r, err)
	}
	put()
	b := join(t, st, "b", 5*time.Second)
	if err := leader.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Campaign(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if _, err := leader.ReleaseReboot(t.Context(), "g", h); !errors.Is(err, ErrDeposed) {
		t.Errorf("a deposed leader: %v", err)
	}
	if _, err := st.ChangeReboot(t.Context(), "g", take(rebootHolder("y"))); err == nil {
		t.Error("the lock was released")
	}
}

func TestSafeWithout(t *testing.T) {
	st, s := newStore(t)
	for _, name := range []string{"t", "no member"} {
		if err := st.SafeWithout(t.Context(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := st.MemberWell(t.Context(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A second member that was announced and does not run.
	if _, err := s.Client().MemberAddAsLearner(t.Context(), []string{"http://127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	if err := st.SafeWithout(t.Context(), "t"); err != nil {
		t.Errorf("a learner has no vote: %v", err)
	}
}
