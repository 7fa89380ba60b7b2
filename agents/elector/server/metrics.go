package server

import "github.com/prometheus/client_golang/prometheus"

// Collector returns the metrics of the elections, of the streams and of the hooks.
func (s *Server) Collector() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("elector_"+name, help, labels, nil)
	}
	return &collector{
		s:        s,
		joined:   desc("elections_joined", "Elections that this process is a candidate in."),
		leading:  desc("elections_leading", "Elections that this process leads and trusts to lead."),
		gains:    desc("gains_total", "Terms of leadership that began."),
		losses:   desc("losses_total", "Terms of leadership that ended.", "reason"),
		expired:  desc("trust_expired_total", "Terms that ended because Consul did not confirm them in time."),
		requests: desc("consul_requests_total", "Requests sent to Consul, heartbeats and watches included."),
		errors:   desc("consul_errors_total", "Requests to Consul that failed."),
		sessions: desc("consul_sessions_total", "Consul sessions that were made."),
		observed: desc("observed_age_seconds", "Time since the last consistent read that agreed with what this process knows; -1: none yet."),
		streams:  desc("streams", "Open event streams.", "kind"),
		hooks:    desc("hook_failures_total", "Hooks that failed or were killed.", "event"),
		catalog:  desc("catalog_errors_total", "Calls that should have changed a service's tags and failed."),
	}
}

// collector reads the numbers when it is asked for them.
type collector struct {
	s *Server

	joined, leading, gains, losses, expired *prometheus.Desc
	requests, errors, sessions, observed    *prometheus.Desc
	streams, hooks, catalog                 *prometheus.Desc
}

// reasonExpired is what election.Stats calls an expired trust.
const reasonExpired = "trust expired"

func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	st := c.s.elector.Stats()
	gauge(c.joined, float64(st.Joined))
	gauge(c.leading, float64(st.Leading))
	count(c.gains, st.Gains)
	for reason, n := range st.Losses {
		count(c.losses, n, reason)
	}
	count(c.expired, st.Losses[reasonExpired])
	count(c.requests, st.ConsulRequests)
	count(c.errors, st.ConsulErrors)
	count(c.sessions, st.Sessions)
	observed := -1.0
	if st.Observed >= 0 {
		observed = st.Observed.Seconds()
	}
	gauge(c.observed, observed)
	gauge(c.streams, float64(c.s.holds.Load()), "hold")
	gauge(c.streams, float64(c.s.watches.Load()), "watch")
	count(c.hooks, c.s.hookFailures[0].Load(), "gain")
	count(c.hooks, c.s.hookFailures[1].Load(), "loss")
	if c.s.catalog != nil {
		count(c.catalog, c.s.catalog.Failures())
	}
}
