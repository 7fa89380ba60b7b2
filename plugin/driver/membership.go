package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"

	"github.com/nomad-patterns/nomad-patterns/plugin/group"
	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

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
