package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// forwardedHeader marks requests that another broker has passed on.
const forwardedHeader = "Queue-Forwarded"

// request is a request about a queue.
type request struct {
	*http.Request
	w     http.ResponseWriter
	queue string
	// forwarded: another broker has passed it on to this one as the leader, so that it
	// is not passed on again.
	forwarded bool
	params    *agent.Query
	body      []byte
}

// named makes a handler of one that answers for a queue.
func (s *Server) named(h func(r *request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, hr *http.Request) {
		r := &request{Request: hr, w: w, queue: hr.PathValue("queue"), forwarded: hr.Header.Get(forwardedHeader) != ""}
		err := queue.CheckName("queue", r.queue)
		if err == nil && s.draining.Load() {
			err = errDraining
		}
		if err == nil {
			err = h(r)
		}
		if err != nil {
			s.fail(w, err, r.forwarded)
		}
	}
}

// known reads the parameters of the URL, of which there are these.
func (r *request) known(names ...string) *agent.Query {
	r.params = agent.NewQuery(r.Request, names...)
	return r.params
}

// read reads the body, which the agent has bounded, and which it keeps.
func (r *request) read() error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return httpapi.Errorf(http.StatusBadRequest, "", "read the body: %v", err)
	}
	r.body = body
	return nil
}

// decode reads the body as JSON. One that is empty stands for {}, if that may be.
func (r *request) decode(into any, empty bool) error {
	if err := r.read(); err != nil || empty && len(bytes.TrimSpace(r.body)) == 0 {
		return err
	}
	return httpapi.ReadJSON(bytes.NewReader(r.body), into)
}

// shard reads the parameter shard; -1: not given.
func shardOf(q *agent.Query) int {
	if k := q.Int("shard", 0, queue.MaxShards-1); k != nil {
		return *k
	}
	return -1
}

// answer sends a value as JSON.
func (r *request) answer(value any) error {
	httpapi.WriteJSON(r.w, http.StatusOK, value)
	return nil
}

// send sends what is JSON already.
func (r *request) send(body []byte) error {
	h := r.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	r.w.WriteHeader(http.StatusOK)
	_, err := r.w.Write(body)
	if err != nil {
		return errGone
	}
	return nil
}

var (
	// errDraining: this broker ends, and has done nothing.
	errDraining = errors.New("this broker is draining; ask another one")
	// errGone: nobody is left to be told.
	errGone = errors.New("the client has gone")
)

// fail answers with an error of this package or of package queue.
func (s *Server) fail(w http.ResponseWriter, err error, forwarded bool) {
	var passed *passedError
	var away *queue.NotLeaderError
	switch {
	case errors.Is(err, errGone):
		return
	case errors.As(err, &passed):
		passed.relay(w)
		return
	case errors.As(err, &away) && forwarded:
		httpapi.WriteJSON(w, http.StatusMisdirectedRequest, struct {
			*httpapi.Error
			Leader string `json:"leader,omitempty"`
		}{httpapi.Errorf(http.StatusMisdirectedRequest, "", "%v", away), away.Leader})
		return
	}
	answer, later := asAnswer(err)
	if later {
		w.Header().Set("Retry-After", "1")
	}
	httpapi.WriteError(w, answer)
}

// asAnswer gives an error the status that it stands for. Later says that certainly nothing
// was done, and that it will be possible soon.
func asAnswer(err error) (answer *httpapi.Error, later bool) {
	var field *queue.FieldError
	code := func(status int) *httpapi.Error { return httpapi.Errorf(status, "", "%v", err) }
	var away *queue.NotLeaderError
	switch {
	case errors.As(err, &answer):
		return answer, false
	case errors.As(err, &field):
		return httpapi.Errorf(http.StatusBadRequest, field.Field, "%s", field.Problem), false
	case errors.Is(err, queue.ErrUnknownQueue), errors.Is(err, queue.ErrUnknownItem):
		return code(http.StatusNotFound), false
	case errors.Is(err, queue.ErrSealed):
		return code(http.StatusConflict), false
	case errors.Is(err, queue.ErrTooLarge):
		return code(http.StatusRequestEntityTooLarge), false
	case errors.Is(err, queue.ErrFull), errors.Is(err, queue.ErrBusy):
		return code(http.StatusTooManyRequests), true
	case errors.As(err, &away), errors.Is(err, errNotDone), errors.Is(err, errDraining):
		return code(http.StatusServiceUnavailable), true
	case errors.Is(err, queue.ErrNotLeader), errors.Is(err, errUnsure), errors.Is(err, context.DeadlineExceeded):
		return httpapi.Errorf(http.StatusServiceUnavailable, "", "it may have been done: %v", err), false
	default:
		// What is left is that Consul did not do what it was asked for.
		return code(http.StatusServiceUnavailable), false
	}
}
