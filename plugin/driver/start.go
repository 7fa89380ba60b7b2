package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-patterns/nomad-patterns/plugin/dockerguard"
	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
)

const (
	// handleVersion marks our handles. Lower versions are the inner driver's.
	handleVersion = 100
	// abortTimeout is how long a process may take to end after a start hook
	// has failed.
	abortTimeout = 5 * time.Second
)

// handleState is what Nomad keeps for us across restarts of the agent and the
// plugin. Nomad drops the driver configuration of the handle it keeps, so the
// lifecycle block is in here again.
type handleState struct {
	InnerVersion int
	InnerState   []byte
	Lifecycle    *taskBlock
	Epoch        int // of the task's checkpoints; 0 if it has none
}

// StartTask runs the prestart hooks, starts the inner task and runs the
// poststart and ready hooks. An error that a new try could mend is
// recoverable, so the job's restart block decides; one in the job file is not.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	if _, err := d.task(cfg.ID); err == nil {
		return nil, nil, fmt.Errorf("task with ID %q already started", cfg.ID)
	}
	var own taskConfig
	if err := cfg.DecodeDriverConfig(&own); err != nil {
		return nil, nil, fmt.Errorf("decode %s block: %w", blockName, err)
	}
	sp, err := parseSpec(own.Lifecycle)
	if err != nil {
		return nil, nil, err
	}
	if err := d.checkMounts(cfg); err != nil {
		return nil, nil, err
	}
	t := d.newTask(d.prepare(cfg, sp), sp, lifecycle.Created)
	if err := t.check(); err != nil {
		return nil, nil, err
	}
	if !sp.managed {
		return d.startInner(t, own.Lifecycle)
	}
	if err := t.comeUp(d.ctx, own.Lifecycle); err != nil {
		t.giveUp()
		return nil, nil, err
	}
	return d.startInner(t, own.Lifecycle)
}

// comeUp is all that happens before the task's process is started.
func (t *task) comeUp(ctx context.Context, block *taskBlock) error {
	if err := t.d.clearOrphan(t); err != nil {
		return structs.NewRecoverableError(err, true)
	}
	if err := t.join(ctx, block); err != nil {
		return err
	}
	if err := t.run(ctx, hook.Prestart); err != nil {
		return structs.NewRecoverableError(err, true)
	}
	if t.spec.checkpoint != nil {
		t.machine.To(lifecycle.Restoring, nil)
		if err := t.fetchCheckpoint(ctx); err != nil {
			return err
		}
	}
	return t.openSocket()
}

// startInner starts the task's process and sees it through its start hooks.
func (d *Driver) startInner(t *task, block *taskBlock) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	inner, network, err := t.launch(t.cfg)
	if err != nil {
		t.giveUp()
		return nil, nil, err // unwrapped: it may say of itself that it is recoverable
	}
	t.cfg = inner.Config
	t.machine.To(lifecycle.Starting, nil)
	d.addTask(t)
	d.background.Go(t.watch)

	if err := d.runStartHooks(t); err != nil {
		d.abort(t)
		return nil, nil, structs.NewRecoverableError(err, true)
	}
	handle := drivers.NewTaskHandle(handleVersion)
	handle.Config, handle.State = inner.Config, inner.State
	state := handleState{InnerVersion: inner.Version, InnerState: inner.DriverState, Lifecycle: block, Epoch: t.checkpoint.epoch()}
	if err := handle.SetDriverState(&state); err != nil {
		d.abort(t)
		return nil, nil, fmt.Errorf("encode task handle: %w", err)
	}
	t.machine.To(lifecycle.Running, nil)
	t.settleIn()
	return handle, network, nil
}

// launch starts a process and has it in the journal from before it is there
// until Nomad knows of it, so that nothing is left behind whenever this process
// dies.
func (t *task) launch(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	if !t.spec.managed {
		return t.d.launch(cfg)
	}
	if err := t.d.noteStart(t); err != nil {
		return nil, nil, structs.NewRecoverableError(err, true)
	}
	handle, network, err := t.d.launch(cfg)
	if err != nil {
		if jerr := t.journal.answered(); jerr != nil {
			t.d.logger.Warn("journal not cleared", "alloc_id", cfg.AllocID, "task", cfg.Name, "error", jerr)
		}
		return nil, nil, err // unwrapped: it may say of itself that it is recoverable
	}
	if err := t.journal.started(handle); err != nil {
		return nil, nil, structs.NewRecoverableError(errors.Join(err, t.d.end(cfg.ID, abortTimeout)), true)
	}
	return handle, network, nil
}

// launch has the inner driver start a process, after it was kept from what it
// should refuse.
func (d *Driver) launch(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	if d.innerName() == "docker" {
		schema, err := d.inner.ConfigSchema()
		if err != nil {
			return nil, nil, err
		}
		if dockerguard.Needed(schema) {
			d.mu.Lock()
			guard := d.guard
			d.mu.Unlock()
			if err := guard.Check(cfg); err != nil {
				return nil, nil, err
			}
		}
	}
	return d.inner.StartTask(cfg)
}

// runStartHooks runs the hooks between the start of the process and Nomad's
// knowing of it.
func (d *Driver) runStartHooks(t *task) error {
	var err error
	if t.checkpoint.restores() {
		err = t.handOver(d.ctx)
	}
	for _, kind := range []hook.Kind{hook.Poststart, hook.Ready} {
		if err == nil {
			err = t.run(d.ctx, kind)
		}
	}
	if errors.Is(err, hook.ErrGone) {
		<-t.done
		return fmt.Errorf("%w; %s", err, describe(t.result))
	}
	return err
}

func describe(r *drivers.ExitResult) string {
	switch {
	case r.Signal != 0:
		return fmt.Sprintf("it ended with signal %d", r.Signal)
	case r.ExitCode <= 0 && r.Err != nil:
		return r.Err.Error()
	}
	return fmt.Sprintf("it ended with exit code %d", r.ExitCode)
}

// abort ends a process whose start has failed and forgets it.
func (d *Driver) abort(t *task) {
	log := d.logger.With("alloc_id", t.cfg.AllocID, "task", t.cfg.Name)
	t.machine.To(lifecycle.Stopping, &lifecycle.Stop{Reason: string(reason.Failed), Detail: "the start has failed"})
	if err := d.end(t.cfg.ID, abortTimeout); err != nil {
		log.Error("process of a failed start may still run; the next start will end it", "error", err)
	} else if err := t.journal.answered(); err != nil {
		log.Warn("journal not cleared", "error", err)
	}
	// The next start must not meet this one's poststop hooks. They are
	// bounded; the timer is for an inner driver that never says the process
	// has ended.
	limit := time.NewTimer(abortTimeout + hooksLimit(t.spec.hooks[hook.Poststop]))
	defer limit.Stop()
	select {
	case <-t.done:
	case <-limit.C:
		log.Error("inner driver has not reported the end of a process that it destroyed")
	case <-d.ctx.Done():
	}
	t.machine.To(lifecycle.Destroyed, nil)
	t.forget()
}

func hooksLimit(hs []*hook.Hook) time.Duration {
	var sum time.Duration
	for _, h := range hs {
		sum += h.Timeout
	}
	return sum
}

// end stops and destroys an inner task. One that the inner driver does not
// know is ended already.
func (d *Driver) end(id string, timeout time.Duration) error {
	stopErr := d.inner.StopTask(id, timeout, "")
	if notFound(stopErr) {
		return nil
	}
	// Destroying by force also ends what could not be stopped.
	if err := d.inner.DestroyTask(id, true); err != nil && !notFound(err) {
		return errors.Join(stopErr, err)
	}
	return nil
}

// clearOrphan ends what an earlier plugin process started for this task and
// could not tell Nomad of.
func (d *Driver) clearOrphan(t *task) error {
	if err := t.journal.load(); err != nil {
		d.logger.Warn("journal unreadable, ignored", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", err)
		return nil
	}
	orphan, err := t.journal.orphan()
	if err != nil {
		return err
	}
	if orphan == nil {
		if yes, _ := t.journal.abandoned(d.name); yes {
			d.killExecutors(t.cfg.TaskDir().Dir)
		}
		return t.journal.answered() // what an earlier start's stop has noted is not about this one
	}
	log := d.logger.With("alloc_id", t.cfg.AllocID, "task", t.cfg.Name)
	if err := d.inner.RecoverTask(orphan); err != nil {
		// Nothing answers any more under that handle: the process has ended.
		log.Info("left-over process of an interrupted start is gone", "detail", err)
	} else {
		log.Warn("ending the left-over process of an interrupted start")
		if err := d.end(orphan.Config.ID, abortTimeout); err != nil {
			return fmt.Errorf("end the left-over process of an interrupted start: %w", err)
		}
	}
	return t.journal.answered()
}

// prepare returns the configuration for the inner driver. It is a copy: inner
// drivers change what they are given.
func (d *Driver) prepare(cfg *drivers.TaskConfig, s *spec) *drivers.TaskConfig {
	c := cfg.Copy()
	if c.ParentJobID == "" {
		c.ParentJobID = parentJob(c.JobID)
	}
	env := make(map[string]string)
	inTask := func(file string) string { return path.Join(c.Env["NOMAD_TASK_DIR"], path.Base(eventDir), file) }
	if s.hasExec() {
		env[eventKey] = inTask(eventFile)
	}
	if s.checkpoint != nil {
		env[checkpointKey] = inTask(checkpointFile)
	}
	if s.hasSocket() {
		env[socketKey] = path.Join(c.Env["NOMAD_SECRETS_DIR"], manage.SocketName)
	}
	if len(env) > 0 {
		c.Env = maps.Clone(c.Env)
		if c.Env == nil {
			c.Env = make(map[string]string)
		}
		maps.Copy(c.Env, env)
	}
	return c
}

// parentJob restores the one field of a task's configuration that is lost
// between Nomad and an external plugin: docker writes it into a label.
func parentJob(id string) string {
	for _, sep := range []string{structs.DispatchLaunchSuffix, structs.PeriodicLaunchSuffix} {
		if i := strings.LastIndex(id, sep); i > 0 {
			return id[:i]
		}
	}
	return ""
}

// checkMounts refuses volumes for a driver that cannot mount any. Nomad does
// this itself for built-in drivers, but does not learn the capability from an
// external one.
func (d *Driver) checkMounts(cfg *drivers.TaskConfig) error {
	if len(cfg.Mounts) == 0 {
		return nil
	}
	caps, err := d.inner.Capabilities()
	if err != nil {
		return err
	}
	if caps.MountConfigs == drivers.MountConfigSupportNone {
		return fmt.Errorf("task driver %q does not support volume mounts", d.name)
	}
	return nil
}

// runOnceFor returns the exec action of prestart hooks. There is no process
// yet to run a command in, so the inner driver starts one: same image, same
// environment, same mounts and user, another command.
func (d *Driver) runOnceFor(t *task) func(context.Context, []string, hook.Event) (int, string, error) {
	return func(ctx context.Context, command []string, ev hook.Event) (int, string, error) {
		if err := t.writeEvent(ev); err != nil {
			return 0, "", err
		}
		cfg, err := d.withCommand(t.cfg, command)
		if err != nil {
			return 0, "", err
		}
		if _, _, err := t.launch(cfg); err != nil {
			return 0, "", err
		}
		result := d.await(ctx, cfg.ID)
		cut := ctx.Err() != nil
		if err := d.end(cfg.ID, 0); err != nil {
			return 0, "", err // the journal still names it: the next start ends it
		}
		if err := t.journal.answered(); err != nil {
			return 0, "", err
		}
		switch {
		case cut:
			return 0, "", context.Cause(ctx)
		case result.Signal != 0:
			return 0, "", fmt.Errorf("ended by signal %d", result.Signal)
		case result.ExitCode > 0: // docker makes an error of it as well
			return result.ExitCode, "", nil // its output is in the task's logs
		}
		return 0, "", result.Err
	}
}

// withCommand returns cfg with another command in the inner driver's own words:
// docker has an entrypoint, exec and raw_exec have only a command.
func (d *Driver) withCommand(cfg *drivers.TaskConfig, command []string) (*drivers.TaskConfig, error) {
	schema, err := d.inner.TaskConfigSchema()
	if err != nil {
		return nil, err
	}
	c := cfg.Copy()
	c.ID += "/" + string(hook.Prestart)
	var words map[string]any
	if err := c.DecodeDriverConfig(&words); err != nil {
		return nil, fmt.Errorf("decode driver config: %w", err)
	}
	delete(words, blockName)
	words["command"], words["args"] = command[0], command[1:]
	if _, ok := schema.GetObject().GetAttributes()["entrypoint"]; ok {
		words["entrypoint"], words["command"] = command[:1], ""
	}
	if err := c.EncodeConcreteDriverConfig(words); err != nil {
		return nil, fmt.Errorf("encode driver config: %w", err)
	}
	return c, nil
}
