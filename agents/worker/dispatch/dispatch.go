// Package dispatch does items by dispatching a parameterized job of Nomad, once for each
// attempt: for items that need a machine of their own, or other resources than a worker.
//
//	parameterized {
//	  meta_required = ["WQ_INPUT", "WQ_OUTPUT"]
//	  meta_optional = ["WQ_ITEM", "WQ_CLAIM"]
//	  payload       = "optional"
//	}
//
// The job gets those of the variables of package run that its meta names, and as payload,
// if it may have one, the JSON of package httpmode. In its tasks they are
// $NOMAD_META_WQ_INPUT and so on. WQ_INPUT and WQ_OUTPUT are paths on a volume that
// worker and job share, or URLs that the job itself reads and writes; $WQ_PROGRESS and
// $WQ_EMIT need such a volume.
//
// The attempt ends with the job. The exit code of its task means the same as that of a
// command; of several tasks, that of one that failed counts. A job that could not be run
// is a failure. When the attempt has to end before, the job is stopped; when it has ended
// it is removed from Nomad.
//
// The dispatch has an idempotency token of queue, item and claim, so that asking Nomad
// again after an answer that was lost does not start a second job.
//
// Not promised: a worker that is killed leaves its jobs running. Their items go to others
// when their leases end; what the old job writes then is not published, and nobody stops
// it. Bound it by kill_timeout and max_runtime in the job itself where that is dear.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/httpmode"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// callTimeout bounds a call of Nomad, besides the time that it waits.
	callTimeout = 10 * time.Second
	// watchWait is how long Nomad holds a blocking query.
	watchWait = time.Minute
	// pauseMin and pauseMax bound the pause after a failure.
	pauseMin = 500 * time.Millisecond
	pauseMax = 15 * time.Second
	// stopTries is how often stopping a job is tried.
	stopTries = 5
	// dispatchTries is how often a dispatch may be answered by an error of Nomad.
	dispatchTries = 5
	// removeTimeout bounds the stopping of a job, drainTimeout when the worker has to end.
	removeTimeout = time.Minute
	drainTimeout  = 5 * time.Second
)

// Exit codes as in package run.
const (
	exitReject = 65
	exitSkip   = 99
)

// Config says what is dispatched.
type Config struct {
	Nomad  *api.Client
	Job    string
	Logger hclog.Logger
}

// Jobs does items by jobs. It implements attempt.Way.
type Jobs struct{ cfg Config }

// New makes a Jobs.
func New(cfg Config) *Jobs {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	return &Jobs{cfg}
}

// Ready implements attempt.Way: the job has to be there, and to be parameterized.
func (j *Jobs) Ready(ctx context.Context) error {
	_, err := j.parameters(ctx)
	return err
}

func (j *Jobs) parameters(ctx context.Context) (*api.ParameterizedJobConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	job, _, err := j.cfg.Nomad.Jobs().Info(j.cfg.Job, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("job %q: %w", j.cfg.Job, err)
	}
	if job.ParameterizedJob == nil {
		return nil, fmt.Errorf("job %q is not parameterized; give it a block parameterized", j.cfg.Job)
	}
	if job.Stop != nil && *job.Stop {
		return nil, fmt.Errorf("job %q is stopped", j.cfg.Job)
	}
	return job.ParameterizedJob, nil
}

// Do implements attempt.Way.
func (j *Jobs) Do(ctx context.Context, a *attempt.Attempt) attempt.Result {
	pj, err := j.parameters(ctx)
	if err != nil {
		// It has not been tried, and will not be before Ready.
		return attempt.Result{Action: queue.Release, Reason: fmt.Sprintf("dispatch: %v", err)}
	}
	vars := a.Vars()
	for _, name := range pj.MetaRequired {
		if _, is := vars[name]; !is {
			return attempt.Result{Action: queue.Reject, Reason: fmt.Sprintf("job %q requires the meta %s, which the item does not have", j.cfg.Job, name)}
		}
	}
	id, err := j.dispatch(ctx, a, pj)
	if err != nil {
		return attempt.Failedf("dispatch: %v", err)
	}
	res := j.await(ctx, id)
	limit := removeTimeout
	if errors.Is(context.Cause(ctx), attempt.ErrDrained) {
		limit = drainTimeout // the worker will not be there for longer
	}
	removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	if err := j.remove(removing, id); err != nil {
		j.cfg.Logger.Warn("remove a dispatched job", "job", id, "error", err)
	}
	return res
}

// dispatch starts the job of an attempt.
func (j *Jobs) dispatch(ctx context.Context, a *attempt.Attempt, pj *api.ParameterizedJobConfig) (string, error) {
	meta := map[string]string{}
	for name, value := range a.Vars() {
		if slices.Contains(pj.MetaRequired, name) || slices.Contains(pj.MetaOptional, name) {
			meta[name] = value
		}
	}
	var payload []byte
	if pj.Payload != "forbidden" {
		var err error
		if payload, err = httpmode.Request(a); err != nil {
			return "", err
		}
	}
	token := fmt.Sprintf("%s-%s-%d", a.Queue, a.ID, a.Claim)
	for try, pause := 1, pauseMin; ; try, pause = try+1, min(2*pause, pauseMax) {
		// To the end, also if the lease is lost meanwhile: a job whose ID is not known
		// could not be stopped.
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		res, _, err := j.cfg.Nomad.Jobs().Dispatch(j.cfg.Job, meta, payload, "", (&api.WriteOptions{IdempotencyToken: token}).WithContext(call))
		cancel()
		if err == nil {
			return res.DispatchedJobID, nil
		}
		var no api.UnexpectedResponseError
		// Nomad answers 500 to what it will never take, too, so that has an end.
		answered := errors.As(err, &no) && no.HasStatusCode()
		if answered && (no.StatusCode() < http.StatusInternalServerError || try == dispatchTries) || !pauseFor(ctx, pause) {
			return "", err
		}
		j.cfg.Logger.Warn("dispatch a job", "job", j.cfg.Job, "item", a.ID.String(), "error", err)
	}
}

// await waits until the job has ended, or ctx.
func (j *Jobs) await(ctx context.Context, id string) attempt.Result {
	var index uint64
	for pause := pauseMin; ; {
		call, cancel := context.WithTimeout(ctx, watchWait+callTimeout)
		job, meta, err := j.cfg.Nomad.Jobs().Info(id, (&api.QueryOptions{WaitIndex: index, WaitTime: watchWait}).WithContext(call))
		cancel()
		switch {
		case ctx.Err() != nil:
			return attempt.Failedf("%v", context.Cause(ctx))
		case isGone(err):
			return attempt.Failedf("the dispatched job %s was removed by somebody else", id)
		case err != nil:
			j.cfg.Logger.Warn("watch a dispatched job", "job", id, "error", err)
			if !pauseFor(ctx, pause) {
				return attempt.Failedf("%v", context.Cause(ctx))
			}
			pause = min(2*pause, pauseMax)
			continue
		}
		pause = pauseMin
		if job.Status != nil && *job.Status == "dead" {
			return j.ended(ctx, id)
		}
		if index = meta.LastIndex; index < 1 {
			index = 1 // 0 would not wait
		}
	}
}

// ended says how a job has ended.
func (j *Jobs) ended(ctx context.Context, id string) attempt.Result {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	allocs, _, err := j.cfg.Nomad.Jobs().Allocations(id, false, (&api.QueryOptions{}).WithContext(call))
	if err != nil {
		return attempt.Failedf("how the dispatched job %s has ended is not known: %v", id, err)
	}
	var last *api.AllocationListStub
	for _, a := range allocs {
		if last == nil || a.CreateIndex > last.CreateIndex {
			last = a
		}
	}
	if last == nil {
		return attempt.Failedf("the dispatched job %s was never run; nomad job status says why while it is there", id)
	}
	return outcome(last)
}

// outcome is what the end of an allocation means.
func outcome(a *api.AllocationListStub) attempt.Result {
	result := attempt.Failedf("allocation %s is %s: %s", a.ID, a.ClientStatus, a.ClientDescription)
	if a.ClientStatus == "complete" {
		result = attempt.Result{Action: queue.Done}
	}
	for _, name := range slices.Sorted(maps.Keys(a.TaskStates)) {
		state := a.TaskStates[name]
		for _, e := range slices.Backward(state.Events) {
			if e.Type != api.TaskTerminated {
				continue
			}
			switch {
			case e.ExitCode == exitSkip:
				return attempt.Result{Action: queue.Skip}
			case e.ExitCode == exitReject:
				return attempt.Result{Action: queue.Reject, Reason: reason(name, e)}
			case state.Failed:
				result = attempt.Result{Action: queue.Retry, Reason: reason(name, e)}
			}
			break
		}
	}
	return result
}

func reason(task string, e *api.TaskEvent) string {
	text := fmt.Sprintf("task %s: exit code %d", task, e.ExitCode)
	if e.Signal != 0 {
		text += fmt.Sprintf(", signal %d", e.Signal)
	}
	if more := strings.TrimSpace(e.Message); more != "" {
		text += ": " + more
	}
	return text
}

// remove stops a job and removes it.
func (j *Jobs) remove(ctx context.Context, id string) error {
	for try, pause := 1, pauseMin; ; try, pause = try+1, min(2*pause, pauseMax) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, _, err := j.cfg.Nomad.Jobs().Deregister(id, true, (&api.WriteOptions{}).WithContext(call))
		cancel()
		if err == nil || isGone(err) {
			return nil
		}
		if try == stopTries || !pauseFor(ctx, pause) {
			return err
		}
	}
}

// isGone says whether there is no such job.
func isGone(err error) bool {
	var no api.UnexpectedResponseError
	return errors.As(err, &no) && no.StatusCode() == http.StatusNotFound
}

// pauseFor waits, or returns false when ctx has ended.
func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
