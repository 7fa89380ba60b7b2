package gather

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
)

// Request is what all shards are asked.
type Request struct {
	Method string
	// URL has the path and the query.
	URL *url.URL
	// Header is what leaves are sent. TimeoutHeader is added to it.
	Header http.Header
	Body   []byte
	// Again is whether a leaf may be asked twice, or two replicas both. Otherwise only
	// what was certainly not asked is asked elsewhere.
	Again bool
	// Timeout is how long it may take. 0: the default.
	Timeout time.Duration
	// MinCoverage is the share of leaves that has to be in the answer. 0: the default.
	MinCoverage float64
	// Part is whether any coverage but none is an answer, because whoever asks judges it. MinCoverage
	// only says then when there is enough to stop waiting.
	Part bool
	// Trace is told of each request to a leaf, may add to its header, and returns what is
	// called with why it has failed, or "" if it has not. Optional.
	Trace func(l Leaf, attempt int, h http.Header) (end func(Reason, string))
}

// ShortError says that too little has answered.
type ShortError struct {
	Coverage Coverage
	Want     float64
	// Answer is what a leaf said that refused the request: a status from 400 to 499, if no
	// leaf has accepted it.
	Answer *Refusal
}

// Refusal is the answer of a leaf that refuses a request.
type Refusal struct {
	Status int
	Header http.Header
	Body   []byte
}

func (e *ShortError) Error() string {
	text := fmt.Sprintf("%d of %d leaves have answered, and a share of %v is asked for", e.Coverage.OK, e.Coverage.Total, e.Want)
	for i, m := range e.Coverage.Missing {
		if i == 3 {
			return text + fmt.Sprintf("; and %d more", len(e.Coverage.Missing)-i)
		}
		text += fmt.Sprintf("; %s: %s", m.Shard, m.Reason)
		if m.Detail != "" {
			text += " (" + m.Detail + ")"
		}
	}
	return text
}

// ErrShed says that there are too many requests.
var ErrShed = errors.New("too many requests at a time")

// result is what a leaf of a shard has answered.
type result struct {
	shard  int     // index
	helper bool    // it was asked because another one was slow
	answer *answer // nil: there is none
	reason Reason
	detail string
	refuse *Refusal
}

// flight is a request under way.
type flight struct {
	g        *Group
	req      *Request
	ctx      context.Context // ends when leaves need not answer any more
	began    time.Time
	deadline time.Time // of leaves
	inbox    *inbox
	typical  time.Duration // the quantile of latencies; 0: not known
	states   []state       // of shards
}

// state is a shard in a flight. All but first belong to the goroutine that gathers.
type state struct {
	shard    *shard
	first    atomic.Pointer[leaf] // that was asked
	underway int                  // leaves that may still answer
	helpers  int                  // leaves that were asked because it was slow
	helper   *leaf                // the last of them
	weight   int                  // leaves behind it, as was known when it was asked
	done     bool                 // it is merged, or missing
}

// Gather asks all shards and merges what they answer. The coverage is that of what was
// merged. An error is ErrNoLeaves, ErrShed, a *ShortError, an error of the merge, or that
// of ctx; then the merge has been aborted.
//
// Begin is called when at least one leaf has been found to ask.
func (g *Group) Gather(ctx context.Context, req *Request, begin func(ctx context.Context, shards int) (merge.Merge, error)) (Coverage, error) {
	g.counts.requests.Add(1)
	if !g.slots.TryAcquire(1) {
		g.counts.shed.Add(1)
		return Coverage{}, ErrShed
	}
	defer g.slots.Release(1)
	shards := *g.shards.Load()
	if len(shards) == 0 {
		return Coverage{}, fmt.Errorf("service %q: %w", g.cfg.Name, ErrNoLeaves)
	}
	timeout := g.cfg.Timeout
	if req.Timeout > 0 {
		timeout = min(req.Timeout, g.cfg.MaxTimeout)
	}
	now := time.Now()
	ctx, cancel := context.WithDeadline(ctx, now.Add(timeout))
	defer cancel()
	m, err := begin(ctx, len(shards))
	if err != nil {
		return Coverage{}, err
	}
	c, err := g.gather(ctx, req, shards, now, timeout, m)
	if err != nil {
		m.Abort()
		return c, err
	}
	if err := m.Finish(); err != nil {
		return c, err
	}
	bad, is := m.(merge.WithGarbage)
	if !is || len(bad.Garbage()) == 0 {
		return c, nil
	}
	// Only now it is known what could not be merged.
	for _, name := range bad.Garbage() {
		c.Missing = append(c.Missing, Missing{Shard: name, Reason: Garbage})
		c.OK -= c.merged[name]
		delete(c.merged, name)
	}
	sortMissing(c.Missing)
	return c, g.enough(c, req)
}

// enough is a *ShortError if the coverage is less than asked for.
func (g *Group) enough(c Coverage, req *Request) error {
	want := g.Wanted(req)
	if c.Share() >= want || req.Part && c.OK > 0 {
		return nil
	}
	g.counts.short.Add(1)
	return &ShortError{Coverage: c, Want: want}
}

// Wanted is the coverage that a request wants.
func (g *Group) Wanted(req *Request) float64 {
	if req.MinCoverage > 0 {
		return req.MinCoverage
	}
	return g.cfg.MinCoverage
}

// gather asks and adds.
func (g *Group) gather(ctx context.Context, req *Request, shards []*shard, now time.Time, timeout time.Duration, m merge.Merge) (Coverage, error) {
	f := &flight{
		g: g, req: req, inbox: newInbox(), states: make([]state, len(shards)), began: now, typical: g.latencies.quantile(),
		deadline: now.Add(timeout - time.Duration(g.cfg.Reserve*float64(timeout))),
	}
	asking, stop := context.WithDeadline(ctx, f.deadline)
	defer stop()
	defer f.inbox.close()
	f.ctx = asking
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set(TimeoutHeader, f.deadline.Sub(now).Round(time.Millisecond).String())
	t := &tally{flight: f, left: len(shards), c: Coverage{merged: make(map[string]int, len(shards))}}
	asked := 0
	for i, s := range shards {
		st := &f.states[i]
		st.shard, st.weight, st.underway = s, s.leaves(), 1
		t.total += st.weight
		if len(s.replicas) > 0 {
			asked++
		}
	}
	g.hedges.earn(asked)
	g.retries.earn(asked)
	g.counts.asked.Add(uint64(asked))
	for i, s := range shards {
		if len(s.replicas) == 0 {
			f.tell(result{shard: i, reason: Absent, detail: "no instance in the catalog"})
			continue
		}
		g.work.Go(func() { f.ask(i) })
	}
	return g.receive(ctx, t, m)
}

// receive takes what comes until nothing more is to be waited for.
func (g *Group) receive(ctx context.Context, t *tally, m merge.Merge) (Coverage, error) {
	f := t.flight
	want := g.Wanted(f.req)
	var enough <-chan time.Time // when others are not waited for any more
	hedge := f.hedgeTimer()
	if hedge != nil {
		defer hedge.Stop()
	}
	for t.left > 0 {
		select {
		case <-f.inbox.ready:
			list := f.inbox.take()
			for i, r := range list {
				if err := t.take(r, m); err != nil {
					free(list[i+1:])
					return t.coverage(Skipped), err
				}
			}
			if enough == nil && want < 1 && t.left > 0 && t.share() >= want {
				wait := time.NewTimer(time.Duration(g.cfg.Wait * float64(time.Until(f.deadline))))
				defer wait.Stop()
				enough = wait.C
			}
			continue
		case <-hedge.c():
			hedge.Reset(t.hedge())
			continue
		case <-enough:
			return t.coverage(Skipped), nil
		case <-f.ctx.Done():
		}
		break
	}
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return t.coverage(Skipped), context.Cause(ctx) // the client has gone
	}
	c := t.coverage(Timeout)
	err := g.enough(c, f.req)
	var short *ShortError
	if errors.As(err, &short) && c.OK == 0 {
		short.Answer = t.refusal
	}
	return c, err
}

// hedgeTimer fires when the slowest leaves are helped out; nil: never.
func (f *flight) hedgeTimer() *timer {
	if !f.req.Again || f.g.cfg.HedgeQuantile <= 0 || f.typical == 0 {
		return nil
	}
	return &timer{time.NewTimer(f.typical)}
}

// timer is one that may be nil.
type timer struct{ *time.Timer }

func (t *timer) c() <-chan time.Time {
	if t == nil {
		return nil
	}
	return t.C
}

// tally counts what has come of shards.
type tally struct {
	*flight
	c       Coverage
	left    int // shards that are not done
	total   int // leaves of all shards, as far as they are known
	refusal *Refusal
}

func (t *tally) share() float64 { return float64(t.c.OK) / float64(t.total) }

// hedge lets others help out leaves that are slow, and returns when that is to be looked
// at again. If most have not answered yet it is not they who are slow, but this process,
// the machine, or the request; more requests would only make it worse.
func (t *tally) hedge() time.Duration {
	if t.left > 1 && 2*t.left > len(t.states) {
		return max(t.typical/4, time.Millisecond/4)
	}
	for i := range t.states {
		if st := &t.states[i]; !st.done && st.helpers < maxHedges && len(st.shard.replicas) > 1 {
			t.help(i)
		}
	}
	return 2 * t.typical
}

// take adds what a leaf has answered. An error is one of the merge.
func (t *tally) take(r result, m merge.Merge) error {
	st := &t.states[r.shard]
	st.underway--
	if st.done {
		if r.answer != nil {
			r.answer.free() // another one was faster
		}
		return nil
	}
	if r.answer == nil && st.underway > 0 {
		return nil // another one may still answer
	}
	st.done = true
	t.left--
	name := st.shard.name
	if r.answer != nil {
		if r.helper {
			t.g.counts.hedgeWon.Add(1)
			if first := st.first.Load(); first != r.answer.leaf {
				first.outrun(time.Since(t.began))
			}
		}
		defer r.answer.free()
		err := m.Add(merge.Partial{Shard: name, Header: r.answer.header, Body: r.answer.body})
		switch {
		case err == nil:
			ok, total := below(r.answer.header)
			r.answer.leaf.leaves.Store(int64(total))
			t.c.OK += ok
			t.c.merged[name] = ok
			t.total += total - st.weight
			if ok < total {
				t.c.Missing = append(t.c.Missing, Missing{Shard: name, Reason: Below, Detail: r.answer.header.Get(MissingHeader)})
			}
			return nil
		case !errors.Is(err, merge.ErrGarbage):
			return err
		}
		r.reason, r.detail = Garbage, err.Error()
	}
	t.c.Missing = append(t.c.Missing, Missing{Shard: name, Reason: r.reason, Detail: r.detail})
	if t.refusal == nil {
		t.refusal = r.refuse
	}
	return nil
}

// coverage is that of what was taken; all others are missing for this reason.
func (t *tally) coverage(others Reason) Coverage {
	c := t.c
	c.Total = t.total
	for i := range t.states {
		if st := &t.states[i]; !st.done {
			c.Missing = append(c.Missing, Missing{Shard: st.shard.name, Reason: others})
		}
	}
	sortMissing(c.Missing)
	return c
}
