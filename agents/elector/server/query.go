package server

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// query reads the parameters of a request. The first mistake is kept in err.
type query struct {
	values url.Values
	err    error
}

// newQuery refuses parameters other than the known ones: a misspelt one must not
// silently mean its default.
func newQuery(r *http.Request, known ...string) *query {
	q := &query{}
	if q.values, q.err = url.ParseQuery(r.URL.RawQuery); q.err != nil {
		q.err = agent.Errorf(http.StatusBadRequest, "", "the query of the URL is malformed: %v", q.err)
		return q
	}
next:
	for name, values := range q.values {
		for _, k := range known {
			if name == k {
				if len(values) > 1 {
					q.fail(name, "is given %d times", len(values))
				}
				continue next
			}
		}
		if len(known) == 0 {
			q.fail(name, "unknown parameter; there are none")
		} else {
			q.fail(name, "unknown parameter; there are %s", strings.Join(known, ", "))
		}
	}
	return q
}

func (q *query) fail(field, format string, args ...any) {
	if q.err == nil {
		q.err = agent.Errorf(http.StatusBadRequest, field, format, args...)
	}
}

// duration reads a text such as "1.5s"; nil: not given.
func (q *query) duration(name string, least, most time.Duration) *time.Duration {
	if !q.values.Has(name) {
		return nil
	}
	text := q.values.Get(name)
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		q.fail(name, "%q is not a duration such as \"1.5s\"", text)
	case d != 0 && (d < least || d > most):
		q.fail(name, "%s is not between %s and %s", text, least, most)
	}
	return &d
}

// boolean reads "true" or "false"; nil: not given.
func (q *query) boolean(name string) *bool {
	if !q.values.Has(name) {
		return nil
	}
	var b bool
	switch text := q.values.Get(name); text {
	case "true":
		b = true
	case "false":
	default:
		q.fail(name, `%q is not "true" or "false"`, text)
	}
	return &b
}

// wish reads mode, priority and lease.
func (q *query) wish() wish {
	var w wish
	if q.values.Has("mode") {
		mode, err := election.ParseMode(q.values.Get("mode"))
		if err != nil {
			q.fail("mode", "%v", err)
		}
		w.mode = &mode
	}
	if q.values.Has("priority") {
		text := q.values.Get("priority")
		n, err := strconv.Atoi(text)
		if err != nil || n < -election.MaxPriority || n > election.MaxPriority {
			q.fail("priority", "%q is not a whole number from -%d to %d", text, election.MaxPriority, election.MaxPriority)
		}
		w.priority = &n
	}
	w.lease = q.duration("lease", election.MinLease, election.MaxLease)
	return w
}
