package driver

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
)

// Limits and defaults of a checkpoint.
const (
	// DefaultMaxSize is how many bytes a checkpoint may have unless the job
	// says otherwise. In Consul it may have 512 KiB after compression.
	DefaultMaxSize = 256 << 10
	// MaxSize is the most that a job may ask for: the plugin holds a checkpoint
	// in memory.
	MaxSize = 64 << 20

	defaultKeep = 3
	maxKeep     = 100
	minInterval = time.Second
	maxInterval = 24 * time.Hour
	defaultWait = time.Minute
	maxWait     = time.Hour

	consulStore = "consul"
	maxStopsFor = 32 // names in stop_after
)

// spec is a task's checked lifecycle block. The zero value is that of a task
// without one.
type spec struct {
	hooks      hooks
	checkpoint *checkpointSpec
	manage     *manageSpec
	group      hooks
	stopAfter  []string
	managed    bool // there is a block
}

// hooks are checked hooks by kind.
type hooks map[hook.Kind][]*hook.Hook

type checkpointSpec struct {
	save, restore *hook.Hook // restore is nil if the task reads the file
	store         string
	maxSize       int64
	keep          int
	interval      time.Duration // 0: only at stops and when the task asks
	wait          time.Duration // for the task's predecessor to have saved
	failCold      bool          // a failed restore is a cold start
	byNode        bool          // the identity is the node, not the index
}

type manageSpec struct {
	offers    map[string]hook.HTTPSpec // by what is offered
	min, max  int64                    // of the group's count
	replicate bool
}

// parseSpec checks the lifecycle block. The error names the field.
func parseSpec(b *taskBlock) (*spec, error) {
	s := &spec{}
	if b == nil {
		return s, nil
	}
	s.managed = true
	var err error
	if s.hooks, err = parseHooks(map[hook.Kind][]hookBlock{
		hook.Prestart: b.Prestart, hook.Poststart: b.Poststart, hook.Ready: b.Ready,
		hook.Prestop: b.Prestop, hook.Poststop: b.Poststop,
	}); err != nil {
		return nil, err
	}
	if b.Group != nil {
		if s.group, err = b.Group.parse(); err != nil {
			return nil, err
		}
	}
	if s.checkpoint, err = b.Checkpoint.parse(); err != nil {
		return nil, fmt.Errorf("%s.checkpoint%w", blockName, err)
	}
	if s.manage, err = b.Manage.parse(); err != nil {
		return nil, fmt.Errorf("%s.manage%w", blockName, err)
	}
	if len(b.StopAfter) > maxStopsFor {
		return nil, fmt.Errorf("%s.stop_after: %d tasks; at most %d", blockName, len(b.StopAfter), maxStopsFor)
	}
	for i, name := range b.StopAfter {
		if name == "" || slices.Contains(b.StopAfter[:i], name) {
			return nil, fmt.Errorf("%s.stop_after[%d]: %q is empty or there twice", blockName, i, name)
		}
	}
	s.stopAfter = b.StopAfter
	return s, nil
}

func (b *groupBlock) parse() (hooks, error) {
	return parseHooks(map[hook.Kind][]hookBlock{
		hook.GroupCreated: b.Created, hook.GroupRunning: b.Running,
		hook.GroupStopping: b.Stopping, hook.GroupStopped: b.Stopped,
	})
}

func parseHooks(byKind map[hook.Kind][]hookBlock) (hooks, error) {
	all := make(hooks)
	for kind, blocks := range byKind {
		if len(blocks) > hook.MaxPerKind {
			all := strings.TrimSuffix((&hook.Hook{Kind: kind}).Field(), "[0]")
			return nil, fmt.Errorf("%s: %d hooks; at most %d", all, len(blocks), hook.MaxPerKind)
		}
		for i, block := range blocks {
			h, err := hook.New(kind, i, block.spec())
			if err != nil {
				return nil, err
			}
			all[kind] = append(all[kind], h)
		}
	}
	return all, nil
}

// each calls fn with every hook of the task and its group.
func (s *spec) each(fn func(*hook.Hook) error) error {
	for _, all := range []hooks{s.hooks, s.group} {
		for _, kind := range slices.Concat(hook.Kinds(), hook.GroupKinds()) {
			for _, h := range all[kind] {
				if err := fn(h); err != nil {
					return err
				}
			}
		}
	}
	if c := s.checkpoint; c != nil {
		for _, h := range []*hook.Hook{c.save, c.restore} {
			if h == nil {
				continue
			}
			if err := fn(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// hasExec reports whether any hook is a command.
func (s *spec) hasExec() bool {
	found := errors.New("found")
	return s.each(func(h *hook.Hook) error {
		if h.Exec != nil {
			return found
		}
		return nil
	}) != nil
}

func (b *checkpointBlock) parse() (*checkpointSpec, error) {
	if b == nil {
		return nil, nil
	}
	c := &checkpointSpec{store: b.Store, maxSize: DefaultMaxSize, keep: defaultKeep, wait: defaultWait}
	if b.Save == nil {
		return nil, errors.New(".save: missing; say how the task gives its state, for example save { http { port = \"http\" path = \"/state\" } }")
	}
	var err error
	if c.save, err = hook.New(hook.Save, 0, b.Save.spec()); err != nil {
		return nil, relative(err)
	}
	if b.Restore != nil {
		if c.restore, err = hook.New(hook.Restore, 0, b.Restore.spec()); err != nil {
			return nil, relative(err)
		}
	}
	if c.store == "" {
		c.store = consulStore
	}
	if strings.Contains(c.store, "://") {
		return nil, errors.New(".store: is a name; the operator gives the URL that it stands for in the plugin's configuration, lifecycle { stores = { name = \"s3://…\" } }")
	}
	if b.MaxSize != "" {
		n, err := humanize.ParseBytes(b.MaxSize)
		if err != nil || n == 0 || n > MaxSize {
			return nil, fmt.Errorf(".max_size: %q is not a size up to %s; write for example \"256KiB\"", b.MaxSize, humanize.IBytes(MaxSize))
		}
		c.maxSize = int64(n)
	}
	if b.Keep != 0 {
		c.keep = b.Keep
	}
	if c.keep < 1 || c.keep > maxKeep {
		return nil, fmt.Errorf(".keep: %d is not within 1 and %d", c.keep, maxKeep)
	}
	if c.interval, err = within(".interval", b.Interval, 0, minInterval, maxInterval); err != nil {
		return nil, err
	}
	if c.wait, err = within(".wait", b.Wait, defaultWait, 0, maxWait); err != nil {
		return nil, err
	}
	switch b.OnRestoreFailure {
	case "", "fail":
	case "cold":
		c.failCold = true
	default:
		return nil, fmt.Errorf(`.on_restore_failure: %q is neither "fail" nor "cold"`, b.OnRestoreFailure)
	}
	switch b.Scope {
	case "", "index":
	case "node":
		c.byNode = true
	default:
		return nil, fmt.Errorf(`.scope: %q is neither "index" nor "node"`, b.Scope)
	}
	return c, nil
}

// relative takes off what the caller puts on again: a hook's error names its
// whole path.
func relative(err error) error {
	return fmt.Errorf("%s", strings.TrimPrefix(err.Error(), blockName+".checkpoint"))
}

func (b *manageBlock) parse() (*manageSpec, error) {
	if b == nil {
		return nil, nil
	}
	m := &manageSpec{offers: make(map[string]hook.HTTPSpec)}
	for name, o := range map[string]*offerBlock{
		"health": b.Health, "metrics": b.Metrics, "profile": b.Profile, "config": b.Config,
	} {
		if o == nil {
			continue
		}
		if (o.Port == "") == (o.Socket == "") {
			return nil, fmt.Errorf(".%s: give exactly one of port and socket", name)
		}
		if o.Path == "" {
			o.Path = "/" + name
			if name == "profile" {
				o.Path = "/debug/pprof"
			}
		}
		if !strings.HasPrefix(o.Path, "/") || path.Clean(o.Path) != strings.TrimSuffix(o.Path, "/") && o.Path != "/" || strings.ContainsAny(o.Path, "?#") {
			return nil, fmt.Errorf(".%s.path: %q is not a clean path that begins with a slash, without a query", name, o.Path)
		}
		// The rules for sockets are those of hooks.
		h, err := hook.New(hook.Ready, 0, hook.Spec{HTTP: &hook.HTTPSpec{Port: o.Port, Socket: o.Socket, Path: o.Path}})
		if err != nil {
			return nil, fmt.Errorf(".%s%s", name, strings.TrimPrefix(err.Error(), "lifecycle.ready[0].http"))
		}
		m.offers[name] = *h.HTTP
	}
	if r := b.Replicate; r != nil {
		m.replicate, m.min, m.max = true, r.Min, r.Max
		if m.min == 0 {
			m.min = 1
		}
		if m.min < 0 || m.max < m.min {
			return nil, fmt.Errorf(".replicate: max = %d is below min = %d; say to how many the task may go", m.max, m.min)
		}
	}
	return m, nil
}

func within(name, text string, fallback, low, high time.Duration) (time.Duration, error) {
	if text == "" {
		return fallback, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf(`%s: %q is not a duration; write for example "30s" or "5m"`, name, text)
	}
	if d < low || d > high {
		return 0, fmt.Errorf("%s: %s is not within %s and %s", name, d, low, high)
	}
	return d, nil
}

func (b hookBlock) spec() hook.Spec {
	s := hook.Spec{
		Sleep: b.Sleep, Timeout: b.Timeout, Retries: b.Retries,
		Interval: b.Interval, OnFailure: b.OnFailure,
	}
	if b.HTTP != nil {
		s.HTTP = &hook.HTTPSpec{
			URL: b.HTTP.URL, Network: b.HTTP.Network, Port: b.HTTP.Port, Socket: b.HTTP.Socket,
			Path: b.HTTP.Path, Method: b.HTTP.Method, Headers: b.HTTP.Headers, Status: b.HTTP.Status,
		}
	}
	if b.Exec != nil {
		s.Exec = &hook.ExecSpec{Command: b.Exec.Command}
	}
	return s
}
