package engine

import (
	"fmt"
	"time"

	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// instance is a unit on a machine with one text.
type instance struct{ machine, hash string }

// since remembers since when a unit's instances are ready, as this leader saw
// it: a new one has them wait for their gate again, which is late and never too
// early.
type since map[instance]time.Time

// settleTime is how long a unit that was moved may take to come up before the
// next ones are moved all the same: one that never does must not hold up a drain
// for ever.
const settleTime = 5 * time.Minute

// rollBackTime is how long after a change a failure is laid to the change.
const rollBackTime = 10 * time.Minute

// waits reports whether a wait of a length that ends at until still lasts. The
// times of waits are in the store, by the clock of the leader that began them. One
// that has more left than twice its length was begun by a clock that went wrong,
// or before this one was set back: it is over, and not waited for as long as that.
func waits(until, now time.Time, length time.Duration) bool {
	return until.After(now) && until.Sub(now) <= 2*length
}

// avoid notes the machines that failed the unit.
func (s *sight) avoid(on map[string]store.Avoid, hash string, now time.Time) {
	for machine, a := range on {
		if s.unit == nil || !waits(a.Until, now, s.unit.Spec.Retries.Within) {
			continue
		}
		s.at(a.Until)
		if a.Hash == hash {
			if s.unit.Avoid == nil {
				s.unit.Avoid = map[string]string{}
			}
			s.unit.Avoid[machine] = a.Why
		}
	}
}

// live notes how the unit lives where it is placed: whether it came up, failed
// there, and how far its update is.
func (s *sight) live(pl *schedule.Placed, p store.Placement, st store.State, told bool, was since, now time.Time) {
	told = told && st.Hash == p.Hash
	if left := p.Moved.Add(settleTime); !p.Moved.IsZero() && waits(left, now, settleTime) && !settled(p, st, told) {
		pl.Moving = true
		s.at(left)
	}
	if s.unit == nil || p.Wish != store.Launched {
		return
	}
	up := told && st.Ready
	s.unit.Ready = (!s.asked || s.unit.Ready) && up && p.Hash == s.unit.Hash
	s.asked = true
	pl.Failed = told && (st.GaveUp || st.Active == "failed" && s.unit.Spec.Retries.Starts == 0)
	if until := p.Changed.Add(rollBackTime); p.Previous != "" && waits(until, now, rollBackTime) {
		pl.Back = true
		s.at(until)
	}
	if !s.unit.Spec.Update.Rolling || !up {
		return
	}
	key := instance{p.Machine, p.Hash}
	from := was[key]
	if from.IsZero() {
		from = now
	}
	if s.ready == nil {
		s.ready = since{}
	}
	s.ready[key] = from
	if open := from.Add(s.unit.Spec.Update.Gate); open.After(now) {
		s.at(open)
	} else {
		pl.Ready = true
	}
}

// settled reports whether a unit that was moved has come up, or will not.
func settled(p store.Placement, st store.State, told bool) bool {
	return told && (p.Wish != store.Launched && st.Load == "loaded" || st.Ready || st.GaveUp || st.Active == "failed")
}

func doneText(d store.Done) string {
	how := "it ran to its end"
	if !d.OK {
		how = "it failed"
	}
	return fmt.Sprintf("%s on machine %s at %s, and runs once", how, short(d.Machine), d.At.Format(time.RFC3339))
}

func short(id string) string { return id[:min(8, len(id))] }

// records works out what is to be remembered of the units that changed, and what
// no longer.
func (e *Engine) records(view *store.View, now time.Time) store.Records {
	var r store.Records
	for name := range e.changed.Units {
		u, known := view.Units[name]
		for machine, a := range view.Avoid[name] {
			if !known || u.Hash != a.Hash || !waits(a.Until, now, e.parse(u).spec.Retries.Within) {
				r.Forgive = append(r.Forgive, store.Avoid{Unit: name, Machine: machine})
			}
		}
		if d, done := view.Done[name]; done && (!known || u.Hash != d.Hash || u.Wish == store.Inactive) {
			r.Forget = append(r.Forget, name)
		}
		if known {
			e.recordsOf(view, u, now, &r)
		}
	}
	return r
}

// recordsOf works out what is to be remembered of a unit where it runs.
func (e *Engine) recordsOf(view *store.View, u store.Unit, now time.Time, r *store.Records) {
	parsed := e.parse(u)
	spec := &parsed.spec
	if parsed.err != nil || !spec.RunOnce && spec.Retries.Starts == 0 {
		return
	}
	for machine, st := range view.States[u.Name] {
		p, placed := view.Placements[u.Name][machine]
		if !placed || p.Hash != u.Hash || st.Hash != u.Hash || p.Wish != store.Launched || u.Wish != store.Launched {
			continue
		}
		failed := st.GaveUp && (st.Active == "failed" || st.Active == "inactive")
		switch _, done := view.Done[u.Name]; {
		case spec.RunOnce && !done && st.Ended && st.Active == "inactive",
			spec.RunOnce && !done && st.Active == "failed" && (st.Ended || failed) && spec.Retries.Starts == 0:
			r.Done = append(r.Done, store.Done{Unit: u.Name, Hash: u.Hash, Machine: machine, OK: st.Active == "inactive", At: now.UTC().Truncate(time.Second)})
		case spec.Retries.Starts > 0 && failed && !spec.Global && view.Avoid[u.Name][machine].Hash != u.Hash:
			until := now.Add(spec.Retries.Within)
			r.Avoid = append(r.Avoid, store.Avoid{
				Unit: u.Name, Machine: machine, Hash: u.Hash, Until: until.UTC().Truncate(time.Second),
				Why: fmt.Sprintf("failed it after %d retries, and is avoided until %s", spec.Retries.Starts, until.UTC().Format(time.TimeOnly)),
			})
		}
	}
}

// rollBacks finds the older texts of units whose update failed. A unit without
// one, because it was just rolled back, stays as it is.
func (e *Engine) rollBacks(view *store.View, units map[string]string) []store.RollBack {
	var out []store.RollBack
	for name, why := range units {
		u := view.Units[name]
		for _, p := range view.Placements[name] {
			text := p.Text // not changed yet
			if p.Hash == u.Hash {
				text = p.Previous
			}
			if text != "" && text != u.Text {
				e.Logger.Error("a unit is rolled back", "unit", name, "why", why, "from", u.Hash, "to", unit.Hash(text))
				out = append(out, store.RollBack{Unit: u, Text: text})
				break
			}
		}
	}
	return out
}
