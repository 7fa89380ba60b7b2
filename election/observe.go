package election

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Status returns what is known of an election under the prefix, joined or not. The
// error is ErrUnknown or ErrClosed.
func (e *Elector) Status(name string) (Status, error) {
	var s Status
	known := false
	if !e.call(e.ctx, func(_ *core, now time.Duration) []action {
		s, known = e.status(now, name)
		return nil
	}) {
		return Status{}, ErrClosed
	}
	if !known {
		return s, fmt.Errorf("election %q: %w", name, ErrUnknown)
	}
	return s, nil
}

// List returns what is known of all elections under the prefix, by name.
func (e *Elector) List() []Status {
	var list []Status
	e.call(e.ctx, func(c *core, now time.Duration) []action {
		names := map[string]bool{}
		for name := range c.view.leaders {
			names[name] = true
		}
		for name := range c.byName {
			names[name] = true
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			s, _ := e.status(now, name)
			list = append(list, s)
		}
		return nil
	})
	return list
}

// status is Status within the loop.
func (e *Elector) status(now time.Duration, name string) (Status, bool) {
	c := e.core
	p, k := c.byName[name], lockKey{}
	known := false
	if c.haveView {
		k, known = c.view.leaders[name]
	}
	s := Status{Election: name, Mode: k.rec.Mode, Joined: p != nil, Observed: -1}
	if c.hasBeen {
		s.Observed = max(0, now-c.confirmed)
	}
	if k.session != "" {
		s.Leader = &Leader{ID: k.rec.Candidate, Address: k.rec.Address, Meta: k.rec.Meta}
		s.Token, s.Term = k.modify, k.lock
	}
	if p != nil {
		if s.Mode == "" {
			s.Mode = p.opts.Mode
		}
		if s.Error = e.whyNot(now, p.opts.Mode); s.Error == "" {
			s.Error = p.refusal
		}
		if p.phase == leading && p.lead.Valid() {
			s.Self, s.Trusted = true, p.lead.Trusted()
			// The view may not have come to it yet.
			s.Leader = &Leader{ID: c.self.ID, Address: c.self.Address, Meta: c.self.Meta}
			s.Mode, s.Token, s.Term = p.opts.Mode, p.token, p.term
		}
	}
	for i, r := range rank(c.view, name) {
		reg := c.view.candidates[r.id].reg
		s.Candidates = append(s.Candidates, CandidateInfo{ID: r.id, Address: reg.Address, Meta: reg.Meta, Rank: i})
	}
	return s, known || p != nil
}

// whyNot says why this process cannot take part in elections of a mode.
func (e *Elector) whyNot(now time.Duration, m Mode) string {
	text := e.core.trouble(now, m, e.cfg.timing(m).trust)
	if text == "" {
		return ""
	}
	for _, source := range []string{"heartbeat", "session " + string(m), "registration", "watch", "read"} {
		if t := e.troubles[source]; t != "" && text != e.core.refusal {
			return text + ": " + t
		}
	}
	return text
}

// Health says whether this process can take part in elections of the default mode, and
// hears from Consul.
func (e *Elector) Health() Health {
	h := Health{Reason: ErrClosed.Error()}
	e.call(e.ctx, func(_ *core, now time.Duration) []action {
		h.Reason = e.whyNot(now, e.cfg.Mode)
		h.Ready = h.Reason == ""
		return nil
	})
	return h
}

// Stats returns the counters.
func (e *Elector) Stats() Stats {
	s := Stats{
		Losses: map[string]uint64{}, ConsulRequests: e.consul.requests.Load(), ConsulErrors: e.consul.failures.Load(),
		Sessions: e.sessions.Load(), Observed: -1,
	}
	e.call(e.ctx, func(c *core, now time.Duration) []action {
		s.Joined, s.Gains = len(c.campaigns), c.gains
		maps.Copy(s.Losses, c.losses)
		for _, p := range c.campaigns {
			if p.phase == leading && p.lead.Valid() {
				s.Leading++
			}
		}
		if c.hasBeen {
			s.Observed = max(0, now-c.confirmed)
		}
		return nil
	})
	return s
}

// watcher is a subscription to one election.
type watcher struct {
	name string
	ch   chan Status // holds the latest
	last string      // what was sent, without the times
}

// Watch returns a channel that gets the status of an election now and whenever
// something about it changes, the passing of time apart. A slow reader misses what came
// in between, never the latest. The channel is closed when the context ends or the
// Elector is closed.
func (e *Elector) Watch(ctx context.Context, name string) <-chan Status {
	w := &watcher{name: name, ch: make(chan Status, 1)}
	out := make(chan Status)
	if !e.post(ctx, func(*core, time.Duration) []action {
		e.watchers[w] = struct{}{}
		e.wg.Go(func() { e.serve(ctx, w, out) })
		return nil
	}) {
		close(out)
	}
	return out
}

// serve passes the latest status on, until the subscription ends.
func (e *Elector) serve(ctx context.Context, w *watcher, out chan<- Status) {
	defer close(out)
	defer e.post(e.ctx, func(*core, time.Duration) []action { delete(e.watchers, w); return nil })
	for {
		var s Status
		select {
		case s = <-w.ch:
		case <-ctx.Done():
			return
		case <-e.ctx.Done():
			return
		}
		for taken := false; !taken; {
			select {
			case s = <-w.ch: // what nobody has taken is out of date
			case out <- s:
				taken = true
			case <-ctx.Done():
				return
			case <-e.ctx.Done():
				return
			}
		}
	}
}

// tell gives the watchers what is new.
func (e *Elector) tell() {
	if len(e.watchers) == 0 {
		return
	}
	now := e.clock.Now()
	seen := map[string]Status{}
	for w := range e.watchers {
		s, ok := seen[w.name]
		if !ok {
			s, _ = e.status(now, w.name)
			seen[w.name] = s
		}
		if sum := s.summary(); sum != w.last {
			w.last = sum
			select {
			case <-w.ch: // out of date
			default:
			}
			w.ch <- s // only the loop sends, and there is room now
		}
	}
}

// summary is everything of a status but the times.
func (s Status) summary() string {
	s.Trusted, s.Observed = 0, 0
	b, err := json.Marshal(s)
	if err != nil {
		panic("election: encode status: " + err.Error()) // strings and numbers only
	}
	return string(b)
}
