package pool

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/files"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// metrics count what the pool does.
type metrics struct {
	items   *prometheus.CounterVec
	seconds prometheus.Histogram
	repair  *prometheus.CounterVec
	busy    prometheus.GaugeFunc
}

func newMetrics(p *Pool) *metrics {
	return &metrics{
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "worker_attempts_total", Help: "Attempts that have ended, by what the broker was told and what it said.",
		}, []string{"action", "verdict"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "worker_attempt_seconds", Help: "Time from claim to verdict.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 10),
		}),
		repair: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "worker_swept_total", Help: "Outputs of dead workers that were published, removed, or left because nobody knows.",
		}, []string{"result"}),
		busy: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "worker_items", Help: "Items that are being worked on.",
		}, func() float64 { return float64(p.busy.Load()) }),
	}
}

// Collectors are to be registered.
func (p *Pool) Collectors() []prometheus.Collector {
	m := p.metrics
	return []prometheus.Collector{m.items, m.seconds, m.repair, m.busy}
}

func (m *metrics) count(action queue.Action, verdict queue.Verdict, took time.Duration) {
	m.items.WithLabelValues(string(action), cmp.Or(string(verdict), "none")).Inc()
	m.seconds.Observe(took.Seconds())
}

func (m *metrics) repairs(s files.Swept) {
	m.repair.WithLabelValues("published").Add(float64(s.Published))
	m.repair.WithLabelValues("removed").Add(float64(s.Removed))
	m.repair.WithLabelValues("unsure").Add(float64(len(s.Unsure)))
}
