package driver

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// crew is one allocation of several tasks, whose plugin processes share its
// directory and write into one script.
type crew struct {
	*script
	n    *fakeNomad
	job  *api.Job
	dir  string
	id   string
	url  string
	last map[string]*member // by task
}

// member is one task of a crew.
type member struct {
	*setup
	name string
}

// newCrew has Nomad know an allocation of a job. In its text URL is a hook
// server's address.
func newCrew(t *testing.T, tasks string) *crew {
	t.Helper()
	c := &crew{script: &script{}, n: newNomad(t), dir: t.TempDir(), id: uuid.Generate(), last: make(map[string]*member)}
	c.url = hookServer(t, c.script)
	c.job = parseJob(t, "job \"shop\" {\n group \"front\" {\n"+strings.ReplaceAll(tasks, "URL", c.url)+"\n }\n}")
	c.n.run(t, c.cfg(t, "web"), c.job)
	return c
}

func (c *crew) cfg(t *testing.T, name string) *drivers.TaskConfig {
	t.Helper()
	return taskIn(t, c.dir, c.id, name)
}

// plugin starts a plugin process.
func (c *crew) plugin(t *testing.T, name string) *setup {
	t.Helper()
	f := newFake()
	f.script, f.named = c.script, true
	d := decorate(t, name, f.factory)
	must.NoError(t, configureAgent(t, d, c.n.agent("")))
	return &setup{fake: f, d: d, h: harness(t, d), url: c.url}
}

// task is a task of the job on one of the plugins.
func (c *crew) task(t *testing.T, on *setup, name string) *member {
	t.Helper()
	s := *on
	s.cfg = c.cfg(t, name)
	m := &member{setup: &s, name: name}
	for _, task := range c.job.TaskGroups[0].Tasks {
		if task.Name != name {
			continue
		}
		schema, err := s.d.TaskConfigSchema()
		must.NoError(t, err)
		spec, diags := hclspecutils.Convert(schema)
		must.False(t, diags.HasErrors())
		value, diags, errs := hclutils.ParseHclInterface(task.Config, spec, nil)
		must.False(t, diags.HasErrors(), must.Sprint(errs))
		must.NoError(t, s.cfg.EncodeDriverConfig(value))
		c.last[name] = m
		return m
	}
	t.Fatalf("the job has no task %q", name)
	return nil
}

// pair is a crew of two tasks under two drivers, each with a plugin process.
func newPair(t *testing.T, web, log string) (c *crew, w, l *member) {
	t.Helper()
	c = newCrew(t, job("web", "lifecycle-a", web)+job("log", "lifecycle-b", log))
	return c, c.task(t, c.plugin(t, "lifecycle-a"), "web"), c.task(t, c.plugin(t, "lifecycle-b"), "log")
}

// job is a task of a job file with a lifecycle block.
func job(name, driver, block string) string {
	return "task \"" + name + "\" {\n driver = \"" + driver + "\"\n config {\n command = \"/bin/" + name + "\"\n lifecycle {\n" + block + "\n}\n}\n}\n"
}

func groupHook(event, path string) string {
	return "group {\n" + event + " {\n http {\n url = \"URL/" + path + "\"\n }\n }\n}\n"
}

// stopAll asks for all stops at once, as Nomad does for the tasks of one step,
// and waits for their ends.
func (c *crew) stopAll(t *testing.T, timeout time.Duration, members ...*member) {
	t.Helper()
	var wg sync.WaitGroup
	for _, m := range members {
		result := m.waitTask(t)
		wg.Go(func() {
			if err := m.h.StopTask(m.cfg.ID, timeout, ""); err != nil {
				t.Error(err)
			}
			<-result
		})
	}
	wg.Wait()
}

// The hook of the allocation's creation runs once, before the first process,
// whichever task that belongs to and whichever process has it declared.
func TestGroup_Created(t *testing.T) {
	c, web, log := newPair(t, groupHook("created", "created"), "")
	log.start(t)
	web.start(t)
	must.Eq(t, []string{"hook /created", "log start", "web start"}, c.all())
	ev := c.told(t, "/created")
	must.Eq(t, "web", ev.Task)
	must.Eq(t, c.id, ev.AllocID)
	must.Eq(t, "", ev.Reason)

	// A restart is not a creation.
	result := web.waitTask(t)
	web.only(t).finish(&drivers.ExitResult{ExitCode: 1})
	wait(t, result)
	must.NoError(t, web.h.DestroyTask(web.cfg.ID, false))
	web.cfg.ID = c.id + "/web/again"
	web.start(t)
	must.Eq(t, 1, c.count("hook /created"))
}

// One that fails lets no task start, and the next start tries it again.
func TestGroup_CreatedFails(t *testing.T) {
	c, web, log := newPair(t, groupHook("created", "fail"), "")
	for _, m := range []*member{log, web} {
		_, _, err := m.h.StartTask(m.cfg)
		must.ErrorContains(t, err, "lifecycle.group.created[0].http failed after 1 try: POST ")
		must.True(t, structs.IsRecoverable(err))
	}
	must.Eq(t, []string{"hook /fail", "hook /fail"}, c.all())
	must.MapEmpty(t, web.d.tasks)
	must.MapEmpty(t, web.d.allocs)
}

// All tasks at once: still one hook, and no process before its end.
func TestGroup_CreatedAtOnce(t *testing.T) {
	c, web, log := newPair(t, "group {\n created {\n sleep = \"300ms\"\n }\n created {\n http {\n url = \"URL/created\"\n }\n }\n}\n", "")
	var wg sync.WaitGroup
	for _, m := range []*member{web, log} {
		wg.Go(func() {
			if _, _, err := m.h.StartTask(m.cfg); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must.Eq(t, "hook /created", c.all()[0])
	must.Eq(t, 1, c.count("hook"))
}

// Without Nomad the plan is not known, but what a task declares itself is.
func TestGroup_WithoutNomad(t *testing.T) {
	c, web, log := newPair(t, groupHook("created", "created"), "")
	c.n.close()
	log.start(t)
	web.start(t)
	must.Eq(t, []string{"log start", "hook /created", "web start"}, c.all())
}

// The allocation runs when all of its tasks do.
func TestGroup_Running(t *testing.T) {
	c, web, log := newPair(t, "", groupHook("running", "running"))
	events := collect(t, log.setup)
	web.start(t)
	must.Eq(t, []string{"web start"}, c.all())
	log.start(t)
	eventually(t, "running hook", func() bool { return c.count("hook /running") == 1 })
	eventually(t, "event of it", func() bool {
		return strings.Contains(strings.Join(messages(events()), " "), "group running hooks ended in ")
	})
	c.n.set(t, c.id, terminalTasks("running"))
	must.Eq(t, 1, c.count("hook /running"))
}

// terminalTasks has the tasks of the pair in a state.
func terminalTasks(state string) func(*api.Allocation) {
	return func(a *api.Allocation) {
		a.TaskStates = map[string]*api.TaskState{"web": {State: state}, "log": {State: state}}
	}
}

// Of a task under another driver only the servers know whether it runs.
func TestGroup_RunningWithOthers(t *testing.T) {
	c := newCrew(t, job("web", "lifecycle-a", groupHook("running", "running"))+"task \"db\" {\n driver = \"docker\"\n}\n")
	web := c.task(t, c.plugin(t, "lifecycle-a"), "web")
	c.n.set(t, c.id, func(a *api.Allocation) {
		a.TaskStates = map[string]*api.TaskState{"web": {State: "pending"}, "db": {State: "pending"}}
	})
	web.start(t)
	eventually(t, "stream of the allocation", func() bool { return c.n.followed(c.id) })
	must.Eq(t, 0, c.count("hook"))
	c.n.set(t, c.id, func(a *api.Allocation) {
		a.TaskStates = map[string]*api.TaskState{"web": {State: "running"}, "db": {State: "running"}}
	})
	eventually(t, "running hook", func() bool { return c.count("hook /running") == 1 })
}

// When the whole allocation stops, its hook comes once and before all else.
func TestGroup_Stopping(t *testing.T) {
	c, web, log := newPair(t,
		groupHook("stopping", "stopping")+httpHook("prestop", "prestop-web", ""), httpHook("prestop", "prestop-log", ""))
	web.start(t)
	log.start(t)
	c.n.set(t, c.id, drained)
	c.stopAll(t, 30*time.Second, web, log)
	must.Eq(t, "hook /stopping", c.all()[2])
	must.Eq(t, 1, c.count("hook /stopping"))
	must.Eq(t, 2, c.count("hook /prestop"))
	ev := c.told(t, "/stopping")
	must.Eq(t, "drained", ev.Reason)
	must.Positive(t, ev.KillMS)
}

// A restart of one task, or of all, stops no allocation.
func TestGroup_StoppingNotOfARestart(t *testing.T) {
	c, web, log := newPair(t, groupHook("stopping", "stopping")+httpHook("prestop", "prestop-web", ""), groupHook("stopped", "stopped"))
	web.start(t)
	log.start(t)
	c.n.set(t, c.id, func(a *api.Allocation) {
		restarted := &api.TaskState{State: "running", Events: []*api.TaskEvent{{Type: api.TaskRestartSignal}}}
		a.TaskStates = map[string]*api.TaskState{"web": restarted, "log": restarted}
	})
	c.stopAll(t, 30*time.Second, web, log)
	must.Eq(t, 1, c.count("hook"))
	must.Eq(t, "restarted", c.told(t, "/prestop-web").Reason)
}

// The last hook of an allocation follows the last process and its own hooks.
func TestGroup_Stopped(t *testing.T) {
	c, web, log := newPair(t, groupHook("stopped", "stopped"), httpHook("poststop", "poststop-log", ""))
	web.start(t)
	log.start(t)
	c.n.set(t, c.id, drained)
	c.stopAll(t, 30*time.Second, web)
	must.Eq(t, 0, c.count("hook"))
	c.stopAll(t, 30*time.Second, log)
	must.Eq(t, []string{"hook /poststop-log", "hook /stopped"}, hookLines(c.script))
	must.Eq(t, "drained", c.told(t, "/stopped").Reason)
	c.n.set(t, c.id, terminal(api.AllocClientStatusComplete))
	for _, m := range []*member{web, log} {
		must.NoError(t, m.h.DestroyTask(m.cfg.ID, false))
	}
	must.Eq(t, 1, c.count("hook /stopped"))
}

func hookLines(s *script) []string {
	all := []string{}
	for _, line := range s.all() {
		if strings.HasPrefix(line, "hook") {
			all = append(all, line)
		}
	}
	return all
}

// Tasks that end by themselves may start again. That they were the last is known
// when the client has told the servers, after they were destroyed.
func TestGroup_StoppedByItself(t *testing.T) {
	c := newCrew(t, job("web", "lifecycle-a", groupHook("stopped", "stopped")))
	web := c.task(t, c.plugin(t, "lifecycle-a"), "web")
	web.start(t)
	eventually(t, "stream of the allocation", func() bool { return c.n.followed(c.id) })
	result := web.waitTask(t)
	web.only(t).finish(&drivers.ExitResult{})
	wait(t, result)
	must.NoError(t, web.h.DestroyTask(web.cfg.ID, false))
	must.Eq(t, 0, c.count("hook"))
	c.n.set(t, c.id, terminal(api.AllocClientStatusComplete))
	eventually(t, "stopped hook", func() bool { return c.count("hook /stopped") == 1 })
	web.vanished(t)
}

// An allocation that never got to run has an end as well.
func TestGroup_StoppedAfterAFailedStart(t *testing.T) {
	c := newCrew(t, job("web", "lifecycle-a", "group {\n created {\n http {\n url = \"URL/created\"\n }\n }\n stopped {\n http {\n url = \"URL/stopped\"\n }\n }\n}\n"+httpHook("prestart", "fail", "")))
	web := c.task(t, c.plugin(t, "lifecycle-a"), "web")
	_, _, err := web.h.StartTask(web.cfg)
	must.Error(t, err)
	must.Eq(t, []string{"hook /created", "hook /fail"}, c.all())
	c.n.set(t, c.id, terminal(api.AllocClientStatusFailed))
	eventually(t, "stopped hook", func() bool { return c.count("hook /stopped") == 1 })
	web.vanished(t)
}

// vanished waits until nothing is left of any task or allocation.
func (s *setup) vanished(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is left", func() bool {
		s.d.mu.Lock()
		defer s.d.mu.Unlock()
		return len(s.d.tasks)+len(s.d.allocs) == 0
	})
}
