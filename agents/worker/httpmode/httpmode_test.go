package httpmode

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDo(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   attempt.Result
	}{
		"done":     {200, "ok", attempt.Result{Action: queue.Done}},
		"created":  {201, "", attempt.Result{Action: queue.Done}},
		"skipped":  {204, "", attempt.Result{Action: queue.Skip}},
		"rejected": {422, "no image", attempt.Result{Action: queue.Reject, Reason: "no image"}},
		"failed":   {500, "", attempt.Result{Action: queue.Retry, Reason: "the program answered 500"}},
		"redirect": {302, "", attempt.Result{Action: queue.Retry, Reason: "the program answered 302"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got request
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
					t.Error(err)
				}
				w.WriteHeader(c.status)
				if c.status != http.StatusNoContent {
					_, _ = w.Write([]byte(c.body))
				}
			}))
			defer s.Close()
			p, err := New(Config{URL: s.URL + "/work"})
			must.NoError(t, err)
			must.NoError(t, p.Ready(t.Context()))
			must.Eq(t, c.want, p.Do(t.Context(), &attempt.Attempt{Queue: "q", Claim: 3, Input: "/in", Output: "/out"}))
			must.Eq(t, request{Queue: "q", Item: "0-0", Claim: 3, Input: "/in", Output: "/out"}, got)
			must.NoError(t, p.Close())
		})
	}
}

// A program that is not there has not failed at an item.
func TestAway(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	p, err := New(Config{URL: s.URL})
	must.NoError(t, err)
	s.Close()
	must.Error(t, p.Ready(t.Context()))
	must.Eq(t, queue.Release, p.Do(t.Context(), &attempt.Attempt{}).Action)
	must.NoError(t, p.Close())
}

func TestBadURL(t *testing.T) {
	for _, u := range []string{"", "x", "ftp://h", "http://", "http://u@h"} {
		_, err := New(Config{URL: u})
		must.Error(t, err)
	}
}
