package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/jobs"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// TestQueueJobs runs the templates work-queue and pipeline, and workers that the broker
// starts, on the documentation files of the machine.
func TestQueueJobs(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"queue", "worker"} {
		buildAgent(t, bin, name)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH")) // where the templates look for them
	must.NoError(t, cluster.Require(t.Context(), os.Stderr, cluster.Busybox()))
	c := clustertest.Start(t, cluster.Config{Clients: 1})
	q := &queueBench{c: c, bin: bin}
	t.Run("work", func(t *testing.T) { q.work(t, "raw_exec") })
	t.Run("pipeline", q.pipeline)
	t.Run("scale", q.scale)
	t.Run("dispatch", q.dispatch)
	if c.HasDriver("docker") {
		for _, name := range []string{"queue", "worker"} {
			must.NoError(t, cluster.BuildImage(t.Context(), "nomad-patterns/"+name+":1", map[string]string{"/bin/" + name: filepath.Join(bin, name)}, cluster.ImageOptions{}))
		}
		must.NoError(t, cluster.BuildImage(t.Context(), busyboxImage, map[string]string{"/bin/busybox": "/bin/busybox"}, cluster.ImageOptions{}))
		t.Run("docker", func(t *testing.T) { q.work(t, "docker") })
	}
}

// queueBench is a cluster with the programs of the queue.
type queueBench struct {
	c   *cluster.Cluster
	bin string
}

// run registers a template under the name of its queue, and returns a client of its
// brokers.
func (b *queueBench) run(t *testing.T, template, name string, vars map[string]string) *queue.Client {
	t.Helper()
	vars["job_name"], vars["queue"], vars["lease"] = name, name, "2s"
	vars["consul_addr"] = "http://${meta.consul_http}" // the agents of a test have ports of their own
	job, err := jobs.Parse(template, vars)
	must.NoError(t, err)
	_, _, err = b.c.Nomad().Jobs().Register(job, nil)
	must.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			b.logs(t, name)
		}
		_, _, err := b.c.Nomad().Jobs().Deregister(name, false, nil)
		must.NoError(t, err)
		until(t, b.c, name, "ended", allEnded)
	})
	client, err := queue.NewClient(queue.ClientConfig{Resolve: func(ctx context.Context) ([]string, error) {
		entries, _, err := b.c.Consul().Health().Service("queue-"+name, "", true, (&consulapi.QueryOptions{}).WithContext(ctx))
		var list []string
		for _, e := range entries {
			list = append(list, "http://"+net.JoinHostPort(e.Service.Address, strconv.Itoa(e.Service.Port)))
		}
		if err == nil && len(list) == 0 {
			err = errors.New("no broker is registered")
		}
		return list, err
	}})
	must.NoError(t, err)
	t.Cleanup(client.Close)
	await(t, "queue "+name+" is led", func() bool {
		st, err := client.Status(t.Context(), name)
		return err == nil && st.Shards[0].Leader != ""
	})
	return client
}

func allEnded(as []*nomadapi.Allocation) bool {
	for _, a := range as {
		if !a.ClientTerminalStatus() {
			return false
		}
	}
	return true
}

func (b *queueBench) logs(t *testing.T, job string) {
	stubs, _, err := b.c.Nomad().Jobs().Allocations(job, true, nil)
	must.NoError(t, err)
	for _, s := range stubs {
		for task := range s.TaskStates {
			out, err := cli(t, b.c, "alloc", "logs", "-tail", "-n=30", "-stderr=true", s.ID, task)
			t.Logf("alloc %s %s (%s): %v\n%s", s.ID, task, s.ClientStatus, err, out)
		}
	}
}

// documents are some documentation files of the machine: the licences of its packages.
func documents(t *testing.T, most int) []string {
	t.Helper()
	files, err := filepath.Glob("/usr/share/doc/*/copyright")
	must.NoError(t, err)
	var list []string
	for _, f := range files {
		if info, err := os.Lstat(f); err == nil && info.Mode().IsRegular() && !strings.ContainsAny(f, "+:~") && len(list) < most {
			list = append(list, f)
		}
	}
	must.Positive(t, len(list))
	return list
}

// enqueue puts files into a queue.
func enqueue(t *testing.T, client *queue.Client, name string, files []string) {
	t.Helper()
	items := make([]queue.Item, len(files))
	for i, f := range files {
		items[i] = queue.Item{Input: f, Key: f}
	}
	_, err := client.Enqueue(t.Context(), name, items)
	must.NoError(t, err)
}

// wordsOf counts the words of a file, independently of what the templates do it with.
func wordsOf(t *testing.T, path string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(path)
	must.NoError(t, err)
	count := map[string]int{}
	for _, w := range bytes.FieldsFunc(text, func(r rune) bool {
		return r < '0' || r > '9' && r < 'A' || r > 'Z' && r < 'a' || r > 'z'
	}) {
		count[string(bytes.ToLower(w))]++
	}
	return count
}

// readCounts reads lines of a word and a number.
func readCounts(t *testing.T, path string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(path)
	must.NoError(t, err)
	count := map[string]int{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		must.Len(t, 2, f, must.Sprintf("%s: %q", path, line))
		n, err := strconv.Atoi(f[1])
		must.NoError(t, err)
		count[f[0]] = n
	}
	return count
}

// stage is the first stage's part of a status.
func stage(t *testing.T, client *queue.Client, name string) (queue.Overview, queue.StageStatus) {
	t.Helper()
	var st queue.Overview
	await(t, "a status of "+name, func() bool {
		var err error
		st, err = client.Status(t.Context(), name)
		return err == nil && st.Shards[0].Error == ""
	})
	return st, st.Stages[0]
}

// work kills the leading broker, kills a worker and stops another one in the middle of
// the work. Each file has its output, and the stop counts as no failure.
func (b *queueBench) work(t *testing.T, driver string) {
	name := "work-" + strings.ReplaceAll(driver, "_", "-")
	out := shared(t)
	client := b.run(t, jobs.WorkQueue, name, map[string]string{"driver": driver, "output_dir": out})
	files := documents(t, 300)
	enqueue(t, client, name, files)
	some := func(n uint64) queue.Overview {
		var st queue.Overview
		await(t, fmt.Sprintf("%d items are done", n), func() bool {
			var s queue.StageStatus
			st, s = stage(t, client, name)
			return s.Done >= n
		})
		return st
	}
	if driver == "raw_exec" {
		st := some(10)
		b.kill(t, name, func(a *nomadapi.Allocation) bool {
			return a.TaskGroup == "broker" && strings.HasSuffix(st.Shards[0].Leader, ":"+strconv.Itoa(portOf(a, "queue")))
		}, "queue")
		some(30)
		b.kill(t, name, func(a *nomadapi.Allocation) bool { return a.TaskGroup == "worker" }, "work")
		some(60)
	}
	for _, a := range b.running(t, name) {
		if a.TaskGroup == "worker" {
			_, err := b.c.Nomad().Allocations().Stop(a, nil)
			must.NoError(t, err)
			break
		}
	}
	await(t, "all items are done", func() bool {
		_, s := stage(t, client, name)
		return int(s.Done) == len(files)
	})
	_, s := stage(t, client, name)
	must.Eq(t, 0, s.Failed)
	must.Eq(t, 0, s.Dead)
	for _, f := range files {
		rel, err := filepath.Rel("/usr/share/doc", f)
		must.NoError(t, err)
		await(t, "the output of "+f, func() bool { // it is published after the item is done
			_, err := os.Stat(filepath.Join(out, rel))
			return err == nil
		})
		must.Eq(t, wordsOf(t, f), readCounts(t, filepath.Join(out, rel)), must.Sprint(f))
	}
}

// shared is a directory that containers may write into.
func shared(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must.NoError(t, os.Chmod(dir, 0o777))
	return dir
}

func portOf(a *nomadapi.Allocation, label string) int {
	for _, p := range a.AllocatedResources.Shared.Ports {
		if p.Label == label {
			return p.Value
		}
	}
	return 0
}

func (b *queueBench) running(t *testing.T, job string) []*nomadapi.Allocation {
	t.Helper()
	stubs, _, err := b.c.Nomad().Jobs().Allocations(job, true, nil)
	must.NoError(t, err)
	var list []*nomadapi.Allocation
	for _, s := range stubs {
		if s.ClientStatus == "running" && s.DesiredStatus == "run" {
			a, _, err := b.c.Nomad().Allocations().Info(s.ID, nil)
			must.NoError(t, err)
			list = append(list, a)
		}
	}
	return list
}

// kill kills the task of the first running allocation that fits.
func (b *queueBench) kill(t *testing.T, job string, fits func(*nomadapi.Allocation) bool, task string) {
	t.Helper()
	for _, a := range b.running(t, job) {
		if !fits(a) {
			continue
		}
		pids := pidsOf(t, a.ID, task)
		must.Positive(t, len(pids))
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // they end one another
		}
		return
	}
	t.Fatalf("no running allocation of %s has the task %s that is to be killed", job, task)
}

// pipeline makes an index of documents, and compares it with one made here.
func (b *queueBench) pipeline(t *testing.T) {
	out := shared(t)
	client := b.run(t, jobs.Pipeline, "documents", map[string]string{"output_dir": out})
	files := documents(t, 45)
	enqueue(t, client, "documents", files)
	must.NoError(t, client.Set(t.Context(), "documents", queue.Seal))
	await(t, "the pipeline is finished", func() bool {
		st, err := client.Status(t.Context(), "documents")
		return err == nil && st.Finished
	})
	var index string
	await(t, "the index is published", func() bool {
		found, err := filepath.Glob(filepath.Join(out, "index", "[^.]*"))
		must.NoError(t, err)
		if len(found) > 0 {
			must.Len(t, 1, found, must.Sprint(found))
			index = found[0]
		}
		return index != ""
	})
	want := map[string]map[string]int{}
	for _, f := range files {
		for w, n := range wordsOf(t, f) {
			if want[w] == nil {
				want[w] = map[string]int{}
			}
			want[w][f] = n
		}
	}
	text, err := os.ReadFile(index)
	must.NoError(t, err)
	got := map[string]map[string]int{}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		must.MapNotContainsKey(t, got, f[0])
		got[f[0]] = map[string]int{}
		for _, d := range f[1:] {
			doc, n, ok := strings.Cut(d, ":")
			must.True(t, ok)
			got[f[0]][doc], err = strconv.Atoi(n)
			must.NoError(t, err)
		}
	}
	must.Eq(t, want, got)
}

// broker starts a broker beside the cluster, and returns its address and a client.
func (b *queueBench) broker(t *testing.T, prefix string) (addr string, client *queue.Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	addr = l.Addr().String()
	must.NoError(t, l.Close())
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must.NoError(t, err)
	broker := exec.Command(filepath.Join(b.bin, "queue"), "agent", "-prefix="+prefix, "-listen="+addr)
	broker.Env = append(os.Environ(), "NOMAD_ADDR="+b.c.NomadAddr(), "CONSUL_HTTP_ADDR="+b.c.ConsulAddr())
	broker.Stdout, broker.Stderr = log, log
	broker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must.NoError(t, broker.Start())
	t.Cleanup(func() {
		must.NoError(t, broker.Process.Signal(syscall.SIGTERM))
		must.NoError(t, broker.Wait())
		if text, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("broker: %v\n%s", err, text)
		}
		must.NoError(t, log.Close())
	})
	client, err = queue.NewClient(queue.ClientConfig{Addresses: []string{"http://" + addr}})
	must.NoError(t, err)
	t.Cleanup(client.Close)
	return addr, client
}

// parameterized registers a job that is dispatched with this meta, and never restarted.
func (b *queueBench) parameterized(t *testing.T, name string, meta []string, command string, args ...string) {
	t.Helper()
	job := nomadapi.NewBatchJob(name, name, "global", 50)
	job.Datacenters = []string{"*"}
	job.ParameterizedJob = &nomadapi.ParameterizedJobConfig{MetaRequired: meta}
	task := nomadapi.NewTask("main", "raw_exec")
	task.SetConfig("command", command)
	task.SetConfig("args", args)
	group := nomadapi.NewTaskGroup("main", 1)
	none := 0
	mode, unlimited := "fail", false
	group.RestartPolicy = &nomadapi.RestartPolicy{Attempts: &none, Mode: &mode}
	group.ReschedulePolicy = &nomadapi.ReschedulePolicy{Attempts: &none, Unlimited: &unlimited}
	job.AddTaskGroup(group.AddTask(task))
	_, _, err := b.c.Nomad().Jobs().Register(job, nil)
	must.NoError(t, err)
	t.Cleanup(func() {
		_, _, err := b.c.Nomad().Jobs().Deregister(name, true, nil)
		must.NoError(t, err)
	})
}

// scale lets a broker start workers from zero, and these end by themselves.
func (b *queueBench) scale(t *testing.T) {
	const workersJob = "workers"
	addr, client := b.broker(t, "scale")
	out := shared(t)
	b.parameterized(t, workersJob, []string{"queue", "stage"}, filepath.Join(b.bin, "worker"),
		"-queue=${NOMAD_META_queue}", "-stage=${NOMAD_META_stage}", "-queue-addr=http://"+addr, "-idle-exit=2s",
		"-input-dir=/usr/share/doc", "-output="+out, "--", "/bin/sh", "-c", "sleep 0.2; wc -c <$WQ_INPUT >$WQ_OUTPUT")
	_, err := client.Create(t.Context(), "q", queue.Config{Retention: queue.Duration(queue.MaxLease), Stages: []queue.Stage{{
		Name: "work", Scale: &queue.Scale{Job: workersJob, Max: 3, ItemsPerWorker: 5},
	}}})
	must.NoError(t, err)
	dispatched := func() (all, alive int) {
		list, _, err := b.c.Nomad().Jobs().PrefixList(workersJob + "/dispatch-")
		must.NoError(t, err)
		for _, j := range list {
			if j.Status != "dead" {
				alive++
			}
		}
		return len(list), alive
	}
	all, _ := dispatched()
	must.Eq(t, 0, all)
	for round := range 2 { // from zero each time
		files := documents(t, 60)
		items := make([]queue.Item, len(files))
		for i, f := range files {
			items[i] = queue.Item{Input: f}
		}
		_, err = client.Enqueue(t.Context(), "q", items)
		must.NoError(t, err)
		most := 0
		await(t, "all items are done, and all workers gone", func() bool {
			_, alive := dispatched()
			most = max(most, alive)
			_, s := stage(t, client, "q")
			return int(s.Done) == (round+1)*len(files) && alive == 0
		})
		must.Eq(t, 3, most)
	}
	all, _ = dispatched()
	must.Eq(t, 6, all)
	list, _, err := b.c.Nomad().Jobs().PrefixList(workersJob + "/dispatch-")
	must.NoError(t, err)
	for _, j := range list {
		must.False(t, j.Stop) // it ended by itself
		until(t, b.c, j.ID, "complete", func(as []*nomadapi.Allocation) bool {
			return len(as) == 1 && as[0].ClientStatus == "complete"
		})
	}
	_, s := stage(t, client, "q")
	must.Eq(t, 0, s.Failed+s.Lost)
	for _, f := range documents(t, 60) {
		rel, err := filepath.Rel("/usr/share/doc", f)
		must.NoError(t, err)
		info, err := os.Stat(f)
		must.NoError(t, err)
		text, err := os.ReadFile(filepath.Join(out, rel))
		must.False(t, errors.Is(err, fs.ErrNotExist))
		must.NoError(t, err)
		must.Eq(t, strconv.FormatInt(info.Size(), 10), strings.TrimSpace(string(text)))
	}
}

// dispatch lets a worker dispatch a job for each item.
func (b *queueBench) dispatch(t *testing.T) {
	const name = "upper"
	addr, client := b.broker(t, "dispatch")
	b.parameterized(t, name, []string{"WQ_INPUT", "WQ_OUTPUT"}, "/bin/sh", "-c",
		"test -s $NOMAD_META_WQ_INPUT || exit 65; tr a-z A-Z <$NOMAD_META_WQ_INPUT >$NOMAD_META_WQ_OUTPUT")
	_, err := client.Create(t.Context(), "q", queue.Config{})
	must.NoError(t, err)
	in, out := t.TempDir(), t.TempDir()
	files := map[string]string{"a": "one", "b": "two", "c": "three", "empty": ""}
	var items []queue.Item
	for file, text := range files {
		path := filepath.Join(in, file)
		must.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		items = append(items, queue.Item{Input: path})
	}
	_, err = client.Enqueue(t.Context(), "q", items)
	must.NoError(t, err)
	must.NoError(t, client.Set(t.Context(), "q", queue.Seal))
	worker := exec.CommandContext(t.Context(), filepath.Join(b.bin, "worker"), "-queue=q", "-queue-addr=http://"+addr,
		"-input-dir="+in, "-output="+out, "-slots=2", "-dispatch="+name, "-until-finished")
	worker.Env = append(os.Environ(), "NOMAD_ADDR="+b.c.NomadAddr())
	text, err := worker.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(text)))
	_, s := stage(t, client, "q")
	must.Eq(t, 3, s.Done)
	must.Eq(t, 1, s.Dead)
	for file, text := range files {
		got, err := os.ReadFile(filepath.Join(out, file))
		if text == "" {
			must.ErrorIs(t, err, fs.ErrNotExist)
			continue
		}
		must.NoError(t, err)
		must.Eq(t, strings.ToUpper(text), string(got))
	}
	// The jobs of items that have ended are removed.
	await(t, "no dispatched job is left", func() bool {
		list, _, err := b.c.Nomad().Jobs().PrefixList(name + "/dispatch-")
		must.NoError(t, err)
		return len(list) == 0
	})
}
