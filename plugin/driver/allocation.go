package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/zclconf/go-cty/cty"

	"github.com/nomad-patterns/nomad-patterns/plugin/group"
	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
)

const (
	// planLimit is how long a start waits for what Nomad says of the whole group.
	planLimit = time.Second
	// linger is how long an allocation without tasks is watched: they may start
	// again, or it may turn out that they were the last.
	linger = 2 * time.Minute
)

// allocation is what the tasks of one allocation in this process share.
type allocation struct {
	d             *Driver
	id, namespace string
	env           map[string]string // of the task that came first

	begin sync.Once // fetches the plan

	mu     sync.Mutex // guards all fields below
	alloc  *api.Allocation
	job    *api.Job           // as the allocation runs it; nil if unknown
	plan   group.Plan         // nil if unknown
	whole  bool               // the servers want it to stop
	users  int                // tasks that have entered and not left
	tasks  map[*task]struct{} // of those, the ones that are members
	last   *membership        // of the task that left last; for hooks after the end
	saved  map[string]*task   // by name, those that left checkpoints and have not come back
	asking bool               // somebody looks whether the group's running hook is due
	again  bool               // and is to look again
	remove func()             // ends the watching
	expire *time.Timer
}

// enter returns the allocation of a task, which keeps it until it leaves.
func (d *Driver) enter(t *task) *allocation {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.allocs[t.cfg.AllocID]
	if a == nil {
		a = &allocation{
			d: d, id: t.cfg.AllocID, namespace: t.cfg.Namespace, env: t.cfg.Env,
			tasks: make(map[*task]struct{}), saved: make(map[string]*task),
		}
		d.allocs[a.id] = a
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users++
	if a.expire != nil {
		a.expire.Stop()
		a.expire = nil
	}
	return a
}

// admit makes a task, whose members field is set, one that hears of the servers'
// decisions.
func (a *allocation) admit(t *task) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tasks[t] = struct{}{}
	delete(a.saved, t.cfg.Name)
}

// exit takes a task out. The allocation is kept a little longer if hooks of its
// end may still be due.
func (a *allocation) exit(t *task) {
	a.mu.Lock()
	delete(a.tasks, t)
	a.users--
	if st, _ := t.machine.Status(); t.checkpoint != nil && (st.Stop == nil || !st.Stop.Final) {
		a.saved[t.cfg.Name] = t
	}
	last := a.users == 0
	lingers := last && (len(a.saved) > 0 || t.members != nil && a.declares(t, group.OnStopped))
	if lingers {
		a.last = t.members
		a.expire = time.AfterFunc(linger, a.drop)
	}
	a.mu.Unlock()
	switch {
	case lingers:
		a.watch() // a start that failed has not begun to
	case last:
		a.drop()
	}
}

// declares reports whether some task has hooks for a group event. a.mu is held.
func (a *allocation) declares(t *task, e group.Event) bool {
	if len(t.spec.group[hook.Kind(e)]) > 0 {
		return true
	}
	for _, p := range a.plan {
		if _, has := p.Hooks[e]; has {
			return true
		}
	}
	return false
}

// drop forgets an allocation that has no tasks.
func (a *allocation) drop() {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users > 0 {
		return
	}
	if a.expire != nil {
		a.expire.Stop()
		a.expire = nil
	}
	if a.remove != nil {
		a.remove()
		a.remove = nil
	}
	if a.d.allocs[a.id] == a {
		delete(a.d.allocs, a.id)
	}
}

// learn asks Nomad once for the whole group. An answer that does not come in
// time is done without: what the tasks themselves publish is known in any case.
func (a *allocation) learn(ctx context.Context) {
	a.begin.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, planLimit)
		defer cancel()
		alloc, err := a.d.around().nomad.Allocation(ctx, a.namespace, a.id)
		if err != nil {
			a.d.logger.Warn("nomad does not say what is in the group; order and hooks of the group know only the tasks of this node's plugins",
				"alloc_id", a.id, "error", err)
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.alloc, a.job = alloc, alloc.Job
		a.plan = a.d.planOf(alloc, a.env)
	})
}

// watch begins to hear of the servers' decisions.
func (a *allocation) watch() {
	w := a.d.around().watcher
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.remove == nil {
		a.remove = w.Add(a.namespace, a.id, a.changed)
	}
}

// changed is told each change of the allocation that the servers know of.
func (a *allocation) changed(alloc *api.Allocation) {
	a.mu.Lock()
	if alloc.Job != nil {
		a.job = alloc.Job
		if a.plan == nil {
			a.plan = a.d.planOf(alloc, a.env)
		}
	}
	a.alloc = alloc
	a.whole = a.whole || alloc.ServerTerminalStatus() || alloc.DesiredTransition.ShouldMigrate()
	var tasks []*task
	for t := range a.tasks {
		tasks = append(tasks, t)
	}
	last := a.last
	saved := slices.Collect(maps.Values(a.saved))
	whole := a.whole
	a.mu.Unlock()

	for _, t := range tasks {
		a.announce(t, alloc)
	}
	if whole {
		a.closeChains(saved)
	}
	switch terminal := alloc.ClientTerminalStatus(); {
	case len(tasks) > 0:
		a.lookForRunning(tasks[0])
	case terminal:
		if last != nil {
			_ = last.groupHook(a.d.ctx, group.OnStopped) // it is logged
		}
		a.drop()
	}
}

// lookForRunning runs the group's running hook if it is due: this client hears
// of tasks under other drivers only from the servers. What they decide next must
// not wait for the hook.
func (a *allocation) lookForRunning(t *task) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.declares(t, group.OnRunning) {
		return
	}
	a.again = a.asking // what is known now may be more than what is being looked at
	if a.asking {
		return
	}
	a.asking = true
	a.d.background.Go(func() {
		for more := true; more; {
			_ = t.members.groupHook(t.ctx, group.OnRunning) // it is logged
			a.mu.Lock()
			more = a.again && t.ctx.Err() == nil
			a.again, a.asking = false, more
			a.mu.Unlock()
		}
	})
}

// closeChains closes the checkpoints of tasks that have ended and that nothing
// will start again. Nomad stops no task that waits for its restart, so nobody
// has asked why.
func (a *allocation) closeChains(tasks []*task) {
	for _, t := range tasks {
		st, _ := t.machine.Status()
		if st.Stop != nil && st.Stop.Final {
			continue
		}
		v, err := a.d.around().nomad.Why(a.d.ctx, a.namespace, a.id, t.cfg.Name)
		if err == nil && v.Final && v.Whole {
			t.checkpoint.close(a.d.ctx, string(v.Reason))
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range tasks {
		if a.saved[t.cfg.Name] == t {
			delete(a.saved, t.cfg.Name)
		}
	}
}

// announce tells a task of a stop that the servers have decided. The task hears
// of it before Nomad's shutdown_delay begins.
func (a *allocation) announce(t *task, alloc *api.Allocation) {
	if t.machine.State() >= lifecycle.Stopping {
		return
	}
	v := reason.Classify(reason.Observation{Alloc: alloc, Task: t.cfg.Name})
	if !v.Decided || !v.Whole {
		return // a restart is over before anybody could be told
	}
	if full, err := a.d.around().nomad.Why(t.ctx, a.namespace, a.id, t.cfg.Name); err == nil && full.Decided {
		v = full
	}
	t.machine.Announce(stopOf(v))
}

// facts are what the servers have said, for package group.
func (a *allocation) facts(whole bool) group.Facts {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := group.Facts{Plan: a.plan, Whole: whole || a.whole}
	if a.alloc == nil {
		return f
	}
	f.Terminal = a.alloc.ClientTerminalStatus()
	f.Running = make(map[string]bool)
	for name, st := range a.alloc.TaskStates {
		f.Running[name] = st.State == "running"
	}
	return f
}

// done reports whether a task that has ended with success is over for good.
func (a *allocation) done(t *task) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return reason.Done(a.job, t.cfg.TaskGroupName, t.cfg.Name)
}

// canary reports whether the allocation is one that nobody has promoted yet. It
// has the place of another one, which goes on running.
func (a *allocation) canary(ctx context.Context) bool {
	a.mu.Lock()
	known := a.alloc
	a.mu.Unlock()
	if known == nil || known.DeploymentStatus == nil || !known.DeploymentStatus.Canary {
		return false // an allocation does not become one
	}
	ctx, cancel := context.WithTimeout(ctx, planLimit)
	defer cancel()
	if now, err := a.d.around().nomad.Allocation(ctx, a.namespace, a.id); err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.alloc = now
		return now.DeploymentStatus != nil && now.DeploymentStatus.Canary
	}
	return true
}

// system reports whether the job has an allocation on each node, so that all of
// them have the same index.
func (a *allocation) system() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.job != nil && a.job.Type != nil && (*a.job.Type == api.JobTypeSystem || *a.job.Type == api.JobTypeSysbatch)
}

// planOf reads the group as the job has it.
func (d *Driver) planOf(alloc *api.Allocation, env map[string]string) group.Plan {
	if alloc.Job == nil {
		return nil
	}
	for _, g := range alloc.Job.TaskGroups {
		if g.Name == nil || *g.Name != alloc.TaskGroup {
			continue
		}
		plan := make(group.Plan, len(g.Tasks))
		for _, t := range g.Tasks {
			p := group.PlanTask{Driver: t.Driver, Leader: t.Leader}
			if t.Lifecycle != nil {
				p.Hook, p.Sidecar = t.Lifecycle.Hook, t.Lifecycle.Sidecar
			}
			if _, has := t.Config[blockName]; has { // no other driver takes it
				p.Managed = true
				block, err := decodeBlock(t.Config[blockName], env)
				if err != nil { // the task itself will publish what it has
					d.logger.Debug("lifecycle block of another task is not understood yet", "alloc_id", alloc.ID, "task", t.Name, "error", err)
				} else if block != nil {
					p.StopAfter, p.Hooks = block.StopAfter, block.Group.encode()
				}
			}
			plan[t.Name] = p
		}
		return plan
	}
	return nil
}

// decodeBlock reads a lifecycle block as the job in Nomad's API has it, which
// is before interpolation: the variables of the group are put in here, and one
// that only the task itself has is an error.
func decodeBlock(raw any, env map[string]string) (*taskBlock, error) {
	spec, diags := hclspecutils.Convert(hclspec.NewObject(map[string]*hclspec.Spec{blockName: taskSpec()}))
	if diags.HasErrors() {
		return nil, diags
	}
	vars := make(map[string]cty.Value)
	for k, v := range env {
		if ofGroup(k) {
			vars[k] = cty.StringVal(v)
		}
	}
	value, diags, errs := hclutils.ParseHclInterface(map[string]any{blockName: raw}, spec, vars)
	if diags.HasErrors() {
		return nil, errors.Join(errs...)
	}
	var cfg drivers.TaskConfig
	if err := cfg.EncodeDriverConfig(value); err != nil {
		return nil, err
	}
	var own taskConfig
	if err := cfg.DecodeDriverConfig(&own); err != nil {
		return nil, err
	}
	return own.Lifecycle, nil
}

// ofGroup reports whether a variable is the same for all tasks of a group.
func ofGroup(name string) bool {
	if name == "NOMAD_ALLOC_DIR" { // as each task sees it
		return false
	}
	return slices.ContainsFunc([]string{
		"NOMAD_ALLOC_", "NOMAD_SHORT_ALLOC_ID", "NOMAD_GROUP_NAME", "NOMAD_JOB_", "NOMAD_DC", "NOMAD_REGION", "NOMAD_NAMESPACE",
		"NOMAD_ADDR_", "NOMAD_HOST_", "NOMAD_IP_", "NOMAD_PORT_", "NOMAD_UPSTREAM_",
	}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// encode returns the group hooks as package group carries them.
func (b *groupBlock) encode() map[group.Event]json.RawMessage {
	if b == nil {
		return nil
	}
	all := make(map[group.Event]json.RawMessage)
	for event, one := range map[group.Event]groupBlock{
		group.OnCreated: {Created: b.Created}, group.OnRunning: {Running: b.Running},
		group.OnStopping: {Stopping: b.Stopping}, group.OnStopped: {Stopped: b.Stopped},
	} {
		if len(one.Created)+len(one.Running)+len(one.Stopping)+len(one.Stopped) == 0 {
			continue
		}
		if data, err := json.Marshal(one); err == nil { // texts and numbers always can be
			all[event] = data
		}
	}
	return all
}

// membership is a task's place in its allocation. A nil one is that of a task
// without a block.
type membership struct {
	t     *task
	alloc *allocation
	group *group.Group
}

// join makes the task known to the others and runs the hook of the group's
// creation if this is the first one.
func (t *task) join(ctx context.Context, block *taskBlock) error {
	a := t.d.enter(t)
	t.alloc = a
	a.learn(ctx)
	f := a.facts(false)
	if err := f.Plan.Validate(); err != nil {
		return err
	}
	m, err := t.member(a, block, group.Starting)
	if err != nil {
		if errors.Is(err, group.ErrInvalid) {
			return err
		}
		return structs.NewRecoverableError(err, true)
	}
	t.members = m
	a.admit(t)
	if err := m.groupHook(ctx, group.OnCreated); err != nil {
		return structs.NewRecoverableError(err, true)
	}
	return nil
}

func (t *task) member(a *allocation, block *taskBlock, at group.State) (*membership, error) {
	g, err := group.Join(group.Dir(t.cfg.AllocDir), group.Member{
		Task: t.cfg.Name, Driver: t.d.name, State: at, StopAfter: t.spec.stopAfter, Hooks: block.Group.encode(),
	}, t.d.now, t.d.logger)
	if err != nil {
		return nil, err
	}
	return &membership{t: t, alloc: a, group: g}, nil
}

// state tells the others how far the task is.
func (m *membership) state(s lifecycle.State) {
	if m == nil {
		return
	}
	var err error
	switch s {
	case lifecycle.Running:
		err = m.group.Running()
	case lifecycle.Stopped, lifecycle.Destroyed:
		err = m.group.Stopped()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) { // Nomad may have removed the directory
		m.t.d.logger.Warn("the other tasks of the group are not told", "alloc_id", m.t.cfg.AllocID, "task", m.t.cfg.Name, "state", s, "error", err)
	}
}

// awaitTurn is the group's part of a stop: the hook of the group's stop, which
// comes before everything else, and the tasks that stop before this one.
func (m *membership) awaitTurn(ctx context.Context, stop lifecycle.Stop, whole bool) {
	if m == nil {
		return
	}
	t := m.t
	if err := m.group.Stopping(stop.Reason, whole); err != nil {
		t.d.logger.Warn("the other tasks of the group are not told", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", err)
	}
	deadline, _ := ctx.Deadline()
	reserve := StopOverrun + hooksLimit(t.spec.hooks[hook.Prestop])
	if t.checkpoint != nil && !stop.Final {
		reserve += t.spec.checkpoint.save.Timeout
	}
	reserve = min(reserve, time.Until(deadline)*3/4)
	ctx, cancel := context.WithDeadlineCause(ctx, deadline.Add(-reserve), fmt.Errorf("its own stop needs the last %s of kill_timeout", reserve.Round(time.Millisecond)))
	defer cancel()
	if whole {
		_ = m.groupHook(ctx, group.OnStopping) // it is logged, and a stop goes on
	}
	report, err := m.group.AwaitPredecessors(ctx, m.alloc.facts(whole))
	if err != nil {
		t.d.logger.Warn("order of the group's stop is not known", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", err)
	}
	if text := report.String(); text != "" {
		t.notes.add("%s", text)
	}
}

// groupHook runs the hooks of a group event if they are due and nobody else has
// run them.
func (m *membership) groupHook(ctx context.Context, e group.Event) error {
	if m == nil {
		return nil
	}
	t := m.t
	ctx, cancel := context.WithTimeout(ctx, hook.MaxPerKind*hook.MaxTimeout)
	defer cancel()
	_, err := m.group.Once(ctx, e, m.alloc.facts(false), func(ctx context.Context, decl group.Declaration) error {
		return t.runGroup(ctx, decl)
	})
	if err != nil && ctx.Err() == nil {
		t.d.logger.Warn("group hook failed", "alloc_id", t.cfg.AllocID, "event", e, "error", err)
	}
	return err
}

// runGroup runs the hooks of one group event. An error is one that is to fail
// the start; others are reported, and done with.
func (t *task) runGroup(ctx context.Context, decl group.Declaration) error {
	var block groupBlock
	if err := json.Unmarshal(decl.Hook, &block); err != nil {
		return fmt.Errorf("group hooks of task %q: %w", decl.Task, err)
	}
	all, err := block.parse()
	if err != nil {
		return fmt.Errorf("group hooks of task %q: %w", decl.Task, err)
	}
	kind := hook.Kind(decl.Event)
	begin := t.d.now()
	var parts []string
	for _, h := range all[kind] {
		if err := t.dialer.Check(h); err != nil {
			return err
		}
		ev := t.event()
		ev.Task = decl.Task
		o := hook.Run(ctx, h, ev, hook.Target{Dial: t.dialer})
		t.d.metrics.hook("group_"+kind, o.Err)
		switch {
		case o.Err == nil:
			parts = append(parts, h.Action()+" "+o.Detail)
		case t.d.ctx.Err() != nil:
			return o.Err // cut by the end of the plugin; the next one runs it again
		case h.Fail:
			return fmt.Errorf("%s.%s failed after %s: %w", h.Field(), h.Action(), tries(o), o.Err)
		default:
			parts = append(parts, fmt.Sprintf("%s.%s after %s: %v", h.Field(), h.Action(), tries(o), o.Err))
		}
	}
	t.d.emit(t.cfg, map[string]string{"hook": "group_" + string(kind)}, "group %s hooks ended in %s: %s",
		kind, t.d.now().Sub(begin).Round(time.Millisecond), strings.Join(parts, "; "))
	return nil
}
