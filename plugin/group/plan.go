package group

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Plan is the whole group as the job has it, by the tasks' names. A nil Plan is
// one that is not known.
type Plan map[string]PlanTask

// PlanTask is one task of the job.
type PlanTask struct {
	Driver  string
	Hook    string // of Nomad's lifecycle block: "prestart", "poststart", "poststop"; "" for a main task
	Sidecar bool   // of Nomad's lifecycle block
	Leader  bool
	Managed bool // has a lifecycle block under a driver of ours, so it joins the group when it starts

	StopAfter []string                  // as in Member
	Hooks     map[Event]json.RawMessage // as in Member
}

// The steps in which Nomad stops an allocation. One begins when the one before
// has ended. Poststop tasks start after the last step.
const (
	stepLeader = iota
	stepMain   // ephemeral prestart and poststart tasks as well, if they still run
	stepSidecar
	stepPoststop
)

func (t PlanTask) step() int {
	switch {
	case t.Hook == "poststop":
		return stepPoststop
	case t.Leader:
		return stepLeader
	case t.Sidecar:
		return stepSidecar
	}
	return stepMain
}

// Validate checks what the tasks' lifecycle blocks say of each other. The error
// matches [ErrInvalid], has all that is wrong, and is nil for a nil Plan.
func (p Plan) Validate() error {
	var errs []error
	edges := make(map[string][]string)
	for _, name := range p.names() {
		t := p[name]
		edges[name] = t.StopAfter
		errs = append(errs, checkEvents(name, t.Hooks))
		for _, other := range t.StopAfter {
			errs = append(errs, p.checkStopAfter(name, other))
		}
	}
	for _, name := range p.names() {
		if circle := circleThrough(name, edges); len(circle) > 2 {
			errs = append(errs, circleError(circle))
			break // a second one is rare, and found when this one is mended
		}
	}
	for _, e := range Events() {
		_, _, err := declared(e, p, nil)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkStopAfter checks that task can be stopped after other.
func (p Plan) checkStopAfter(task, other string) error {
	const field = "lifecycle.stop_after"
	t, o := p[task], p[other]
	if _, ok := p[other]; !ok {
		return invalidf("task %q: %s: there is no task %q in the group; its tasks are %s", task, field, other, quoted(p.names()))
	}
	if task == other {
		return invalidf("task %q: %s names the task itself", task, field)
	}
	switch {
	case o.step() <= t.step():
		return nil
	case o.step() == stepPoststop:
		return invalidf("task %q: %s: %q is a poststop task, which starts when all others have stopped; take it out", task, field, other)
	case t.step() == stepLeader:
		return invalidf("task %q: %s: it is the leader, which Nomad stops before all other tasks; take %q out, or leader from the task", task, field, other)
	default:
		return invalidf("task %q: %s: %q is a sidecar, and Nomad stops sidecars after all other tasks; take it out", task, field, other)
	}
}

func (p Plan) names() []string { return slices.Sorted(maps.Keys(p)) }

// circleThrough returns a shortest way from a task over what it stops after back
// to itself, with the task at both ends, or nil.
func circleThrough(task string, edges map[string][]string) []string {
	from := make(map[string]string) // how each task was reached
	for queue := []string{task}; len(queue) > 0; queue = queue[1:] {
		for _, next := range edges[queue[0]] {
			if next == task {
				circle := []string{task}
				for at := queue[0]; at != task; at = from[at] {
					circle = append(circle, at)
				}
				circle = append(circle, task)
				slices.Reverse(circle)
				return circle
			}
			if _, seen := from[next]; !seen {
				from[next] = queue[0]
				queue = append(queue, next)
			}
		}
	}
	return nil
}

func circleError(circle []string) error {
	return invalidf("lifecycle.stop_after goes in a circle: %s; each would stop after the next one, so take one of them out", strings.Join(circle, " → "))
}

// predecessors returns the tasks that are to stop before self: those that it
// names or, if no task of the group names any, the sidecars that started after it
// at first, if it is one. A restart in place does not change who needs whom.
func predecessors(self Member, plan Plan, members []Member) []string {
	if len(self.StopAfter) > 0 {
		names := slices.Clone(self.StopAfter)
		slices.Sort(names)
		return slices.Compact(names)
	}
	if plan[self.Task].step() != stepSidecar {
		return nil
	}
	for _, t := range plan {
		if len(t.StopAfter) > 0 {
			return nil
		}
	}
	var later []string
	for _, m := range members {
		if len(m.StopAfter) > 0 {
			return nil
		}
		if plan[m.Task].step() == stepSidecar && startedAfter(m, self) {
			later = append(later, m.Task)
		}
	}
	return later
}

// startedAfter orders tasks by their first starts. No two are equal, and none is
// after itself.
func startedAfter(a, b Member) bool {
	if c := a.First.Compare(b.First); c != 0 {
		return c > 0
	}
	return a.Task > b.Task
}

func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = strconv.Quote(n)
	}
	return strings.Join(q, ", ")
}

func checkEvents(task string, hooks map[Event]json.RawMessage) error {
	for _, e := range slices.Sorted(maps.Keys(hooks)) {
		if !slices.Contains(Events(), e) {
			return invalidf("task %q: lifecycle.group has no event %q; its events are %s", task, e, quoted(eventNames()))
		}
	}
	return nil
}

func declaredTwice(e Event, a, b string) error {
	names := []string{a, b}
	slices.Sort(names)
	return invalidf("lifecycle.group.%s is declared by the tasks %q and %q; it belongs to the whole allocation, so keep one of them", e, names[0], names[1])
}

// Declaration is a group hook and the task that it is declared on.
type Declaration struct {
	Event Event
	Task  string
	Hook  json.RawMessage // as the caller gave it in Member.Hooks or PlanTask.Hooks
}

// declared returns the declaration of a group hook, if it is known. What a task's
// own process has published comes before what the plan says of the same task.
func declared(e Event, plan Plan, members []Member) (d Declaration, ok bool, err error) {
	by := make(map[string]json.RawMessage)
	for name, t := range plan {
		if hook, has := t.Hooks[e]; has {
			by[name] = hook
		}
	}
	for _, m := range members {
		delete(by, m.Task)
		if hook, has := m.Hooks[e]; has {
			by[m.Task] = hook
		}
	}
	names := slices.Sorted(maps.Keys(by))
	switch len(names) {
	case 0:
		return Declaration{}, false, nil
	case 1:
		return Declaration{Event: e, Task: names[0], Hook: by[names[0]]}, true, nil
	default:
		return Declaration{}, false, declaredTwice(e, names[0], names[1])
	}
}
