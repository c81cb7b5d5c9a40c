package schedule

import (
	"cmp"
	"fmt"
	"slices"
)

// movesLeft is how many units may be moved now.
func (p *planner) movesLeft() int {
	left := max(1, p.view.Budget)
	for _, pl := range p.view.Placed {
		if pl.Moving {
			left--
		}
	}
	for _, d := range p.decisions {
		if d.Moving {
			left--
		}
	}
	return left
}

// drain takes units off machines that are being drained, each to a machine
// that can run it. A unit that can't run elsewhere stays, and holds up no other.
// Global units stay: they belong to the machine.
func (p *planner) drain() {
	left := -1
	for _, h := range p.order {
		if !h.Draining || h.Gone || h.Suspect {
			continue
		}
		if left < 0 {
			left = p.movesLeft()
		}
		for _, w := range byName(h.units) {
			switch {
			case w.Spec.Global:
			case len(w.Spec.MachineOf) > 0:
				p.stuck[w.name] = "it follows " + w.Spec.MachineOf[0]
			case left <= 0:
				p.stuck[w.name] = "it waits for units that moved before it to be ready"
			case p.move(w, "the machine is being drained"):
				left--
			default:
				p.stuck[w.name] = Explain(p.others(w, h))
			}
		}
	}
}

// move takes a unit to the best other machine, if there is one.
func (p *planner) move(w *wanted, why string) bool {
	from := w.home
	to := p.best(w, from)
	if to == nil {
		return false
	}
	p.transfer(w, to, why)
	return true
}

func (p *planner) transfer(w *wanted, to *host, why string) {
	from := w.home
	reason := p.reason(w, to)
	p.drop(w, from)
	p.retract(w, from, "%s", why)
	p.put(w, to)
	p.decide(Place, w.name, to.id, "%s: %s", why, reason)
	p.decisions[len(p.decisions)-1].Moving = true
}

// others are the verdicts of all machines but one.
func (p *planner) others(w *wanted, not *host) []Verdict {
	vs := []Verdict{}
	for _, h := range p.order {
		if h != not && !h.Gone {
			vs = append(vs, Verdict{h.id, p.why(w, h)})
		}
	}
	return vs
}

func byName(units map[string]*wanted) []*wanted {
	ws := make([]*wanted, 0, len(units))
	for _, w := range units {
		ws = append(ws, w)
	}
	slices.SortFunc(ws, func(a, b *wanted) int { return cmp.Compare(a.name, b.name) })
	return ws
}

// rebalance moves units from the machines that have the most to those that have
// the fewest, as long as that evens out their numbers, within the budget. Units
// that are tied to others stay.
func (p *planner) rebalance() {
	if !p.view.Rebalance {
		return
	}
	allowed := max(1, p.view.Budget)
	left := p.movesLeft()
	tied := map[string]bool{}
	for _, w := range p.sorted {
		for _, peer := range w.Spec.MachineOf {
			tied[peer], tied[w.name] = true, true
		}
	}
	for left > 0 && p.even(tied) {
		left--
	}
	p.balanced = left == allowed
}

// even moves one unit, and reports whether one could be.
func (p *planner) even(tied map[string]bool) bool {
	full := slices.DeleteFunc(slices.Clone(p.order), func(h *host) bool { return h.Gone || h.Suspect || len(h.units) == 0 })
	slices.SortFunc(full, func(a, b *host) int {
		return cmp.Or(len(b.units)-len(a.units), cmp.Compare(a.id, b.id))
	})
	for _, h := range full {
		for _, w := range byName(h.units) {
			if w.Spec.Global || tied[w.name] || w.Spec.MachineID != "" {
				continue
			}
			to := p.best(w, h)
			if to == nil || len(to.units) > len(h.units)-2 {
				continue
			}
			if g := w.group; g != nil && g.count[g.value(to)] > g.count[g.value(h)]-1 && g.value(to) != g.value(h) {
				continue
			}
			p.transfer(w, to, fmt.Sprintf("the units are evened out (%d on machine %s)", len(h.units), short(h.id)))
			return true
		}
	}
	return false
}
