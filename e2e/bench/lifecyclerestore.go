package bench

import (
	"context"
	"fmt"
	"io"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/rig"
)

const (
	restoreEvictions = 33
	restoreWarmup    = 3             // of them, not counted
	restoreBytes     = 256<<10 - 256 // the first line of the state is the rest
)

// Restore measures how long a replacement takes until it has its predecessor's
// state: 256 KiB that cannot be compressed, in Consul, over HTTP. Of three
// instances one after the other is evicted, by a drain of its node or by "alloc
// stop", thirty times and three more that are not counted.
//
// The time is from the client's event "Task Setup", which is when the client begins
// with the replacement's task, to the moment when the application has its state. The
// time from "Received", in which the client waits for the predecessor's end, is told
// besides.
//
// Results go to out as "bench lifecycle.restore.p50 <ms> ms" and the same for p99.
func Restore(ctx context.Context, r *rig.Rig, out io.Writer) error {
	job := rig.Job{Name: "bench-restore", Count: 3, Args: []string{fmt.Sprintf("-ballast=%d", restoreBytes)}}
	if err := r.Register(ctx, job); err != nil {
		return err
	}
	var (
		times, received []time.Duration
		slowest         string
	)
	for n := range restoreEvictions {
		took, all, said, err := oneRestore(ctx, r, job, n)
		if err != nil {
			return fmt.Errorf("restore %d: %w", n, err)
		}
		if n >= restoreWarmup {
			if took > quantile(append(times, 0), 1) {
				slowest = said
			}
			times, received = append(times, took), append(received, all)
		}
	}
	if err := r.Purge(ctx, job.Name); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "# lifecycle.restore: %d evictions, from Task Setup to restored: min %.1f, max %.1f ms; from Received, with the predecessor's stop: p50 %.1f, max %.1f ms\n"+
		"# lifecycle.restore: the slowest said: %s\n"+
		"bench lifecycle.restore.p50 %.1f ms\nbench lifecycle.restore.p99 %.1f ms\n",
		len(times), ms(quantile(times, 0)), ms(quantile(times, 1)), ms(median(received)), ms(quantile(received, 1)), slowest,
		ms(median(times)), ms(quantile(times, 0.99)))
	return err
}

// oneRestore evicts an instance and returns how long its replacement took, from the
// setup of its task and from its being received, and what the driver has said of it.
func oneRestore(ctx context.Context, r *rig.Rig, job rig.Job, n int) (fromSetup, fromReceived time.Duration, said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, evictStep)
	defer cancel()
	up, err := r.Running(ctx, job.Name, job.Count)
	if err != nil {
		return 0, 0, "", err
	}
	old := up[n%len(up)]
	if n%2 == 0 {
		err = r.Drain(ctx, old.NodeID)
	} else {
		err = r.StopAlloc(ctx, old.ID)
	}
	if err != nil {
		return 0, 0, "", err
	}
	var now *nomadapi.Allocation
	if _, err := r.Until(ctx, job.Name, "replaced", func(as []*nomadapi.Allocation) bool {
		for _, a := range as {
			if a.Name == old.Name && a.ID != old.ID && a.CreateIndex > old.CreateIndex && rig.Up(a) {
				now = a
			}
		}
		return now != nil
	}); err != nil {
		return 0, 0, "", err
	}
	restored, err := r.Recorder.Await(ctx, "the state of "+now.ID, rig.OfAlloc(now.ID), rig.Of(journal.Restored))
	if err != nil {
		return 0, 0, "", fmt.Errorf("%w\n%s\n%s", err, rig.Describe(old), rig.Describe(now))
	}
	if c := r.Recorder.All(rig.OfAlloc(now.ID), rig.Of(journal.Corrupt)); len(c) > 0 {
		return 0, 0, "", fmt.Errorf("the state of %s is not what was saved", now.ID)
	}
	s := now.TaskStates["app"]
	at := restored.At.UnixNano()
	for _, e := range s.Events {
		if e.Type == nomadapi.TaskDriverMessage {
			said = e.DisplayMessage
		}
	}
	return time.Duration(at - eventTime(s, nomadapi.TaskSetup)), time.Duration(at - eventTime(s, nomadapi.TaskReceived)), said, nil
}
