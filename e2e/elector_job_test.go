package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/jobs"
)

// Images of the template's docker way, as its defaults name them.
const (
	electorImage = "nomad-patterns/elector:1"
	busyboxImage = "nomad-patterns/busybox:1"
)

// TestElectorJob runs the template leader-election with its defaults on three Nomad
// clients, each with a Consul agent of its own, and does to it what operators and
// accidents do. At no moment two instances lead, and always one comes to lead.
func TestElectorJob(t *testing.T) {
	program := buildElector(t)
	// Where the template looks for it.
	t.Setenv("PATH", filepath.Dir(program)+":"+os.Getenv("PATH"))
	must.NoError(t, cluster.Require(t.Context(), os.Stderr, cluster.Busybox(), cluster.CNIPlugins(), cluster.Iptables()))
	c := clustertest.Start(t, cluster.Config{Clients: 3})
	drivers := []string{"raw_exec"}
	if c.HasDriver("docker") {
		drivers = append(drivers, "docker")
		must.NoError(t, cluster.BuildImage(t.Context(), electorImage, map[string]string{"/bin/elector": program}, cluster.ImageOptions{}))
		must.NoError(t, cluster.BuildImage(t.Context(), busyboxImage, map[string]string{"/bin/busybox": "/bin/busybox"}, cluster.ImageOptions{}))
	}
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) { electJob(t, c, driver) })
	}
	if c.HasDriver("docker") {
		t.Run("bridge", func(t *testing.T) { electBridge(t, c) })
	}
}

// electJob is the test with one driver.
func electJob(t *testing.T, c *cluster.Cluster, driver string) {
	vars := map[string]string{
		// The agents of a test have ports of their own.
		"consul_addr":      "http://${meta.consul_http}",
		"driver":           driver,
		"min_healthy_time": "1s",
	}
	if driver != "raw_exec" {
		vars["job_name"], vars["election"] = "leader-"+driver, "leader-"+driver
	}
	j := &electionJob{t: t, c: c, name: jobs.LeaderElection, vars: vars}
	if vars["job_name"] != "" {
		j.name = vars["job_name"]
	}
	j.register()
	t.Cleanup(j.purge)
	t.Cleanup(j.logs)
	j.settled()
	w := watchLeaders(t, c, j)

	for _, step := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"stop of an allocation", func(t *testing.T) {
			leader := w.leads(t, 0)
			_, err := c.Nomad().Allocations().Stop(leader.alloc, nil)
			must.NoError(t, err)
			w.moves(t, leader)
			j.settled()
		}},
		{"app killed", func(t *testing.T) {
			leader := w.leads(t, 0)
			pids := pidsOf(t, leader.alloc.ID, "app")
			must.Positive(t, len(pids))
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL) // they end one another
			}
			w.moves(t, leader)
			j.settled()
		}},
		{"elector killed", func(t *testing.T) {
			leader := w.leads(t, 0)
			pids := pidsOf(t, leader.alloc.ID, "elector")
			must.Positive(t, len(pids))
			for _, pid := range pids {
				must.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			}
			w.moves(t, leader)
			j.settled()
		}},
		{"elector frozen", func(t *testing.T) {
			leader := w.leads(t, 0)
			pids := pidsOf(t, leader.alloc.ID, "elector")
			for _, pid := range pids {
				must.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
			}
			w.moves(t, leader)
			for _, pid := range pids {
				must.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
			}
			j.settled()
		}},
		{"update", func(t *testing.T) {
			leader := w.leads(t, 0)
			before := j.settled()
			vars["release"] = "2"
			j.register()
			until(t, c, j.name, "updated", func(as []*nomadapi.Allocation) bool {
				news := 0
				for _, a := range as {
					if *a.Job.Version > *before[0].Job.Version && a.ClientStatus == "running" {
						news++
					} else if a.ClientStatus == "running" {
						return false
					}
				}
				return news == 3
			})
			w.leads(t, leader.token)
			j.settled()
		}},
		{"drain", func(t *testing.T) {
			leader := w.leads(t, 0)
			_, err := c.Nomad().Nodes().UpdateDrain(leader.alloc.NodeID, &nomadapi.DrainSpec{Deadline: time.Minute}, false, nil)
			must.NoError(t, err)
			t.Cleanup(func() {
				_, err := c.Nomad().Nodes().UpdateDrain(leader.alloc.NodeID, nil, true, nil)
				must.NoError(t, err)
			})
			w.moves(t, leader)
			until(t, c, j.name, "moved", func(as []*nomadapi.Allocation) bool {
				for _, a := range as {
					if a.NodeID == leader.alloc.NodeID && !a.ClientTerminalStatus() {
						return false
					}
				}
				return true
			})
			j.settled()
		}},
		{"stop of the job", func(t *testing.T) {
			w.leads(t, 0)
			j.purge()
			// The last one has said goodbye: no lock, no candidate, no service is left.
			key, _, err := c.Consul().KV().Get("election/leader/"+j.name, nil)
			must.NoError(t, err)
			must.Eq(t, "", key.Session)
			must.StrContains(t, string(key.Value), `"state":"released"`)
			sessions, _, err := c.Consul().Session().List(nil)
			must.NoError(t, err)
			must.SliceEmpty(t, sessions)
			// That which was killed above is still there, and critical, for a minute.
			services, _, err := c.Consul().Health().Service("elector", "", true, nil)
			must.NoError(t, err)
			must.SliceEmpty(t, services)
		}},
	} {
		if !t.Run(step.name, step.run) {
			return // the next ones begin where this one ended
		}
	}
	w.check(t)
}

// electionJob is a job of the template.
type electionJob struct {
	t    *testing.T
	c    *cluster.Cluster
	name string
	vars map[string]string
}

func (j *electionJob) register() {
	j.t.Helper()
	job, err := jobs.Parse(jobs.LeaderElection, j.vars)
	must.NoError(j.t, err)
	_, _, err = j.c.Nomad().Jobs().Register(job, nil)
	must.NoError(j.t, err)
}

// purge stops the job and waits for its end.
func (j *electionJob) purge() {
	j.t.Helper()
	_, _, err := j.c.Nomad().Jobs().Deregister(j.name, false, nil)
	must.NoError(j.t, err)
	until(j.t, j.c, j.name, "ended", func(as []*nomadapi.Allocation) bool {
		for _, a := range as {
			if !a.ClientTerminalStatus() {
				return false
			}
		}
		return true
	})
}

// logs shows what the tasks have written, if the test has failed.
func (j *electionJob) logs() {
	if !j.t.Failed() {
		return
	}
	stubs, _, err := j.c.Nomad().Jobs().Allocations(j.name, true, nil)
	must.NoError(j.t, err)
	for _, s := range stubs {
		for _, task := range []string{"elector", "app"} {
			for _, stream := range []string{"-stderr=false", "-stderr=true"} {
				out, err := cli(j.t, j.c, "alloc", "logs", "-tail", "-n=30", stream, s.ID, task)
				j.t.Logf("alloc %s (%s) %s %s: %v\n%s", s.ID, s.ClientStatus, task, stream, err, out)
			}
		}
	}
}

// settled waits until three instances take part in the election.
func (j *electionJob) settled() []*nomadapi.Allocation {
	j.t.Helper()
	var running []*nomadapi.Allocation
	await(j.t, "three instances take part", func() bool {
		running = running[:0]
		stubs, _, err := j.c.Nomad().Jobs().Allocations(j.name, true, nil)
		must.NoError(j.t, err)
		for _, s := range stubs {
			if s.ClientStatus != "running" || s.DesiredStatus != "run" {
				continue
			}
			a, _, err := j.c.Nomad().Allocations().Info(s.ID, nil)
			must.NoError(j.t, err)
			if st, err := ask(electorAddr(a), j.name); err != nil || len(st.Candidates) != 3 || !st.Joined {
				return false
			}
			running = append(running, a)
		}
		return len(running) == 3
	})
	return running
}

// electorAddr is where the elector of an instance listens.
func electorAddr(a *nomadapi.Allocation) string {
	for _, p := range a.AllocatedResources.Shared.Ports {
		if p.Label == "elector" {
			return "http://127.0.0.1:" + strconv.Itoa(p.Value)
		}
	}
	return ""
}

// ask asks an elector.
func ask(addr, name string) (election.Status, error) {
	client := &http.Client{Timeout: 2 * time.Second}
	var st election.Status
	resp, err := client.Get(addr + "/v1/elections/" + name)
	if err != nil {
		return st, err
	}
	err = json.NewDecoder(resp.Body).Decode(&st)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return st, err
}

// pidsOf lists the processes of a task.
func pidsOf(t *testing.T, allocID, task string) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must.NoError(t, err)
	var pids []int
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // it has ended
		}
		text := "\x00" + string(env)
		if strings.Contains(text, "\x00NOMAD_ALLOC_ID="+allocID+"\x00") && strings.Contains(text, "\x00NOMAD_TASK_NAME="+task+"\x00") {
			pid, err := strconv.Atoi(filepath.Base(dir))
			must.NoError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}
