package agent

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// Query reads the parameters of a request. The first mistake is kept.
type Query struct {
	url.Values
	err error
}

// NewQuery refuses parameters other than the known ones: a misspelt one must not
// silently mean its default.
func NewQuery(r *http.Request, known ...string) *Query {
	q := &Query{}
	if r.URL.RawQuery == "" {
		return q
	}
	if q.Values, q.err = url.ParseQuery(r.URL.RawQuery); q.err != nil {
		q.err = httpapi.Errorf(http.StatusBadRequest, "", "the query of the URL is malformed: %v", q.err)
		return q
	}
	for name, values := range q.Values {
		switch {
		case slices.Contains(known, name):
			if len(values) > 1 {
				q.Failf(name, "is given %d times", len(values))
			}
		case len(known) == 0:
			q.Failf(name, "unknown parameter; there are none")
		default:
			q.Failf(name, "unknown parameter; there are %s", strings.Join(known, ", "))
		}
	}
	return q
}

// Err is the first mistake, an *httpapi.Error, or nil.
func (q *Query) Err() error { return q.err }

// Failf notes a mistake in a parameter.
func (q *Query) Failf(field, format string, args ...any) {
	if q.err == nil {
		q.err = httpapi.Errorf(http.StatusBadRequest, field, format, args...)
	}
}

// Duration reads a text such as "1.5s", 0 or between least and most; nil: not given.
func (q *Query) Duration(name string, least, most time.Duration) *time.Duration {
	if !q.Has(name) {
		return nil
	}
	text := q.Get(name)
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		q.Failf(name, "%q is not a duration such as \"1.5s\"", text)
	case d != 0 && (d < least || d > most):
		q.Failf(name, "%s is not between %s and %s", text, least, most)
	}
	return &d
}

// Boolean reads "true" or "false"; nil: not given.
func (q *Query) Boolean(name string) *bool {
	if !q.Has(name) {
		return nil
	}
	var b bool
	switch text := q.Get(name); text {
	case "true":
		b = true
	case "false":
	default:
		q.Failf(name, `%q is not "true" or "false"`, text)
	}
	return &b
}

// Int reads a whole number from least to most; nil: not given.
func (q *Query) Int(name string, least, most int) *int {
	if !q.Has(name) {
		return nil
	}
	text := q.Get(name)
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		q.Failf(name, "%q is not a whole number from %d to %d", text, least, most)
	}
	return &n
}
