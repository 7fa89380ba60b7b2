package agent

import (
	"context"
	"net/http"
	"testing"
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

func TestBackoff(t *testing.T) {
	last := time.Duration(0)
	for failed := range 20 {
		d := backoff(failed)
		must.Between(t, firstPause/2, d, longestPause)
		must.GreaterEq(t, last/4, d)
		last = d
	}
}
