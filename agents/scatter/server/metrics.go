package server

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
)

// Outcomes of requests.
const (
	whole   = "whole"   // everything is in the answer
	partial = "partial" // not everything, and the client is content with it
	short   = "short"   // too little
	refused = "refused" // by this root: too many, nobody to ask, a bad request
	failed  = "failed"  // of the merge, or the client has gone
)

// metrics are counted as requests end.
type metrics struct {
	took    *prometheus.HistogramVec
	missing *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "scatter_request_seconds", Help: "Time of a request, by its outcome.",
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		}, []string{"route", "outcome"}),
		missing: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scatter_missing_total", Help: "Shards that were missing in an answer, by the reason.",
		}, []string{"route", "reason"}),
	}
}

// count counts a request that has ended.
func (m *metrics) count(route string, took time.Duration, c gather.Coverage, err error) {
	for _, miss := range c.Missing {
		m.missing.WithLabelValues(route, string(miss.Reason)).Inc()
	}
	m.took.WithLabelValues(route, outcome(c, err)).Observe(took.Seconds())
}

func outcome(c gather.Coverage, err error) string {
	var tooLittle *gather.ShortError
	switch {
	case err == nil && c.Whole():
		return whole
	case err == nil:
		return partial
	case errors.As(err, &tooLittle):
		return short
	case errors.Is(err, gather.ErrShed), errors.Is(err, gather.ErrNoLeaves):
		return refused
	}
	return failed
}

// Collectors returns the metrics.
func (s *Server) Collectors() []prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("scatter_"+name, help, append([]string{"route"}, labels...), nil)
	}
	return []prometheus.Collector{s.metrics.took, s.metrics.missing, &collector{
		s:      s,
		shards: desc("shards", "Shards, those included that have to be there and have no leaf."),
		hedge:  desc("hedge_after_seconds", "When another replica is asked as well; 0: never, or not known yet."),
		asked:  desc("leaf_requests_total", "Requests to leaves: first ones, hedges and retries.", "kind"),
		won:    desc("hedges_won_total", "Hedges whose answer came first."),
		denied: desc("budget_denied_total", "Hedges and retries that their budget did not allow.", "kind"),
		shed:   desc("shed_total", "Requests that were refused because there were too many."),
		ejects: desc("ejections_total", "Leaves that were not asked for a while."),

		latency: desc("leaf_latency_seconds", "Moving average of a leaf's latency.", "leaf", "shard"),
		leaf:    desc("leaf_asked_total", "Requests to a leaf.", "leaf", "shard"),
		fails:   desc("leaf_failed_total", "Requests to a leaf that failed.", "leaf", "shard"),
		ejected: desc("leaf_ejected", "1 if the leaf is not asked for a while.", "leaf", "shard"),
	}}
}

// collector reads the numbers when it is asked for them.
type collector struct {
	s                                               *Server
	shards, hedge, asked, won, denied, shed, ejects *prometheus.Desc
	latency, leaf, fails, ejected                   *prometheus.Desc
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.shards, c.hedge, c.asked, c.won, c.denied, c.shed, c.ejects, c.latency, c.leaf, c.fails, c.ejected,
	} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	const gauge, count = prometheus.GaugeValue, prometheus.CounterValue
	for _, r := range c.s.Status() {
		n := r.Counters
		put(c.shards, gauge, float64(len(r.Shards)), r.Name)
		put(c.hedge, gauge, r.HedgeAfterMS/1000, r.Name)
		put(c.asked, count, float64(n.Asked), r.Name, "first")
		put(c.asked, count, float64(n.Hedged), r.Name, "hedge")
		put(c.asked, count, float64(n.Retried), r.Name, "retry")
		put(c.won, count, float64(n.HedgeWon), r.Name)
		put(c.denied, count, float64(n.HedgeDenied), r.Name, "hedge")
		put(c.denied, count, float64(n.RetryDenied), r.Name, "retry")
		put(c.shed, count, float64(n.Shed), r.Name)
		put(c.ejects, count, float64(n.Ejected), r.Name)
		for _, s := range r.Shards {
			for _, l := range s.Leaves {
				put(c.latency, gauge, l.LatencyMS/1000, r.Name, l.ID, s.Name)
				put(c.leaf, count, float64(l.Asked), r.Name, l.ID, s.Name)
				put(c.fails, count, float64(l.Failed), r.Name, l.ID, s.Name)
				ejected := 0.0
				if l.Ejected {
					ejected = 1
				}
				put(c.ejected, gauge, ejected, r.Name, l.ID, s.Name)
			}
		}
	}
}
