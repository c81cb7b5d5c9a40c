package schedule

import (
	"fmt"
	"slices"
	"strings"

	"plasmid/runtime/unit"
)

const launched = "launched"

// blocked says what a unit has to wait for before it is started.
func (p *planner) blocked(w *wanted) string {
	if w.Wish != launched || len(w.Spec.After)+len(w.Spec.Requires) == 0 {
		return ""
	}
	for _, name := range w.Spec.Requires {
		switch dep := p.units[name]; {
		case dep == nil:
			return "it requires " + name + ", which the cluster does not have"
		case dep.Wish != launched && dep.Done == "":
			return fmt.Sprintf("it requires %s, which is not started; run: plasmid start %s", name, name)
		}
	}
	for _, name := range slices.Concat(w.Spec.Requires, w.Spec.After) {
		dep := p.units[name]
		if dep == nil || dep.Wish != launched || dep.Done != "" || dep.Ready {
			continue
		}
		if ring := p.ring(w); ring != "" {
			return "it waits for itself: " + ring
		}
		return "it waits for " + name + " to be ready"
	}
	return ""
}

// ring is the way by which a unit waits for itself, or nothing.
func (p *planner) ring(w *wanted) string {
	seen := map[string]bool{}
	var way func(u *wanted, path []string) string
	way = func(u *wanted, path []string) string {
		for _, name := range slices.Concat(u.Spec.Requires, u.Spec.After) {
			if name == w.name {
				return strings.Join(append(path, name), " → ")
			}
			if next := p.units[name]; next != nil && next.Wish == launched && !seen[name] {
				seen[name] = true
				if r := way(next, append(slices.Clone(path), name)); r != "" {
					return r
				}
			}
		}
		return ""
	}
	return way(w, []string{w.name})
}

// rollout is the change of one text to the next of units that change together.
type rollout struct {
	update unit.Update
	name   string
	unready,
	failed []string // units with the new text, and the machine if they are global
	back    bool // one that failed can go back
	todo    []update
	members []*wanted
}

// instanceName is what people are told a unit on a machine is.
func instanceName(w *wanted, h *host) string {
	if w.Spec.Global {
		return w.name + " on machine " + short(h.id)
	}
	return w.name
}

type update struct {
	w  *wanted
	h  *host
	pl Placed
}

// rolloutOf is the name of the units that change together with a unit.
func rolloutOf(w *wanted) string {
	if n, err := unit.ParseName(w.name); err == nil && n.TemplateOf() != "" && !w.Spec.Global {
		return n.TemplateOf()
	}
	return w.name
}

// roll lets as many units of each rollout change as may be unready at a time.
// The updates that wait for others keep their old text. When one that changed
// has failed, none changes any more, or all go back.
func (p *planner) roll(rollouts map[string]*rollout) {
	for _, name := range sortedKeys(rollouts) {
		r := rollouts[name]
		if r.back && r.update.Rollback {
			for _, w := range r.members {
				p.back[w.name] = r.failed[0] + " failed with the new text"
			}
		}
		left := r.update.Max - len(r.unready)
		for _, u := range r.todo {
			switch {
			case len(r.failed) > 0:
				p.stuck[u.w.name] = fmt.Sprintf("the update is paused, because %s failed with the new text", r.failed[0])
			case u.pl.Failed:
				// It does no work as it is: to change it costs nothing.
				p.decide(Update, u.w.name, u.h.id, "the unit file changed, and it had failed with the old one")
			case left <= 0:
				p.stuck[u.w.name] = fmt.Sprintf("the update goes on when %s is ready", r.unready[0])
			default:
				left--
				r.unready = append(r.unready, instanceName(u.w, u.h))
				p.decide(Update, u.w.name, u.h.id, "the unit file changed")
			}
		}
	}
}
