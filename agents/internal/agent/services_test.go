package agent

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
)

// Nobody waits for a Consul that is not there, longer than he wants to. What needs one is
// tested against a real Consul, in e2e.
func TestServicesUnreachable(t *testing.T) {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(&api.Config{Address: "127.0.0.1:1", Transport: transport})
	must.NoError(t, err)
	s := NewServices(ServicesConfig{Consul: client})
	web := &api.AgentServiceRegistration{ID: "web-x", Name: "web"}
	for range 100 {
		s.Set("x", web)
	}
	s.Remove("y")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	must.ErrorIs(t, s.SetWait(ctx, "x", web), context.DeadlineExceeded)
	must.Positive(t, s.Failures())
	must.ErrorContains(t, s.Close(ctx), `deregister the service of "x": context deadline exceeded`)
	must.ErrorIs(t, s.SetWait(t.Context(), "x", web), ErrServicesClosed)
}

// roundTrip is a Consul agent in the time of a bubble.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A service that the agent refuses is tried on, and keeps nobody else waiting.
func TestServicesRefused(t *testing.T) {
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
		s := NewServices(ServicesConfig{Consul: client})
		s.Set("x", &api.AgentServiceRegistration{ID: "x", Name: "denied"})
		time.Sleep(time.Minute) // until its pauses are long
		synctest.Wait()
		must.Positive(t, s.Failures())
		for range 100 {
			begin := time.Now()
			must.NoError(t, s.SetWait(t.Context(), "y", &api.AgentServiceRegistration{ID: "y", Name: "web"}))
			must.Eq(t, 0, time.Since(begin))
			time.Sleep(10 * time.Millisecond)
		}
		denied.Store(false)
		failures := s.Failures()
		time.Sleep(longestPause)
		must.Eq(t, failures, s.Failures())
		must.NoError(t, s.Close(t.Context()))
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
