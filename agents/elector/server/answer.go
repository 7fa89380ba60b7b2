package server

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// refusal is an error that says besides how things are, so that the client need not
// ask who leads instead.
type refusal struct {
	*httpapi.Error
	Status *election.Status `json:"status"`
}

// handler answers requests about the election of that name.
type handler func(w http.ResponseWriter, r *http.Request, name string)

// named checks the name of the election before the handler sees it.
func named(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		if err := election.CheckName(name); err != nil {
			fail(w, err)
			return
		}
		h(w, r, name)
	}
}

// bodiless refuses a body, for a parameter that is put there must not silently mean its
// default.
func bodiless(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, name string) {
		switch _, err := io.ReadFull(r.Body, make([]byte, 1)); {
		case err == nil:
			fail(w, httpapi.Errorf(http.StatusBadRequest, "", "this request takes no body; parameters belong into the query"))
		case !errors.Is(err, io.EOF):
			fail(w, httpapi.Errorf(http.StatusBadRequest, "", "read the body: %v", err))
		default:
			h(w, r, name)
		}
	}
}

// getOnly refuses HEAD, which [http.ServeMux] takes for GET, where it would begin what
// has no end.
func getOnly(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request, name string) {
		if r.Method == http.MethodHead {
			w.Header().Set("Allow", http.MethodGet)
			fail(w, httpapi.Errorf(http.StatusMethodNotAllowed, "", "HEAD is not possible on %s, but GET", r.URL.Path))
			return
		}
		h(w, r, name)
	}
}

// fail answers with an error of this package or of package election.
func fail(w http.ResponseWriter, err error) { httpapi.WriteError(w, asAnswer(err)) }

// asAnswer gives an error the status that it stands for.
func asAnswer(err error) error {
	var answer *httpapi.Error
	var field *election.FieldError
	switch {
	case errors.As(err, &answer):
		return err
	case errors.As(err, &field):
		return httpapi.Errorf(http.StatusBadRequest, field.Field, "%s", field.Problem)
	case errors.Is(err, election.ErrUnknown), errors.Is(err, election.ErrLeft), errors.Is(err, election.ErrLeaseExpired):
		return httpapi.Errorf(http.StatusNotFound, "", "%v", err)
	case errors.Is(err, election.ErrUnknownCandidate):
		return httpapi.Errorf(http.StatusNotFound, "to", "%v", err)
	case errors.Is(err, election.ErrNotLeader), errors.Is(err, election.ErrJoined):
		return httpapi.Errorf(http.StatusConflict, "", "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return httpapi.Errorf(http.StatusServiceUnavailable, "", "not done in time: %v", err)
	default:
		// What is left is that Consul did not do what it was asked for.
		return httpapi.Errorf(http.StatusServiceUnavailable, "", "%v", err)
	}
}

// refuse answers that this process does not lead, and who does.
func (s *Server) refuse(w http.ResponseWriter, name, format string, args ...any) {
	r := refusal{Error: httpapi.Errorf(http.StatusConflict, "", format, args...)}
	if st, err := s.elector.Status(name); err == nil {
		r.Status = &st
	}
	httpapi.WriteJSON(w, http.StatusConflict, r)
}

// answer sends the status of an election.
func (s *Server) answer(w http.ResponseWriter, code int, name string) {
	st, err := s.elector.Status(name)
	if err != nil {
		fail(w, err)
		return
	}
	httpapi.WriteJSON(w, code, st)
}
