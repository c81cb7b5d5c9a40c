package engine

import (
	"fmt"
	"time"

	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
	"plasmid/runtime/unit"
)

// instance is a unit on a machine with one text.
type instance struct{ unit, machine, hash string }

// since remembers since when instances are ready, as this leader saw it: a new
// one has them wait for their gate again, which is late and never too early.
type since map[instance]time.Time

// life puts into the scheduler's view how units live: what they wait for, where
// they failed and how far their updates are.
func (e *Engine) life(view *store.View, in *schedule.View, now time.Time) {
	specs := map[string]*schedule.Unit{}
	for i := range in.Units {
		u := &in.Units[i]
		specs[u.Spec.Name] = u
		if d, ok := view.Done[u.Spec.Name]; ok && u.Spec.RunOnce && d.Hash == u.Hash && u.Wish != string(store.Inactive) {
			u.Done, u.Wish = doneText(d), string(store.Loaded)
		}
		for machine, a := range view.Avoid[u.Spec.Name] {
			if left := a.Until.Sub(now); left > 0 && a.Hash == u.Hash {
				if u.Avoid == nil {
					u.Avoid = map[string]string{}
				}
				u.Avoid[machine] = a.Why
				e.wake(left)
			}
		}
	}
	next := since{}
	ready := map[string]bool{}
	for i := range in.Placed {
		p := &in.Placed[i]
		u := specs[p.Unit]
		st, ok := view.States[p.Unit][p.Machine]
		if u == nil || p.Wish != string(store.Launched) {
			continue
		}
		up := ok && st.Hash == p.Hash && st.Ready
		if was, seen := ready[p.Unit]; !seen || was {
			ready[p.Unit] = up && p.Hash == u.Hash
		}
		p.Failed = ok && st.Hash == p.Hash && (st.GaveUp || st.Active == "failed" && u.Spec.Retries.Starts == 0)
		placement := view.Placements[p.Unit][p.Machine]
		p.Back = placement.Previous != "" && now.Sub(placement.Changed) <= rollBackTime
		if !u.Spec.Update.Rolling || !up {
			continue
		}
		key := instance{p.Unit, p.Machine, p.Hash}
		if next[key] = e.readySince[key]; next[key].IsZero() {
			next[key] = now
		}
		if left := u.Spec.Update.Gate - now.Sub(next[key]); left > 0 {
			e.wake(left)
		} else {
			p.Ready = true
		}
	}
	for name, r := range ready {
		specs[name].Ready = r
	}
	e.readySince = next
}

func doneText(d store.Done) string {
	how := "it ran to its end"
	if !d.OK {
		how = "it failed"
	}
	return fmt.Sprintf("%s on machine %s at %s, and runs once", how, short(d.Machine), d.At.Format(time.RFC3339))
}

func short(id string) string { return id[:min(8, len(id))] }

// records works out what is to be remembered of units, and what no longer.
func (e *Engine) records(view *store.View, now time.Time) store.Records {
	var r store.Records
	for name, on := range view.States {
		u, ok := view.Units[name]
		if !ok {
			continue
		}
		parsed := e.parse(u)
		spec := &parsed.spec
		if parsed.err != nil || !spec.RunOnce && spec.Retries.Starts == 0 {
			continue
		}
		for machine, st := range on {
			p, placed := view.Placements[name][machine]
			if !placed || p.Hash != u.Hash || st.Hash != u.Hash || p.Wish != store.Launched || u.Wish != store.Launched {
				continue
			}
			failed := st.GaveUp && (st.Active == "failed" || st.Active == "inactive")
			switch _, done := view.Done[name]; {
			case spec.RunOnce && !done && st.Ended && st.Active == "inactive",
				spec.RunOnce && !done && st.Active == "failed" && (st.Ended || failed) && spec.Retries.Starts == 0:
				r.Done = append(r.Done, store.Done{Unit: name, Hash: u.Hash, Machine: machine, OK: st.Active == "inactive", At: now.UTC().Truncate(time.Second)})
			case spec.Retries.Starts > 0 && failed && !spec.Global && view.Avoid[name][machine].Hash != u.Hash:
				until := now.Add(spec.Retries.Within)
				r.Avoid = append(r.Avoid, store.Avoid{
					Unit: name, Machine: machine, Hash: u.Hash, Until: until.UTC().Truncate(time.Second),
					Why: fmt.Sprintf("failed it after %d retries, and is avoided until %s", spec.Retries.Starts, until.UTC().Format(time.TimeOnly)),
				})
			}
		}
	}
	for name, on := range view.Avoid {
		for machine, a := range on {
			if u, ok := view.Units[name]; !ok || u.Hash != a.Hash || !now.Before(a.Until) {
				r.Forgive = append(r.Forgive, store.Avoid{Unit: name, Machine: machine})
			} else {
				e.wake(a.Until.Sub(now))
			}
		}
	}
	for name, d := range view.Done {
		if u, ok := view.Units[name]; !ok || u.Hash != d.Hash || u.Wish == store.Inactive {
			r.Forget = append(r.Forget, name)
		}
	}
	return r
}

// rollBackTime is how long after a change a failure is laid to the change.
const rollBackTime = 10 * time.Minute

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
