package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/demo/progress"
	"github.com/nomad-patterns/nomad-patterns/jobs"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// queueName is the name of the queue and of its job.
	queueName = "documents"
	// patience bounds what the demo waits for when nothing moves any more.
	patience = 2 * time.Minute
	// look is the time between two looks at the queue, and report that between two lines.
	look, report = 100 * time.Millisecond, 2 * time.Second
	width        = 30 // of the bar
)

// demo is a cluster with the pipeline.
type demo struct {
	cfg     config
	p       *progress.Progress
	c       *cluster.Cluster
	program string // queue
	out     string // directory of the outputs
	client  *queue.Client
	total   int // documents
}

// run is the demo from the first step to the clean-up.
func run(ctx context.Context, cfg config, out io.Writer) (err error) {
	d := &demo{cfg: cfg, p: progress.New(out)}
	d.p.Say("This demo makes an index of the words in the documentation of this machine, with a")
	d.p.Say("work queue of three stages, while the broker in charge and a worker are killed.")
	documents, err := find(cfg.dir, cfg.documents)
	if err != nil {
		return err
	}
	if len(documents) < 20 {
		return fmt.Errorf("there are only %d documents in %s; give another directory with -dir", len(documents), cfg.dir)
	}
	d.total = len(documents)
	if d.out, err = os.MkdirTemp("", "np-demo-index-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.out)) }()
	if err := d.start(ctx); err != nil {
		return err
	}
	defer func() {
		d.p.Say("stopping the cluster and removing all that belongs to it")
		if d.client != nil {
			d.client.Close()
		}
		if e := d.c.Stop(); e != nil {
			err = errors.Join(err, fmt.Errorf("stop the cluster: %w", e))
			return
		}
		d.p.Say("done, nothing is left running")
	}()
	if err := d.deploy(ctx); err != nil {
		return err
	}
	if err := d.put(ctx, documents); err != nil {
		return err
	}
	if err := d.watch(ctx); err != nil {
		return err
	}
	if err := d.check(ctx, documents); err != nil {
		return err
	}
	if !cfg.keep {
		return nil
	}
	d.p.Say("the cluster runs until Ctrl-C; outputs are in %s", d.out)
	<-ctx.Done()
	return nil
}

// start builds what is needed and starts the cluster.
func (d *demo) start(ctx context.Context) error {
	binaries, err := cluster.Tools(ctx, d.p)
	if err != nil {
		return fmt.Errorf("find or build consul and nomad: %w", err)
	}
	if d.program, err = cluster.BuildAgent(ctx, d.p, "queue"); err != nil {
		return err
	}
	if _, err := cluster.BuildAgent(ctx, d.p, "worker"); err != nil {
		return err
	}
	d.p.Say("starting Consul, a Nomad server and a Nomad client")
	d.c, err = cluster.Start(ctx, cluster.Config{Docker: cluster.DockerOff, Binaries: binaries, Progress: d.p})
	if err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	return nil
}

// deploy runs the template and waits for a broker.
func (d *demo) deploy(ctx context.Context) error {
	d.p.Say("nomad job run jobs/pipeline.nomad.hcl: 2 brokers, %d workers for each stage", d.cfg.workers)
	job, err := jobs.Parse(jobs.Pipeline, map[string]string{
		"queue": queueName, "job_name": queueName, "input_dir": d.cfg.dir, "output_dir": d.out, "lease": "2s",
		"workers":       strconv.Itoa(d.cfg.workers),
		"queue_program": d.program, "worker_program": filepath.Join(filepath.Dir(d.program), "worker"),
		"consul_addr": "http://${meta.consul_http}", // the agents of this cluster have ports of their own
	})
	if err != nil {
		return err
	}
	if _, _, err := d.c.Nomad().Jobs().Register(job, (&nomadapi.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("run the job: %w", err)
	}
	d.client, err = queue.NewClient(queue.ClientConfig{Resolve: d.brokers})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the queue has no broker within %s", patience))
	defer cancel()
	return d.each(ctx, func(st queue.Overview, err error) bool { return err == nil && leader(st) != "" })
}

// brokers finds the brokers in Consul.
func (d *demo) brokers(ctx context.Context) ([]string, error) {
	entries, _, err := d.c.Consul().Health().Service("queue-"+queueName, "", true, (&consulapi.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = "http://" + net.JoinHostPort(e.Service.Address, strconv.Itoa(e.Service.Port))
	}
	if len(list) == 0 {
		return nil, errors.New("no broker is registered")
	}
	return list, nil
}

func leader(st queue.Overview) string {
	if len(st.Shards) != 1 || st.Shards[0].Error != "" {
		return ""
	}
	return st.Shards[0].Leader
}

// each looks at the queue again and again, until done says so or ctx ends.
func (d *demo) each(ctx context.Context, done func(queue.Overview, error) bool) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		st, err := d.client.Status(ctx, queueName)
		if done(st, err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// put enqueues the documents as a person does.
func (d *demo) put(ctx context.Context, documents []string) error {
	brokers, err := d.brokers(ctx)
	if err != nil {
		return err
	}
	d.p.Say("status page: %s/   Consul UI: %s", brokers[0], d.c.ConsulUI())
	command := func(stdin string, args ...string) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, d.program, append([]string{args[0], "-address=" + brokers[0]}, args[1:]...)...)
		cmd.Stdin = strings.NewReader(stdin)
		said, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("queue %s: %w: %s", args[0], err, said)
		}
		d.p.Say("queue %s: %s", strings.Join(args, " "), bytes.TrimSpace(said))
		return nil
	}
	if err := command(strings.Join(documents, "\n")+"\n", "put", queueName, "-"); err != nil {
		return err
	}
	return command("", "seal", queueName)
}

// watch follows the work until it is done, and kills a broker and a worker meanwhile.
func (d *demo) watch(ctx context.Context) error {
	begin := time.Now()
	moved, said := begin, time.Time{}
	last := uint64(0)
	killed, worker := "", false
	var killedAt time.Time
	var failure error
	err := d.each(ctx, func(st queue.Overview, err error) bool {
		if time.Since(moved) > patience {
			failure = fmt.Errorf("nothing was done for %s: %w", patience, err)
			return true
		}
		if err != nil || leader(st) == "" || len(st.Stages) != 3 {
			return false
		}
		done := uint64(0)
		for _, s := range st.Stages {
			done += s.Done
		}
		if done != last {
			last, moved = done, time.Now()
		}
		words := int(st.Stages[0].Done)
		switch {
		case killed == "" && words*5 >= d.total:
			killed, killedAt = leader(st), time.Now()
			failure = d.kill(ctx, "the broker in charge", "queue", func(a *nomadapi.Allocation) bool {
				return a.TaskGroup == "broker" && strings.HasSuffix(killed, ":"+strconv.Itoa(port(a, "queue")))
			})
		case !killedAt.IsZero() && leader(st) != killed:
			d.p.Say("    another one is in charge, after %s", time.Since(killedAt).Round(look))
			killedAt = time.Time{}
		case !worker && killedAt.IsZero() && words*2 >= d.total:
			worker = true
			failure = d.kill(ctx, "a worker", "work", func(a *nomadapi.Allocation) bool { return a.TaskGroup == "words" })
		}
		if st.Finished || time.Since(said) > report {
			said = time.Now()
			d.p.Say("%s", d.bar(st))
		}
		return failure != nil || st.Finished
	})
	if err = errors.Join(failure, err); err != nil {
		return err
	}
	d.p.Say("%d documents in %.1fs", d.total, time.Since(begin).Seconds())
	return nil
}

// bar is the state of the queue in a line.
func (d *demo) bar(st queue.Overview) string {
	var b strings.Builder
	full := int(st.Stages[0].Done) * width / d.total
	fmt.Fprintf(&b, "[%s%s]", strings.Repeat("#", min(full, width)), strings.Repeat(".", max(width-full, 0)))
	for _, s := range st.Stages {
		fmt.Fprintf(&b, "  %s: %d done, %d to do", s.Name, s.Done, s.Ready+s.Delayed+s.Waiting+s.InFlight)
	}
	return b.String()
}

// kill kills a task of an allocation that fits, with SIGKILL.
func (d *demo) kill(ctx context.Context, what, task string, fits func(*nomadapi.Allocation) bool) error {
	q := (&nomadapi.QueryOptions{}).WithContext(ctx)
	stubs, _, err := d.c.Nomad().Jobs().Allocations(queueName, false, q)
	if err != nil {
		return fmt.Errorf("kill %s: %w", what, err)
	}
	for _, s := range stubs {
		if s.ClientStatus != nomadapi.AllocClientStatusRunning {
			continue
		}
		a, _, err := d.c.Nomad().Allocations().Info(s.ID, q)
		if err != nil {
			return fmt.Errorf("kill %s: %w", what, err)
		}
		if !fits(a) {
			continue
		}
		d.p.Say("kill -9 %s (allocation %.8s)", what, a.ID)
		if err := d.c.Nomad().Allocations().Signal(a, q, task, "SIGKILL"); err != nil {
			return fmt.Errorf("kill %s: %w", what, err)
		}
		return nil
	}
	return fmt.Errorf("kill %s: it does not run", what)
}

func port(a *nomadapi.Allocation, label string) int {
	for _, p := range a.AllocatedResources.Shared.Ports {
		if p.Label == label {
			return p.Value
		}
	}
	return 0
}

// check compares the index with one that is made here, and looks words up.
func (d *demo) check(ctx context.Context, documents []string) error {
	st, err := d.client.Status(ctx, queueName)
	if err != nil {
		return err
	}
	for _, s := range st.Stages {
		d.p.Say("stage %s: %d done, %d attempts failed, %d lost with their worker, %d dead letters", s.Name, s.Done, s.Failed, s.Lost, s.Dead)
	}
	path, err := d.published(ctx)
	if err != nil {
		return err
	}
	got, err := load(path)
	if err != nil {
		return err
	}
	want, err := read(documents)
	if err != nil {
		return err
	}
	if err := compare(got, want); err != nil {
		return err
	}
	d.p.Say("the index has %d words in %d places, and is the same as one made without the queue", len(got), got.postings())
	for _, w := range d.cfg.words {
		d.p.Say("    %s: %s", w, got.lookUp(w, d.cfg.dir))
	}
	return nil
}

// published waits for the index: an output is moved to its place after it is accepted.
func (d *demo) published(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no index was published within %s", patience))
	defer cancel()
	var found []string
	err := d.each(ctx, func(queue.Overview, error) bool {
		found, _ = filepath.Glob(filepath.Join(d.out, "index", "[^.]*"))
		return len(found) > 0
	})
	if err != nil {
		return "", err
	}
	if len(found) > 1 {
		return "", fmt.Errorf("there are %d indexes, and should be one: %v", len(found), found)
	}
	return found[0], nil
}
