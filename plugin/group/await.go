package group

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// settle is how long after the stop of a task the stop of a predecessor may
	// begin to be taken for the same one. On a restart of an allocation Nomad
	// asks for all stops at once, in any order.
	settle = 250 * time.Millisecond
	// interval is how often somebody who waits looks at the files.
	interval = 100 * time.Millisecond
)

// errUnbounded is what waiting without a deadline ends with, before it begins.
var errUnbounded = errors.New("context has no deadline")

// Ending is how the wait for a predecessor ended.
type Ending string

// The endings. In the last four the predecessor may still run.
const (
	HasStopped  Ending = "stopped"      // it stopped, also if it has started again since
	NotStopping Ending = "not stopping" // it runs on
	NotSeen     Ending = "not seen"     // it has not started, or has another driver or no lifecycle block
	StopsLater  Ending = "stops later"  // Nomad stops it only when this task is gone
	GivenUp     Ending = "given up"     // the time was up
)

// Wait is the wait for one predecessor.
type Wait struct {
	Task string
	End  Ending
	For  time.Duration // until it ended; 0 if it had stopped before
}

// Report is what came of [Group.AwaitPredecessors].
type Report struct {
	Waits []Wait // for each predecessor, by name
	Cause error  // why it gave up on some; nil if it did not
}

// String says in a few words for whom was waited, for a task event. It is "" if
// for nobody.
func (r Report) String() string {
	var waited, without []string
	var longest time.Duration
	for _, w := range r.Waits {
		switch {
		case w.End == HasStopped && w.For > 0:
			waited = append(waited, fmt.Sprintf("%q (%s)", w.Task, w.For.Round(time.Millisecond)))
		case w.End == GivenUp:
			without = append(without, fmt.Sprintf("%q", w.Task))
			longest = max(longest, w.For)
		}
	}
	var parts []string
	if len(waited) > 0 {
		parts = append(parts, "waited for "+strings.Join(waited, ", "))
	}
	if len(without) > 0 {
		verb := "has"
		if len(without) > 1 {
			verb = "have"
		}
		parts = append(parts, fmt.Sprintf("went on after %s without %s, which %s not stopped: %v",
			longest.Round(time.Millisecond), strings.Join(without, ", "), verb, r.Cause))
	}
	return strings.Join(parts, "; ")
}

// AwaitPredecessors waits in the stop of the task, which [Group.Stopping] has
// told the others of, until all those that are to stop before it have stopped.
// It waits for a task that is stopping, and for one that runs if the whole
// allocation stops, because its stop will come; else only for the settle time.
//
// ctx must have a deadline: the task's kill_timeout less what its own stop
// needs. When ctx ends it gives up on the rest and returns, without an error.
// Errors are about files; the report then holds what was known before.
func (g *Group) AwaitPredecessors(ctx context.Context, f Facts) (Report, error) {
	self := g.own()
	if len(self.StopAfter) == 0 && f.Plan[self.Task].step() != stepSidecar {
		return Report{}, nil
	}
	if _, ok := ctx.Deadline(); !ok {
		return Report{}, fmt.Errorf("wait for the predecessors of task %q: %w", self.Task, errUnbounded)
	}
	var q *queue
	for {
		members, err := g.Members()
		if err != nil {
			return q.report(g.now(), err), err
		}
		now := g.now()
		if q == nil {
			q = newQueue(self, f, members, now)
		}
		next := q.look(now, members)
		if next == 0 {
			return q.report(now, nil), nil
		}
		if err := sleep(ctx, next); err != nil {
			return q.report(g.now(), err), nil
		}
	}
}

// queue is the predecessors that one stop has before it. It has no I/O: it is
// shown the members again and again.
type queue struct {
	self  string
	facts Facts
	begin time.Time
	ahead []*predecessor
}

type predecessor struct {
	Wait              // End is "" while it is waited for
	started time.Time // of the start that was seen first; zero before one was
	was     State     // at the last look
	hoped   time.Time // since when its stop is expected, for the settle time
}

func newQueue(self Member, f Facts, members []Member, now time.Time) *queue {
	q := &queue{self: self.Task, facts: f, begin: now}
	for _, name := range predecessors(self, f.Plan, members) {
		q.ahead = append(q.ahead, &predecessor{Wait: Wait{Task: name}, hoped: now})
	}
	return q
}

// look returns when to look again, or 0 if nobody is ahead any more.
func (q *queue) look(now time.Time, members []Member) time.Duration {
	whole := q.facts.Whole || anyWhole(members)
	index := byTask(members)
	next := time.Duration(0)
	for _, p := range q.ahead {
		m, seen := index[p.Task]
		if p.End == HasStopped && (!whole || !seen || m.State == Stopped) {
			continue // a restart in place is not waited for again, but a whole stop ends that as well
		}
		if seen && p.started.IsZero() {
			p.started = m.Started
		}
		if p.was == Stopping && m.State != Stopping {
			p.hoped = now // its plugin has died; Nomad will ask for the stop again
		}
		p.was = m.State
		left := p.hoped.Add(settle).Sub(now)
		p.End = ""
		switch {
		case !seen:
			p.End = NotSeen
		case m.State == Stopped || !whole && !m.Started.Equal(p.started):
			p.End = HasStopped
		case m.State == Stopping:
			left = interval
		case whole && q.later(p.Task):
			p.End = StopsLater
		case whole && (m.State != Starting || !m.Lost):
			left = interval
		case left <= 0:
			p.End = NotStopping
		}
		if p.End == "" {
			left = min(left, interval)
			if next == 0 || left < next {
				next = left
			}
		} else {
			p.For = now.Sub(q.begin)
		}
	}
	return next
}

// later reports whether Nomad stops a task in a later step than this one.
func (q *queue) later(task string) bool {
	plan := q.facts.Plan
	if _, known := plan[task]; !known {
		return false
	}
	return plan[task].step() > plan[q.self].step()
}

// report ends the wait. cause is why, if some are still ahead.
func (q *queue) report(now time.Time, cause error) Report {
	var r Report
	if q == nil {
		return r
	}
	for _, p := range q.ahead {
		if p.End == "" {
			p.End, p.For = GivenUp, now.Sub(q.begin)
			r.Cause = cause
		}
		r.Waits = append(r.Waits, p.Wait)
	}
	return r
}

// sleep returns nil after d, or the context's cause when that ends before.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
