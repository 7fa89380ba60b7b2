package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/shoenig/test/must"
)

// What a leader elsewhere says, or does not say, reaches the client.
func TestLeaderElsewhere(t *testing.T) {
	const keyed, plain, ack = `{"items":[{"key":"x"}]}`, `{"items":[{}]}`, `{"acks":[{"id":"0-0","claim":1}]}`
	cut := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	say := func(code int, body string, head ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for i := 0; i < len(head); i += 2 {
				w.Header().Set(head[i], head[i+1])
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		path, body string
		answers    []func(http.ResponseWriter) // one after the other; afterwards all is well
		code       int
		later      string
		want       string
		asked      int
	}{
		"busy":               {"/items", plain, []func(http.ResponseWriter){say(429, `{"error":"busy"}`, "Retry-After", "1")}, 429, "1", `{"error":"busy"}`, 1},
		"refused":            {"/items", plain, []func(http.ResponseWriter){say(409, `{"error":"sealed"}`)}, 409, "", `{"error":"sealed"}`, 1},
		"perhaps done":       {"/items", plain, []func(http.ResponseWriter){say(503, `{"error":"it may have been done"}`)}, 503, "", `{"error":"it may have been done"}`, 1},
		"no leader any more": {"/items", plain, []func(http.ResponseWriter){say(421, `{"error":"no"}`)}, 200, "", `{"items":[]}`, 2},
		"cut":                {"/items", plain, []func(http.ResponseWriter){cut}, 503, "", `{"error":"it may have been done: the leader did not answer at`, 1},
		"cut, with keys":     {"/items", keyed, []func(http.ResponseWriter){cut, cut}, 200, "", `{"items":[]}`, 3},
		"cut, an ack":        {"/ack", ack, []func(http.ResponseWriter){cut}, 200, "", `{"results":[{"id":"0-0","verdict":"accepted"}]}`, 2},
		"cut, a claim":       {"/claim", `{"worker":"w","wait":"30s"}`, []func(http.ResponseWriter){cut, say(503, `{}`)}, 200, "", `{"items":[{"id":"0-0"`, 3},
		"nonsense":           {"/extend", `{"shard":0}`, []func(http.ResponseWriter){say(200, `<html>`)}, 200, "", `{}`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			leader := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					w.WriteHeader(http.StatusNotFound) // the sampler
					return
				}
				must.Eq(t, "1", r.Header.Get(forwardedHeader))
				must.Eq(t, "Bearer secret", r.Header.Get("Authorization"))
				if n := int(asked.Add(1)); n <= len(c.answers) {
					c.answers[n-1](w)
					return
				}
				_, _ = io.WriteString(w, map[string]string{
					"/items": `{"items":[]}`, "/ack": `{"results":[{"id":"0-0","verdict":"accepted"}]}`, "/claim": `{"items":[{"id":"0-0","claim":1,"item":{}}]}`, "/extend": `{}`,
				}[c.path])
			}))
			n := nodes(t, 1)[0]
			t.Cleanup(leader.Close)
			makeQueue(t, "a", 1, n)
			n.Lead("a", 0, leader.URL)
			if c.body == keyed {
				// The keys are looked at by whoever leads a part.
				makeQueue(t, "a", 2, n)
				n.Lead("a", 1, leader.URL)
				n.Lead("a", 0, leader.URL)
			}
			r := n.do(t, http.MethodPost, "/v1/queues/a"+c.path, c.body)
			must.Eq(t, c.code, r.code, must.Sprint(r.body))
			must.Eq(t, c.later, r.head.Get("Retry-After"))
			must.StrHasPrefix(t, c.want, r.body)
			must.Eq(t, c.asked, int(asked.Load()))
		})
	}
}

// A broker that is refused by another one says so, and what to do.
func TestPeerRefuses(t *testing.T) {
	leader := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
	}))
	n := nodes(t, 1)[0]
	t.Cleanup(leader.Close)
	makeQueue(t, "a", 1, n)
	n.Lead("a", 0, leader.URL)
	r := n.do(t, http.MethodGet, "/v1/queues/a", "")
	must.StrContains(t, r.body, "refuses this one; set token_file in peer { }")
}
