package gather

import "time"

// Status tells about a group.
type Status struct {
	Shards []ShardStatus `json:"shards"`
	// HedgeAfterMS is when another replica is asked as well, in milliseconds; 0: never, or
	// not known yet.
	HedgeAfterMS float64  `json:"hedge_after_ms"`
	Counters     Counters `json:"counters"`
}

// ShardStatus tells about a shard. One without leaves has to be there and is not.
type ShardStatus struct {
	Name   string       `json:"name"`
	Leaves []LeafStatus `json:"leaves"`
}

// LeafStatus tells about a leaf.
type LeafStatus struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Node     string `json:"node"`
	InFlight int64  `json:"in_flight"`
	// LatencyMS is a moving average; 0: not known.
	LatencyMS float64 `json:"latency_ms"`
	Asked     uint64  `json:"asked"`
	Failed    uint64  `json:"failed"`
	Ejected   bool    `json:"ejected"`
	// Below is how many leaves it said last that it has; 0: it is none that says so.
	Below int64 `json:"below,omitempty"`
}

// Counters count since the beginning.
type Counters struct {
	Requests uint64 `json:"requests"`
	Shed     uint64 `json:"shed"`  // refused: too many at a time
	Short    uint64 `json:"short"` // failed: too little had answered
	// Asked are requests to leaves without Hedged and Retried.
	Asked       uint64 `json:"asked"`
	Hedged      uint64 `json:"hedged"`
	HedgeWon    uint64 `json:"hedge_won"`
	HedgeDenied uint64 `json:"hedge_denied"` // by the budget
	Retried     uint64 `json:"retried"`
	RetryDenied uint64 `json:"retry_denied"`
	Ejected     uint64 `json:"ejected"` // leaves
}

// Status tells about the group.
func (g *Group) Status() Status {
	now := time.Now()
	shards := *g.shards.Load()
	st := Status{Shards: make([]ShardStatus, 0, len(shards)), HedgeAfterMS: milliseconds(int64(g.latencies.quantile()))}
	for _, s := range shards {
		out := ShardStatus{Name: s.name, Leaves: make([]LeafStatus, 0, len(s.replicas))}
		for _, l := range s.replicas {
			one := LeafStatus{
				ID: l.ID, Address: l.Address, Node: l.Node, InFlight: l.inFlight.Load(), LatencyMS: milliseconds(l.average.Load()),
				Asked: l.asked.Load(), Failed: l.failed.Load(), Ejected: !l.usable(now),
			}
			if n := l.leaves.Load(); n > 1 {
				one.Below = n
			}
			out.Leaves = append(out.Leaves, one)
		}
		st.Shards = append(st.Shards, out)
	}
	c := &g.counts
	st.Counters = Counters{
		Requests: c.requests.Load(), Shed: c.shed.Load(), Short: c.short.Load(), Asked: c.asked.Load(), Hedged: c.hedged.Load(),
		HedgeWon: c.hedgeWon.Load(), HedgeDenied: c.hedgeDenied.Load(), Retried: c.retried.Load(), RetryDenied: c.retryDenied.Load(), Ejected: c.ejected.Load(),
	}
	return st
}

func milliseconds(ns int64) float64 { return float64(ns) / float64(time.Millisecond) }
