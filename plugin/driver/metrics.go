package driver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// metrics are the plugin's own. They are served at the node's endpoint.
type metrics struct {
	registry    *prometheus.Registry
	transitions *prometheus.CounterVec
	inState     *prometheus.HistogramVec
	stops       *prometheus.CounterVec
	hooks       *prometheus.CounterVec
	saves       *prometheus.CounterVec
	restores    *prometheus.CounterVec
	saveTime    prometheus.Histogram
	restoreTime prometheus.Histogram
}

func newMetrics() *metrics {
	const ns = "nomad_lifecycle"
	times := prometheus.ExponentialBuckets(0.005, 2, 16) // 5 ms to 164 s
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: name, Help: help}, labels)
	}
	m := &metrics{
		registry:    prometheus.NewRegistry(),
		transitions: counter("transitions_total", "Changes of the state of tasks.", "from", "to"),
		inState: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: ns, Name: "state_seconds", Help: "Time that tasks spent in a state that they have left.", Buckets: times,
		}, []string{"state"}),
		stops:    counter("stops_total", "Stops and ends of tasks by reason.", "reason"),
		hooks:    counter("hooks_total", "Hooks that have run.", "hook", "result"),
		saves:    counter("checkpoint_saves_total", "Checkpoints that were asked of tasks.", "result"),
		restores: counter("checkpoint_restores_total", "Starts of tasks that have checkpoints.", "result"),
		saveTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Name: "checkpoint_save_seconds", Help: "Time from asking a task for its state to its being stored.", Buckets: times,
		}),
		restoreTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Name: "checkpoint_restore_seconds", Help: "Time in which a checkpoint was fetched, the wait for a predecessor included and its handing over to the process not.", Buckets: times,
		}),
	}
	m.registry.MustRegister(m.transitions, m.inState, m.stops, m.hooks, m.saves, m.restores, m.saveTime, m.restoreTime,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) transition(tr lifecycle.Transition) {
	m.transitions.WithLabelValues(tr.From.String(), tr.To.String()).Inc()
	m.inState.WithLabelValues(tr.From.String()).Observe(tr.Spent.Seconds())
	if tr.Status.Stop != nil && (tr.To == lifecycle.Stopping || tr.To == lifecycle.Stopped && tr.From < lifecycle.Stopping) {
		m.stops.WithLabelValues(tr.Status.Stop.Reason).Inc()
	}
}

func (m *metrics) hook(kind hook.Kind, err error) {
	m.hooks.WithLabelValues(string(kind), result(err)).Inc()
}

func (m *metrics) saved(took time.Duration, err error) {
	m.saves.WithLabelValues(result(err)).Inc()
	if err == nil {
		m.saveTime.Observe(took.Seconds())
	}
}

func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}
