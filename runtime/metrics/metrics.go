// Package metrics counts for Prometheus what plasmidd does and sees. It has a
// registry of its own; docs/metrics.md lists what is in it.
package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"plasmid/runtime/engine"
	"plasmid/runtime/schedule"
	"plasmid/runtime/store"
)

// Source is what is looked at when metrics are asked for.
type Source struct {
	Machine  string // ID
	Version  string
	View     func() *store.View
	Current  func() (bool, time.Time)
	Engine   func() engine.Counts
	Unplaced func() map[string][]schedule.Verdict
}

// Metrics of a daemon.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// New returns metrics over a source.
func New(s Source) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plasmid_api_requests_total", Help: "Requests to this machine's API that were answered.",
		}, []string{"method", "route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "plasmid_api_request_seconds", Help: "How long this machine's API took to answer, without answers that are as long as the client wants.",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 20},
		}, []string{"method", "route"}),
	}
	m.registry.MustRegister(
		m.requests, m.seconds, &seen{s},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Registerer is for parts of the daemon that count for themselves.
func (m *Metrics) Registerer() prometheus.Registerer { return m.registry }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Observe counts an answer of the API; took is 0 for one that has no length of
// its own.
func (m *Metrics) Observe(method, route string, code int, took time.Duration) {
	m.requests.WithLabelValues(method, route, strconv.Itoa(code)).Inc()
	if took > 0 {
		m.seconds.WithLabelValues(method, route).Observe(took.Seconds())
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	buildInfo     = desc("plasmid_build_info", "1, with the version of this daemon.", "version")
	storeCurrent  = desc("plasmid_store_current", "1 if etcd answers and has a leader, as this machine sees it.")
	storeSince    = desc("plasmid_store_since_seconds", "Since when that, or the contrary, is so, in Unix time.")
	storeRevision = desc("plasmid_store_revision", "The store's revision that this machine has seen.")
	machineUnits  = desc("plasmid_machine_units", "Units on this machine by systemd's active state.", "active")
	machineReady  = desc("plasmid_machine_units_ready", "Units on this machine that do their work.")
	unitActive    = desc("plasmid_unit_active", "1 if the unit is active on this machine.", "unit")
	unitReady     = desc("plasmid_unit_ready", "1 if the unit is ready on this machine.", "unit")
	leads         = desc("plasmid_engine_leads", "1 if this machine decides where units run.")
	machines      = desc("plasmid_cluster_machines", "Machines of the cluster by whether they report; only from the machine that leads.", "state")
	units         = desc("plasmid_cluster_units", "Units of the cluster by their wish; only from the machine that leads.", "wish")
	unplaced      = desc("plasmid_cluster_units_unplaced", "Units that no machine can run; only from the machine that leads.")

	// fleet's own names, for the dashboards that have them.
	leaderStart      = desc("fleet_engine_leader_start_time", "When this machine began to lead, in Unix time; 0: it does not.")
	tasks            = desc("fleet_engine_task_count_total", "Decisions of this machine's engine that were written.", "type")
	taskFailures     = desc("fleet_engine_task_failure_count_total", "Times that decisions of this machine's engine could not be written.")
	reconciles       = desc("fleet_engine_reconcile_count_total", "Times that this machine's engine looked at the cluster.")
	reconcileFailure = desc("fleet_engine_reconcile_failure_count_total", "Times that this ended without all being done, by why.", "type")
)

// seen collects what the view shows at the moment of asking. What is of the
// whole cluster comes from one machine only, so that sums are right.
type seen struct{ Source }

func (s *seen) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		buildInfo, storeCurrent, storeSince, storeRevision, machineUnits, machineReady, unitActive, unitReady, leads,
		machines, units, unplaced, leaderStart, tasks, taskFailures, reconciles, reconcileFailure,
	} {
		ch <- d
	}
}

func (s *seen) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	v := s.View()
	current, since := s.Current()
	gauge(buildInfo, 1, s.Version)
	gauge(storeCurrent, number(current))
	if !since.IsZero() {
		gauge(storeSince, float64(since.Unix()))
	}
	gauge(storeRevision, float64(v.Revision))

	active, ready := map[string]int{"active": 0, "failed": 0}, 0
	for name, on := range v.States {
		st, here := on[s.Machine]
		if !here {
			continue
		}
		active[st.Active]++
		if st.Ready {
			ready++
		}
		gauge(unitActive, number(st.Active == "active"), name)
		gauge(unitReady, number(st.Ready), name)
	}
	for state, n := range active {
		gauge(machineUnits, float64(n), state)
	}
	gauge(machineReady, float64(ready))

	c := s.Engine()
	gauge(leads, number(c.Since > 0))
	gauge(leaderStart, float64(c.Since))
	counter(reconciles, c.Passes)
	counter(taskFailures, c.Failures)
	counter(reconcileFailure, c.Failures, "run")
	for op, n := range c.Decisions {
		counter(tasks, n, string(op))
	}
	if c.Since == 0 {
		return
	}
	gauge(machines, float64(len(v.Machines)), "up")
	silent := 0
	for id := range v.Known {
		if _, up := v.Machines[id]; !up {
			silent++
		}
	}
	gauge(machines, float64(silent), "silent")
	wishes := map[store.Wish]int{store.Inactive: 0, store.Loaded: 0, store.Launched: 0}
	for _, u := range v.Units {
		wishes[u.Wish]++
	}
	for w, n := range wishes {
		gauge(units, float64(n), string(w))
	}
	gauge(unplaced, float64(len(s.Unplaced())))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
