package server

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// counts count what this process has done.
type counts struct {
	enqueued, claimed, released, forwarded prometheus.Counter
	acks                                   *prometheus.CounterVec
}

func newCounts() counts {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "queue_broker_" + name, Help: help})
	}
	return counts{
		enqueued:  counter("enqueued_total", "Items that this broker has stored, duplicates included."),
		claimed:   counter("claimed_total", "Items that this broker has handed out."),
		released:  counter("released_total", "Items that were claimed for clients that had gone, and given back."),
		forwarded: counter("forwarded_total", "Requests to other brokers."),
		acks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "queue_broker_acks_total", Help: "Attempts that workers have ended, by what they said and what became of it.",
		}, []string{"action", "verdict"}),
	}
}

// Commits counts and times the transactions with Consul.
type Commits struct {
	took *prometheus.HistogramVec
	keys prometheus.Counter
}

// NewCommits begins at zero.
func NewCommits() *Commits {
	return &Commits{
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "queue_broker_commit_seconds", Help: "Time of a transaction with Consul, by whether it was carried out.",
			Buckets: []float64{0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5},
		}, []string{"ok"}),
		keys: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "queue_broker_commit_keys_total", Help: "Keys that were written or deleted in transactions that were carried out.",
		}),
	}
}

// Observe is for queue.BrokerConfig.
func (c *Commits) Observe(took time.Duration, keys int, err error) {
	c.took.WithLabelValues(strconv.FormatBool(err == nil)).Observe(took.Seconds())
	if err == nil {
		c.keys.Add(float64(keys))
	}
}

// Collectors returns the metrics.
func (c *Commits) Collectors() []prometheus.Collector { return []prometheus.Collector{c.took, c.keys} }

// ack counts a verdict.
func (c *counts) ack(action queue.Action, v queue.Verdict) {
	c.acks.WithLabelValues(string(action), string(v)).Inc()
}

// Collectors returns the metrics: those of the shards that this broker leads, so that the
// sum over all brokers is right, and those of this process.
func (s *Server) Collectors() []prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("queue_"+name, help, append([]string{"queue"}, labels...), nil)
	}
	c := &collector{
		s:         s,
		items:     desc("items", "Unfinished items.", "stage", "state"),
		dead:      desc("dead_letters", "Dead letters that are kept."),
		oldest:    desc("oldest_seconds", "Age of the oldest unfinished item."),
		enqueued:  desc("enqueued_total", "Items that were enqueued since the queue was made."),
		finished:  desc("finished_total", "Items that have left a stage since the queue was made.", "stage", "how"),
		attempts:  desc("attempts_failed_total", "Attempts that failed, or whose worker vanished, since the queue was made.", "stage", "how"),
		workers:   desc("workers", "Workers that have items.", "stage"),
		paused:    desc("paused", "1 if nothing is handed out."),
		sealed:    desc("sealed", "1 if nothing is accepted any more."),
		led:       desc("shards_led", "Shards that this broker leads."),
		failures:  prometheus.NewDesc("queue_catalog_errors_total", "Calls that should have changed a service in Consul and failed.", nil, nil),
		refreshed: s.catalog != nil,
	}
	return []prometheus.Collector{c, s.counts.enqueued, s.counts.claimed, s.counts.released, s.counts.forwarded, s.counts.acks}
}

// collector reads the numbers when it is asked for them.
type collector struct {
	s                             *Server
	items, dead, oldest, enqueued *prometheus.Desc
	finished, attempts, workers   *prometheus.Desc
	paused, sealed, led, failures *prometheus.Desc
	refreshed                     bool
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.items, c.dead, c.oldest, c.enqueued, c.finished, c.attempts, c.workers, c.paused, c.sealed, c.led, c.failures,
	} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	const gauge, count = prometheus.GaugeValue, prometheus.CounterValue
	for _, name := range c.s.broker.Queues() {
		cfg, err := c.s.broker.Config(name)
		if err != nil {
			continue // it was deleted just now
		}
		st := blank(name, cfg)
		n := 0
		for _, k := range c.s.broker.Led(name) {
			if one, err := c.s.broker.Status(ctx, name, k); err == nil {
				add(&st, &one)
				n++
			}
		}
		put(c.led, gauge, float64(n), name)
		if n == 0 {
			continue
		}
		put(c.dead, gauge, float64(st.Dead), name)
		put(c.oldest, gauge, float64(st.OldestMS)/1000, name)
		put(c.enqueued, count, float64(st.Enqueued), name)
		put(c.paused, gauge, number(st.Paused), name)
		put(c.sealed, gauge, number(st.Sealed), name)
		workers := map[string]int{}
		for _, w := range st.Workers {
			workers[w.Stage]++
		}
		for _, stage := range st.Stages {
			put(c.items, gauge, float64(stage.Ready), name, stage.Name, "ready")
			put(c.items, gauge, float64(stage.Delayed), name, stage.Name, "delayed")
			put(c.items, gauge, float64(stage.Waiting), name, stage.Name, "waiting")
			put(c.items, gauge, float64(stage.InFlight), name, stage.Name, "in_flight")
			put(c.items, gauge, float64(stage.Held), name, stage.Name, "held")
			put(c.finished, count, float64(stage.Done), name, stage.Name, "done")
			put(c.finished, count, float64(stage.Dead), name, stage.Name, "dead")
			put(c.finished, count, float64(stage.Cancelled), name, stage.Name, "cancelled")
			put(c.attempts, count, float64(stage.Failed), name, stage.Name, "failed")
			put(c.attempts, count, float64(stage.Lost), name, stage.Name, "lost")
			put(c.workers, gauge, float64(workers[stage.Name]), name, stage.Name)
		}
	}
	if c.refreshed {
		put(c.failures, count, float64(c.s.catalog.Failures()))
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
