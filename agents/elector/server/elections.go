package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// put makes this process a candidate and waits, if asked to, until it leads.
func (s *Server) put(w http.ResponseWriter, r *http.Request, name string) {
	q := agent.NewQuery(r, "wait", "mode", "priority", "lease")
	wait := q.Duration("wait", 0, maxWait)
	wish := readWish(q)
	if q.Err() != nil {
		fail(w, q.Err())
		return
	}
	j, err := s.join(r.Context(), name, wish, byPut)
	if err != nil {
		fail(w, err)
		return
	}
	if wait != nil && *wait > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), *wait)
		_, err = j.candidate.Lead(ctx)
		cancel()
		// That the wait is over is no failure, but a status of its own.
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			fail(w, err)
			return
		}
	}
	st, err := s.elector.Status(name)
	switch {
	case err != nil:
		fail(w, err)
	case st.Self:
		httpapi.WriteJSON(w, http.StatusOK, st)
	case wait != nil && *wait > 0 && st.Error != "":
		// The candidate stays: it takes part as soon as it can.
		httpapi.WriteJSON(w, http.StatusServiceUnavailable, refusal{
			Error: httpapi.Errorf(http.StatusServiceUnavailable, "", "cannot take part: %s", st.Error), Status: &st,
		})
	default:
		httpapi.WriteJSON(w, http.StatusAccepted, st)
	}
}

// renew extends the application's lease.
func (s *Server) renew(w http.ResponseWriter, r *http.Request, name string) {
	if q := agent.NewQuery(r); q.Err() != nil {
		fail(w, q.Err())
		return
	}
	j, err := s.joined(name)
	if err != nil {
		fail(w, err)
		return
	}
	switch err := j.candidate.Renew(); {
	case errors.Is(err, election.ErrNotLeader):
		s.refuse(w, name, "not the leader; the lease is renewed all the same")
	case err != nil:
		fail(w, err)
	default:
		s.answer(w, http.StatusOK, name)
	}
}

// delete resigns, hands over or leaves.
func (s *Server) delete(w http.ResponseWriter, r *http.Request, name string) {
	q := agent.NewQuery(r, "to", "leave")
	to, leave := q.Get("to"), q.Boolean("leave")
	switch {
	case q.Err() != nil:
	case q.Has("to"):
		if err := election.CheckID(to); err != nil {
			q.Failf("to", "%q cannot be the name of a candidate", to)
		} else if leave != nil && *leave {
			q.Failf("leave", "who hands over stays a candidate; leave afterwards")
		}
	}
	if q.Err() != nil {
		fail(w, q.Err())
		return
	}
	j, err := s.joined(name)
	if err != nil {
		fail(w, err)
		return
	}
	// The client may go: what it asked for is done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), giveUp)
	defer cancel()
	switch {
	case to != "":
		err = j.candidate.HandOver(ctx, to)
	case leave != nil && *leave, leave == nil && !s.stays(j):
		err = s.leave(ctx, j)
	default:
		err = j.candidate.Resign(ctx)
	}
	switch {
	case errors.Is(err, election.ErrNotLeader):
		s.refuse(w, name, "not the leader")
	case err != nil:
		fail(w, err)
	default:
		st, err := s.elector.Status(name)
		if err != nil {
			// Only this candidate had known the election.
			st = election.Status{Election: name, Observed: -1}
		}
		httpapi.WriteJSON(w, http.StatusOK, st)
	}
}

// status tells about one election.
func (s *Server) status(w http.ResponseWriter, r *http.Request, name string) {
	if q := agent.NewQuery(r); q.Err() != nil {
		fail(w, q.Err())
		return
	}
	s.answer(w, http.StatusOK, name)
}

// list tells about all elections.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	q := agent.NewQuery(r, "joined")
	joined := q.Boolean("joined")
	if q.Err() != nil {
		fail(w, q.Err())
		return
	}
	answer := struct {
		Elections []election.Status `json:"elections"`
	}{Elections: []election.Status{}}
	for _, st := range s.elector.List() {
		if joined == nil || *joined == st.Joined {
			answer.Elections = append(answer.Elections, st)
		}
	}
	httpapi.WriteJSON(w, http.StatusOK, answer)
}
