package metrics

import (
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"plasmid/runtime/engine"
	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
)

func source(since int64) Source {
	v := &store.View{
		Revision: 42,
		Units:    map[string]store.Unit{"a.service": {Wish: store.Launched}, "b.service": {Wish: store.Launched}, "c.service": {Wish: store.Inactive}},
		Machines: map[string]store.Machine{"1": {}},
		Known:    map[string]store.Machine{"1": {}, "2": {}},
		States: map[string]map[string]store.State{
			"a.service": {"1": {Active: "active", Ready: true}, "2": {Active: "active"}},
			"b.service": {"1": {Active: "failed"}},
		},
	}
	return Source{
		Machine: "1", Version: "v1",
		View:    func() *store.View { return v },
		Current: func() (bool, time.Time) { return true, time.Unix(100, 0) },
		Engine: func() engine.Counts {
			return engine.Counts{Since: since, Passes: 7, Failures: 2, Decisions: map[schedule.Op]uint64{schedule.Place: 5, schedule.Update: 0, schedule.Remove: 1}}
		},
		Unplaced: func() map[string][]schedule.Verdict { return map[string][]schedule.Verdict{"d.service": nil} },
	}
}

func scrape(t *testing.T, m *Metrics) []string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	return strings.Split(w.Body.String(), "\n")
}

func TestMetrics(t *testing.T) {
	m := New(source(50))
	m.Observe("GET", "/plasmid/v1/units", 200, 30*time.Millisecond)
	m.Observe("GET", "/plasmid/v1/events", 200, 0)
	lines := scrape(t, m)
	for _, want := range []string{
		`plasmid_build_info{version="v1"} 1`,
		`plasmid_store_current 1`,
		`plasmid_store_since_seconds 100`,
		`plasmid_store_revision 42`,
		`plasmid_machine_units{active="active"} 1`,
		`plasmid_machine_units{active="failed"} 1`,
		`plasmid_machine_units_ready 1`,
		`plasmid_unit_active{unit="a.service"} 1`,
		`plasmid_unit_ready{unit="b.service"} 0`,
		`plasmid_engine_leads 1`,
		`plasmid_cluster_machines{state="silent"} 1`,
		`plasmid_cluster_units{wish="launched"} 2`,
		`plasmid_cluster_units{wish="loaded"} 0`,
		`plasmid_cluster_units_unplaced 1`,
		`fleet_engine_leader_start_time 50`,
		`fleet_engine_task_count_total{type="place"} 5`,
		`fleet_engine_task_failure_count_total 2`,
		`fleet_engine_reconcile_count_total 7`,
		`fleet_engine_reconcile_failure_count_total{type="run"} 2`,
		`plasmid_api_requests_total{code="200",method="GET",route="/plasmid/v1/events"} 1`,
		`plasmid_api_request_seconds_count{method="GET",route="/plasmid/v1/units"} 1`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("missing: %s", want)
		}
	}
	for _, l := range lines {
		if strings.Contains(l, `seconds_count{method="GET",route="/plasmid/v1/events"}`) {
			t.Errorf("an endless answer was timed: %s", l)
		}
	}
}

// TestClusterFromTheLeaderOnly: a sum over machines must not count the cluster
// several times.
func TestClusterFromTheLeaderOnly(t *testing.T) {
	for _, l := range scrape(t, New(source(0))) {
		if strings.HasPrefix(l, "plasmid_cluster_") {
			t.Error(l)
		}
	}
}

// TestPage holds docs/metrics.md against what is served.
func TestPage(t *testing.T) {
	data, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)").FindAllStringSubmatch(string(data), -1) {
		documented = append(documented, m[1])
	}
	m := New(source(50))
	m.Observe("GET", "/", 200, time.Second)
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, f := range families {
		if n := f.GetName(); strings.HasPrefix(n, "plasmid_") || strings.HasPrefix(n, "fleet_") {
			have = append(have, n)
		}
	}
	slices.Sort(have)
	slices.Sort(documented)
	if !slices.Equal(have, documented) {
		t.Errorf("the page has\n%s\nserved are\n%s", strings.Join(documented, "\n"), strings.Join(have, "\n"))
	}
}
