//go:build bench

package bench

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// row is one figure. Value and baseline are of the same kind.
type row struct {
	what     string
	value    string
	goal     string // empty: none was set
	baseline string // empty: there is none
	ratio    string
	note     string
}

var (
	tableMu sync.Mutex
	table   []row
)

func add(r row) {
	tableMu.Lock()
	defer tableMu.Unlock()
	table = append(table, r)
	fmt.Fprintf(os.Stderr, "  %s: %s\n", r.what, r.value)
}

// took adds a duration, with its goal and its baseline where there is one.
func took(what string, d, goal, baseline time.Duration, note string) {
	r := row{what: what, value: show(d), note: note}
	if goal > 0 {
		r.goal = "< " + show(goal)
	}
	if baseline > 0 {
		r.baseline = show(baseline)
		r.ratio = fmt.Sprintf("%.1f", float64(d)/float64(baseline))
	}
	add(r)
}

// show rounds to three digits.
func show(d time.Duration) string {
	if d <= 0 {
		return d.String()
	}
	unit := time.Duration(math.Pow10(max(0, int(math.Log10(float64(d)))-2)))
	return d.Round(unit).String()
}

// median sorts its argument.
func median(ds []time.Duration) time.Duration { return quantile(ds, 0.5) }

func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[min(len(ds)-1, int(q*float64(len(ds))))]
}

func TestMain(m *testing.M) {
	load := loadAverage()
	code := m.Run()
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d CPUs, %s, load %s before and %s after\n\n", runtime.NumCPU(), runtime.Version(), load, loadAverage())
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tMEASURED\tGOAL\tBASELINE\tRATIO\tNOTE")
	for _, r := range table {
		for _, f := range []*string{&r.goal, &r.baseline, &r.ratio} {
			if *f == "" {
				*f = "-"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.what, r.value, r.goal, r.baseline, r.ratio, r.note)
	}
	w.Flush()
	fmt.Print(b.String())
	// go test shows it only with -v.
	if err := os.WriteFile("../build/bench.txt", []byte(b.String()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(data))[0]
}
