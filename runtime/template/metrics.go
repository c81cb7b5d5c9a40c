package template

import (
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count what the engine does, by resource file.
type Metrics struct {
	passes   *prometheus.CounterVec
	failing  *prometheus.GaugeVec
	changed  *prometheus.GaugeVec
	duration *prometheus.HistogramVec
	commands *prometheus.HistogramVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		passes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "confd_passes_total", Help: "Times that a resource was brought up to its keys, by result: unchanged, changed or failed.",
		}, []string{"resource", "result"}),
		failing: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "confd_failing", Help: "1 if the last pass of the resource failed, else 0.",
		}, []string{"resource"}),
		changed: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "confd_last_change_timestamp_seconds", Help: "When the resource's file was changed last.",
		}, []string{"resource"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "confd_pass_duration_seconds", Help: "How long a pass took: reading keys, rendering, check and reload.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"resource"}),
		commands: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "confd_command_duration_seconds", Help: "How long check_cmd and reload_cmd took, by result: done or failed.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"resource", "command", "result"}),
	}
	reg.MustRegister(m.passes, m.failing, m.changed, m.duration, m.commands)
	return m
}

func (m *Metrics) pass(r *Resource, took time.Duration, changed bool, err error) {
	if m == nil {
		return
	}
	name, result, failing := filepath.Base(r.Name), "unchanged", 0.0
	switch {
	case err != nil:
		result, failing = "failed", 1
	case changed:
		result = "changed"
		m.changed.WithLabelValues(name).SetToCurrentTime()
	}
	m.passes.WithLabelValues(name, result).Inc()
	m.failing.WithLabelValues(name).Set(failing)
	m.duration.WithLabelValues(name).Observe(took.Seconds())
}

func (m *Metrics) command(r *Resource, what string, took time.Duration, err error) {
	if m == nil {
		return
	}
	result := "done"
	if err != nil {
		result = "failed"
	}
	m.commands.WithLabelValues(filepath.Base(r.Name), what, result).Observe(took.Seconds())
}
