package driver

import (
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/shoenig/test/must"
)

// A task that stops after another one keeps running until that has ended, in
// whatever process it is.
func TestOrder_StopAfter(t *testing.T) {
	c, web, log := newPair(t, "prestop {\n sleep = \"500ms\"\n}\n", "stop_after = [\"web\"]\n"+httpHook("prestop", "prestop-log", ""))
	events := collect(t, log.setup)
	web.start(t)
	log.start(t)
	c.n.set(t, c.id, drained)
	c.stopAll(t, 30*time.Second, log, web)
	must.Eq(t, []string{"web start", "log start", "web stop ", "hook /prestop-log", "log stop "}, c.all())
	must.StrContains(t, only(t, events(), "stopped").Message, `waited for "web" (`)
}

// On a restart of the allocation, which Nomad does not order, all are asked at
// once.
func TestOrder_OnRestart(t *testing.T) {
	c, web, log := newPair(t, "prestop {\n sleep = \"500ms\"\n}\n", "stop_after = [\"web\"]")
	web.start(t)
	log.start(t)
	c.n.set(t, c.id, func(a *api.Allocation) {
		restarted := &api.TaskState{State: "running", Events: []*api.TaskEvent{{Type: api.TaskRestartSignal}}}
		a.TaskStates = map[string]*api.TaskState{"web": restarted, "log": restarted}
	})
	c.stopAll(t, 30*time.Second, log, web)
	must.Eq(t, []string{"web start", "log start", "web stop ", "log stop "}, c.all())
}

// A restart of the one task alone waits for nobody.
func TestOrder_OneTaskAlone(t *testing.T) {
	c, web, log := newPair(t, "", "stop_after = [\"web\"]")
	web.start(t)
	log.start(t)
	c.n.set(t, c.id, func(a *api.Allocation) {
		a.TaskStates = map[string]*api.TaskState{
			"web": {State: "running"},
			"log": {State: "running", Events: []*api.TaskEvent{{Type: api.TaskRestartSignal}}},
		}
	})
	inTime(t, 5*time.Second, func() { c.stopAll(t, time.Minute, log) })
	must.Eq(t, []string{"web start", "log start", "log stop "}, c.all())
}

// Who waits in vain has the time for its own stop nevertheless.
func TestOrder_GivesUp(t *testing.T) {
	c, web, log := newPair(t, "", "stop_after = [\"web\"]\n"+httpHook("prestop", "prestop-log", "timeout = \"1s\""))
	events := collect(t, log.setup)
	web.start(t)
	log.start(t)
	c.n.set(t, c.id, drained)
	begin := time.Now()
	c.stopAll(t, 4*time.Second, log) // and Nomad never asks web
	must.Less(t, 4*time.Second, time.Since(begin))
	must.Eq(t, []string{"web start", "log start", "hook /prestop-log", "log stop "}, c.all())
	text := only(t, events(), "stopped").Message
	must.StrContains(t, text, `without "web", which has not stopped: its own stop needs the last `)
}

// Sidecars of one allocation stop in the reverse order of their start.
func TestOrder_Sidecars(t *testing.T) {
	sidecar := func(name, driver string) string {
		return "task \"" + name + "\" {\n driver = \"" + driver + "\"\n lifecycle {\n hook = \"prestart\"\n sidecar = true\n }\n config {\n lifecycle {\n }\n }\n}\n"
	}
	c := newCrew(t, job("web", "lifecycle-a", "")+sidecar("first", "lifecycle-a")+sidecar("second", "lifecycle-b"))
	a, b := c.plugin(t, "lifecycle-a"), c.plugin(t, "lifecycle-b")
	first, second, web := c.task(t, a, "first"), c.task(t, b, "second"), c.task(t, a, "web")
	for _, m := range []*member{first, second, web} {
		m.start(t)
	}
	c.n.set(t, c.id, drained)
	c.stopAll(t, 30*time.Second, web)
	c.stopAll(t, 30*time.Second, first, second)
	must.Eq(t, []string{"web stop ", "second stop ", "first stop "}, c.all()[3:])
}

// What the tasks of a job say of each other is looked at before anything of it
// runs, and names what is wrong.
func TestOrder_Refuses(t *testing.T) {
	cases := map[string]struct{ web, log, want string }{
		"circle":       {`stop_after = ["log"]`, `stop_after = ["web"]`, "lifecycle.stop_after goes in a circle: "},
		"itself":       {`stop_after = ["web"]`, "", `task "web": lifecycle.stop_after names the task itself`},
		"unknown task": {`stop_after = ["db"]`, "", `task "web": lifecycle.stop_after: there is no task "db" in the group; its tasks are "log", "web"`},
		"of another":   {"", `stop_after = ["db"]`, `task "log": lifecycle.stop_after: there is no task "db" in the group`},
		"hook twice":   {groupHook("created", "a"), groupHook("created", "b"), `lifecycle.group.created is declared by the tasks "log" and "web"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c, web, _ := newPair(t, tc.web, tc.log)
			_, _, err := web.h.StartTask(web.cfg)
			must.ErrorContains(t, err, tc.want)
			must.False(t, structs.IsRecoverable(err))
			must.SliceEmpty(t, c.all())
			must.MapEmpty(t, web.d.tasks)
			must.MapEmpty(t, web.d.allocs)
		})
	}
}

// Without Nomad a circle is found by the task that closes it.
func TestOrder_CircleWithoutNomad(t *testing.T) {
	c, web, log := newPair(t, `stop_after = ["log"]`, `stop_after = ["web"]`)
	c.n.close()
	web.start(t)
	_, _, err := log.h.StartTask(log.cfg)
	must.ErrorContains(t, err, "lifecycle.stop_after goes in a circle: ")
	must.False(t, structs.IsRecoverable(err))
	must.Eq(t, []string{"web start"}, c.all())
}

// A plugin that starts again takes its tasks' places up again.
func TestOrder_AfterARestartOfThePlugin(t *testing.T) {
	c, web, log := newPair(t, httpHook("prestop", "prestop-web", ""), "stop_after = [\"web\"]")
	web.start(t)
	handle := log.start(t)
	again := c.plugin(t, "lifecycle-b")
	must.NoError(t, again.h.RecoverTask(decoded(t, handle)))
	next := c.task(t, again, "log")
	next.cfg = log.cfg
	c.n.set(t, c.id, drained)
	c.stopAll(t, 30*time.Second, next, web)
	all := c.all()
	must.Less(t, slices.Index(all, "log stop "), slices.Index(all, "web stop "))
}

// Two tasks of one process share its allocation, and the last one takes it away.
func TestOrder_InOneProcess(t *testing.T) {
	c := newCrew(t, job("web", "lifecycle-a", "")+job("log", "lifecycle-a", "stop_after = [\"web\"]"))
	a := c.plugin(t, "lifecycle-a")
	web, log := c.task(t, a, "web"), c.task(t, a, "log")
	web.start(t)
	log.start(t)
	must.MapLen(t, 1, a.d.allocs)
	c.n.set(t, c.id, drained)
	c.stopAll(t, 30*time.Second, log, web)
	must.Eq(t, []string{"web stop ", "log stop "}, c.all()[2:])
	must.NoError(t, a.h.DestroyTask(web.cfg.ID, false))
	must.MapLen(t, 1, a.d.allocs)
	must.NoError(t, a.h.DestroyTask(log.cfg.ID, false))
	must.MapEmpty(t, a.d.tasks)
	must.MapEmpty(t, a.d.allocs)
	eventually(t, "stream of the allocation has ended", func() bool { return !c.n.followed(c.id) })
}

// A job's variables are put in by Nomad only for the task itself. What another
// one says with those of the group is understood all the same; what it says with
// its own is not taken for this one's.
func TestPlan_Variables(t *testing.T) {
	s := newSetup(t, "")
	env := map[string]string{
		"NOMAD_JOB_NAME": "shop", "NOMAD_TASK_NAME": "web", "NOMAD_ALLOC_INDEX": "3", "NOMAD_SECRETS_DIR": "/secrets-of-web", "PATH": "/bin",
	}
	plan := func(path string) map[string]any {
		c := newCrew(t, job("log", "lifecycle-fake", "group {\n created {\n http {\n url = \"http://a/"+path+"\"\n }\n }\n}\n"))
		alloc := &api.Allocation{ID: "a", TaskGroup: "front", Job: c.job}
		found := map[string]any{}
		for event, raw := range s.d.planOf(alloc, env)["log"].Hooks {
			found[string(event)] = string(raw)
		}
		return found
	}
	must.StrContains(t, plan("$${NOMAD_JOB_NAME}/$${NOMAD_ALLOC_INDEX}")["created"].(string), "http://a/shop/3")
	must.MapEmpty(t, plan("$${NOMAD_TASK_NAME}"))
	must.MapEmpty(t, plan("$${NOMAD_SECRETS_DIR}"))
	must.MapEmpty(t, plan("$${NOMAD_META_x}"))
}
