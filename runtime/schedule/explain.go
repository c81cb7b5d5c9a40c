package schedule

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Explain puts the verdicts on one unit into a sentence, such as "no machine
// has metadata role=db (5 checked)".
func Explain(verdicts []Verdict) string {
	if len(verdicts) == 0 {
		return "no machine reports to the cluster"
	}
	if len(verdicts) == 1 && verdicts[0].Machine == "" {
		return verdicts[0].Why
	}
	count := map[string]int{}
	for _, v := range verdicts {
		count[v.Why]++
	}
	type cause struct {
		why string
		n   int
	}
	var causes []cause
	for why, n := range count {
		causes = append(causes, cause{why, n})
	}
	slices.SortFunc(causes, func(a, b cause) int { return cmp.Or(b.n-a.n, cmp.Compare(a.why, b.why)) })
	if len(causes) == 1 {
		if rest, ok := strings.CutPrefix(causes[0].why, "lacks "); ok {
			return fmt.Sprintf("no machine has %s (%d checked)", rest, causes[0].n)
		}
	}
	const shown = 5
	var parts []string
	for i, c := range causes {
		if i == shown {
			parts = append(parts, fmt.Sprintf("%d other reasons", len(causes)-shown))
			break
		}
		parts = append(parts, fmt.Sprintf("%s (%d)", c.why, c.n))
	}
	return fmt.Sprintf("no machine can run it (%d checked): %s", len(verdicts), strings.Join(parts, "; "))
}

// Judge says of every machine whether it can run a unit as things are: an empty
// Why means that it can. Where the unit is already, it is judged as if it were
// to stay.
func Judge(v View, name string) []Verdict {
	p := newPlanner(pointers(v.Units), v)
	p.keep()
	w := p.units[name]
	if w == nil {
		return nil
	}
	vs := []Verdict{}
	for _, h := range p.order {
		why := ""
		if _, has := h.units[name]; !has {
			why = p.closed(h)
		}
		if why == "" {
			why = p.unfit(w, h)
		}
		if why == "" {
			why = p.missesPeer(w, h)
		}
		vs = append(vs, Verdict{h.id, why})
	}
	return vs
}
