package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fault is what goes wrong with one operation on a store.
type fault int

const (
	none   fault = iota
	before       // an error, and nothing has happened
	after        // an error, but it has happened
	late         // an error, and a create happens later; other operations as before
	refuse       // the store refuses
	crash        // like before, and so is everything from then on
	faults
)

var (
	errBroken  = errors.New("connection reset")
	errCrashed = fmt.Errorf("%w: the process is dead", ErrRefused)
)

// shared is what all clients of a memory store see.
type shared struct {
	mu      sync.Mutex // guards the fields below
	objects map[string]string
	late    [][2]string // names and contents of creates that have not arrived
	lists   [][]string  // what there was after each change
}

func newShared() *shared { return &shared{objects: map[string]string{}, lists: [][]string{nil}} }

func (s *shared) changed() { s.lists = append(s.lists, slices.Sorted(maps.Keys(s.objects))) }

// land lets the oldest late create arrive.
func (s *shared) land() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.late) == 0 {
		return false
	}
	c := s.late[0]
	s.late = s.late[1:]
	if _, ok := s.objects[c[0]]; !ok {
		s.objects[c[0]] = c[1]
		s.changed()
	}
	return true
}

func (s *shared) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

func (s *shared) put(name, data string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[name] = data
	s.changed()
}

func (s *shared) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
	s.changed()
}

// mem is one client of a memory store, with faults.
type mem struct {
	*shared
	cmu    sync.Mutex            // guards the fields below, before shared's
	plan   []fault               // of the next operations; none after that
	behind int                   // changes that lists do not show yet
	hook   func(op, name string) // called before each operation
	log    []string              // of the operations, with what came of them
	dead   bool
}

func (m *mem) next(op, name string) fault {
	if m.hook != nil {
		m.hook(op, name)
	}
	m.cmu.Lock()
	defer m.cmu.Unlock()
	if m.dead {
		return crash
	}
	f := none
	if len(m.plan) > 0 {
		f, m.plan = m.plan[0], m.plan[1:]
	}
	m.dead = f == crash
	return f
}

// do carries out an operation with its fault, and logs it.
func (m *mem) do(ctx context.Context, op, name string, f fault, fn func() error) (err error) {
	defer func() {
		m.cmu.Lock()
		defer m.cmu.Unlock()
		what := "ok"
		if err != nil {
			what = err.Error()
		}
		m.log = append(m.log, fmt.Sprintf("%-6s %s: %s", op, name, what))
	}()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch f {
	case before, late:
		return errBroken
	case refuse:
		return ErrRefused
	case crash:
		return errCrashed
	}
	m.mu.Lock()
	err = fn()
	m.mu.Unlock()
	if f == after {
		return errBroken
	}
	return err
}

func (m *mem) Create(ctx context.Context, name string, data []byte) error {
	f := m.next("create", name)
	if f == late {
		m.mu.Lock()
		m.late = append(m.late, [2]string{name, string(data)})
		m.mu.Unlock()
	}
	return m.do(ctx, "create", name, f, func() error {
		if _, ok := m.objects[name]; ok {
			return ErrExists
		}
		m.objects[name] = string(data)
		m.changed()
		return nil
	})
}

func (m *mem) Get(ctx context.Context, name string, limit int64) (data []byte, err error) {
	err = m.do(ctx, "get", name, m.next("get", name), func() error {
		text, ok := m.objects[name]
		if !ok {
			return ErrNotFound
		}
		if int64(len(text)) > limit {
			return tooLargeToRead(name, int64(len(text)), limit)
		}
		data = []byte(text)
		return nil
	})
	return data, err
}

func (m *mem) List(ctx context.Context, prefix string) (names []string, err error) {
	err = m.do(ctx, "list", prefix, m.next("list", prefix), func() error {
		all := slices.Sorted(maps.Keys(m.objects))
		m.cmu.Lock()
		behind := m.behind
		m.cmu.Unlock()
		if behind = min(behind, len(m.lists)-1); behind > 0 {
			all = m.lists[len(m.lists)-1-behind]
		}
		for _, name := range all {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		return nil
	})
	return names, err
}

func (m *mem) Delete(ctx context.Context, name string) error {
	return m.do(ctx, "delete", name, m.next("delete", name), func() error {
		delete(m.objects, name)
		m.changed()
		return nil
	})
}

func (m *mem) Close() error { return nil }

var identity = Identity{Namespace: "default", Job: "shop", Group: "web", Index: "0", Task: "server"}

const prefix = "lifecycle/checkpoints/default/shop/web/0/server/"

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// open opens the chain of identity in a store, without pauses and with a clock
// that stands still. It is for one goroutine.
func open(t testing.TB, store Store, opts Options) *Chain {
	t.Helper()
	if opts.Now == nil {
		opts.Now = func() time.Time { return start }
	}
	c, err := Open(store, identity, opts)
	must.NoError(t, err)
	pauses := 0
	c.pause = func(ctx context.Context, _ time.Duration) error {
		if pauses++; pauses > 1000 {
			return errors.New("the test takes no end")
		}
		return context.Cause(ctx)
	}
	return c
}

func claim(t testing.TB, c *Chain, alloc string) *Session {
	t.Helper()
	s, found, err := c.Claim(t.Context(), Owner{Alloc: alloc, Node: "node-of-" + alloc})
	must.NoError(t, err)
	must.NoError(t, found.Prune)
	return s
}

func save(t testing.TB, s *Session, state string) Saved {
	t.Helper()
	saved, err := s.Save(t.Context(), []byte(state), "interval")
	must.NoError(t, err)
	must.NoError(t, saved.Prune)
	return saved
}

// latest is what would be restored: "" if nothing is.
func latest(t testing.TB, c *Chain) string {
	t.Helper()
	l, err := c.Latest(t.Context())
	must.NoError(t, err)
	if l.Checkpoint == nil {
		return ""
	}
	return string(l.Checkpoint.Data)
}
