package driver

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

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
