package engine

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"plasmid/runtime/reboot"
	"plasmid/runtime/store"
)

func (l *lab) takeReboot(id string, patience time.Duration) {
	l.t.Helper()
	h := reboot.Holder{Machine: id, Name: id, Boot: "boot", Since: time.Now().UTC().Truncate(time.Second), PatienceSeconds: int(patience / time.Second)}
	if _, err := l.st.ChangeReboot(l.t.Context(), "g", func(s reboot.Semaphore) (reboot.Semaphore, error) { return s.Take(h, 2) }); err != nil {
		l.t.Fatal(err)
	}
}

// held returns the holders that the store has.
func held(v *store.View) string {
	s := ""
	for _, h := range v.Reboots["g"].Holders {
		s += h.Machine
	}
	return s
}

// The lock of a machine that was forgotten is free at once; that of one that
// is gone stays until its patience has ended.
func TestALostMachinesRebootLockIsReleased(t *testing.T) {
	l := newLab(t)
	l.machine("a", true)
	b, c := l.machine("b", false), l.machine("c", false)
	l.takeReboot("b", time.Hour)
	l.takeReboot("c", time.Hour)
	l.fall("b", "c")
	l.lose(b)
	l.lose(c)
	if err := l.st.ForgetMachine(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	l.until("the lock of b is free", func(v *store.View) bool { return held(v) == "c" })
}

// releaseReboots is asked with a view and probes of the test's making.
func TestReleaseRebootsAsksOnceMore(t *testing.T) {
	l := newLab(t)
	l.takeReboot("x", time.Second)
	ss, err := l.st.Join(t.Context(), store.Machine{ID: "a", Name: "a"}, ttl)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ss.Abandon)
	lead, err := l.st.Campaign(t.Context(), ss)
	if err != nil {
		t.Fatal(err)
	}
	l.until("x holds", func(v *store.View) bool { return held(v) == "x" })
	answers := true
	e := New(Config{Store: l.st, Mirror: l.mirror, Lease: ttl, Logger: slog.New(slog.DiscardHandler), Probe: func(context.Context, store.Machine) error {
		if answers {
			return nil
		}
		return fmt.Errorf("no answer")
	}})
	view := *l.mirror.View()
	view.Known = map[string]store.Machine{"x": {ID: "x", Name: "x"}}
	w := newWatchdog(e.Probe, ttl)
	w.began = time.Now().Add(-time.Hour)
	w.failures["x"] = probeFailures

	var book reboot.Lost
	if again := e.releaseReboots(t.Context(), lead, &view, w, &book); again <= 0 || again > reboot.MinPatience {
		t.Errorf("asks again after %v", again)
	}
	// As if it had been gone for a while.
	book = reboot.Lost{}
	book.Of(time.Now().Add(-time.Hour), view.Reboots["g"], func(string) reboot.Sight { return reboot.Gone })
	if again := e.releaseReboots(t.Context(), lead, &view, w, &book); again <= 0 {
		t.Error("a machine that answers after all is not watched on")
	}
	l.until("x holds still", func(v *store.View) bool { return held(v) == "x" })
	answers = false
	book.Of(time.Now().Add(-time.Hour), view.Reboots["g"], func(string) reboot.Sight { return reboot.Gone })
	e.releaseReboots(t.Context(), lead, &view, w, &book)
	l.until("the lock is free", func(v *store.View) bool { return held(v) == "" })
}
