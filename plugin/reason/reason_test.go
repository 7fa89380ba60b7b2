package reason

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

func ptr[T any](v T) *T { return &v }

// stopped is an allocation that the servers have stopped.
func stopped(desc string) *api.Allocation {
	return &api.Allocation{
		ID: "a", Name: "shop.web[1]", JobID: "shop", TaskGroup: "web",
		DesiredStatus: api.AllocDesiredStatusStop, DesiredDescription: desc,
		Job: job(3, 2),
	}
}

// job is a service of one group.
func job(version uint64, count int) *api.Job {
	return &api.Job{
		ID: ptr("shop"), Type: ptr(api.JobTypeService), Version: ptr(version), CreateIndex: ptr(uint64(10)), Stop: ptr(false),
		TaskGroups: []*api.TaskGroup{{Name: ptr("web"), Count: ptr(count), Tasks: []*api.Task{{Name: "app"}}}},
	}
}

func with[T any](v *T, change func(*T)) *T {
	change(v)
	return v
}

func TestClassify_NotNeeded(t *testing.T) {
	cases := map[string]struct {
		alloc *api.Allocation
		job   *api.Job
		gone  bool
		want  Reason
		final bool
	}{
		"job not asked for": {want: Unknown},
		"job purged":        {gone: true, want: Stopped, final: true},
		"job stopped": {
			job:  with(job(4, 2), func(j *api.Job) { j.Stop = ptr(true) }),
			want: Stopped, final: true,
		},
		"job purged and registered anew": {
			job:  with(job(0, 2), func(j *api.Job) { j.CreateIndex = ptr(uint64(11)) }),
			want: Stopped, final: true,
		},
		"no place for its index":   {job: job(4, 1), want: ScaledDown, final: true},
		"a place for its index":    {job: job(4, 2), want: Updated},
		"the same version":         {job: job(3, 2), want: ScaledDown},
		"group taken out of job":   {job: with(job(4, 2), func(j *api.Job) { j.TaskGroups = nil }), want: ScaledDown, final: true},
		"group without a count":    {job: with(job(4, 2), func(j *api.Job) { j.TaskGroups[0].Count = nil }), want: ScaledDown, final: true},
		"all fields of job absent": {job: &api.Job{}, want: ScaledDown, final: true},
		"canary that was not promoted": {
			alloc: with(stopped(descNotNeeded), func(a *api.Allocation) { a.DeploymentStatus = &api.AllocDeploymentStatus{Canary: true} }),
			job:   job(4, 2), want: ScaledDown, final: true,
		},
		"reconnected, but its replacement stays": {
			alloc: with(stopped(descNotNeeded), func(a *api.Allocation) { a.NextAllocation = "b" }),
			job:   job(3, 2), want: Rescheduled,
		},
		"a name without an index": {
			alloc: with(stopped(descNotNeeded), func(a *api.Allocation) { a.Name = "odd" }),
			job:   job(3, 0), want: ScaledDown,
		},
		"without its own job, as from the stream": {
			alloc: with(stopped(descNotNeeded), func(a *api.Allocation) { a.Job = nil }),
			job:   job(4, 2), want: ScaledDown,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.alloc == nil {
				tc.alloc = stopped(descNotNeeded)
			}
			got := Classify(Observation{Alloc: tc.alloc, Job: tc.job, JobGone: tc.gone, Task: "app"})
			must.Eq(t, Verdict{Reason: tc.want, Final: tc.final, Decided: true, Whole: true, Detail: descNotNeeded}, got)
		})
	}
}

func TestClassify_Migration(t *testing.T) {
	byDrain := api.DesiredTransition{Migrate: ptr(true)}
	byCommand := api.DesiredTransition{Migrate: ptr(true), Reschedule: ptr(false), NoShutdownDelay: ptr(false)}
	draining := &api.Node{DrainStrategy: &api.DrainStrategy{}, LastDrain: &api.DrainMetadata{Status: api.DrainStatusDraining}, SchedulingEligibility: api.NodeSchedulingIneligible}
	drained := &api.Node{LastDrain: &api.DrainMetadata{Status: api.DrainStatusComplete, StartedAt: time.Unix(1, 0)}, SchedulingEligibility: api.NodeSchedulingIneligible}
	never := &api.Node{SchedulingEligibility: api.NodeSchedulingEligible}
	cases := map[string]struct {
		mark api.DesiredTransition
		node *api.Node
		want Reason
	}{
		"drain":                       {byDrain, draining, Drained},
		"drain that is over":          {byDrain, drained, Drained},
		"drain, node not asked for":   {byDrain, nil, Drained},
		"drain of a batch job":        {api.DesiredTransition{Migrate: ptr(true), MigrateDisablePlacement: ptr(true)}, nil, Drained},
		"command":                     {byCommand, never, Stopped},
		"command, node not asked for": {byCommand, nil, Stopped},
		"command on a node that was drained before":  {byCommand, drained, Stopped},
		"command on a node that is drained":          {byCommand, draining, Drained},
		"command on a server that marks it no other": {byDrain, never, Stopped},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, desc := range []string{descMigrating, descTainted} {
				a := stopped(desc)
				a.DesiredTransition = tc.mark
				want := Verdict{Reason: tc.want, Decided: true, Whole: true, Detail: desc}
				must.Eq(t, want, Classify(Observation{Alloc: a, Node: tc.node, Task: "app"}))
			}
			// Marked, but the scheduler has not stopped it yet.
			a := stopped("")
			a.DesiredStatus, a.DesiredTransition = api.AllocDesiredStatusRun, tc.mark
			want := Verdict{Reason: tc.want, Decided: true, Whole: true, Detail: descMigrating}
			must.Eq(t, want, Classify(Observation{Alloc: a, Node: tc.node, Task: "app"}))
		})
	}
}

func TestClassify_Decision(t *testing.T) {
	evict := stopped("Preempted by alloc ID b")
	evict.DesiredStatus = api.AllocDesiredStatusEvict
	preempted := stopped("anything")
	preempted.PreemptedByAllocation = "b"
	cases := map[string]struct {
		alloc *api.Allocation
		want  Reason
	}{
		"evicted":            {evict, Preempted},
		"preempted":          {preempted, Preempted},
		"updated":            {stopped(descUpdating), Updated},
		"lost":               {stopped(descLost), Rescheduled},
		"failed":             {stopped(descRescheduled), Rescheduled},
		"original is back":   {stopped(descReconnected), Rescheduled},
		"a text of tomorrow": {stopped("alloc stopped by magic"), Unknown},
		"no text":            {stopped(""), Unknown},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := Observation{Alloc: tc.alloc, Task: "app"}
			want := Verdict{Reason: tc.want, Decided: true, Whole: true, Detail: tc.alloc.DesiredDescription}
			must.Eq(t, want, Classify(o))
			job, node := o.needs()
			must.False(t, job)
			must.False(t, node)

			// What is decided comes before what has happened on the node.
			tc.alloc.TaskStates = map[string]*api.TaskState{"app": {Events: []*api.TaskEvent{{Type: api.TaskRestartSignal}}}}
			must.Eq(t, want, Classify(o))
		})
	}
}

// events are task events, from "type" or "type: display message".
func events(texts ...string) []*api.TaskEvent {
	var all []*api.TaskEvent
	for i, text := range texts {
		typ, message, _ := strings.Cut(text, ": ")
		all = append(all, &api.TaskEvent{Type: typ, DisplayMessage: message, Time: int64(i)})
	}
	return all
}

func TestClassify_Local(t *testing.T) {
	fails := func(all []*api.TaskEvent) []*api.TaskEvent {
		all[len(all)-1].FailsTask = true
		return all
	}
	failsByDetail := func(all []*api.TaskEvent) []*api.TaskEvent {
		all[len(all)-1].Details = map[string]string{"fails_task": "true"}
		return all
	}
	exit := func(details map[string]string) []*api.TaskEvent {
		all := events("Started", "Terminated: over")
		all[1].Details = details
		return all
	}
	unknown := Verdict{Reason: Unknown}
	cases := map[string]struct {
		jobType string
		events  []*api.TaskEvent
		want    Verdict
	}{
		"nothing":            {"", nil, unknown},
		"started":            {"", events("Received", "Task Setup", "Started"), unknown},
		"killed by whom":     {"", events("Started", "Killing: Sent interrupt"), unknown},
		"signal":             {"", events("Started", "Signaling", "Driver: hooks ran"), unknown},
		"hole in the events": {"", []*api.TaskEvent{nil, {Type: "Restart Signaled"}}, Verdict{Reason: Restarted, Decided: true, Detail: "Restart Signaled"}},
		"restart by a user": {
			"", events("Started", "Restart Signaled: User requested task to restart"),
			Verdict{Reason: Restarted, Decided: true, Detail: "User requested task to restart"},
		},
		"restart, and after it": {
			"", events("Started", "Restart Signaled: why", "Driver: stopping", "Terminated", "Restarting: in 1s"),
			Verdict{Reason: Restarted, Decided: true, Detail: "why"},
		},
		"restart that is over": {
			"", events("Started", "Restart Signaled: why", "Terminated", "Restarting", "Started"), unknown,
		},
		"restart by the supervisor of CSI plugins": {
			"", events("Started", "Plugin became unhealthy", "Restarting: in 0s"),
			Verdict{Reason: Restarted, Decided: true, Detail: "in 0s"},
		},
		"paused": {"", events("Started", "Pausing"), Verdict{Reason: Restarted, Decided: true, Detail: "Pausing"}},
		"sibling failed": {
			"", events("Started", "Sibling Task Failed: Task's sibling \"db\" failed", "Killing: Sent interrupt"),
			Verdict{Reason: Failed, Decided: true, Whole: true, Detail: "Task's sibling \"db\" failed"},
		},
		"sibling failed while restarting": {
			"", events("Started", "Restart Signaled: why", "Sibling Task Failed: db", "Killing"),
			Verdict{Reason: Failed, Decided: true, Whole: true, Detail: "db"},
		},
		"leader dead in a service": {
			api.JobTypeService, events("Started", "Leader Task Dead: Leader Task in Group dead", "Killing"),
			Verdict{Reason: Completed, Decided: true, Whole: true, Detail: "Leader Task in Group dead"},
		},
		"leader dead in a batch": {
			api.JobTypeBatch, events("Started", "Leader Task Dead", "Killing"),
			Verdict{Reason: Completed, Decided: true, Whole: true, Final: true, Detail: "Leader Task Dead"},
		},
		"mains dead in a sysbatch": {
			api.JobTypeSysbatch, events("Started", "Main Tasks Dead", "Killing"),
			Verdict{Reason: Completed, Decided: true, Whole: true, Final: true, Detail: "Main Tasks Dead"},
		},
		"template fails": {
			"", fails(events("Started", "Killing: Template failed")),
			Verdict{Reason: Failed, Decided: true, Whole: true, Detail: "Template failed"},
		},
		"vault fails, by detail only": {
			"", failsByDetail(events("Started", "Killing: Vault failed")),
			Verdict{Reason: Failed, Decided: true, Whole: true, Detail: "Vault failed"},
		},
		"check restarts too often": {
			"", fails(events("Started", "Restart Signaled: unhealthy", "Terminated", "Not Restarting: Exceeded")),
			Verdict{Reason: Failed, Decided: true, Whole: true, Detail: "Exceeded"},
		},
		"ended with success in a service": {api.JobTypeService, exit(map[string]string{"exit_code": "0"}), Verdict{Reason: Completed, Decided: true, Detail: "over"}},
		"ended with success in a batch":   {api.JobTypeBatch, exit(nil), Verdict{Reason: Completed, Decided: true, Final: true, Detail: "over"}},
		"ended with a code":               {api.JobTypeBatch, exit(map[string]string{"exit_code": "3"}), Verdict{Reason: Failed, Decided: true, Detail: "over"}},
		"ended by a signal":               {"", exit(map[string]string{"exit_code": "0", "signal": "9"}), Verdict{Reason: Failed, Decided: true, Detail: "over"}},
		"out of memory":                   {"", exit(map[string]string{"oom_killed": "true"}), Verdict{Reason: Failed, Decided: true, Detail: "over"}},
		"waiting for it failed":           {"", exit(map[string]string{"exit_message": "plugin gone"}), Verdict{Reason: Failed, Decided: true, Detail: "over"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := stopped("")
			a.DesiredStatus = api.AllocDesiredStatusRun
			a.Job.Type = &tc.jobType
			a.TaskStates = map[string]*api.TaskState{"app": {Events: tc.events}, "other": {Events: events("Restart Signaled")}}
			must.Eq(t, tc.want, Classify(Observation{Alloc: a, Task: "app"}))
		})
	}
	t.Run("no such task", func(t *testing.T) {
		a := stopped("")
		a.DesiredStatus = api.AllocDesiredStatusRun
		must.Eq(t, unknown, Classify(Observation{Alloc: a, Task: "app"}))
		must.Eq(t, unknown, Classify(Observation{}))
	})
	t.Run("marked to migrate, but restarted", func(t *testing.T) {
		a := stopped("")
		a.DesiredStatus, a.DesiredTransition = api.AllocDesiredStatusRun, api.DesiredTransition{Migrate: ptr(true)}
		a.TaskStates = map[string]*api.TaskState{"app": {Events: events("Started", "Restart Signaled: why")}}
		o := Observation{Alloc: a, Task: "app"}
		must.Eq(t, Verdict{Reason: Restarted, Decided: true, Detail: "why"}, Classify(o))
		_, node := o.needs()
		must.False(t, node)
	})
}

// While Nomad kills the tasks of an allocation, the servers know only how the
// first one has ended.
func TestClassify_Beside(t *testing.T) {
	type states = map[string][]*api.TaskEvent
	ended := func(code string) []*api.TaskEvent {
		all := events("Started", "Terminated: Exit Code: "+code)
		all[1].Details = map[string]string{"exit_code": code}
		return all
	}
	restarting := append(ended("1"), events("Restarting")...)
	up := events("Started")
	main := func(name string) *api.Task { return &api.Task{Name: name} }
	leader := &api.Task{Name: "boss", Leader: true}
	hook := func(name, hook string, sidecar bool) *api.Task {
		return &api.Task{Name: name, Lifecycle: &api.TaskLifecycle{Hook: hook, Sidecar: sidecar}}
	}
	side := hook("app", "prestart", true)
	failed := Verdict{Reason: Failed, Decided: true, Whole: true, Detail: `task "db": Exit Code: 1`}
	completed := func(task string) Verdict {
		return Verdict{Reason: Completed, Decided: true, Whole: true, Final: true, Detail: `task "` + task + `": Exit Code: 0`}
	}
	unknown := Verdict{Reason: Unknown}
	cases := map[string]struct {
		tasks  []*api.Task
		states states
		want   Verdict
	}{
		"all run":                        {[]*api.Task{main("app"), main("db")}, states{"app": up, "db": up}, unknown},
		"alone":                          {[]*api.Task{main("app")}, states{"app": up}, unknown},
		"a main has failed":              {[]*api.Task{main("app"), main("db")}, states{"app": up, "db": ended("1")}, failed},
		"a sidecar has failed":           {[]*api.Task{main("app"), hook("db", "prestart", true)}, states{"app": up, "db": ended("1")}, failed},
		"a main has failed, of a leader": {[]*api.Task{leader, main("app"), main("db")}, states{"app": up, "boss": ended("0"), "db": ended("1")}, completed("boss")},
		"a main is restarted":            {[]*api.Task{main("app"), main("db")}, states{"app": up, "db": restarting}, unknown},
		"a main has completed":           {[]*api.Task{main("app"), main("db")}, states{"app": up, "db": ended("0")}, unknown},
		"the leader has completed":       {[]*api.Task{main("app"), leader}, states{"app": up, "boss": ended("0")}, completed("boss")},
		"the leader is restarted":        {[]*api.Task{main("app"), leader}, states{"app": up, "boss": restarting}, unknown},
		"what a sidecar served":          {[]*api.Task{side, main("db")}, states{"app": up, "db": ended("0")}, completed("db")},
		"half of what it served":         {[]*api.Task{side, main("db"), main("web")}, states{"app": up, "db": ended("0"), "web": up}, unknown},
		"what it served has not started": {[]*api.Task{side, hook("init", "prestart", false), main("db")}, states{"app": up, "init": ended("0")}, unknown},
		"a poststop task is to come":     {[]*api.Task{side, main("db"), hook("post", "poststop", false)}, states{"app": up, "db": ended("0")}, completed("db")},
		"another sidecar runs":           {[]*api.Task{side, main("db"), hook("log", "poststart", true)}, states{"app": up, "db": ended("0"), "log": up}, completed("db")},
		"a null, and no states":          {[]*api.Task{nil, side, main("db")}, nil, unknown},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := stopped("")
			a.DesiredStatus = api.AllocDesiredStatusRun
			a.Job.Type = ptr(api.JobTypeBatch)
			a.Job.TaskGroups[0].Tasks = tc.tasks
			a.TaskStates = make(map[string]*api.TaskState)
			for task, all := range tc.states {
				a.TaskStates[task] = &api.TaskState{Events: all}
			}
			o := Observation{Alloc: a, Task: "app", Stopping: true}
			must.Eq(t, tc.want, Classify(o))

			// While it is not known to stop, this is no decision.
			o.Stopping = false
			must.Eq(t, unknown, Classify(o))

			// Its own cause, and a mark to migrate, come before.
			o.Stopping = true
			a.DesiredTransition = api.DesiredTransition{Migrate: ptr(true)}
			must.Eq(t, Drained, Classify(o).Reason)
			a.TaskStates["app"] = &api.TaskState{Events: events("Started", "Restart Signaled")}
			must.Eq(t, Restarted, Classify(o).Reason)
		})
	}
}

// The servers forget the allocations of a job that is purged.
func TestClassify_AllocGone(t *testing.T) {
	cases := map[string]struct {
		job   *api.Job
		gone  bool
		want  Reason
		final bool
	}{
		"job purged":                     {gone: true, want: Stopped, final: true},
		"job purged and registered anew": {job: with(job(0, 2), func(j *api.Job) { j.CreateIndex = ptr(uint64(11)) }), want: Stopped, final: true},
		"job is there":                   {job: job(3, 2), want: Unknown},
		"job not asked for":              {want: Unknown},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := stopped("")
			a.DesiredStatus = api.AllocDesiredStatusRun
			o := Observation{Alloc: a, AllocGone: true, Job: tc.job, JobGone: tc.gone, Task: "app"}
			want := Verdict{Reason: tc.want, Final: tc.final, Decided: true, Whole: true, Detail: "the servers do not know the allocation any more"}
			must.Eq(t, want, Classify(o))
			asks, _ := o.needs()
			must.True(t, asks)
		})
	}
}

func TestExited(t *testing.T) {
	must.Eq(t, Completed, Exited(0, 0, false, nil))
	must.Eq(t, Failed, Exited(1, 0, false, nil))
	must.Eq(t, Failed, Exited(0, 15, false, nil))
	must.Eq(t, Failed, Exited(0, 0, true, nil))
	must.Eq(t, Failed, Exited(0, 0, false, errors.New("lost")))
}

func TestDone(t *testing.T) {
	sidecar := &api.Task{Name: "side", Lifecycle: &api.TaskLifecycle{Hook: "prestart", Sidecar: true}}
	app, other := &api.Task{Name: "app"}, &api.Task{Name: "other"}
	cases := map[string]struct {
		jobType string
		group   string
		tasks   []*api.Task
		task    string
		want    bool
	}{
		"batch":                     {"batch", "g", []*api.Task{app}, "app", true},
		"sysbatch with a sidecar":   {"sysbatch", "g", []*api.Task{sidecar, app}, "app", true},
		"the sidecar":               {"batch", "g", []*api.Task{sidecar, app}, "side", false},
		"beside another":            {"batch", "g", []*api.Task{app, other}, "app", false},
		"service":                   {"service", "g", []*api.Task{app}, "app", false},
		"system":                    {"system", "g", []*api.Task{app}, "app", false},
		"another group":             {"batch", "h", []*api.Task{app}, "app", false},
		"another task":              {"batch", "g", []*api.Task{app}, "no", false},
		"a group with a null in it": {"batch", "g", []*api.Task{nil, app}, "app", true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			j := &api.Job{Type: &tc.jobType, TaskGroups: []*api.TaskGroup{nil, {Name: ptr("g"), Tasks: tc.tasks}}}
			must.Eq(t, tc.want, Done(j, tc.group, tc.task))
		})
	}
	must.False(t, Done(nil, "g", "app"))
	must.False(t, Done(&api.Job{}, "g", "app"))
}

func TestIndex(t *testing.T) {
	for name, want := range map[string]int{
		"job.group[0]": 0, "a[1].b[23]": 23, "": -1, "job": -1, "job[": -1, "job[]": -1, "job[x]": -1, "job[99999999999999999999]": -1,
	} {
		must.Eq(t, want, index(name), must.Sprint(name))
	}
}

func TestClean(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"as it is":  {"alloc is being migrated", "alloc is being migrated"},
		"lines":     {"one\n\ttwo\r\n", "one two"},
		"control":   {"a\x1b[31mb\x00", "a [31mb"},
		"not UTF-8": {"a\xffb", "a\uFFFDb"},
		"direction": {"a\u202eb", "a b"},
		"umlaut":    {"Zürich", "Zürich"},
	} {
		must.Eq(t, tc.want, clean(tc.in), must.Sprint(name))
	}
	for _, long := range []string{strings.Repeat("x", 1<<20), strings.Repeat("ü", 300), strings.Repeat("日本", 300)} {
		got := clean(long)
		must.LessEq(t, MaxDetail, len(got))
		must.Greater(t, MaxDetail-8, len(got))
		must.True(t, strings.HasSuffix(got, "…"))
		must.Eq(t, got, clean(got))
		for _, r := range got {
			must.True(t, unicode.IsPrint(r))
		}
	}
	must.Eq(t, strings.Repeat("x", MaxDetail), clean(strings.Repeat("x", MaxDetail)))
}
