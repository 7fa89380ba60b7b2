package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/nomad-patterns/nomad-patterns/plugin/checkpoint"
	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
)

// save asks the task for its state and stores it. ok is false if the task says
// that there is nothing to save.
func (c *checkpointing) save(ctx context.Context, why string) (saved checkpoint.Saved, ok bool, err error) {
	t := c.t
	select {
	case c.taking <- struct{}{}:
		defer func() { <-c.taking }()
	case <-ctx.Done():
		return saved, false, fmt.Errorf("another save is under way: %w", context.Cause(ctx))
	}
	begin := t.d.now()
	defer func() {
		if ok || err != nil && !errors.Is(err, errCanary) {
			t.d.metrics.saved(t.d.now().Sub(begin), err)
		}
	}()
	session, err := c.hold(ctx)
	if err != nil {
		return saved, false, err
	}
	state, err := c.ask(ctx)
	if err != nil || state == nil {
		return saved, false, err
	}
	saved, err = session.Save(ctx, state, why)
	if err != nil {
		return saved, false, err
	}
	c.setLast(saved.Version)
	if s := saved.Superseded; s != nil {
		t.notes.add("allocation %s has taken this one's place already, without this checkpoint", short(s.Owner.Alloc))
	}
	if saved.Prune != nil {
		t.d.logger.Warn("old checkpoints are left for later", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", saved.Prune)
	}
	return saved, true, nil
}

// ask gets the state out of the running process, nil if there is none.
func (c *checkpointing) ask(ctx context.Context) ([]byte, error) {
	t, h := c.t, c.t.spec.checkpoint.save
	if h.Exec != nil {
		if err := t.removeFile(checkpointFile); err != nil {
			return nil, err
		}
	}
	o := hook.Run(ctx, h, t.event(), hook.Target{
		Dial: t.dialer, Exec: t.exec, Gone: t.exited, Receive: t.spec.checkpoint.maxSize,
	})
	t.d.metrics.hook(hook.Save, o.Err)
	if errors.Is(o.Err, hook.ErrTooLarge) {
		return nil, fmt.Errorf("%s.%s: %w; save less, or raise lifecycle.checkpoint.max_size", h.Field(), h.Action(), o.Err)
	}
	if o.Err != nil {
		return nil, fmt.Errorf("%s.%s failed after %s: %w", h.Field(), h.Action(), tries(o), o.Err)
	}
	if h.Exec == nil {
		return o.Reply, nil
	}
	state, err := t.readFile(checkpointFile, t.spec.checkpoint.maxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return state, err
}

func (c *checkpointing) setLast(v checkpoint.Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = manage.Checkpoint{Version: versionName(v), Bytes: v.Bytes, Saved: v.Saved}
}

// saveAtStop saves while the process still runs. A stop goes on without it, and
// says so.
func (t *task) saveAtStop(ctx context.Context, why string) {
	v, ok, err := t.checkpoint.save(ctx, why)
	switch {
	case errors.Is(err, errCanary):
		t.notes.add("no checkpoint: %v", err)
	case err != nil:
		t.d.logger.Error("checkpoint not saved", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", err)
		t.notes.add("checkpoint NOT saved: %v", err)
	case !ok:
		t.notes.add("the task has no state to save")
	default:
		t.notes.add("checkpoint %s saved: %s", versionName(v.Version), humanize.IBytes(uint64(v.Bytes))) //nolint:gosec // not negative
	}
}

// saveRegularly makes a checkpoint of a running task.
func (t *task) saveRegularly(ctx context.Context) {
	ticker := time.NewTicker(t.spec.checkpoint.interval)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.exited:
			return
		case <-ticker.C:
		}
		if t.machine.State() != lifecycle.Running {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, t.spec.checkpoint.save.Timeout+t.d.storeLimit)
		_, _, err := t.checkpoint.save(limit, savedInterval)
		cancel()
		if errors.Is(err, errCanary) {
			continue
		}
		if err != nil && !failing && ctx.Err() == nil {
			t.d.emit(t.cfg, nil, "checkpoint NOT saved, will be tried again every %s: %v", t.spec.checkpoint.interval, err)
		}
		failing = err != nil
	}
}

// end tells the store that this start is over.
func (c *checkpointing) end() {
	if c == nil {
		return
	}
	t := c.t
	st, _ := t.machine.Status()
	why, final := string(reason.Unknown), false
	if st.Stop != nil {
		why = st.Stop.Reason
		final = st.Stop.Final || why == string(reason.Completed) && t.alloc.done(t)
	}
	c.mu.Lock()
	none := c.session == nil && c.resume == 0 && !final
	c.mu.Unlock()
	if none {
		return
	}
	ctx, cancel := context.WithTimeout(t.d.ctx, endLimit)
	defer cancel()
	session, err := c.hold(ctx)
	if err == nil {
		err = session.End(ctx, why, final)
	}
	if err != nil && !errors.Is(err, errCanary) {
		t.d.logger.Warn("the store is not told that the task has ended; its replacement will ask Nomad", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", err)
	}
}

// close closes the chain of a task that has ended, and that nothing will start
// again as it turned out: its job was stopped while it waited for a restart.
func (c *checkpointing) close(ctx context.Context, why string) {
	ctx, cancel := context.WithTimeout(ctx, c.t.d.storeLimit)
	defer cancel()
	session, err := c.hold(ctx)
	if err == nil {
		err = session.End(ctx, why, true)
	}
	if err != nil && !errors.Is(err, errCanary) {
		c.t.d.logger.Warn("the store is not told that the task has ended for good", "alloc_id", c.t.cfg.AllocID, "task", c.t.cfg.Name, "error", err)
	}
}
