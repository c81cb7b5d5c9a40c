// Package simulate works out what a cluster would do, without doing it: it runs
// the scheduler over what the API says of a cluster, changed as the user asks.
package simulate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"plasmid/runtime/api"
	"plasmid/runtime/schedule"
	"plasmid/runtime/unit"
)

// Cluster is what the API says of a cluster; units with their texts.
type Cluster struct {
	Units    []api.Unit    `json:"units"`
	Machines []api.Machine `json:"machines"`
}

// View is the cluster as the scheduler takes it. A machine that does not report
// counts as suspect: whether it is gone only the leader knows.
func (c Cluster) View() schedule.View {
	var v schedule.View
	for _, m := range c.Machines {
		v.Machines = append(v.Machines, schedule.Machine{
			ID: m.ID, Name: m.Name, Metadata: m.Metadata, CPU: 1000 * m.CPUs, Memory: m.MemoryMiB, Suspect: !m.Alive,
			Cordoned: m.Order != nil, Draining: m.Order != nil && m.Order.Drain,
		})
	}
	for _, u := range c.Units {
		if n, err := unit.ParseName(u.Name); err != nil || n.Template || u.Text == "" {
			continue
		}
		spec, err := unit.SpecOf(u.Name, u.Text)
		if err != nil {
			continue // the engine leaves it as it is, too
		}
		su := schedule.Unit{Spec: spec, Wish: string(u.Wish), Hash: u.Hash, Ready: len(u.On) > 0}
		if u.Done != nil {
			su.Done, su.Wish = "it ran to its end, and runs once", "loaded"
		}
		for _, r := range u.On {
			su.Ready = su.Ready && r.State != nil && r.State.Ready && r.State.Hash == u.Hash
		}
		v.Units = append(v.Units, su)
		for _, r := range u.On {
			if r.Placement != 0 {
				v.Placed = append(v.Placed, schedule.Placed{
					Unit: u.Name, Machine: r.Machine, Hash: r.Hash, Wish: string(r.Wish),
					Ready:  r.State != nil && r.State.Ready && r.State.Hash == r.Hash,
					Failed: r.State != nil && r.State.Hash == r.Hash && (r.State.GaveUp || r.State.Active == "failed"),
				})
			}
		}
	}
	return v
}

// Find returns the machine of a name, or of an ID or the beginning of one.
func (c Cluster) Find(name string) (api.Machine, error) {
	var found []api.Machine
	for _, m := range c.Machines {
		switch {
		case m.Name == name || m.ID == name:
			return m, nil
		case len(name) >= 4 && strings.HasPrefix(m.ID, name):
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return api.Machine{}, fmt.Errorf("there is no machine %s; see: plasmid list-machines", name)
	}
	return api.Machine{}, fmt.Errorf("%d machines have an ID that begins with %s; give more of it", len(found), name)
}

// What is asked: what would happen if all this were so.
type What struct {
	Start   map[string]string // units by name, with their text, that are started
	Destroy []string
	Drain   []string // machines by ID
	Lose    []string
}

// Step is one change that the cluster would make.
type Step struct {
	Unit   string `json:"unit"`
	From   string `json:"from,omitempty"` // machine IDs; empty: nowhere
	To     string `json:"to,omitempty"`
	Reason string `json:"reason"`
}

// Outcome is what the cluster would come to.
type Outcome struct {
	Steps   []Step            `json:"steps"`
	Nowhere map[string]string `json:"nowhere,omitempty"` // units that would run nowhere, and why
	Stays   map[string]string `json:"stays,omitempty"`   // units that would not leave their machine, and why
}

// rounds bounds how often the scheduler is asked; a plan settles in a few.
const rounds = 100

// Run works out what would happen. What the cluster is about to do anyway is
// part of it.
func Run(v schedule.View, w What) (Outcome, error) {
	v = schedule.View{Units: slices.Clone(v.Units), Machines: slices.Clone(v.Machines), Placed: slices.Clone(v.Placed), Budget: 1 << 30}
	for _, name := range slices.Sorted(maps.Keys(w.Start)) {
		spec, err := unit.SpecOf(name, w.Start[name])
		if err != nil {
			return Outcome{}, err
		}
		v.Units = slices.DeleteFunc(v.Units, func(u schedule.Unit) bool { return u.Spec.Name == name })
		v.Units = append(v.Units, schedule.Unit{Spec: spec, Wish: "launched", Hash: unit.Hash(w.Start[name])})
	}
	for _, name := range w.Destroy {
		n := len(v.Units)
		v.Units = slices.DeleteFunc(v.Units, func(u schedule.Unit) bool { return u.Spec.Name == name })
		if len(v.Units) == n {
			return Outcome{}, fmt.Errorf("the cluster has no unit %s", name)
		}
	}
	for i := range v.Machines {
		m := &v.Machines[i]
		m.Draining = m.Draining || slices.Contains(w.Drain, m.ID)
		m.Gone = m.Gone || slices.Contains(w.Lose, m.ID)
	}
	before := where(v)
	why := map[[2]string]string{}
	var r schedule.Result
	for range rounds {
		r = schedule.Decide(v)
		if len(r.Decisions) == 0 {
			break
		}
		for _, d := range r.Decisions {
			why[[2]string{d.Unit, d.Machine}] = d.Reason
		}
		v = schedule.Apply(v, r)
	}
	out := Outcome{Steps: steps(before, where(v), why), Stays: r.Stuck}
	for name, verdicts := range r.Unplaced {
		if out.Nowhere == nil {
			out.Nowhere = map[string]string{}
		}
		out.Nowhere[name] = schedule.Explain(verdicts)
	}
	return out, nil
}

// where is on which machines each unit is, with what hash.
func where(v schedule.View) map[string]map[string]string {
	at := map[string]map[string]string{}
	for _, p := range v.Placed {
		if at[p.Unit] == nil {
			at[p.Unit] = map[string]string{}
		}
		at[p.Unit][p.Machine] = p.Hash + " " + p.Wish
	}
	return at
}

func steps(before, after map[string]map[string]string, why map[[2]string]string) []Step {
	out := []Step{}
	names := map[string]bool{}
	for _, at := range []map[string]map[string]string{before, after} {
		for name := range at {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		var left, came []string
		for m, hash := range before[name] {
			if now, still := after[name][m]; !still {
				left = append(left, m)
			} else if now != hash {
				out = append(out, Step{name, m, m, why[[2]string{name, m}]})
			}
		}
		for m := range after[name] {
			if _, was := before[name][m]; !was {
				came = append(came, m)
			}
		}
		slices.Sort(left)
		slices.Sort(came)
		for i := range max(len(left), len(came)) {
			s := Step{Unit: name}
			if i < len(left) {
				s.From = left[i]
				s.Reason = why[[2]string{name, s.From}]
			}
			if i < len(came) {
				s.To = came[i]
				s.Reason = why[[2]string{name, s.To}]
			}
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Step) int { return cmp.Compare(a.Unit, b.Unit) })
	return out
}
