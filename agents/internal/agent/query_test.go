package agent

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestQuery(t *testing.T) {
	q := NewQuery(httptest.NewRequest(http.MethodGet, "/?wait=1.5s&on=true&n=7", nil), "wait", "on", "n", "more")
	must.Eq(t, 1500*time.Millisecond, *q.Duration("wait", time.Second, time.Minute))
	must.True(t, *q.Boolean("on"))
	must.Eq(t, 7, *q.Int("n", 1, 9))
	must.Nil(t, q.Duration("more", 0, 0))
	must.Nil(t, q.Boolean("more"))
	must.Nil(t, q.Int("more", 0, 0))
	must.NoError(t, q.Err())

	for query, want := range map[string]string{
		"x=1":          "x: unknown parameter; there are wait, on, n",
		"n=1&n=2":      "n: is given 2 times",
		"%zz":          `the query of the URL is malformed: invalid URL escape "%zz"`,
		"wait=soon":    `wait: "soon" is not a duration such as "1.5s"`,
		"wait=1ms":     "wait: 1ms is not between 1s and 1m0s",
		"on=yes":       `on: "yes" is not "true" or "false"`,
		"n=10":         `n: "10" is not a whole number from 1 to 9`,
		"n=x&wait=1ms": "wait: 1ms is not between 1s and 1m0s", // the first that is read
	} {
		t.Run(query, func(t *testing.T) {
			q := NewQuery(httptest.NewRequest(http.MethodGet, "/?"+query, nil), "wait", "on", "n")
			q.Duration("wait", time.Second, time.Minute)
			q.Boolean("on")
			q.Int("n", 1, 9)
			must.EqError(t, q.Err(), want)
		})
	}
	must.EqError(t, NewQuery(httptest.NewRequest(http.MethodGet, "/?x=1", nil)).Err(), "x: unknown parameter; there are none")
}
