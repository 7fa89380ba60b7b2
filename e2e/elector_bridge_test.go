package e2e

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/jobs"
)

// electBridge runs the template with a network for each instance, which app and elector
// share; Consul is reached by its socket. The leader is stopped, and another instance
// counts on.
func electBridge(t *testing.T, c *cluster.Cluster) {
	const name = jobs.LeaderElection + "-bridge"
	j := &electionJob{t: t, c: c, name: name, vars: map[string]string{
		"driver": "docker", "network": "bridge", "consul_socket": "${meta.consul_socket}", "count": "2",
		"job_name": name, "election": name, "min_healthy_time": "1s",
	}}
	j.register()
	t.Cleanup(j.purge)
	t.Cleanup(j.logs)
	counts := func(not string) (alloc string) {
		await(t, "an instance counts", func() bool {
			pair, _, err := c.Consul().KV().Get("election-data/"+name+"/count", nil)
			must.NoError(t, err)
			if pair == nil {
				return false
			}
			// "<count> by <allocation> with token <token>"
			words := strings.Fields(string(pair.Value))
			must.SliceLen(t, 6, words)
			alloc = words[2]
			return alloc != not
		})
		return alloc
	}
	first := counts("")
	a, _, err := c.Nomad().Allocations().Info(first, nil)
	must.NoError(t, err)
	_, err = c.Nomad().Allocations().Stop(a, nil)
	must.NoError(t, err)
	counts(first)
}
