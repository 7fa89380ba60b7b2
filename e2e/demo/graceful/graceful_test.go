package graceful_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/e2e/demo/graceful"
	"github.com/nomad-patterns/nomad-patterns/e2e/load"
	"github.com/nomad-patterns/nomad-patterns/jobs"
)

// start starts a cluster with the plugin of this checkout.
func start(t *testing.T, clients int) *cluster.Cluster {
	t.Helper()
	must.NoError(t, cluster.Require(t.Context(), t.Output(), cluster.Nginx()))
	plugin, err := cluster.BuildPlugin(t.Context(), t.Output())
	must.NoError(t, err)
	return clustertest.Start(t, cluster.Config{Clients: clients, PluginBinary: plugin})
}

// TestTemplateUnchanged runs the template as it stands, with all of its defaults.
func TestTemplateUnchanged(t *testing.T) {
	c := start(t, 1)
	job, err := jobs.Parse(jobs.GracefulService, nil)
	must.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, _, err = c.Nomad().Jobs().Register(job, (&nomadapi.WriteOptions{}).WithContext(ctx))
	must.NoError(t, err)

	discover := load.Consul(c.Consul(), jobs.GracefulService)
	var addresses []string
	for len(addresses) < 2 {
		addresses, err = discover(ctx)
		must.NoError(t, err, must.Sprint("wait for the instances to pass in Consul"))
		time.Sleep(100 * time.Millisecond)
	}
	for _, address := range addresses {
		for _, path := range []string{"/", "/doc/"} {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
			must.NoError(t, err)
			resp, err := http.DefaultClient.Do(req)
			must.NoError(t, err)
			must.NoError(t, resp.Body.Close())
			must.Eq(t, http.StatusOK, resp.StatusCode)
		}
	}
}

// TestNothingLost updates, restarts, drains and stops the service under load. With the
// lifecycle driver no request may be lost, and Nomad shows that the hooks ran.
func TestNothingLost(t *testing.T) {
	c := start(t, 2)
	content, err := graceful.FindContent(graceful.DefaultRoot)
	must.NoError(t, err)
	consulAddr, err := graceful.ConsulAddr(t.Context(), c.Nomad(), c.ConsulAddr())
	must.NoError(t, err)

	cases := map[string]struct {
		pages, downloads float64
	}{
		"raw_exec": {pages: 200, downloads: 2},
		"docker":   {pages: 10, downloads: 1}, // busybox httpd starts a process for each
	}
	for driver, tc := range cases {
		if !c.HasDriver("lifecycle-" + driver) {
			t.Logf("driver %s does not work on this machine and is left out", driver)
			continue
		}
		t.Run(driver, func(t *testing.T) {
			if driver == "docker" {
				must.NoError(t, cluster.Require(t.Context(), t.Output(), cluster.Busybox()))
				must.NoError(t, cluster.BuildImage(t.Context(), graceful.Image,
					map[string]string{"/bin/busybox": cluster.Busybox().Probe}, cluster.ImageOptions{}))
			}
			s, err := graceful.Deploy(t.Context(), c.Nomad(), c.Consul(), graceful.Options{
				Name: "lossless", Driver: driver, Count: 2, ConsulAddr: consulAddr, Content: content,
				DrainWait: 2 * time.Second, LongestGet: 5 * time.Second,
			})
			must.NoError(t, err)
			g, err := load.Start(t.Context(), load.Config{
				Discover: load.Consul(c.Consul(), s.Name()),
				Streams:  content.Streams(driver, tc.pages, tc.downloads),
			})
			must.NoError(t, err)
			t.Cleanup(func() { g.Stop() })

			g.Phase("update")
			must.NoError(t, s.Update(t.Context()))
			g.Phase("restart")
			restarts, err := s.Restart(t.Context())
			must.NoError(t, err)
			must.Eq(t, 2, restarts)
			running, err := s.Running(t.Context())
			must.NoError(t, err)
			must.SliceLen(t, 2, running)
			for _, alloc := range running {
				wantEvent(t, c, alloc.ID, "prestop hooks succeeded")
				wantEvent(t, c, alloc.ID, "ready hooks succeeded")
			}
			g.Phase("drain")
			must.NoError(t, s.Drain(t.Context(), c.Nodes()[0].ID))
			g.Phase("stop")
			g.ExpectGone()
			must.NoError(t, s.Stop(t.Context(), false))

			res := g.Stop()
			for _, phase := range res.Phases {
				must.Positive(t, phase.Requests)
				must.Eq(t, 0, phase.Failures, must.Sprintf("phase %s: %s: %+v", phase.Name, phase.Why(), phase.Samples))
			}
			must.Positive(t, res.Streams[graceful.Downloads].Requests)
		})
	}
}

// wantEvent checks that an event of the allocation's task contains the text.
func wantEvent(t *testing.T, c *cluster.Cluster, id, text string) {
	t.Helper()
	alloc, _, err := c.Nomad().Allocations().Info(id, (&nomadapi.QueryOptions{}).WithContext(t.Context()))
	must.NoError(t, err)
	var events strings.Builder
	for _, state := range alloc.TaskStates {
		for _, e := range state.Events {
			fmt.Fprintf(&events, "%s: %s\n", e.Type, e.DisplayMessage)
		}
	}
	must.StrContains(t, events.String(), text)
}
