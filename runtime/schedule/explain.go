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
	const shown = 3
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
