package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// watch sends the status of an election now, at each change, and again from time to
// time.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, name string) {
	if q := agent.NewQuery(r); q.Err() != nil {
		fail(w, q.Err())
		return
	}
	s.watches.Add(1)
	defer s.watches.Add(-1)
	stream, err := httpapi.OpenStream(w)
	if err != nil {
		return // nobody is left to be told
	}
	changes := s.elector.Watch(r.Context(), name)
	again := time.NewTimer(s.refresh)
	defer again.Stop()
	for {
		var st election.Status
		var ok bool
		select {
		case st, ok = <-changes:
			if !ok {
				return
			}
		case <-again.C:
			// That the election is not there is news, too.
			if st, err = s.elector.Status(name); err != nil && !errors.Is(err, election.ErrUnknown) {
				return
			}
		}
		if stream.Send("status", st) != nil {
			return
		}
		again.Reset(s.refresh)
	}
}

// trustEvent is the data of a "trusted" event.
type trustEvent struct {
	Token     uint64 `json:"token"`
	TrustedMS int64  `json:"trusted_ms"`
}

// lostEvent is the data of a "lost" event. Token is 0 if this process had not led.
type lostEvent struct {
	Token  uint64 `json:"token"`
	Reason string `json:"reason"`
}

// hold leads for as long as the stream is open.
func (s *Server) hold(w http.ResponseWriter, r *http.Request, name string) {
	q := agent.NewQuery(r, "mode", "priority", "lease")
	wish := readWish(q)
	if q.Err() != nil {
		fail(w, q.Err())
		return
	}
	j, err := s.join(r.Context(), name, wish, byHold)
	if err != nil {
		fail(w, err)
		return
	}
	s.holds.Add(1)
	defer s.holds.Add(-1)
	defer s.drop(r.Context(), j)
	stream, err := httpapi.OpenStream(w)
	if err != nil {
		return
	}
	h := holder{s: s, j: j, name: name, stream: stream}
	l := h.wait(r.Context())
	if l != nil {
		h.lead(r.Context(), l)
	}
}

// drop ends what the stream stood for: at once, because the next leader waits.
func (s *Server) drop(ctx context.Context, j *join) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUp)
	defer cancel()
	var err error
	if s.detach(j) {
		err = s.leave(ctx, j)
	} else if j.candidate.Leadership() != nil {
		err = j.candidate.Resign(ctx)
	}
	s.release(j)
	if err != nil && !isDone(j.candidate) {
		s.log.Warn("resign for a client that has gone", "election", j.candidate.Name(), "error", err)
	}
}

// holder is one hold stream.
type holder struct {
	s      *Server
	j      *join
	name   string
	stream *httpapi.Stream
}

// wait sends "candidate" until this process leads. It returns nil if the stream is
// over before.
func (h *holder) wait(ctx context.Context) *election.Leadership {
	if h.send("candidate") != nil {
		return nil
	}
	type result struct {
		l   *election.Leadership
		err error
	}
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	led := make(chan result, 1)
	go func() {
		l, err := h.j.candidate.Lead(waiting)
		led <- result{l, err}
	}()
	again := time.NewTicker(h.s.refresh)
	defer again.Stop()
	for {
		select {
		case got := <-led:
			if got.err == nil {
				return got.l
			}
			if ctx.Err() == nil {
				_ = h.stream.Send("lost", lostEvent{Reason: got.err.Error()}) // it ends in any case
			}
			return nil
		case <-again.C:
			if h.send("candidate") != nil {
				cancel()
				<-led
				return nil
			}
		}
	}
}

// lead sends "leader", and what follows, until leadership or the stream ends.
func (h *holder) lead(ctx context.Context, l term) {
	st, err := h.s.elector.Status(h.name)
	if err != nil || !st.Self || st.Token != l.Token() {
		// The term is over already, and somebody else may lead.
		h.lost(l)
		return
	}
	if h.stream.Send("leader", st) == nil {
		h.trust(ctx, l)
	}
}

// trust sends "trusted" three times a window, or more often if that is long.
func (h *holder) trust(ctx context.Context, l term) {
	pause := func() time.Duration { return min(max(l.Trusted()/3, 50*time.Millisecond), h.s.refresh) }
	timer := time.NewTimer(pause())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.Done():
			h.lost(l)
			return
		case <-timer.C:
			left := l.Trusted()
			if left <= 0 {
				h.lost(l)
				return
			}
			if h.stream.Send("trusted", trustEvent{Token: l.Token(), TrustedMS: left.Milliseconds()}) != nil {
				return
			}
			timer.Reset(pause())
		}
	}
}

// lost sends why the term is over. What has not been told yet can only be that trust
// has run out.
func (h *holder) lost(l term) {
	reason := l.Err()
	if reason == nil {
		reason = election.ErrTrustExpired
	}
	_ = h.stream.Send("lost", lostEvent{Token: l.Token(), Reason: reason.Error()}) // it ends in any case
}

// send sends the present status as an event.
func (h *holder) send(event string) error {
	st, err := h.s.elector.Status(h.name)
	if err != nil {
		return err
	}
	return h.stream.Send(event, st)
}
