package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/jobs"
)

// TestStatefulJobs runs the templates stateful-worker and autoreplicate in all their ways.
func TestStatefulJobs(t *testing.T) {
	must.NoError(t, cluster.Require(t.Context(), os.Stderr, cluster.Curl()))
	c := start(t, 2)
	drivers := []string{"raw_exec"}
	if c.HasDriver("lifecycle-docker") {
		must.NoError(t, cluster.BuildImage(t.Context(), busyboxImage, map[string]string{"/bin/busybox": "/bin/busybox"}, cluster.ImageOptions{}))
		must.NoError(t, cluster.BuildCurlImage(t.Context()))
		drivers = append(drivers, "docker")
	}
	sched, _, err := c.Nomad().Operator().SchedulerGetConfiguration(nil)
	must.NoError(t, err)
	sched.SchedulerConfig.PreemptionConfig.ServiceSchedulerEnabled = true
	_, _, err = c.Nomad().Operator().SchedulerSetConfiguration(sched.SchedulerConfig, nil)
	must.NoError(t, err)

	// Not side by side: they drain and fill the same nodes.
	for i, driver := range drivers {
		store := []string{"consul", "shared"}[i]
		t.Run("stateful-worker/"+driver, func(t *testing.T) {
			b := statefulBench{c: c, name: "stateful-" + driver}
			b.vars = map[string]string{
				"job_name": b.name, "driver": driver, "store": store, "step": "0.1", "interval": "1s", "priority": "20",
			}
			b.worker(t)
		})
		t.Run("autoreplicate/"+driver, func(t *testing.T) { autoreplicate(t, c, driver) })
	}
}

// registerTemplate registers a template. purge ends the job and waits for that.
func registerTemplate(t *testing.T, c *cluster.Cluster, template string, vars map[string]string) {
	t.Helper()
	job, err := jobs.Parse(template, vars)
	must.NoError(t, err)
	_, _, err = c.Nomad().Jobs().Register(job, nil)
	must.NoError(t, err)
}

func purge(t *testing.T, c *cluster.Cluster, job string) {
	t.Helper()
	_, _, err := c.Nomad().Jobs().Deregister(job, true, nil)
	must.NoError(t, err)
	until(t, c, job, "ended", allEnded)
}

// statefulBench is a stateful worker.
type statefulBench struct {
	c    *cluster.Cluster
	name string
	vars map[string]string
}

// worker evicts a worker in every way that there is. Each time the next start goes on where
// the one before has paused, which the sum of all steps shows.
func (b *statefulBench) worker(t *testing.T) {
	b.register(t, nil)
	t.Cleanup(func() {
		if t.Failed() {
			(&queueBench{c: b.c}).logs(t, b.name)
		}
		purge(t, b.c, b.name)
	})
	a := b.steps(t)
	must.Eq(t, []progress{{}}, b.log(t, a).began)

	t.Run("restart", func(t *testing.T) {
		must.NoError(t, b.c.Nomad().Allocations().Restart(a, "work", nil))
		a = b.steps(t)
		l := b.log(t, a)
		must.SliceLen(t, 2, l.began)
		must.Eq(t, l.paused[0], l.began[1])
		b.told(t, a, "stopping: ", " saved: ")
	})
	for _, move := range []struct {
		name   string
		reason string // as the events have it
		do     func(*testing.T, *nomadapi.Allocation)
	}{
		{"update", "updated", func(t *testing.T, _ *nomadapi.Allocation) { b.register(t, map[string]string{"release": "2"}) }},
		{"drain", "drained", b.drain},
		{"alloc stop", "stopped", func(t *testing.T, a *nomadapi.Allocation) {
			_, err := b.c.Nomad().Allocations().Stop(a, nil)
			must.NoError(t, err)
		}},
		{"preemption", "preempted", b.preempt},
	} {
		t.Run(move.name, func(t *testing.T) {
			last := a
			move.do(t, a)
			a = b.follows(t, last)
			last, _, err := b.c.Nomad().Allocations().Info(last.ID, nil)
			must.NoError(t, err)
			b.told(t, last, "stopping: "+move.reason, " saved: ")
			old := b.log(t, last).paused
			must.Positive(t, len(old))
			must.Eq(t, []progress{old[len(old)-1]}, b.log(t, a).began)
		})
	}
	t.Run("crash", func(t *testing.T) {
		// What was done since the last regular save is done again.
		await(t, "some steps", func() bool { return b.state(t, a).step > b.log(t, a).began[0].step+15 })
		before := b.state(t, a)
		must.Positive(t, kill(t, a.ID, "work.sh"))
		a = until(t, b.c, b.name, "restarted", func(as []*nomadapi.Allocation) bool {
			return taskState(as[0]) == "running" && as[0].TaskStates["work"].Restarts == 1
		})[0]
		var again progress
		await(t, "the new start", func() bool {
			l := b.log(t, a)
			again = l.began[len(l.began)-1]
			return len(l.began) == 2
		})
		must.Greater(t, b.log(t, a).began[0].step, again.step, must.Sprint("nothing was saved while it ran"))
		// The kill comes some steps after the look at the state.
		must.Less(t, before.step+50, again.step)
		b.told(t, a, "stopped: failed (it ended with ", "checkpoint ") // a signal, or docker's 137
	})
	t.Run("job stop", func(t *testing.T) {
		_, _, err := b.c.Nomad().Jobs().Deregister(b.name, false, nil)
		must.NoError(t, err)
		a = until(t, b.c, b.name, "ended", allEnded)[0]
		b.told(t, a, "stopping: stopped")
		b.register(t, nil)
		next := b.follows(t, a)
		must.Eq(t, []progress{{}}, b.log(t, next).began)
		b.told(t, next, "cold start: no checkpoint")
	})
}

func (b *statefulBench) register(t *testing.T, more map[string]string) {
	t.Helper()
	maps.Copy(b.vars, more)
	registerTemplate(t, b.c, jobs.StatefulWorker, b.vars)
}

// steps waits for the worker to have made some steps since it was last started.
func (b *statefulBench) steps(t *testing.T) *nomadapi.Allocation {
	t.Helper()
	a := until(t, b.c, b.name, "running", func(as []*nomadapi.Allocation) bool {
		return len(as) > 0 && taskState(as[0]) == "running"
	})[0]
	await(t, "some steps", func() bool {
		l := b.log(t, a)
		return len(l.began) == len(l.paused)+1 && b.state(t, a).step > l.began[len(l.began)-1].step+2
	})
	return a
}

// follows waits for another allocation than the last one to work.
func (b *statefulBench) follows(t *testing.T, last *nomadapi.Allocation) *nomadapi.Allocation {
	t.Helper()
	until(t, b.c, b.name, "elsewhere", func(as []*nomadapi.Allocation) bool {
		return as[0].ID != last.ID && taskState(as[0]) == "running"
	})
	return b.steps(t)
}

// drain empties the node of the allocation. It can be used again after that.
func (b *statefulBench) drain(t *testing.T, a *nomadapi.Allocation) {
	_, err := b.c.Nomad().Nodes().UpdateDrain(a.NodeID, &nomadapi.DrainSpec{Deadline: time.Minute}, false, nil)
	must.NoError(t, err)
	t.Cleanup(func() {
		_, err := b.c.Nomad().Nodes().UpdateDrain(a.NodeID, nil, true, nil)
		must.NoError(t, err)
	})
}

// preempt has a job of a higher priority take the node of the allocation.
func (b *statefulBench) preempt(t *testing.T, a *nomadapi.Allocation) {
	node, _, err := b.c.Nomad().Nodes().Info(a.NodeID, nil)
	must.NoError(t, err)
	free := node.NodeResources.Memory.MemoryMB - int64(node.ReservedResources.Memory.MemoryMB)
	name := b.name + "-hog"
	job, err := b.c.Nomad().Jobs().ParseHCL(fmt.Sprintf(`
job %q {
  priority = 90
  group "hog" {
    constraint {
      attribute = "$${node.unique.id}"
      value     = %q
    }
    task "hog" {
      driver = "raw_exec"
      config {
        command = "/bin/busybox"
        args    = ["sleep", "600"]
      }
      resources {
        cpu    = 20
        memory = %d
      }
    }
  }
}`, name, a.NodeID, free-10), true)
	must.NoError(t, err)
	_, _, err = b.c.Nomad().Jobs().Register(job, nil)
	must.NoError(t, err)
	t.Cleanup(func() { purge(t, b.c, name) })
}

// progress is how far the sample has come.
type progress struct{ step, sum int }

// check tells whether no step was left out, and none was made twice.
func (p progress) check(t *testing.T) progress {
	t.Helper()
	must.Eq(t, p.step*(p.step+1)/2, p.sum, must.Sprintf("after step %d", p.step))
	return p
}

// state is what the sample has in its file.
func (b *statefulBench) state(t *testing.T, a *nomadapi.Allocation) progress {
	t.Helper()
	matches, err := filepath.Glob(filepath.Join(b.c.Dir(), "*", "a", a.ID, "work", "local", "state"))
	must.NoError(t, err)
	if len(matches) == 0 {
		return progress{} // before the first step
	}
	data, err := os.ReadFile(matches[0])
	must.NoError(t, err)
	var p progress
	_, err = fmt.Sscan(string(data), &p.step, &p.sum)
	must.NoError(t, err)
	return p.check(t)
}

// workerLog is what the sample has said: where each start began, and where it paused.
type workerLog struct{ began, paused []progress }

var progressLine = regexp.MustCompile(`(?m)(going on|pausing) after step (\d+) with (\d+)$`)

func (b *statefulBench) log(t *testing.T, a *nomadapi.Allocation) (l workerLog) {
	t.Helper()
	matches, err := filepath.Glob(filepath.Join(b.c.Dir(), "*", "a", a.ID, "alloc", "logs", "work.stdout.0"))
	must.NoError(t, err)
	for _, file := range matches {
		data, err := os.ReadFile(file)
		must.NoError(t, err)
		for _, m := range progressLine.FindAllStringSubmatch(string(data), -1) {
			var p progress
			p.step, _ = strconv.Atoi(m[2]) // digits
			p.sum, _ = strconv.Atoi(m[3])
			p.check(t)
			if m[1] == "going on" {
				l.began = append(l.began, p)
			} else {
				l.paused = append(l.paused, p)
			}
		}
	}
	return l
}

// told waits until the events of the worker have the parts.
func (b *statefulBench) told(t *testing.T, a *nomadapi.Allocation, parts ...string) {
	t.Helper()
	for _, part := range parts {
		await(t, fmt.Sprintf("%q in the events", part), func() bool {
			now, _, err := b.c.Nomad().Allocations().Info(a.ID, nil)
			must.NoError(t, err)
			return slices.ContainsFunc(now.TaskStates["work"].Events, func(e *nomadapi.TaskEvent) bool {
				return strings.Contains(e.DisplayMessage, part)
			})
		})
	}
}

func taskState(a *nomadapi.Allocation) string {
	if s := a.TaskStates["work"]; s != nil {
		return s.State
	}
	return ""
}

// kill kills the processes of an allocation that run a command, and counts them.
func kill(t *testing.T, allocID, command string) (n int) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must.NoError(t, err)
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // it has ended
		}
		cmd, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !strings.Contains(string(env), "NOMAD_ALLOC_ID="+allocID) || !strings.Contains(string(cmd), command) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		must.NoError(t, err)
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			n++
		}
	}
	return n
}

// autoreplicate gives workers more than one can do, and then nothing.
func autoreplicate(t *testing.T, c *cluster.Cluster, driver string) {
	const most, files = 3, 20
	name := "autoreplicate-" + driver
	dir := t.TempDir()
	registerTemplate(t, c, jobs.Autoreplicate, map[string]string{
		"job_name": name, "driver": driver, "work_dir": dir, "work_time": "1s", "high": "3", "idle": "3s", "max": strconv.Itoa(most),
	})
	t.Cleanup(func() {
		if t.Failed() {
			(&queueBench{c: c}).logs(t, name)
		}
		purge(t, c, name)
	})
	for i := range files {
		must.NoError(t, os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o666))
	}
	count := func() int {
		status, _, err := c.Nomad().Jobs().ScaleStatus(name, nil)
		must.NoError(t, err)
		must.LessEq(t, most, status.TaskGroups["worker"].Desired)
		return status.TaskGroups["worker"].Desired
	}
	await(t, "as many workers as may be", func() bool { return count() == most })
	await(t, "all work is done", func() bool {
		left, err := os.ReadDir(dir)
		must.NoError(t, err)
		return len(left) == 0
	})
	await(t, "one worker is left", func() bool { return count() == 1 })

	allocs := until(t, c, name, "alone", func(as []*nomadapi.Allocation) bool {
		ended := 0
		for _, a := range as {
			if a.ClientTerminalStatus() {
				ended++
			}
		}
		return ended == most-1
	})
	done := make(map[string]bool)
	for _, a := range allocs {
		if a.ClientTerminalStatus() {
			must.True(t, slices.ContainsFunc(a.TaskStates["work"].Events, func(e *nomadapi.TaskEvent) bool {
				return strings.Contains(e.DisplayMessage, "stopping: scaled-down")
			}))
		}
		out, err := cli(t, c, "alloc", "logs", a.ID, "work")
		must.NoError(t, err)
		for line := range strings.Lines(out) {
			if file, ok := strings.CutPrefix(strings.TrimSpace(line), "done: "); ok {
				must.False(t, done[file], must.Sprintf("file %s was worked on twice", file))
				done[file] = true
			}
		}
	}
	must.MapLen(t, files, done)
}
