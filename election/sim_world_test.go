package election

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/consul/api"
)

// world is a simulation: a model of Consul and some processes in one simulated time.
// Everything in it, delays and faults of requests too, follows from the seed.
type world struct {
	rng    *rand.Rand
	now    time.Duration
	queue  simQueue
	seq    int
	consul *model
	procs  []*proc

	elections []string
	optionsOf func(p *proc) Options

	// What requests suffer from, in percent.
	loss, hang, stale int
	lag               time.Duration // most that a message needs
	down              bool          // Consul has no leader
	past              []listing     // what stale reads return

	snap     *snapshot
	restores []time.Duration

	tokens  map[string]uint64        // highest token gained, by election
	lockAt  map[uint64]time.Duration // when the write of a token was done
	gains   int
	excused int
	failure string
	trace   []string
}

// listing is what the KV store once was.
type listing struct {
	at    time.Duration
	index uint64
	pairs api.KVPairs
}

func newWorld(seed uint64) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 1)), lag: 5 * time.Millisecond,
		tokens: map[string]uint64{}, lockAt: map[uint64]time.Duration{},
	}
	w.consul = newModel(func() time.Duration { return w.now })
	w.consul.changed = w.changed
	w.consul.restored = func() {
		for _, p := range w.procs {
			p.watching.abandoned()
		}
	}
	return w
}

// changed wakes the blocking queries.
func (w *world) changed() {
	for _, p := range w.procs {
		p.watching.wake()
	}
}

type simEvent struct {
	at  time.Duration
	seq int
	do  func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// after does something later.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, simEvent{w.now + max(0, d), w.seq, do})
}

// run lets the time pass, and looks for two leaders after each event: between events
// nobody begins to trust.
func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= until && w.failure == "" {
		e := heap.Pop(&w.queue).(simEvent)
		w.now = e.at
		e.do()
		w.check()
	}
	w.now = max(w.now, until)
}

func (w *world) chance(percent int) bool { return percent > 0 && w.rng.IntN(100) < percent }

// span is a random time up to most. Short ones are likelier.
func (w *world) span(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	if w.chance(50) {
		most /= 8
	}
	return time.Duration(w.rng.Int64N(int64(most) + 1))
}

func (w *world) logf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%10.4f ", w.now.Seconds())+fmt.Sprintf(format, args...))
	if len(w.trace) > 4000 {
		w.trace = w.trace[2000:]
	}
}

func (w *world) failf(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf("at %s: ", w.now) + fmt.Sprintf(format, args...)
		w.logf("FAILURE %s", w.failure)
	}
}

// check looks for two that trust to lead the same election at this instant.
func (w *world) check() {
	for _, name := range w.elections {
		var leads []*proc
		for _, p := range w.procs {
			if c := p.core.byName[name]; !p.dead && c != nil && c.lead != nil && c.lead.Valid() {
				leads = append(leads, p)
			}
		}
		for i, p := range leads {
			for _, q := range leads[i+1:] {
				if p.core.byName[name].opts.Mode == Fenced || q.core.byName[name].opts.Mode == Fenced {
					continue
				}
				old, young := p, q
				if old.core.byName[name].token > young.core.byName[name].token {
					old, young = young, old
				}
				w.twoLeaders(name, old, young)
			}
		}
	}
}

// twoLeaders is a failure, unless a snapshot was restored within the term of the old
// leader, and the young one neither saw that term nor, when it began its own, that
// Consul went back: then it cannot know of it.
func (w *world) twoLeaders(name string, old, young *proc) {
	token := old.core.byName[name].token
	began := young.terms[seenTerm{name, young.core.byName[name].token}]
	seen, ok := young.saw[seenTerm{name, token}]
	knew := ok && seen <= began.at
	for _, at := range w.restores {
		if at >= w.lockAt[token] && !knew && began.rewoundAt < at {
			w.excused++
			return
		}
	}
	w.failf("election %s: %s trusts token %d for %s more and %s token %d for %s", name,
		old.name, token, old.core.byName[name].lead.Trusted(), young.name, young.core.byName[name].token, young.core.byName[name].lead.Trusted())
}

// gained takes note of a new term.
func (w *world) gained(p *proc, l *Leadership) {
	w.gains++
	p.terms[seenTerm{l.election, l.token}] = beginning{w.now, p.rewoundAt}
	if p.core.byName[l.election].opts.Mode != Fenced && l.token <= w.tokens[l.election] {
		w.failf("election %s: %s gained token %d after %d", l.election, p.name, l.token, w.tokens[l.election])
	}
	w.tokens[l.election] = max(w.tokens[l.election], l.token)
}

// outage takes Consul's leader away for some time.
func (w *world) outage(d time.Duration) {
	w.down = true
	for _, p := range w.procs {
		p.watching.fail()
	}
	w.after(d, func() { w.down = false })
}

// remember keeps what stale reads return.
func (w *world) remember() {
	w.past = append(w.past, listing{w.now, w.consul.prefixIndex("election/"), w.consul.list("election/")})
	if len(w.past) > 20 {
		w.past = w.past[10:]
	}
}
