package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// says has a machine tell of the text of a unit that it has there.
func (l *lab) says(n *node, name string, f func(*store.State)) {
	l.t.Helper()
	p, ok := l.mirror.View().Placements[name][n.id]
	if !ok {
		l.t.Fatalf("%s is not on %s", name, n.id)
	}
	s := store.State{Machine: n.id, Unit: name, Hash: p.Hash, Load: "loaded", Active: "active", Ready: true}
	f(&s)
	if err := n.session.Load().PutStates(l.t.Context(), []store.State{s}); err != nil {
		l.t.Fatal(err)
	}
}

func isReady(*store.State) {}

func failed(s *store.State) {
	s.Active, s.Ready, s.GaveUp, s.Message = "failed", false, true, "it failed"
}

func (l *lab) on(name, machine string) func(*store.View) bool {
	return func(v *store.View) bool {
		_, ok := v.Placements[name][machine]
		return ok && len(v.Placements[name]) == 1
	}
}

// A unit that failed too often goes elsewhere, is nowhere when every machine
// failed it, and comes back when the time is over, also to a new leader.
func TestRetriesElsewhere(t *testing.T) {
	l := newLab(t)
	a, b := l.machine("a", true), l.machine("b", true)
	l.apply(store.UnitChange{Name: "r.service", Wish: store.Launched, Text: "[X-Plasmid]\nRetries=3/6s\n"})
	l.until("r is on a", l.on("r.service", "a"))
	l.says(a, "r.service", failed)
	l.until("r is on b", l.on("r.service", "b"))
	if err := a.session.Load().DeleteStates(t.Context(), []string{"r.service"}); err != nil {
		t.Fatal(err)
	}
	l.says(b, "r.service", failed)
	l.until("r is nowhere", func(v *store.View) bool { return len(v.Placements["r.service"]) == 0 })
	if err := b.session.Load().DeleteStates(t.Context(), []string{"r.service"}); err != nil {
		t.Fatal(err)
	}
	why := fmt.Sprint(l.elected(a, b).engine.Unplaced()["r.service"])
	if !strings.Contains(why, "failed it after 3 retries") {
		t.Errorf("why it is nowhere: %s", why)
	}
	l.until("r is tried again", func(v *store.View) bool { return len(v.Placements["r.service"]) == 1 })
	// Another text is not to blame.
	l.apply(store.UnitChange{Name: "r.service", Wish: store.Launched, Replace: true, Text: "[Service]\nX=1\n"})
	l.until("nothing is avoided", func(v *store.View) bool { return len(v.Avoid) == 0 })
}

// A unit that runs once is not started again by anybody, and may be by its user.
func TestRunOnce(t *testing.T) {
	l := newLab(t)
	a, b := l.machine("a", true), l.machine("b", false)
	l.apply(store.UnitChange{Name: "once.service", Wish: store.Launched, Text: "[X-Plasmid]\nRunOnce=yes\n[X-Fleet]\nMachineMetadata=x=y\n"},
		store.UnitChange{Name: "then.service", Wish: store.Launched, Text: "[X-Plasmid]\nAfter=once.service\n"})
	l.decides("other.service")
	l.apply(store.UnitChange{Name: "once.service", Wish: store.Launched, Replace: true, Text: "[X-Plasmid]\nRunOnce=yes\n"})
	l.placed("once.service")
	n := a
	if _, on := l.mirror.View().Placements["once.service"]["b"]; on {
		n = b
	}
	if len(l.mirror.View().Placements["then.service"]) != 0 {
		t.Error("a unit did not wait for the other")
	}
	l.says(n, "once.service", func(s *store.State) { s.Active, s.Ready, s.Ended = "inactive", false, true })
	l.until("it is done", func(v *store.View) bool {
		return v.Done["once.service"].OK && v.Placements["once.service"][n.id].Wish == store.Loaded
	})
	l.placed("then.service")
	// The machine is lost: it is not placed elsewhere.
	if err := l.st.ForgetMachine(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	l.decides("after.service")
	if p := l.mirror.View().Placements["once.service"]; n == b && len(p) != 0 {
		t.Errorf("it was placed again: %v", p)
	}
	l.apply(store.UnitChange{Name: "once.service", Wish: store.Inactive})
	l.until("it may run again", func(v *store.View) bool { return len(v.Done) == 0 && len(v.Placements["once.service"]) == 0 })
	l.apply(store.UnitChange{Name: "once.service", Wish: store.Launched})
	l.until("it runs again", func(v *store.View) bool {
		for _, p := range v.Placements["once.service"] {
			return p.Wish == store.Launched
		}
		return false
	})
}

// rolling is a text of the n-th version.
func rolling(n int) string {
	return fmt.Sprintf("[Service]\nX=%d\n[X-Plasmid]\nUpdate=rolling max=1 gate=300ms rollback=yes\n", n)
}

func (l *lab) web(version int) {
	l.t.Helper()
	var changes []store.UnitChange
	for i := range 4 {
		changes = append(changes, store.UnitChange{Name: fmt.Sprintf("w@%d.service", i+1), Text: rolling(version), Wish: store.Launched, Replace: true})
	}
	l.apply(changes...)
}

// with counts the instances that have a version, and returns those.
func (l *lab) with(version int) []string {
	var out []string
	for i := range 4 {
		name := fmt.Sprintf("w@%d.service", i+1)
		for _, p := range l.mirror.View().Placements[name] {
			if p.Hash == unit.Hash(rolling(version)) {
				out = append(out, name)
			}
		}
	}
	return out
}

// An update goes on as each is ready for its gate; when one fails all go back to
// the text before, and no further.
func TestRollingUpdate(t *testing.T) {
	l := newLab(t)
	n := l.machine("a", true)
	l.web(1)
	l.until("all are placed", func(*store.View) bool { return len(l.with(1)) == 4 })
	l.ready(n)
	l.until("they are steady", func(v *store.View) bool { return len(v.States) == 4 })
	l.web(2)
	for i := range 4 {
		l.until("one more has changed", func(*store.View) bool { return len(l.with(2)) == i+1 })
		changed := time.Now()
		for _, name := range l.with(2) {
			l.says(n, name, isReady)
		}
		if i < 3 {
			l.until("one more has changed", func(*store.View) bool { return len(l.with(2)) > i+1 })
			if took := time.Since(changed); took < 300*time.Millisecond {
				t.Errorf("the next followed after %v", took)
			}
			if len(l.with(2)) != i+2 {
				t.Errorf("%v changed at once", l.with(2))
			}
		}
	}
	// The third version fails in its second instance.
	l.web(3)
	l.until("one has changed", func(*store.View) bool { return len(l.with(3)) == 1 })
	l.says(n, l.with(3)[0], isReady)
	l.until("two have changed", func(*store.View) bool { return len(l.with(3)) == 2 })
	for _, name := range l.with(3) {
		if v := l.mirror.View().States[name]["a"]; v.Hash != unit.Hash(rolling(3)) {
			l.says(n, name, failed)
		}
	}
	l.until("all have the old text", func(v *store.View) bool {
		for i := range 4 {
			if v.Units[fmt.Sprintf("w@%d.service", i+1)].Text != rolling(2) {
				return false
			}
		}
		return true
	})
	l.until("the one that failed has gone back", func(*store.View) bool { return len(l.with(3)) <= 1 })
	for _, name := range l.with(2) {
		l.says(n, name, isReady)
	}
	l.until("all have gone back", func(*store.View) bool { return len(l.with(2)) == 4 })
	// The old one fails too: there is nothing to go back to.
	l.says(n, "w@1.service", failed)
	l.says(n, "w@2.service", failed)
	l.decides("other.service")
	if len(l.with(2)) != 4 {
		t.Errorf("it went back and forth: %v", places(l.mirror.View()))
	}
}

// A clock that was wrong for a while, or is set back, does not make waits last
// as long as it was wrong.
func TestAClockThatJumps(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		begun time.Duration // against now
		want  bool
	}{
		{-time.Hour, false}, {-10 * time.Minute, false}, {-9 * time.Minute, true}, {0, true},
		{5 * time.Second, true}, // leaders' clocks differ
		{11 * time.Minute, false}, {365 * 24 * time.Hour, false},
	} {
		if got := waits(now.Add(c.begun+10*time.Minute), now, 10*time.Minute); got != c.want {
			t.Errorf("ten minutes that began at %v last: %v", c.begun, got)
		}
	}
	const hash = "h"
	year := now.AddDate(1, 0, 0)
	s := sight{unit: &schedule.Unit{Hash: hash, Spec: unit.Spec{Life: unit.Life{Retries: unit.Retries{Starts: 1, Within: time.Minute}}}}}
	s.avoid(map[string]store.Avoid{"a": {Hash: hash, Until: year}, "b": {Hash: hash, Until: now.Add(time.Minute), Why: "it failed"}}, hash, now)
	if len(s.unit.Avoid) != 1 || s.unit.Avoid["b"] == "" {
		t.Errorf("avoided are %v", s.unit.Avoid)
	}
	for _, at := range []time.Time{now, year} {
		var pl schedule.Placed
		s.live(&pl, store.Placement{Machine: "a", Hash: hash, Wish: store.Launched, Moved: at, Changed: at, Previous: "p"}, store.State{}, false, nil, now)
		if want := at.Equal(now); pl.Moving != want || pl.Back != want {
			t.Errorf("moved and changed at %v: %+v", at, pl)
		}
	}
}
