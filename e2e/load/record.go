package load

import (
	"fmt"
	"maps"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// maxSamples is how many failures a phase keeps as examples per stream.
const maxSamples = 5

// Latencies are kept in microseconds from 1 µs to 2 min, to three digits.
const (
	maxMicros = int64(2 * time.Minute / time.Microsecond)
	digits    = 3
)

// recorder collects outcomes. Its owner serialises the calls.
//
// Invariant: phases are ordered by their begin.
type recorder struct {
	phases       []*phase
	discoveryErr int64
	lastDiscErr  error
}

type phase struct {
	name    string
	begin   time.Time
	streams []*series
}

// series is what is known of one stream in one phase.
type series struct {
	name     string
	requests int64
	failures int64
	reasons  map[string]int64
	samples  []Sample
	latency  *hdrhistogram.Histogram
}

func newSeries(name string) *series {
	return &series{
		name:    name,
		reasons: map[string]int64{},
		latency: hdrhistogram.New(1, maxMicros, digits),
	}
}

func (r *recorder) begin(name string, at time.Time, streams []Stream) {
	p := &phase{name: name, begin: at}
	for _, s := range streams {
		p.streams = append(p.streams, newSeries(s.Name))
	}
	r.phases = append(r.phases, p)
}

// at returns the phase to which a request that was due then belongs.
func (r *recorder) at(due time.Time) *phase {
	for i := len(r.phases) - 1; i > 0; i-- {
		if !due.Before(r.phases[i].begin) {
			return r.phases[i]
		}
	}
	return r.phases[0]
}

func (r *recorder) record(stream int, due time.Time, out outcome) {
	s := r.at(due).streams[stream]
	s.requests++
	if out.reason == "" {
		// Beyond two minutes the histogram has no place; the timeout of a request
		// is far below.
		_ = s.latency.RecordValue(min(max(out.latency.Microseconds(), 1), maxMicros))
		return
	}
	s.failures++
	s.reasons[out.reason]++
	if len(s.samples) < maxSamples {
		sample := Sample{Due: due, Address: out.address, Reason: out.reason}
		if out.err != nil {
			sample.Detail = out.err.Error()
		}
		s.samples = append(s.samples, sample)
	}
}

func (r *recorder) discoveryFailed(err error) {
	r.discoveryErr++
	r.lastDiscErr = err
}

// merge adds other to s.
func (s *series) merge(other *series) {
	s.requests += other.requests
	s.failures += other.failures
	for reason, n := range other.reasons {
		s.reasons[reason] += n
	}
	if room := maxSamples - len(s.samples); room > 0 {
		s.samples = append(s.samples, other.samples[:min(room, len(other.samples))]...)
	}
	s.latency.Merge(other.latency)
}

func (s *series) stats() Stats {
	micros := func(v int64) time.Duration { return time.Duration(v) * time.Microsecond }
	return Stats{
		Requests: s.requests,
		Failures: s.failures,
		Reasons:  maps.Clone(s.reasons),
		Samples:  append([]Sample(nil), s.samples...),
		P50:      micros(s.latency.ValueAtQuantile(50)),
		P99:      micros(s.latency.ValueAtQuantile(99)),
		Slowest:  micros(s.latency.Max()),
	}
}

func (r *recorder) result() Result {
	res := Result{DiscoveryFailures: r.discoveryErr}
	if r.lastDiscErr != nil {
		res.DiscoveryError = fmt.Sprint(r.lastDiscErr)
	}

	all := newSeries("")
	byStream := map[string]*series{}
	for _, p := range r.phases {
		out := Phase{Name: p.name, Begin: p.begin, Streams: map[string]Stats{}}
		sum := newSeries("")
		for _, s := range p.streams {
			out.Streams[s.name] = s.stats()
			sum.merge(s)
			if byStream[s.name] == nil {
				byStream[s.name] = newSeries(s.name)
			}
			byStream[s.name].merge(s)
		}
		all.merge(sum)
		out.Stats = sum.stats()
		res.Phases = append(res.Phases, out)
	}
	res.Stats = all.stats()
	res.Streams = make(map[string]Stats, len(byStream))
	for name, s := range byStream {
		res.Streams[name] = s.stats()
	}
	return res
}
