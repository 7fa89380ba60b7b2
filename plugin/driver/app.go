package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/plugin/group"
	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
)

const socketKey = "LIFECYCLE_SOCKET"

// hasSocket reports whether the task gets a management socket.
func (s *spec) hasSocket() bool { return s.manage != nil || s.checkpoint != nil }

// app is a task as package manage sees it.
type app struct{ t *task }

var _ manage.App = app{}

// Info implements manage.App.
func (a app) Info() manage.Info {
	t := a.t
	index, err := strconv.Atoi(t.cfg.Env["NOMAD_ALLOC_INDEX"])
	if err != nil {
		index = 0 // only Nomad's own tests have none
	}
	info := manage.Info{
		Namespace: t.cfg.Namespace, Job: t.cfg.JobID, Group: t.cfg.TaskGroupName, Task: t.cfg.Name,
		AllocID: t.cfg.AllocID, Index: index, Saves: t.spec.checkpoint != nil,
	}
	if m := t.spec.manage; m != nil && m.replicate {
		info.Replicate = &manage.Bounds{Min: m.min, Max: m.max}
	}
	return info
}

// Status implements manage.App.
func (a app) Status() (lifecycle.Status, <-chan struct{}) { return a.t.machine.Status() }

// Checkpoint implements manage.App.
func (a app) Checkpoint() (manage.Checkpoint, bool) {
	c := a.t.checkpoint
	if c == nil {
		return manage.Checkpoint{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.last != manage.Checkpoint{}
}

// Save implements manage.App. Whoever gets an error must not count on the state:
// it is not stored, or another allocation goes on without it, or may do so.
func (a app) Save(ctx context.Context) (manage.Checkpoint, error) {
	if s := a.t.machine.State(); s != lifecycle.Starting && s != lifecycle.Running {
		return manage.Checkpoint{}, httpapi.Errorf(http.StatusConflict, "", "the task is %s", s)
	}
	v, ok, err := a.t.checkpoint.save(ctx, savedAsked)
	switch {
	case errors.Is(err, errCanary):
		return manage.Checkpoint{}, httpapi.Errorf(http.StatusConflict, "", "%w", err)
	case errors.Is(err, hook.ErrTooLarge):
		return manage.Checkpoint{}, httpapi.Errorf(http.StatusRequestEntityTooLarge, "", "%w", err)
	case err != nil:
		return manage.Checkpoint{}, err
	case !ok:
		return manage.Checkpoint{}, httpapi.Errorf(http.StatusConflict, "", "the task has no state to save")
	case v.Superseded != nil:
		return manage.Checkpoint{}, httpapi.Errorf(http.StatusConflict, "", "allocation %s has taken this one's place, and goes on without this checkpoint", short(v.Superseded.Owner.Alloc))
	case v.Unseen:
		return manage.Checkpoint{}, fmt.Errorf("not known whether another allocation has taken this one's place: %w", v.Prune)
	}
	return manage.Checkpoint{Version: versionName(v.Version), Bytes: v.Bytes, Saved: v.Saved}, nil
}

// Replicate implements manage.App.
func (a app) Replicate(ctx context.Context, delta int64) (manage.Scaled, error) {
	return a.t.d.around().scaler.Replicate(ctx, manage.ScaleRequest{Task: a.Info(), Delta: delta})
}

// openSocket offers the task its management socket, if its job asks for one. The
// process, which is started next, finds it there.
func (t *task) openSocket() error {
	if !t.spec.hasSocket() {
		return nil
	}
	ln, err := manage.Listen(t.cfg.TaskDir().SecretsDir, t.owner())
	if err != nil {
		return structs.NewRecoverableError(fmt.Errorf("open management socket: %w", err), true)
	}
	t.background.Go(func() {
		if err := manage.Serve(t.ctx, ln, app{t}, manage.Options{Logger: t.d.logger, Now: t.d.now}); err != nil {
			t.d.logger.Error("management socket of a task has failed", "alloc_id", t.cfg.AllocID, "task", t.cfg.Name, "error", err)
		}
	})
	return nil
}

// owner is the user that the task runs as, as far as this node knows it: the
// users of an image are its own.
func (t *task) owner() manage.Owner {
	caps, err := t.d.Capabilities()
	if err != nil || caps == nil {
		return manage.Owner{}
	}
	name := t.cfg.User
	image := caps.FSIsolation == fsisolation.Image
	switch {
	case image && !numeric(name):
		return manage.Owner{}
	case name == "" && t.d.innerName() == "raw_exec":
		name = "root"
	case name == "" && t.d.innerName() == "exec":
		name = "nobody"
	case name == "":
		return manage.Owner{}
	}
	name, _, _ = strings.Cut(name, ":")
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return manage.Owner{}
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return manage.Owner{}
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return manage.Owner{}
	}
	return manage.OwnedBy(uid, gid)
}

func numeric(s string) bool {
	s, _, _ = strings.Cut(s, ":")
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

// managed is the task as operators see it at the node's endpoint.
func (t *task) managed() *manage.Task {
	m := &manage.Task{App: app{t}, AllocDir: t.cfg.AllocDir}
	if t.spec.manage == nil {
		return m
	}
	for name, at := range t.spec.manage.offers {
		m.Offers = append(m.Offers, manage.Offer{
			Kind: manage.Kind(name), Path: at.Path, Scheme: "http",
			Dial: func(ctx context.Context) (net.Conn, error) { return t.dialer.Dial(ctx, &at) },
		})
	}
	return m
}

// settleIn is what begins when the task runs: it is made known to operators, it
// hears of the servers' decisions, and its regular checkpoints begin.
func (t *task) settleIn() {
	if !t.spec.managed {
		return
	}
	t.operators = t.managed()
	t.d.registry.Add(t.operators)
	if t.members != nil {
		t.alloc.watch()
		t.alloc.lookForRunning(t)
	}
	if c := t.spec.checkpoint; c != nil && c.interval > 0 {
		t.background.Go(func() { t.saveRegularly(t.ctx) })
	}
}

// rejoin takes up what a process before had of the task. It runs no hook and
// asks nobody: Nomad's client does not start before it is done.
func (t *task) rejoin(state handleState) {
	log := t.d.logger.With("alloc_id", t.cfg.AllocID, "task", t.cfg.Name)
	t.alloc = t.d.enter(t)
	var err error
	if t.members, err = t.member(t.alloc, state.Lifecycle, group.Running); err != nil {
		log.Error("task is not seen by the others of its group", "error", err)
	} else {
		t.alloc.admit(t)
	}
	if t.spec.checkpoint != nil {
		t.checkpoint = newCheckpointing(t)
		t.checkpoint.resume = state.Epoch
	}
	if err := t.openSocket(); err != nil {
		log.Error("task has no management socket any more", "error", err)
	}
}

// over is what follows the end of the process and its poststop hooks.
func (t *task) over() {
	t.checkpoint.end()
	if t.members != nil {
		_ = t.members.groupHook(t.d.ctx, group.OnStopped) // it is logged
	}
}

// giveUp is the end of a start that has no process.
func (t *task) giveUp() {
	t.machine.To(lifecycle.Stopped, &lifecycle.Stop{Reason: string(reason.Failed), Detail: "the start has failed"})
	t.over()
	t.machine.To(lifecycle.Destroyed, nil)
	t.forget()
}

// forget ends all that was begun for the task.
func (t *task) forget() {
	if t.operators != nil {
		t.d.registry.Remove(t.operators)
	}
	t.cancel()
	t.background.Wait()
	if t.alloc != nil {
		t.alloc.exit(t)
	}
	t.d.removeTask(t)
}
