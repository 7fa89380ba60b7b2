package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// base is what every kind of cluster stands on: directories, ports, the state
// file by which somebody else can sweep it, the watchdog, and the processes.
type base struct {
	layout    layout
	state     *stateFile
	dog       *watchdog       // nil if detached
	transport *http.Transport // shared by all API clients
	progress  io.Writer

	// mu guards what follows. procs has no entry for an agent that was stopped
	// on purpose.
	mu    sync.Mutex
	procs map[string]*process
	keep  bool

	stopOnce sync.Once
	stopErr  error
}

// ID is a short name of the cluster, unique on this machine.
func (b *base) ID() string { return b.layout.id }

// Dir is the root of the data of all agents.
func (b *base) Dir() string { return b.layout.dir }

// LogDir holds one log file per process: consul.log, server.log,
// client0.log, … It is removed by Stop unless the cluster is kept.
func (b *base) LogDir() string { return b.layout.logDir() }

// Keep makes Stop leave Dir in place, for example because a test failed.
func (b *base) Keep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep = true
}

// Leftovers lists in plain words what exists of the cluster now: processes,
// containers, mounts, network namespaces, cgroups. After Stop it should be
// empty.
func (b *base) Leftovers(ctx context.Context) ([]string, error) {
	return b.state.leftovers(ctx)
}

// Mark is an environment variable as KEY=value. A process that has it, and what
// it starts, counts as part of the cluster: Stop ends it, and so does the
// watchdog when the owner dies.
func (b *base) Mark(name string) string { return markEnv + "=" + b.layout.mark(name) }

// sweepDead sweeps the clusters of dead owners before a new one starts.
func sweepDead(ctx context.Context, progress io.Writer) {
	swept, err := Sweep(ctx)
	for _, s := range swept {
		say(progress, "swept what a dead process left: %s", s)
	}
	if err != nil {
		// The old cluster has its own ports and directory: it is not in the way.
		say(progress, "sweep: %v", err)
	}
}

// claim takes a directory and ports for a new cluster and writes its state
// file. The record brings what the caller knows; dir may be empty. plan deals
// out the ports of a block and lists them.
func claim(r record, dir string, progress io.Writer, plan func(block int) ([]int, error)) (*base, error) {
	var err error
	if r.ID, err = newID(); err != nil {
		return nil, err
	}
	if r.Boot, err = bootID(); err != nil {
		return nil, err
	}
	if r.Owner, err = identOf(os.Getpid()); err != nil {
		return nil, err
	}
	if r.Dir, err = prepareDir(dir, r.ID); err != nil {
		return nil, err
	}
	r.Agents, r.Created = map[string]ident{}, time.Now().UTC()
	state, err := reserve(r, plan)
	if err != nil {
		return nil, errors.Join(err, os.Remove(r.Dir))
	}
	return &base{
		layout: layout{id: r.ID, dir: r.Dir}, state: state, keep: r.Keep, progress: progress,
		procs: map[string]*process{}, transport: newTransport(),
	}, nil
}

// again runs start until no agent finds one of its ports taken by somebody
// else between the choice and the agent's start, a few times at most.
func again[T any](progress io.Writer, once bool, start func() (T, error)) (T, error) {
	for attempt := 1; ; attempt++ {
		c, err := start()
		if errors.Is(err, errPortTaken) && attempt < startAttempts && !once {
			say(progress, "%v, trying others", errPortTaken)
			continue
		}
		return c, err
	}
}

// failed completes the error of a start with the logs, and stops what was
// started.
func (b *base) failed(err error, stop func() error) error {
	tails := b.logTails()
	if strings.Contains(tails, "address already in use") {
		err = errors.Join(errPortTaken, err)
	}
	return errors.Join(fmt.Errorf("start cluster: %w%s", err, tails), stop())
}

// guard starts the watchdog.
func (b *base) guard() error {
	dog, err := startWatchdog(b.layout, b.state)
	if err != nil {
		return err
	}
	b.dog = dog
	return nil
}

// launch starts an agent and notes it in the state file.
func (b *base) launch(name, dir, binary string, args ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.procs[name]; p != nil && p.running() {
		return fmt.Errorf("%s runs already", name)
	}
	p, err := b.layout.spawn(name, dir, binary, args...)
	if err != nil {
		return err
	}
	b.procs[name] = p
	return b.state.update(func(r *record) { r.Agents[p.name] = p.ident })
}

// end stops or kills an agent on purpose and waits until it is gone.
func (b *base) end(name string, kill bool) error {
	b.mu.Lock()
	p := b.procs[name]
	delete(b.procs, name)
	b.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s is not running", name)
	}
	return p.end(kill, agentPatience)
}

// signal sends a signal to an agent.
func (b *base) signal(name string, sig syscall.Signal) error {
	b.mu.Lock()
	p := b.procs[name]
	b.mu.Unlock()
	if p == nil || !p.running() {
		return fmt.Errorf("%s is not running", name)
	}
	return p.ident.signal(sig)
}

// pid is the process ID of an agent, or 0 while it is down.
func (b *base) pid(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.procs[name]; p != nil {
		return p.ident.PID
	}
	return 0
}

// dead names an agent that ended though nobody stopped it.
func (b *base) dead() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, p := range b.procs {
		if !p.running() {
			return name
		}
	}
	return ""
}

// noteKeep writes into the state file whether the data are kept.
func (b *base) noteKeep() error {
	b.mu.Lock()
	keep := b.keep
	b.mu.Unlock()
	return b.state.update(func(r *record) { r.Keep = keep })
}

// clear takes away everything that is left of the cluster and lets the
// watchdog go.
func (b *base) clear(ctx context.Context) error {
	b.mu.Lock()
	procs := make([]*process, 0, len(b.procs))
	for _, p := range b.procs {
		procs = append(procs, p)
	}
	b.mu.Unlock()
	errs := []error{b.state.sweepAndForget(ctx)}
	for _, p := range procs {
		select {
		case <-p.done: // the sweep has killed it
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("wait for the end of %s: %w", p.name, ctx.Err()))
		}
	}
	if b.dog != nil {
		errs = append(errs, b.dog.release())
	}
	b.transport.CloseIdleConnections()
	return errors.Join(errs...)
}

// logTails is the end of every log, for an error.
func (b *base) logTails() string {
	const lines = 12
	paths, err := filepath.Glob(filepath.Join(b.LogDir(), "*.log"))
	if err != nil {
		return ""
	}
	var text strings.Builder
	for _, path := range paths {
		log, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(log)), "\n")
		fmt.Fprintf(&text, "\n--- %s\n%s", filepath.Base(path), strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	return text.String()
}
