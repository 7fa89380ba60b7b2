package catalog

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// alone is a catalog whose Consul does not answer. What needs one is tested against a
// real Consul, in e2e.
func alone(t *testing.T, cfg Config) *Catalog {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(&api.Config{Address: "127.0.0.1:1", Transport: transport})
	must.NoError(t, err)
	cfg.Consul, cfg.ID = client, "me"
	return New(cfg)
}

func TestRegistration(t *testing.T) {
	c := alone(t, Config{Alias: "elector-me-1"})
	must.NoError(t, c.Close(t.Context()))
	s := Service{Name: "web", Address: "10.0.0.1", Port: 80, Tags: []string{"v1"}}
	cases := map[string]struct {
		leading bool
		tag     string
		want    []string
	}{
		"candidate": {tag: "primary", want: []string{"v1", "candidate"}},
		"leader":    {leading: true, want: []string{"v1", "leader"}},
		"own tag":   {leading: true, tag: "primary", want: []string{"v1", "primary"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := s
			s.LeaderTag = tc.tag
			r := c.registration("x", s, tc.leading)
			must.Eq(t, "web-x-me", r.ID)
			must.Eq(t, tc.want, r.Tags)
			must.Eq(t, "elector-me-1", r.Check.AliasService)
		})
	}
	must.Eq(t, []string{"v1"}, s.Tags)

	c = alone(t, Config{})
	must.NoError(t, c.Close(t.Context()))
	must.Nil(t, c.registration("x", s, true).Check)
}

// Nobody waits for a Consul that is not there, longer than he wants to.
func TestUnreachable(t *testing.T) {
	c := alone(t, Config{})
	for range 100 {
		c.Set("x", Service{Name: "web"}, false)
		c.Set("x", Service{Name: "web"}, true)
	}
	c.Remove("y")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	must.ErrorIs(t, c.SetWait(ctx, "x", Service{Name: "web"}, false), context.DeadlineExceeded)
	must.Positive(t, c.Failures())
	must.ErrorContains(t, c.Close(ctx), `deregister the service of election "x": context deadline exceeded`)
	must.ErrorIs(t, c.SetWait(t.Context(), "x", Service{}, false), ErrClosed)
}

// roundTrip is a Consul agent in the time of a bubble.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A service that the agent refuses is tried on, and keeps nobody else waiting.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var denied atomic.Bool
		denied.Store(true)
		agent := roundTrip(func(r *http.Request) (*http.Response, error) {
			code := http.StatusOK
			if r.Body != nil && denied.Load() {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return nil, err
				}
				if strings.Contains(string(body), `"Name":"denied"`) {
					code = http.StatusForbidden
				}
			}
			return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: r}, nil
		})
		client, err := api.NewClient(&api.Config{HttpClient: &http.Client{Transport: agent}})
		must.NoError(t, err)
		c := New(Config{Consul: client, ID: "me"})
		c.Set("x", Service{Name: "denied"}, false)
		time.Sleep(time.Minute) // until its pauses are long
		synctest.Wait()
		must.Positive(t, c.Failures())
		for range 100 {
			begin := time.Now()
			must.NoError(t, c.SetWait(t.Context(), "y", Service{Name: "web"}, false))
			must.Eq(t, 0, time.Since(begin))
			time.Sleep(10 * time.Millisecond)
		}
		denied.Store(false)
		failures := c.Failures()
		time.Sleep(longestPause)
		must.Eq(t, failures, c.Failures())
		must.NoError(t, c.Close(t.Context()))
	})
}

func TestBackoff(t *testing.T) {
	last := time.Duration(0)
	for failed := range 20 {
		d := backoff(failed)
		must.Between(t, firstPause/2, d, longestPause)
		must.GreaterEq(t, last/4, d)
		last = d
	}
}
