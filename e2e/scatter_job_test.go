package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/jobs"
)

// TestScatterJob runs the template scatter-gather, flat and as a tree.
func TestScatterJob(t *testing.T) {
	build(t)
	bin := t.TempDir()
	program := buildAgent(t, bin, "scatter")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH")) // where the template looks for it
	must.NoError(t, cluster.Require(t.Context(), os.Stderr, cluster.Nginx()))
	s := &scatterBench{c: clustertest.Start(t, cluster.Config{Clients: 1, PluginBinary: suite.plugin})}
	t.Run("update", s.update)
	t.Run("tree", s.tree)
	if s.c.HasDriver("lifecycle-docker") {
		must.NoError(t, cluster.Require(t.Context(), os.Stderr, cluster.Busybox()))
		must.NoError(t, cluster.BuildImage(t.Context(), "nomad-patterns/scatter:1", map[string]string{"/bin/scatter": program}, cluster.ImageOptions{}))
		must.NoError(t, cluster.BuildImage(t.Context(), busyboxImage, map[string]string{"/bin/busybox": "/bin/busybox"}, cluster.ImageOptions{}))
		t.Run("docker", s.docker)
	}
}

// scatterBench is a cluster with the plugin and the agent scatter.
type scatterBench struct{ c *cluster.Cluster }

// run registers the template, or a new version of it.
func (b *scatterBench) run(t *testing.T, name string, vars map[string]string) {
	t.Helper()
	vars["job_name"], vars["service"], vars["timeout"] = name, name, "10s"
	vars["consul_addr"] = "http://${meta.consul_http}" // the agents of a test have ports of their own
	job, err := jobs.Parse(jobs.ScatterGather, vars)
	must.NoError(t, err)
	_, _, err = b.c.Nomad().Jobs().Register(job, nil)
	must.NoError(t, err)
}

func (b *scatterBench) stop(t *testing.T, name string) {
	t.Helper()
	_, _, err := b.c.Nomad().Jobs().Deregister(name, false, nil)
	must.NoError(t, err)
	until(t, b.c, name, "ended", allEnded)
}

// url is where the root is.
func (b *scatterBench) url(t *testing.T, service string) string {
	t.Helper()
	url := ""
	await(t, "root "+service+" passes its check", func() bool {
		entries, _, err := b.c.Consul().Health().Service(service, "", true, (&consulapi.QueryOptions{}).WithContext(t.Context()))
		must.NoError(t, err)
		if len(entries) > 0 {
			url = "http://" + net.JoinHostPort(entries[0].Service.Address, strconv.Itoa(entries[0].Service.Port))
		}
		return url != ""
	})
	return url
}

// query asks the root. The answers are sorted.
func query(ctx context.Context, url string) (status int, coverage string, answers []string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/search", nil)
	if err != nil {
		return 0, "", nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(body, &answers)
	}
	slices.Sort(answers)
	return resp.StatusCode, resp.Header.Get("Scatter-Coverage"), answers, err
}

// whole waits until all shards answer.
func whole(t *testing.T, url string, shards int) []string {
	t.Helper()
	var answers []string
	await(t, "all shards answer", func() bool {
		status, coverage, got, err := query(t.Context(), url)
		answers = got
		return err == nil && status == http.StatusOK && coverage == fmt.Sprintf("ok=%d, total=%d", shards, shards)
	})
	must.Len(t, shards, answers)
	for i, a := range answers {
		must.StrHasPrefix(t, fmt.Sprintf("shard %d of %d", i, shards), a)
	}
	return answers
}

// update replaces all leaves while clients ask: no query fails, and none is in part.
func (b *scatterBench) update(t *testing.T) {
	const name, shards = "flat", 3
	b.run(t, name, map[string]string{"shards": strconv.Itoa(shards)})
	t.Cleanup(func() { b.stop(t, name) })
	url := b.url(t, name)
	whole(t, url, shards)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var mu sync.Mutex
	asked := 0
	var bad []string
	for range 3 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond): // the machine has other things to do
				}
				status, coverage, answers, err := query(context.Background(), url)
				mu.Lock()
				asked++
				if err != nil || status != http.StatusOK || len(answers) != shards {
					bad = append(bad, fmt.Sprint(status, coverage, answers, err))
				}
				mu.Unlock()
			}
		})
	}
	leaves := func() (n int) { mu.Lock(); defer mu.Unlock(); return asked }
	await(t, "some queries", func() bool { return leaves() > 50 })
	// All are replaced, one replica of each shard at a time.
	b.run(t, name, map[string]string{"shards": strconv.Itoa(shards), "release": "2"})
	await(t, "all leaves are of the new release", func() bool {
		for _, a := range b.running(t, name) {
			if strings.HasPrefix(a.TaskGroup, "leaf-") && *a.Job.Version == 0 {
				return false
			}
		}
		_, _, answers, err := query(t.Context(), url)
		return err == nil && len(answers) == shards && !slices.ContainsFunc(answers, func(a string) bool { return !strings.Contains(a, "release 2") })
	})
	close(stop)
	clients.Wait()
	must.SliceEmpty(t, bad, must.Sprintf("of %d queries: %q", asked, bad))
}

func (b *scatterBench) running(t *testing.T, job string) []*nomadapi.Allocation {
	t.Helper()
	return (&queueBench{c: b.c}).running(t, job)
}

// tree asks parents, and counts leaves.
func (b *scatterBench) tree(t *testing.T) {
	const name, shards = "tree", 4
	b.run(t, name, map[string]string{"shards": strconv.Itoa(shards), "parents": "2", "replicas": "1"})
	t.Cleanup(func() { b.stop(t, name) })
	url := b.url(t, name)
	whole(t, url, shards)
	// With a leaf away the root says how many leaves are there, not how many parents.
	for _, a := range b.running(t, name) {
		if a.TaskGroup == "leaf-3" {
			_, err := b.c.Nomad().Allocations().Stop(a, nil)
			must.NoError(t, err)
		}
	}
	whole(t, url, shards) // another one takes its place
}

// docker runs the template in containers.
func (b *scatterBench) docker(t *testing.T) {
	const name, shards = "docker", 2
	b.run(t, name, map[string]string{"driver": "docker", "shards": strconv.Itoa(shards), "replicas": "1"})
	t.Cleanup(func() { b.stop(t, name) })
	whole(t, b.url(t, name), shards)
}
