package driver

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"

	"github.com/nomad-patterns/nomad-patterns/plugin/checkpoint"
	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
)

const (
	checkpointFile = "checkpoint" // in eventDir
	checkpointKey  = "LIFECYCLE_CHECKPOINT_FILE"

	// storeLimit is how long a start tries to reach the store; see Driver.storeLimit.
	storeLimit = 10 * time.Second
	// endLimit is how long the end of a task tries to tell the store. A
	// replacement that is not told asks Nomad.
	endLimit = 2 * time.Second
	// awaitInterval is how often a start looks whether its predecessor has saved.
	awaitInterval = 250 * time.Millisecond

	// Why a checkpoint was saved, if not for a stop.
	savedAsked    = "asked"
	savedInterval = "interval"
)

// checkpointing is one start's part in the chain of its checkpoints. A nil one
// is that of a task without a checkpoint block.
type checkpointing struct {
	t *task

	taking   chan struct{} // of capacity 1: held by the one save that is under way
	claiming chan struct{} // of capacity 1: held by the one claim that is under way; a store may take its time

	mu      sync.Mutex // guards all fields below
	chain   *checkpoint.Chain
	session *checkpoint.Session
	resume  int // epoch of the session, if it was claimed by a process before
	latest  *checkpoint.Checkpoint
	last    manage.Checkpoint // the newest that is known to be durable
}

func newCheckpointing(t *task) *checkpointing {
	return &checkpointing{t: t, taking: make(chan struct{}, 1), claiming: make(chan struct{}, 1)}
}

func (c *checkpointing) epoch() int {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return c.resume
	}
	return c.session.Epoch()
}

// restores reports whether the task is to be given a checkpoint.
func (c *checkpointing) restores() bool {
	return c != nil && c.latest != nil && c.t.spec.checkpoint.restore != nil
}

// open returns the chain. It speaks to nobody.
func (c *checkpointing) open(ctx context.Context) (*checkpoint.Chain, error) {
	c.mu.Lock()
	chain := c.chain
	c.mu.Unlock()
	if chain != nil {
		return chain, nil
	}
	sp, cfg := c.t.spec.checkpoint, c.t.cfg
	store, err := c.t.d.around().store(ctx, sp.store)
	if err != nil {
		return nil, err
	}
	id := checkpoint.Identity{
		Namespace: cfg.Namespace, Job: cfg.JobID, Group: cfg.TaskGroupName, Task: cfg.Name,
		Index: cfg.Env["NOMAD_ALLOC_INDEX"],
	}
	if sp.byNode {
		id.Index = "node-" + cfg.NodeID
	}
	chain, err = checkpoint.Open(store, id, checkpoint.Options{Keep: sp.keep, MaxSize: sp.maxSize, Now: c.t.d.now})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chain = chain
	return chain, nil
}

// errCanary is why a canary has no checkpoints of its own yet: its place in the
// chain is that of an allocation that runs on, and would lose what it saves.
var errCanary = errors.New("the allocation is a canary, and saves nothing before it is promoted")

// hold returns the session, and claims it if need be: a start that did without
// the store has none, nor has a canary, and one that was recovered has that of
// the process before.
func (c *checkpointing) hold(ctx context.Context) (*checkpoint.Session, error) {
	select {
	case c.claiming <- struct{}{}:
		defer func() { <-c.claiming }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another claim: %w", context.Cause(ctx))
	}
	chain, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	session, resume := c.session, c.resume
	c.mu.Unlock()
	if session != nil {
		return session, nil
	}
	who := checkpoint.Owner{Alloc: c.t.cfg.AllocID, Node: c.t.cfg.NodeID}
	switch {
	case resume > 0:
		session, err = chain.Resume(resume, who)
	case c.t.alloc.canary(ctx):
		err = errCanary
	default:
		if err = c.overtaken(ctx, chain); err != nil {
			break
		}
		var found checkpoint.Found
		session, found, err = chain.Claim(ctx, who)
		if found.Prune != nil {
			c.t.d.logger.Warn("old checkpoints are left for later", "alloc_id", c.t.cfg.AllocID, "task", c.t.cfg.Name, "error", found.Prune)
		}
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = session
	return session, nil
}

// overtaken returns an error if a claim comes too late: the process runs without
// one, and another allocation has claimed the place since it was started. That
// one's state is newer, and a claim now would let this one's count for more.
func (c *checkpointing) overtaken(ctx context.Context, chain *checkpoint.Chain) error {
	t := c.t
	if t.machine.State() < lifecycle.Starting {
		return nil
	}
	newest, err := chain.Previous(ctx)
	if err != nil || newest == nil {
		return err
	}
	if o := newest.Owner; o.Alloc != t.cfg.AllocID && o.Claimed.After(t.begun) {
		return fmt.Errorf("allocation %s has taken this one's place", short(o.Alloc))
	}
	return nil
}

// fetchCheckpoint gets the task's last checkpoint and puts it where the process
// finds it. There is no process yet.
func (t *task) fetchCheckpoint(ctx context.Context) error {
	begin := t.d.now()
	sp := t.spec.checkpoint
	if t.alloc.system() && !sp.byNode {
		return fmt.Errorf("%s.checkpoint.scope: the job has an allocation on each node, and all of them have the same index; set scope = \"node\"", blockName)
	}
	c := newCheckpointing(t)
	t.checkpoint = c
	if err := t.d.around().named(sp.store); err != nil {
		return fmt.Errorf("%s.checkpoint.store: %w", blockName, err)
	}
	err := c.fetch(ctx)
	if err == nil {
		err = t.placeCheckpoint()
	}
	switch {
	case err == nil:
	case sp.failCold && ctx.Err() == nil:
		c.latest = nil
		t.notes.add("cold start, because no checkpoint could be fetched: %v", err)
		err = t.placeCheckpoint()
	default:
		err = fmt.Errorf("restore checkpoint: %w", err)
	}
	t.d.metrics.restores.WithLabelValues(c.outcome(err)).Inc()
	if err == nil && c.latest != nil {
		t.d.metrics.restoreTime.Observe(t.d.now().Sub(begin).Seconds())
		v := c.latest.Version
		t.notes.add("checkpoint %s, %s, saved %s before", versionName(v), humanize.IBytes(uint64(v.Bytes)), t.d.now().Sub(v.Saved).Round(time.Millisecond)) //nolint:gosec // not negative
	}
	if err != nil {
		return structs.NewRecoverableError(err, true)
	}
	return nil
}

func (c *checkpointing) outcome(err error) string {
	switch {
	case err != nil:
		return "failed"
	case c.latest == nil:
		return "cold"
	}
	return "warm"
}

// fetch waits for the predecessor's last save, takes its place and reads what
// it has left.
func (c *checkpointing) fetch(ctx context.Context) error {
	t := c.t
	ctx, cancel := context.WithTimeout(ctx, t.d.storeLimit+t.spec.checkpoint.wait)
	defer cancel()
	chain, err := c.open(ctx)
	if err != nil {
		return err
	}
	if err := c.await(ctx, chain); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(ctx, t.d.storeLimit)
	defer cancel()
	if _, err := c.hold(ctx); err != nil && !errors.Is(err, errCanary) {
		return err
	}
	latest, err := chain.Latest(ctx)
	if err != nil {
		return err
	}
	if len(latest.Damaged) > 0 {
		if !t.spec.checkpoint.failCold {
			return fmt.Errorf("%w; to go back to the version before, delete %s from the store, or set on_restore_failure = \"cold\"", latest.Damaged[0], manifestOf(latest.Damaged[0].Name))
		}
		t.notes.add("damaged, and passed over: %v", latest.Damaged[0])
	}
	if latest.Checkpoint == nil {
		t.notes.add("cold start: no checkpoint")
		return nil
	}
	c.latest = latest.Checkpoint
	c.setLast(latest.Checkpoint.Version)
	return nil
}

// await waits for another allocation that has been in this one's place, and may
// still have to save. Nomad itself waits only for the allocation that it has
// replaced by this one, and not for one that was preempted.
func (c *checkpointing) await(ctx context.Context, chain *checkpoint.Chain) error {
	t := c.t
	reach, cancel := context.WithTimeout(ctx, t.d.storeLimit)
	defer cancel()
	// A store that does not answer is no predecessor that is late.
	before, err := chain.Previous(reach)
	if err != nil || before == nil || t.spec.checkpoint.wait == 0 {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, t.spec.checkpoint.wait)
	defer cancel()
	err = chain.AwaitEnd(wait, t.cfg.AllocID, awaitInterval, func(ctx context.Context, o checkpoint.Owner) bool {
		alloc, err := t.d.around().nomad.Allocation(ctx, t.cfg.Namespace, o.Alloc)
		return errors.Is(err, reason.ErrNotFound) || err == nil && !stillToSave(alloc)
	})
	var late *checkpoint.AwaitError
	var damaged *checkpoint.DamagedError
	tooLong := func(o checkpoint.Owner) {
		t.notes.add("did not wait longer than %s for allocation %s, which has not finished; what it still saves is not in this start", t.spec.checkpoint.wait, short(o.Alloc))
	}
	switch {
	case errors.As(err, &late):
		for _, tenure := range late.Tenures {
			tooLong(tenure.Owner)
		}
		return nil
	case errors.As(err, &damaged):
		t.notes.add("not waited for: %v", damaged)
		return nil
	case err != nil && wait.Err() != nil && ctx.Err() == nil: // the time was up in the middle of a look
		tooLong(before.Owner)
		return nil
	}
	return err
}

// stillToSave reports whether an allocation stops, and has not done so yet. One
// that runs on, as beside a canary, is not waited for.
func stillToSave(a *api.Allocation) bool {
	switch {
	case a.ClientTerminalStatus(), a.ClientStatus == api.AllocClientStatusUnknown:
		return false
	}
	return a.ServerTerminalStatus() || a.DesiredTransition.ShouldMigrate()
}

// manifestOf is the manifest of the version that an object belongs to. Without
// it the version is not there.
func manifestOf(name string) string {
	return strings.TrimSuffix(name, path.Ext(name)) + ".json"
}

func short(id string) string { return id[:min(len(id), 8)] }

func versionName(v checkpoint.Version) string { return fmt.Sprintf("%d/%d", v.Epoch, v.Seq) }

// placeCheckpoint writes the checkpoint into the task's directory, or takes an
// old one away.
func (t *task) placeCheckpoint() error {
	if latest := t.checkpoint.latest; latest != nil {
		return t.writeFile(checkpointFile, latest.Data)
	}
	return t.removeFile(checkpointFile)
}

// handOver gives the running process its checkpoint.
func (t *task) handOver(ctx context.Context) error {
	sp := t.spec.checkpoint
	target := hook.Target{Dial: t.dialer, Exec: t.exec, Gone: t.exited, Send: t.checkpoint.latest.Data}
	o := hook.Run(ctx, sp.restore, t.event(), target)
	t.d.metrics.hook(hook.Restore, o.Err)
	switch {
	case o.Err == nil:
		t.notes.add("restored by %s %s in %s", sp.restore.Action(), o.Detail, o.Duration.Round(time.Millisecond))
		return nil
	case sp.failCold && !errors.Is(o.Err, hook.ErrGone) && ctx.Err() == nil:
		t.notes.add("goes on without its checkpoint: %s.%s failed after %s: %v", sp.restore.Field(), sp.restore.Action(), tries(o), o.Err)
		return nil
	}
	return fmt.Errorf("%s.%s failed after %s: %w", sp.restore.Field(), sp.restore.Action(), tries(o), o.Err)
}
