package group

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Outcome is what [Group.Once] has done.
type Outcome string

// The outcomes.
const (
	NotDeclared Outcome = "not declared" // by no task that is known; ask again when more is
	NotDue      Outcome = "not due"      // ask again when states or facts have changed
	Ran         Outcome = "ran"          // by this call, to its end
	RanBefore   Outcome = "ran before"   // by another call, to its end
)

// Once runs the hook of an event if it is declared and due and has not ended in
// this or any other process. If another one runs it, Once waits, and takes over
// if that one dies or fails. So after Ran and RanBefore what is to come after
// the hook may begin. With an error there is no outcome: the hook has not ended,
// and the next call runs it again.
//
// Call it where the event can have become due:
//
//   - OnCreated: before the process of any task is started;
//   - OnRunning: when a task is ready, and when the plan or Facts.Running changes;
//   - OnStopping: in every stop, before anything else;
//   - OnStopped: when a task has stopped, and when the allocation is terminal;
//   - all but OnCreated: also when a task was recovered, because the process
//     before may have died in the hook.
//
// run is given the declaration. It must keep to its context, and must not call
// Once. What it returns comes back as it is; an error means that the hook has to
// run again. ctx must have a deadline.
func (g *Group) Once(ctx context.Context, e Event, f Facts, run func(context.Context, Declaration) error) (Outcome, error) {
	if _, ok := ctx.Deadline(); !ok {
		return "", fmt.Errorf("group hook %s: %w", e, errUnbounded)
	}
	for {
		outcome, err := g.once(ctx, e, f, run)
		if outcome != "" || err != nil {
			return outcome, err
		}
		if err := sleep(ctx, interval); err != nil {
			return "", fmt.Errorf("group hook %s: wait for its end, %s: %w", e, g.owner(e), err)
		}
	}
}

// once returns no outcome if another call runs the hook.
func (g *Group) once(ctx context.Context, e Event, f Facts, run func(context.Context, Declaration) error) (Outcome, error) {
	if _, outcome, err := g.look(e, f); outcome != "" || err != nil {
		return outcome, err
	}
	lock, err := tryLock(g.lockPath(e))
	if err != nil {
		return "", fmt.Errorf("group hook %s: %w", e, err)
	}
	if lock == nil {
		return "", nil
	}
	defer lock.unlock()
	// The one who had the lock before may have changed what was true above.
	d, outcome, err := g.look(e, f)
	if outcome != "" || err != nil {
		return outcome, err
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("group hook %s: %w", e, context.Cause(ctx))
	}
	if err := g.begin(lock); err != nil {
		return "", fmt.Errorf("group hook %s: %w", e, err)
	}
	if err := run(ctx, d); err != nil {
		return "", err
	}
	if err := g.finish(e); err != nil {
		return "", fmt.Errorf("group hook %s has ended, but this could not be noted, so it will run again: %w", e, err)
	}
	return Ran, nil
}

// look returns the declaration of a hook that is to be run, or the outcome
// without a run.
func (g *Group) look(e Event, f Facts) (Declaration, Outcome, error) {
	done, err := g.Done(e)
	if err != nil {
		return Declaration{}, "", err
	}
	if done {
		return Declaration{}, RanBefore, nil
	}
	members, err := g.Members()
	if err != nil {
		return Declaration{}, "", err
	}
	d, ok, err := declared(e, f.Plan, members)
	if err != nil {
		return d, "", err
	}
	if !ok {
		return d, NotDeclared, nil
	}
	begun, err := g.begun(e)
	if err != nil {
		return d, "", err
	}
	if !Due(e, f, members, begun) {
		return d, NotDue, nil
	}
	return d, "", nil
}

// Done reports whether the hook of an event has ended.
func (g *Group) Done(e Event) (bool, error) {
	_, err := os.Stat(g.donePath(e))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("group hook %s: %w", e, err)
	}
	return true, nil
}

// AwaitDone waits until the hook of an event has ended, wherever it runs. Unlike
// [Group.Once] it never runs it. It returns an error when ctx ends, which must
// have a deadline: nobody may run the hook.
func (g *Group) AwaitDone(ctx context.Context, e Event) error {
	if _, ok := ctx.Deadline(); !ok {
		return fmt.Errorf("group hook %s: %w", e, errUnbounded)
	}
	for {
		done, err := g.Done(e)
		if done || err != nil {
			return err
		}
		if err := sleep(ctx, interval); err != nil {
			return fmt.Errorf("group hook %s: wait for its end, %s: %w", e, g.owner(e), err)
		}
	}
}

func (g *Group) lockPath(e Event) string { return filepath.Join(g.dir, string(e)+".lock") }
func (g *Group) donePath(e Event) string { return filepath.Join(g.dir, string(e)+".done") }

// note is what stands in the files of a hook, for people.
type note struct {
	Task  string    `json:"task"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

func (g *Group) note() ([]byte, error) {
	m := g.own()
	return json.Marshal(note{Task: m.Task, PID: m.Writer.PID, Since: g.now()})
}

// begin notes in the lock that the hook runs now. That the lock is not empty is
// what tells a hook that was cut from one that never began.
func (g *Group) begin(l *lock) error {
	data, err := g.note()
	if err != nil {
		return err
	}
	if _, err := l.f.WriteAt(data, 0); err != nil {
		return err
	}
	return l.f.Truncate(int64(len(data)))
}

func (g *Group) begun(e Event) (bool, error) {
	info, err := os.Stat(g.lockPath(e))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("group hook %s: %w", e, err)
	}
	return info.Size() > 0, nil
}

// finish notes that the hook has ended. This outlives the machine's death: Nomad
// may start the tasks again in the same directory.
func (g *Group) finish(e Event) error {
	data, err := g.note()
	if err != nil {
		return err
	}
	if err := replace(g.donePath(e), data, true); err != nil {
		return err
	}
	return syncDir(g.dir)
}

// owner says who has begun the hook, for errors.
func (g *Group) owner(e Event) string {
	f, err := os.Open(g.lockPath(e))
	if err != nil {
		return "not begun"
	}
	defer func() { _ = f.Close() }() // it was only read
	var n note
	if err := json.NewDecoder(io.LimitReader(f, 4<<10)).Decode(&n); err != nil {
		return "not begun"
	}
	return fmt.Sprintf("begun for task %q by process %d", n.Task, n.PID)
}

// lock is held by whoever runs a hook. It is the kernel's lock on an open file
// and not the existence of one: it ends with its process, however that ends, and
// there is no moment at which two can find it left behind.
type lock struct{ f *os.File }

// tryLock returns nil if another holds the lock.
func tryLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return &lock{f}, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, f.Close()
	}
	return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
}

// unlock lets the lock go at once, also if a command that is being started has
// the open file for a moment more. Closing it cannot fail in a way that matters.
func (l *lock) unlock() {
	_ = unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
	_ = l.f.Close()
}
