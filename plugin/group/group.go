package group

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/plugin/process"
)

// Dir returns where the tasks of an allocation meet. It lies beside the
// directories that tasks see, not within.
func Dir(allocDir string) string { return filepath.Join(allocDir, ".lifecycle", "group") }

// Group is one task's place in its group, from one start of the task to its
// end. Its methods may be called from several goroutines at once. It has no
// goroutines of its own.
type Group struct {
	dir    string
	now    func() time.Time
	logger hclog.Logger

	mu         sync.Mutex // guards all fields below and the task's file
	member     Member
	behind     bool // the file lacks the last change, because writing it failed
	left       bool
	unreadable map[string]string // what was logged: file, and what is wrong with it
}

// Join makes a task known to the others. dir is [Dir] of its allocation, m says
// what the task is, now is the clock.
//
// m.State is Starting for a new start, before anything of it runs. For a task
// that Nomad had the driver recover it is Running, or Stopped if its process was
// found to have ended; what its file says of this start is kept then.
//
// A new start is refused with [ErrInvalid] if its stop_after closes a circle with
// those of tasks that have joined, or if another task declares the same group
// hook. A recovered task runs already and is never refused. Other errors are
// about files.
func Join(dir string, m Member, now func() time.Time, logger hclog.Logger) (*Group, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	if m.State != Starting && m.State != Running && m.State != Stopped {
		return nil, fmt.Errorf("join group: task %q cannot join as %q", m.Task, m.State)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("join group: %w", err)
	}
	me, err := process.Self()
	if err != nil {
		return nil, fmt.Errorf("join group: %w", err)
	}
	m.StopAfter = slices.Clone(m.StopAfter)
	m.Since = now()
	m.Started, m.First, m.Writer = m.Since, m.Since, me
	m.Reason, m.Whole, m.Lost = "", false, false
	g := &Group{dir: dir, now: now, logger: logger, member: m, unreadable: make(map[string]string)}
	g.resume()
	if err := g.write(); err != nil {
		return nil, fmt.Errorf("join group: %w", err)
	}
	if m.State == Starting {
		// The file comes before the look at the others: of two that join at once
		// the later one to write sees both.
		if err := g.checkOthers(); err != nil {
			return nil, errors.Join(err, g.Leave())
		}
	}
	return g, nil
}

// resume takes over what is known of the task from before. Of the same start,
// recovered by this process, that is all but the state: Nomad never takes back
// that the whole allocation stops, but an agent that dies forgets a restart, and
// then the task runs on.
func (g *Group) resume() {
	before, err := readMember(g.dir, g.member.Task)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		g.logger.Warn("own file in the group is unreadable, written anew", "task", g.member.Task, "error", err)
		return
	}
	g.member.First = before.First
	if g.member.State == Starting {
		return
	}
	g.member.Started, g.member.Reason, g.member.Whole = before.Started, before.Reason, before.Whole
	if before.State == g.member.State {
		g.member.Since = before.Since
	}
}

// checkOthers finds what is wrong between this task and those that have joined.
func (g *Group) checkOthers() error {
	m := g.member
	if len(m.StopAfter) == 0 && len(m.Hooks) == 0 {
		return nil // a circle or a second declaration is closed by the other task
	}
	others, err := g.Members()
	if err != nil {
		return err
	}
	edges := make(map[string][]string)
	for _, o := range others {
		edges[o.Task] = o.StopAfter
	}
	edges[m.Task] = m.StopAfter
	if circle := circleThrough(m.Task, edges); circle != nil {
		return circleError(circle)
	}
	for _, o := range others {
		for _, e := range Events() {
			_, mine := m.Hooks[e]
			if _, theirs := o.Hooks[e]; mine && theirs && o.Task != m.Task {
				return declaredTwice(e, m.Task, o.Task)
			}
		}
	}
	return nil
}

// Running says that the task is ready. It does nothing if the task stops or has
// ended. Like [Group.Stopping] and [Group.Stopped] it returns an error if the
// file could not be written; the next change then tries to write both.
func (g *Group) Running() error {
	return g.change(func(m *Member) bool { return m.advance(Running, g.now()) })
}

// Stopping says that the task's stop was asked for, why, and whether it is
// because the whole allocation stops. Saying it again may add what was not
// known before. It does nothing if the task has ended.
func (g *Group) Stopping(reason string, whole bool) error {
	return g.change(func(m *Member) bool {
		if m.State == Stopped {
			return false
		}
		changed := m.advance(Stopping, g.now())
		if reason != "" && reason != m.Reason {
			m.Reason, changed = reason, true
		}
		if whole && !m.Whole {
			m.Whole, changed = true, true
		}
		return changed
	})
}

// Stopped says that the task's process has ended, by itself or by a stop. It
// must have been said before the next start of the task joins.
func (g *Group) Stopped() error {
	return g.change(func(m *Member) bool { return m.advance(Stopped, g.now()) })
}

// Leave takes the task out of the group as if it had never been in it, with the
// group hooks that are declared on it. A task that ends stays: see
// [Group.Stopped].
func (g *Group) Leave() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = true
	if err := os.Remove(g.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("leave group: %w", err)
	}
	return nil
}

// advance changes the state if to lies ahead, and reports whether it does: two
// causes often meet, a stop and a process that ends by itself.
func (m *Member) advance(to State, now time.Time) bool {
	if slices.Index(states, to) <= slices.Index(states, m.State) {
		return false
	}
	m.State, m.Since = to, now
	return true
}

// change edits the task's entry and, if that changes it, its file.
func (g *Group) change(edit func(*Member) bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if changed := edit(&g.member); !changed && !g.behind || g.left {
		return nil
	}
	if err := g.write(); err != nil {
		return fmt.Errorf("tell the group of task %q: %w", g.member.Task, err)
	}
	return nil
}

// write replaces the task's file. g.mu is held, or nobody else has g yet.
func (g *Group) write() error {
	g.behind = true
	data, err := encodeMember(g.member)
	if err != nil {
		return err
	}
	if err := replace(g.path(), data, false); err != nil {
		return err
	}
	g.behind = false
	return nil
}

func (g *Group) path() string { return filepath.Join(g.dir, g.member.Task+memberSuffix) }

// own returns the task's own entry.
func (g *Group) own() Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.member
}

// Members returns all tasks that have joined, by name, this one included. A file
// that cannot be read counts as absent and is logged. The error is about the
// directory; that it is gone, with the allocation, is none.
func (g *Group) Members() ([]Member, error) {
	entries, err := os.ReadDir(g.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read members of the group: %w", err)
	}
	me := g.own().Writer
	var members []Member
	for _, e := range entries {
		task, ok := strings.CutSuffix(e.Name(), memberSuffix)
		if !ok {
			continue
		}
		m, err := readMember(g.dir, task)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has left since the directory was read
		}
		g.complain(task, err)
		if err != nil {
			continue
		}
		if m.Writer != me {
			m.Lost = m.Writer.Dead()
		}
		if m.Writer.Boot != me.Boot {
			m.State = Stopped // its process ended with the machine
		}
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Task, b.Task) })
	return members, nil
}

// complain logs that a task's file is unreadable, once, and not at every look of
// somebody who waits.
func (g *Group) complain(task string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		delete(g.unreadable, task)
		return
	}
	if g.unreadable[task] == err.Error() {
		return
	}
	g.unreadable[task] = err.Error()
	g.logger.Warn("file in the group is unreadable, taken as absent", "task", task, "dir", g.dir, "error", err)
}
