package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/hook"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// origin is who made a candidate, and so who ends it.
type origin string

const (
	byConfig origin = "configuration"
	byPut    origin = "PUT"
	byHold   origin = "hold"
)

// join is a candidate of this process.
type join struct {
	candidate *election.Candidate
	// Guarded by Server.mu.
	origin  origin
	held    bool          // a hold stream is attached
	dropped chan struct{} // closed when what the stream stood for is over; nil: it is open, or not there
	leaving bool          // it is on its way out
}

// term is what has to be known of a leadership.
type term interface {
	Token() uint64
	Term() uint64
	Valid() bool
	Trusted() time.Duration
	Done() <-chan struct{}
	Err() error
	Context() context.Context
}

// wish is what a client asks for. What is nil it does not care about.
type wish struct {
	mode     *election.Mode
	priority *int
	lease    *time.Duration
}

// errLeaving says that a candidate, or the stream that holds it, is on its way out.
var errLeaving = errors.New("being left")

// join returns the candidate of an election and makes it if there is none. One that is
// there has to be as wished. The error is an answer for the client, or a
// *election.FieldError.
func (s *Server) join(ctx context.Context, name string, w wish, by origin) (*join, error) {
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	for {
		j, leaving, err := s.tryJoin(name, w, by)
		if !errors.Is(err, errLeaving) {
			return j, err
		}
		// A client that comes back at once must not be punished for its stream's
		// end, which is still being worked off.
		select {
		case <-leaving:
		case <-ctx.Done():
			return nil, httpapi.Errorf(http.StatusServiceUnavailable, "", "the election is still being left; try again")
		}
	}
}

// tryJoin is join, but returns errLeaving and the end of what is in the way.
func (s *Server) tryJoin(name string, w wish, by origin) (*join, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, nil, httpapi.Errorf(http.StatusServiceUnavailable, "", "this elector is draining and joins no elections")
	}
	if j := s.joins[name]; j != nil && !isDone(j.candidate) {
		if j.leaving {
			return nil, j.candidate.Done(), errLeaving
		}
		if err := j.matches(w); err != nil {
			return nil, nil, err
		}
		switch {
		case by == byHold && j.dropped != nil:
			return nil, j.dropped, errLeaving
		case by == byHold && j.held:
			return nil, nil, httpapi.Errorf(http.StatusConflict, "", "another client holds this election already")
		case by == byHold:
			j.held = true
		case j.origin == byHold:
			j.origin = by // who says PUT stays a candidate when the stream ends
		}
		return j, nil, nil
	}
	j := &join{origin: by, held: by == byHold}
	var options election.Options
	e, ok := s.configured[name]
	if ok {
		options = election.Options{Mode: e.Mode, Priority: e.Priority}
		s.attach(e, &options)
		if !e.OnDemand {
			j.origin = byConfig
		}
	}
	w.over(&options)
	var err error
	if j.candidate, err = s.elector.Join(name, options); err != nil {
		return nil, nil, err
	}
	s.joins[name] = j
	if e.Service != nil {
		s.catalog.Set(name, *e.Service, false)
	}
	if e.Service != nil || j.origin != byConfig {
		// It may also end by its lease, and nobody asks for it again.
		s.followers.Go(func() {
			<-j.candidate.Done()
			s.forget(j)
		})
	}
	return j, nil, nil
}

// over puts the wishes over the options.
func (w wish) over(o *election.Options) {
	if w.mode != nil {
		o.Mode = *w.mode
	}
	if w.priority != nil {
		o.Priority = *w.priority
	}
	if w.lease != nil {
		o.Lease = *w.lease
	}
}

// matches returns the answer for a client that wishes what the candidate is not.
func (j *join) matches(w wish) error {
	const conflict = http.StatusConflict
	o := j.candidate.Options()
	switch {
	case w.mode != nil && *w.mode != o.Mode:
		return httpapi.Errorf(conflict, "mode", "the election is joined with mode %s; leave it first", o.Mode)
	case w.priority != nil && *w.priority != o.Priority:
		return httpapi.Errorf(conflict, "priority", "the election is joined with priority %d; leave it first", o.Priority)
	case w.lease != nil && *w.lease != o.Lease:
		return httpapi.Errorf(conflict, "lease", "the election is joined with a lease of %s; leave it first", o.Lease)
	}
	return nil
}

// joined returns the live candidate of an election, or the answer that there is none.
func (s *Server) joined(name string) (*join, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.joins[name]; j != nil && !isDone(j.candidate) {
		return j, nil
	}
	return nil, httpapi.Errorf(http.StatusNotFound, "", "this elector is no candidate in election %q", name)
}

// stays says whether a resignation leaves the candidate in the election.
func (s *Server) stays(j *join) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return j.origin == byConfig
}

// detach begins the end of a hold stream, and says whether the candidate ends with it:
// then nobody attaches to it any more. Others that want to hold it wait for release.
func (s *Server) detach(j *join) (leave bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.dropped = make(chan struct{})
	j.leaving = j.leaving || j.origin == byHold
	return j.origin == byHold
}

// release lets another hold stream attach.
func (s *Server) release(j *join) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.held = false
	close(j.dropped)
	j.dropped = nil
}

// leave ends a candidate. It returns when the lock is released, or when ctx ends.
func (s *Server) leave(ctx context.Context, j *join) error {
	s.mu.Lock()
	j.leaving = true
	s.mu.Unlock()
	if err := j.candidate.Leave(ctx); err != nil {
		return err
	}
	s.forget(j)
	return nil
}

// forget drops a candidate that has left.
func (s *Server) forget(j *join) {
	name := j.candidate.Name()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.joins[name] == j {
		delete(s.joins, name)
		if s.configured[name].Service != nil {
			s.catalog.Remove(name)
		}
	}
}

// attach makes the configured hooks and the service follow the leadership.
func (s *Server) attach(e Election, o *election.Options) {
	if e.Service == nil && e.OnGain == nil && e.OnLoss == nil {
		return
	}
	o.OnGain = func(l *election.Leadership) { s.gained(e, l) }
	o.OnLoss = func(l *election.Leadership, why error) { s.lost(e, l, why) }
}

// gained follows the beginning of a term. It may be told late, because the hook of the
// term before runs to its end.
func (s *Server) gained(e Election, l term) {
	if !l.Valid() {
		return
	}
	if e.Service != nil {
		s.catalog.Set(e.Name, *e.Service, true)
	}
	if e.OnGain != nil {
		s.runHook(l.Context(), *e.OnGain, hook.Event{Kind: hook.Gain, Election: e.Name, Token: l.Token(), Term: l.Term()})
	}
}

// lost follows the end of a term.
func (s *Server) lost(e Election, l term, why error) {
	if e.Service != nil {
		// Before the lock is released, so that two leaders are not in DNS. The
		// wait is short, because the next leader waits for it.
		ctx, cancel := context.WithTimeout(context.Background(), untag)
		if err := s.catalog.SetWait(ctx, e.Name, *e.Service, false); err != nil {
			s.log.Warn("leader's tag is still in the catalog", "election", e.Name, "error", err)
		}
		cancel()
	}
	if e.OnLoss != nil {
		s.runHook(s.hooks, *e.OnLoss, hook.Event{
			Kind: hook.Loss, Election: e.Name, Token: l.Token(), Term: l.Term(), Reason: why.Error(),
		})
	}
}

// runHook runs a hook and logs its failure: leadership does not depend on it.
func (s *Server) runHook(ctx context.Context, c hook.Command, ev hook.Event) {
	if err := hook.Run(ctx, s.log, c, ev); err != nil {
		s.hookFailures[hookIndex(ev.Kind)].Add(1)
		s.log.Error("hook failed", "election", ev.Election, "error", err)
	}
}

// hookIndex is the place of a kind in Server.hookFailures.
func hookIndex(k hook.Kind) int {
	if k == hook.Gain {
		return 0
	}
	return 1
}

func isDone(c *election.Candidate) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}
