package reason

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/nomad/api"
)

// Reason is why a task stops.
type Reason string

// The reasons.
const (
	Unknown     Reason = "unknown"
	Preempted   Reason = "preempted"   // its place went to an allocation of higher priority
	Drained     Reason = "drained"     // its node is being emptied
	Updated     Reason = "updated"     // a new version of the job takes its place
	Stopped     Reason = "stopped"     // an operator stopped the job, or this allocation
	ScaledDown  Reason = "scaled-down" // the job wants fewer allocations, or a canary is given up
	Rescheduled Reason = "rescheduled" // replaced because it failed, or its node was lost or away
	Restarted   Reason = "restarted"   // it will start again in the same allocation
	Failed      Reason = "failed"      // it, or a task beside it, has failed
	Completed   Reason = "completed"   // it, or the task that it served, has ended with success
)

// Reasons lists all reasons.
func Reasons() []Reason {
	return []Reason{Unknown, Preempted, Drained, Updated, Stopped, ScaledDown, Rescheduled, Restarted, Failed, Completed}
}

// Observation is what the servers say about a task's allocation.
type Observation struct {
	// Alloc is the allocation as GET /v1/allocation/:id or the event stream
	// gives it; the stream leaves its Job out.
	Alloc *api.Allocation
	// AllocGone says that the servers do not know the allocation any more, and
	// Alloc is what they said before. They forget it at once with a job that is
	// purged.
	AllocGone bool
	// Job is the job as the servers have it now, nil if they were not asked.
	Job *api.Job
	// JobGone says that the servers do not know the job any more.
	JobGone bool
	// Node is the allocation's node, nil if the servers were not asked.
	Node *api.Node
	// Task is the name of the task.
	Task string
	// Stopping says that the task is being asked to stop, and its own events have
	// had the time to reach the servers. Then there is a cause, and if nothing
	// else is, the end of a task beside it is one.
	Stopping bool
}

// Verdict is why a task stops, as far as it can be told. The zero value is not
// one: Reason is never empty.
type Verdict struct {
	Reason Reason
	// Decided says that somebody has decided on a stop: the servers for the
	// allocation, or its node for the task. Without it the reason is Unknown and
	// the task may go on running.
	Decided bool
	// Final says that nothing will take up this task's state again: its job was
	// stopped or purged, has become smaller, or is done. It is false in doubt.
	Final bool
	// Whole says that the whole allocation stops, not only this task.
	Whole bool
	// Detail is what the API says of the cause, if it says something: printable,
	// at most [MaxDetail] bytes.
	Detail string
}

// MaxDetail is the most bytes that a verdict's detail has.
const MaxDetail = 256

// What the servers write into an allocation that they stop. The texts have been
// the same since Nomad 0.9, and are all that tells one decision from another.
const (
	descNotNeeded   = "alloc not needed due to job update"
	descReconnected = "alloc not needed due to disconnected client reconnect"
	descTainted     = "alloc not needed as node is tainted" // a migration of a system job
	descMigrating   = "alloc is being migrated"
	descUpdating    = "alloc is being updated due to job update"
	descLost        = "alloc is lost since its node is down"
	descRescheduled = "alloc was rescheduled because it failed"
)

// Classify tells why the task stops. A decision of the servers comes before a
// cause on the node: after it nothing starts the task here again.
func Classify(o Observation) Verdict {
	a := o.Alloc
	if a == nil {
		return Verdict{Reason: Unknown}
	}
	if o.AllocGone {
		v := Verdict{Reason: Unknown, Decided: true, Whole: true, Detail: "the servers do not know the allocation any more"}
		if o.JobGone || o.registeredAnew() {
			v.Reason, v.Final = Stopped, true
		}
		return v
	}
	if a.ServerTerminalStatus() {
		v := Verdict{Decided: true, Whole: true, Detail: clean(a.DesiredDescription)}
		v.Reason, v.Final = o.decision()
		return v
	}
	v := o.local(o.Task)
	switch {
	case v.Decided:
		return v
	case a.DesiredTransition.ShouldMigrate(): // marked, and about to be stopped by the scheduler
		return Verdict{Reason: o.migration(), Decided: true, Whole: true, Detail: descMigrating}
	case o.Stopping:
		return o.beside()
	}
	return v
}

// decision tells why the servers want the allocation to stop, and whether for
// good.
func (o Observation) decision() (r Reason, final bool) {
	a := o.Alloc
	if a.DesiredStatus == api.AllocDesiredStatusEvict || a.PreemptedByAllocation != "" {
		return Preempted, false
	}
	switch a.DesiredDescription {
	case descMigrating, descTainted:
		return o.migration(), false
	case descUpdating:
		return Updated, false
	case descLost, descRescheduled, descReconnected:
		return Rescheduled, false
	case descNotNeeded:
		return o.notNeeded()
	default:
		return Unknown, false
	}
}

// migration tells a drain from "nomad alloc stop". Both mark the allocation to
// migrate, but the command always sets two more marks (to true or false), which
// the drainer leaves null. Servers that do not mark stops so leave only the node
// to ask.
func (o Observation) migration() Reason {
	mark := o.Alloc.DesiredTransition
	switch n := o.Node; {
	case n != nil && n.DrainStrategy != nil:
		// Also if an operator was faster: the node must be left in any case.
		return Drained
	case mark.Reschedule != nil || mark.NoShutdownDelay != nil:
		return Stopped
	case n != nil && n.LastDrain == nil && n.SchedulingEligibility == api.NodeSchedulingEligible:
		return Stopped
	default:
		return Drained // by a drain that has ended or was cancelled meanwhile
	}
}

// notNeeded tells apart what the servers call "not needed due to job update".
// Only a job that is gone, or that has no place for an allocation of this name,
// makes it final.
func (o Observation) notNeeded() (r Reason, final bool) {
	a, j := o.Alloc, o.Job
	if o.JobGone {
		return Stopped, true
	}
	if j == nil {
		return Unknown, false
	}
	if value(j.Stop) || o.registeredAnew() {
		return Stopped, true
	}
	g := group(j, a.TaskGroup)
	if g == nil || index(a.Name) >= value(g.Count) {
		return ScaledDown, true
	}
	if s := a.DeploymentStatus; s != nil && s.Canary { // unmarked when promoted
		return ScaledDown, true
	}
	if a.NextAllocation != "" { // came back, but its replacement was preferred
		return Rescheduled, false
	}
	if a.Job != nil && value(a.Job.Version) < value(j.Version) { // a promoted canary has its name
		return Updated, false
	}
	return ScaledDown, false // the name is used twice, or a system job left the node
}

// registeredAnew reports whether the job was purged, and is another one now.
func (o Observation) registeredAnew() bool {
	return o.Job != nil && o.Alloc.Job != nil && value(o.Alloc.Job.CreateIndex) < value(o.Job.CreateIndex)
}

// needs tells which of the job and the node Classify wants to see beside the
// allocation.
func (o Observation) needs() (job, node bool) {
	a := o.Alloc
	if o.AllocGone {
		return true, false
	}
	if !a.ServerTerminalStatus() {
		return false, a.DesiredTransition.ShouldMigrate() && !o.local(o.Task).Decided
	}
	if a.DesiredStatus == api.AllocDesiredStatusEvict || a.PreemptedByAllocation != "" {
		return false, false
	}
	d := a.DesiredDescription
	return d == descNotNeeded, d == descMigrating || d == descTainted
}

// group returns the job's task group of this name, nil if there is none or no
// job.
func group(j *api.Job, name string) *api.TaskGroup {
	if j == nil {
		return nil
	}
	for _, g := range j.TaskGroups {
		if g != nil && value(g.Name) == name {
			return g
		}
	}
	return nil
}

// index is the number in an allocation's name, "job.group[3]", or -1.
func index(name string) int {
	digits := strings.Trim(api.AllocSuffix(name), "[]")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return -1
	}
	return n
}

// value is what p points to, the zero value if to nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// clean makes foreign text fit to be shown: printable, on one line, and of at
// most MaxDetail bytes.
func clean(s string) string {
	if len(s) > 2*MaxDetail { // of a text of megabytes only the start matters
		s = s[:2*MaxDetail]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= MaxDetail {
		return s
	}
	cut := MaxDetail - len("…")
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
