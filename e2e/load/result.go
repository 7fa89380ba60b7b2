package load

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Result is what a Generator has seen: everything together, and apart by stream
// and by phase.
type Result struct {
	Stats

	// Streams has the statistics of each stream over all phases, by its name.
	Streams map[string]Stats

	// Phases are in the order in which they began. A name that was used twice is
	// there twice.
	Phases []Phase

	// DiscoveryFailures counts discoveries that failed after the first one, and
	// DiscoveryError is the last of their errors. The load went on with the
	// instances known before.
	DiscoveryFailures int64
	DiscoveryError    string
}

// Phase has the statistics of the requests that were due in one phase.
type Phase struct {
	Name  string
	Begin time.Time
	Stats
	Streams map[string]Stats // by name of the stream
}

// Stats sums up requests. The durations are zero if none succeeded.
type Stats struct {
	Requests int64            // that ended, or could not be sent
	Failures int64            // of these
	Reasons  map[string]int64 // failures by reason
	Samples  []Sample         // the first few failures
	P50, P99 time.Duration    // latency from when the request was due, successes only
	Slowest  time.Duration    // the longest of these latencies
}

// Sample is one failure, for a person to look at.
type Sample struct {
	Due     time.Time
	Address string // empty if no instance was known
	Reason  string
	Detail  string // the error, if there was one
}

// Phase returns the statistics of all phases of that name together with true, or
// false if there was none. Percentiles of several phases are the highest of them.
func (r Result) Phase(name string) (Phase, bool) {
	var sum Phase
	found := false
	for _, p := range r.Phases {
		if p.Name != name {
			continue
		}
		if !found {
			sum, found = p, true
			continue
		}
		sum.Stats = sum.Add(p.Stats)
		streams := make(map[string]Stats, len(p.Streams))
		for stream, s := range p.Streams {
			streams[stream] = sum.Streams[stream].Add(s)
		}
		sum.Streams = streams
	}
	return sum, found
}

// Add returns the statistics of both together. The percentiles are the higher
// ones, since they cannot be added.
func (s Stats) Add(other Stats) Stats {
	reasons := make(map[string]int64, len(s.Reasons)+len(other.Reasons))
	for _, m := range []map[string]int64{s.Reasons, other.Reasons} {
		for reason, n := range m {
			reasons[reason] += n
		}
	}
	samples := slices.Concat(s.Samples, other.Samples)
	return Stats{
		Requests: s.Requests + other.Requests,
		Failures: s.Failures + other.Failures,
		Reasons:  reasons,
		Samples:  samples[:min(len(samples), maxSamples)],
		P50:      max(s.P50, other.P50),
		P99:      max(s.P99, other.P99),
		Slowest:  max(s.Slowest, other.Slowest),
	}
}

// Why lists the reasons of the failures, the most frequent first, for example
// "12 connection refused, 1 body cut". It is empty if nothing failed.
func (s Stats) Why() string {
	type count struct {
		reason string
		n      int64
	}
	counts := make([]count, 0, len(s.Reasons))
	for reason, n := range s.Reasons {
		counts = append(counts, count{reason, n})
	}
	slices.SortFunc(counts, func(a, b count) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.reason, b.reason))
	})
	parts := make([]string, len(counts))
	for i, c := range counts {
		parts[i] = fmt.Sprintf("%d %s", c.n, c.reason)
	}
	return strings.Join(parts, ", ")
}
