package catalog

import (
	"net/http"
	"testing"

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
