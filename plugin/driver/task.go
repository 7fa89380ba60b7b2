package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
)

const (
	eventDir  = "local/lifecycle" // below the task's directory
	eventFile = "event.json"
	eventKey  = "LIFECYCLE_EVENT_FILE"

	execSlack = 100 * time.Millisecond
	execNever = 365 * 24 * time.Hour
)

// task is one start of a task: Nomad gives every start an ID of its own.
type task struct {
	d        *Driver
	cfg      *drivers.TaskConfig // as the inner driver left it; only read
	spec     *spec
	dialer   *hook.Dialer
	machine  *lifecycle.Machine
	journal  *journal
	accepted sync.Once // Nomad has been seen to know the task
	begun    time.Time // of the start, or of the recovery

	stopping sync.Mutex // held by the one stop that is under way
	left     bool       // all that comes before the signal is done; guarded by stopping

	checkpoint *checkpointing // nil if the task has none
	alloc      *allocation    // nil without a block
	members    *membership    // in its group; nil without a block
	operators  *manage.Task   // as operators see it; nil before it runs
	background sync.WaitGroup // goroutines that end with ctx
	ctx        context.Context
	cancel     context.CancelFunc

	exited chan struct{}       // closed when the process has ended
	done   chan struct{}       // closed when the poststop hooks have ended as well
	result *drivers.ExitResult // how the process ended; set before done is closed

	notes notes // what the next event tells besides
}

func (d *Driver) newTask(cfg *drivers.TaskConfig, s *spec, at lifecycle.State) *task {
	d.mu.Lock()
	allow := d.config.AllowURLs
	d.mu.Unlock()
	t := &task{
		d: d, cfg: cfg, spec: s,
		dialer:  newDialer(cfg, allow),
		journal: newJournal(cfg),
		begun:   d.now(),
		exited:  make(chan struct{}),
		done:    make(chan struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(d.ctx)
	t.machine = lifecycle.New(at, d.now, t.observe)
	return t
}

// check finds what is wrong with the hooks for this very task, before anything
// is started.
func (t *task) check() error {
	if err := t.spec.each(func(h *hook.Hook) error { return t.dialer.Check(h) }); err != nil {
		return err
	}
	if t.spec.manage == nil {
		return nil
	}
	for name, at := range t.spec.manage.offers {
		as := &hook.Hook{Kind: hook.Ready, HTTP: &at} // the rules are the same
		if err := t.dialer.Check(as); err != nil {
			return fmt.Errorf("%s.manage.%s%s", blockName, name, strings.TrimPrefix(err.Error(), as.Field()+".http"))
		}
	}
	return nil
}

// watch waits for the process to end, runs the poststop hooks and then lets
// WaitTask answer. It owns exited, done and result, and ends with the task or
// with the driver.
func (t *task) watch() {
	result := t.d.await(t.d.ctx, t.cfg.ID)
	alive := t.d.ctx.Err() != nil // the plugin ends, and not the task
	if !alive {
		t.machine.To(lifecycle.Stopped, t.ownEnd(result))
	}
	close(t.exited)
	if !alive {
		// A poststop hook cannot fail the task, so there is no error to handle.
		_ = t.run(t.d.ctx, hook.Poststop)
		t.over()
	}
	t.result = result
	close(t.done)
}

// ownEnd is why the process has ended if nobody has asked for it.
func (t *task) ownEnd(r *drivers.ExitResult) *lifecycle.Stop {
	if t.machine.State() >= lifecycle.Stopping {
		return nil
	}
	return &lifecycle.Stop{Reason: string(reason.Exited(r.ExitCode, r.Signal, r.OOMKilled, r.Err)), Detail: describe(r)}
}

// await returns how the inner task ended. It never returns nil: Nomad's agent
// does not survive a wait without a result.
func (d *Driver) await(ctx context.Context, id string) *drivers.ExitResult {
	ch, err := d.inner.WaitTask(ctx, id)
	if err != nil {
		return &drivers.ExitResult{ExitCode: -1, Err: fmt.Errorf("wait for task %q: %w", id, err)}
	}
	if r := <-ch; r != nil {
		return r
	}
	return &drivers.ExitResult{ExitCode: -1, Err: fmt.Errorf("wait for task %q: the driver is shutting down", id)}
}

// run runs all hooks of one kind in order and notes their outcomes for the next
// task event. It returns an error, and notes nothing, if one failed that has
// on_failure = "fail": Nomad makes an event of the error.
func (t *task) run(ctx context.Context, kind hook.Kind) error {
	hs := t.spec.hooks[kind]
	if len(hs) == 0 {
		return nil
	}
	begin := t.d.now()
	target := hook.Target{Dial: t.dialer, Exec: t.exec, Gone: t.exited}
	switch kind {
	case hook.Prestart:
		target.Exec, target.Gone = t.d.runOnceFor(t), nil
	case hook.Poststop:
		target.Gone = nil
	}
	skip := 0
	if kind == hook.Prestop {
		skip = min(t.journal.prestopDone(), len(hs))
		if skip == len(hs) {
			return nil // a stop that is tried again has no news
		}
	}

	parts := make([]string, 0, len(hs))
	verdict := "succeeded"
	for i, h := range hs[skip:] {
		o := hook.Run(ctx, h, t.event(), target)
		t.d.metrics.hook(kind, o.Err)
		log := t.d.logger.With("alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "hook", h.Field(), "action", h.Action(), "tries", o.Tries, "took", o.Duration)
		switch {
		case o.Err == nil:
			log.Debug("hook succeeded", "detail", o.Detail)
			parts = append(parts, h.Action()+" "+o.Detail)
		case h.Fail:
			log.Warn("hook failed", "error", o.Err)
			return fmt.Errorf("%s.%s failed after %s: %w", h.Field(), h.Action(), tries(o), o.Err)
		default:
			log.Warn("hook failed, going on", "error", o.Err)
			verdict = "failed, going on"
			parts = append(parts, fmt.Sprintf("%s.%s after %s: %v", h.Field(), h.Action(), tries(o), o.Err))
		}
		// A hook that the plugin's own end has cut is not done: the stop is
		// asked for again, and so is the hook.
		if kind == hook.Prestop && t.d.ctx.Err() == nil {
			if err := t.journal.setPrestopDone(skip + i + 1); err != nil {
				log.Warn("journal not written; the hook may run again after a crash", "error", err)
			}
		}
	}
	took := t.d.now().Sub(begin).Round(time.Millisecond)
	text := fmt.Sprintf("%s hooks %s in %s: %s", kind, verdict, took, strings.Join(parts, "; "))
	if kind == hook.Poststop { // no transition follows that could tell it
		t.d.emit(t.cfg, map[string]string{"hook": string(kind), "duration": took.String()}, "%s", text)
		return nil
	}
	t.notes.add("%s", text)
	return nil
}

func tries(o hook.Outcome) string {
	if o.Tries == 1 {
		return "1 try"
	}
	return strconv.Itoa(o.Tries) + " tries"
}

func (t *task) event() hook.Event {
	ev := hook.Event{
		Namespace: t.cfg.Namespace, Job: t.cfg.JobID, Group: t.cfg.TaskGroupName,
		Task: t.cfg.Name, AllocID: t.cfg.AllocID,
	}
	if st, _ := t.machine.Status(); st.Stop != nil && st.State >= lifecycle.Stopping {
		kill := st.Stop.Deadline
		if st.State >= lifecycle.Stopped {
			kill = time.Time{} // there is nothing left to kill
		}
		ev = ev.Stopping(st.Stop.Reason, st.Stop.Final, st.Stop.Detail, kill)
	}
	return ev
}

// execTimeout is the limit that the inner driver is told for a command, a
// little more than ours so that ours is the one that is reported.
//
// The exec driver is told none: in Nomad 1.11 its executor panics when a
// command reaches the limit (it sends on a channel that it has just closed),
// and takes the task with it.
func (d *Driver) execTimeout(limit time.Duration) time.Duration {
	if d.innerName() == "exec" {
		return execNever
	}
	return limit + execSlack
}

// exec runs a command in the running task. Only raw_exec ends a command at its
// limit, so the limit is kept here, and the call is left to end with the
// command or the task.
func (t *task) exec(ctx context.Context, command []string, ev hook.Event) (int, string, error) {
	if err := t.writeEvent(ev); err != nil {
		return 0, "", err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, "", errors.New("no time limit") // hook.Run always sets one
	}
	type answer struct {
		result *drivers.ExecTaskResult
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		r, err := t.d.inner.ExecTask(t.cfg.ID, command, t.d.execTimeout(time.Until(deadline)))
		answers <- answer{r, err}
	}()
	select {
	case <-ctx.Done():
		return 0, "", context.Cause(ctx)
	case a := <-answers:
		if ctx.Err() != nil {
			return 0, "", context.Cause(ctx)
		}
		if a.err != nil {
			return 0, "", a.err
		}
		output := string(a.result.Stdout) + string(a.result.Stderr)
		return a.result.ExitResult.ExitCode, output, a.result.ExitResult.Err
	}
}

// writeEvent puts the event where a command finds it.
func (t *task) writeEvent(ev hook.Event) error {
	data, err := json.Marshal(ev)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	return t.writeFile(eventFile, append(data, '\n'))
}

// newDialer gathers how the task is reached from Nomad's description of it.
func newDialer(cfg *drivers.TaskConfig, allow []string) *hook.Dialer {
	d := &hook.Dialer{TaskDir: cfg.TaskDir().Dir, AllowURLs: allow, Ports: make(map[string]hook.Port)}
	if cfg.NetworkIsolation != nil {
		d.Netns = cfg.NetworkIsolation.Path
	}
	if cfg.Resources != nil && cfg.Resources.Ports != nil {
		for _, p := range *cfg.Resources.Ports {
			inside := p.To
			if inside <= 0 {
				inside = p.Value
			}
			d.Ports[p.Label] = hook.Port{Host: net.JoinHostPort(p.HostIP, strconv.Itoa(p.Value)), To: inside}
			if ip := cfg.Env["NOMAD_ALLOC_IP_"+p.Label]; ip != "" {
				d.GroupIP = ip
			}
		}
	}
	return d
}
