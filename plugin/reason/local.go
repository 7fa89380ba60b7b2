package reason

import (
	"fmt"
	"strconv"

	"github.com/hashicorp/nomad/api"
)

// Types of task events that package api does not name.
const (
	eventMainDead = "Main Tasks Dead"
	eventPausing  = "Pausing" // Nomad Enterprise: outside of its schedule, to start again
)

// local tells why a task stops from its own events since it was last started.
// The newest cause counts: a task that is restarting when its leader dies does
// not start again.
//
// Nomad writes "Killing" for every stop of an allocation, whoever wanted it, so
// alone it says nothing, unless the event itself fails the task.
func (o Observation) local(task string) Verdict {
	s := o.Alloc.TaskStates[task]
	if s == nil {
		return Verdict{Reason: Unknown}
	}
	v := Verdict{Reason: Unknown}
	for _, e := range s.Events {
		if e == nil {
			continue
		}
		switch {
		case e.Type == api.TaskStarted:
			v = Verdict{Reason: Unknown}
			continue
		case e.Type == api.TaskRestartSignal, e.Type == eventPausing:
			v = Verdict{Reason: Restarted}
		case e.Type == api.TaskLeaderDead, e.Type == eventMainDead:
			// Had they failed, it would be "Sibling Task Failed".
			v = Verdict{Reason: Completed, Whole: true, Final: onlyOnce(o.job())}
		case e.Type == api.TaskSiblingFailed, e.FailsTask, e.Details["fails_task"] == "true":
			v = Verdict{Reason: Failed, Whole: true}
		case v.Decided:
			continue // what follows from a cause is none
		case e.Type == api.TaskTerminated:
			v = Verdict{Reason: terminated(e)}
			v.Final = v.Reason == Completed && Done(o.job(), o.Alloc.TaskGroup, task)
		case e.Type == api.TaskRestarting: // without an end before it: Nomad's supervisor of CSI plugins
			v = Verdict{Reason: Restarted}
		default:
			continue
		}
		v.Decided, v.Detail = true, clean(e.DisplayMessage)
		if v.Detail == "" {
			v.Detail = clean(e.Type)
		}
	}
	return v
}

// terminated is the reason of a process that has ended by itself. The details
// are what Nomad promises to keep, the fields are deprecated.
func terminated(e *api.TaskEvent) Reason {
	number := func(key string, field int) int {
		if n, err := strconv.Atoi(e.Details[key]); err == nil {
			return n
		}
		return field
	}
	if e.Message != "" || e.Details["exit_message"] != "" {
		return Failed
	}
	return Exited(number("exit_code", e.ExitCode), number("signal", e.Signal), e.Details["oom_killed"] == "true", nil)
}

// beside tells why the task stops from the ends of the tasks beside it. Nomad has
// events for that, but while it kills the tasks of an allocation it sends none to
// the servers: all that they know is how the other process has ended, which they
// were told just before.
func (o Observation) beside() Verdict {
	unknown := Verdict{Reason: Unknown}
	g := group(o.job(), o.Alloc.TaskGroup)
	if g == nil {
		return unknown
	}
	verdict := func(r Reason, final bool, task, detail string) Verdict {
		return Verdict{Reason: r, Decided: true, Final: final, Whole: true, Detail: clean(fmt.Sprintf("task %q: %s", task, detail))}
	}
	completed := unknown
	sidecar, served := false, false // this task is a sidecar, and there is a task that it serves
	for _, t := range g.Tasks {
		if t == nil {
			continue
		}
		l := t.Lifecycle
		if t.Name == o.Task {
			sidecar = l != nil && l.Sidecar
			continue
		}
		v := unknown
		if !startsAgain(o.Alloc.TaskStates[t.Name]) {
			v = o.local(t.Name)
		}
		switch {
		case v.Reason == Failed:
			return verdict(Failed, false, t.Name, v.Detail)
		case v.Reason == Completed:
			completed = verdict(Completed, onlyOnce(o.job()), t.Name, v.Detail)
			if t.Leader {
				return completed
			}
		case l == nil, !l.Sidecar && l.Hook != api.TaskLifecycleHookPoststop:
			served = true
		}
	}
	if !sidecar || served {
		return unknown
	}
	return completed
}

// alone reports whether no other task can be the cause of this one's stop, and
// the allocation is known well enough to say so.
func (o Observation) alone() bool {
	g := group(o.job(), o.Alloc.TaskGroup)
	return g != nil && len(g.Tasks) == 1 && o.wanted()
}

// wanted reports whether the servers want the allocation to run where it is, and
// hear of it.
func (o Observation) wanted() bool {
	a := o.Alloc
	return a.DesiredStatus == api.AllocDesiredStatusRun && !a.DesiredTransition.ShouldMigrate() &&
		(a.ClientStatus == api.AllocClientStatusRunning || a.ClientStatus == api.AllocClientStatusPending)
}

// restart is the verdict if a task is asked to stop and nobody says why.
func (o Observation) restart() Verdict {
	if o.Alloc == nil || o.job() == nil || !o.wanted() {
		return Verdict{Reason: Unknown}
	}
	return Verdict{Reason: Restarted, Decided: true, Detail: "a restart on its node: the servers want it to run, and no task beside it has ended"}
}

// startsAgain reports whether the task has ended and waits for its restart.
func startsAgain(s *api.TaskState) bool {
	again := false
	if s != nil {
		for _, e := range s.Events {
			if e != nil && (e.Type == api.TaskStarted || e.Type == api.TaskRestarting) {
				again = e.Type == api.TaskRestarting
			}
		}
	}
	return again
}

// job is the job as the allocation runs it, or as it is now.
func (o Observation) job() *api.Job {
	if o.Alloc.Job != nil {
		return o.Alloc.Job
	}
	return o.Job
}

// onlyOnce reports whether the job's allocations are not replaced once they
// have ended with success.
func onlyOnce(j *api.Job) bool {
	if j == nil {
		return false
	}
	t := value(j.Type)
	return t == api.JobTypeBatch || t == api.JobTypeSysbatch
}

// Done reports whether a task that has ended with success will not run again, so
// that nobody needs its state any more: it is the only main task of its group,
// in a job of type batch or sysbatch. Beside another main task it would run again
// if that one failed. It is false if the job, which may be nil, is not known.
func Done(j *api.Job, taskGroup, task string) bool {
	if !onlyOnce(j) {
		return false
	}
	g := group(j, taskGroup)
	if g == nil {
		return false
	}
	mains, ours := 0, false
	for _, t := range g.Tasks {
		if t != nil && t.Lifecycle == nil {
			mains++
			ours = ours || t.Name == task
		}
	}
	return ours && mains == 1
}

// Exited is the reason of a process that has ended though nobody asked it to:
// Completed if it has ended with success, else Failed. err is what went wrong
// when waiting for it.
func Exited(exitCode, signal int, oomKilled bool, err error) Reason {
	if exitCode == 0 && signal == 0 && !oomKilled && err == nil {
		return Completed
	}
	return Failed
}
