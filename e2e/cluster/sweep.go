package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// sweepTimeout bounds the sweep of one cluster.
	sweepTimeout = 45 * time.Second
	// checkEvery is how often the end of processes that are not children of
	// this one is looked for.
	checkEvery = 50 * time.Millisecond
)

// allocName is how the directory of an allocation is called.
var allocName = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// Sweep takes away the clusters whose owner is dead and returns their names. A
// cluster that resists is tried again at the next call.
func Sweep(ctx context.Context) ([]string, error) {
	dir, err := stateDir()
	if err != nil {
		return nil, err
	}
	states, err := loadStates(dir)
	if err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	var swept []string
	var errs []error
	for _, s := range states {
		if !s.orphaned(boot) {
			continue
		}
		if err := s.sweepAndForget(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		swept = append(swept, fmt.Sprintf("cluster %s in %s", s.ID, s.Dir))
	}
	return swept, errors.Join(errs...)
}

// sweepAndForget sweeps a cluster, checks that nothing is left, and only then
// removes its state file.
func (s *stateFile) sweepAndForget(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	if err := s.sweep(ctx); err != nil {
		return fmt.Errorf("sweep cluster %s in %s: %w", s.ID, s.Dir, err)
	}
	left, err := s.leftovers(ctx)
	if err != nil {
		return fmt.Errorf("sweep cluster %s in %s: %w", s.ID, s.Dir, err)
	}
	if len(left) > 0 {
		return fmt.Errorf("cluster %s in %s is not gone: %s", s.ID, s.Dir, strings.Join(left, "; "))
	}
	return s.remove()
}

// sweep takes away everything of the cluster: first what runs, then what that
// held. It goes on after an error, and may be repeated.
func (s *stateFile) sweep(ctx context.Context) error {
	if err := checkSweepDir(s.Dir); err != nil {
		return err
	}
	if err := s.noteAllocs(); err != nil {
		return err
	}
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	// The agents go with the other processes, before the containers: nobody
	// is left who would start a container again.
	add(s.killAll(ctx))
	add(s.removeContainers(ctx))
	add(s.killAll(ctx))
	add(unmountUnder(s.Dir))
	add(removeNetns(s.Allocs))
	add(removeCNI(ctx, s.Allocs))
	add(removeCgroups(s.Allocs))
	if !s.Keep {
		if err := os.RemoveAll(s.Dir); err != nil {
			add(fmt.Errorf("remove data: %w", err))
		}
	}
	return errors.Join(errs...)
}

// checkSweepDir refuses a directory that no cluster can have, should a state
// file be damaged.
func checkSweepDir(dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || strings.Count(dir, "/") < 2 {
		return fmt.Errorf("refuse to sweep directory %q", dir)
	}
	return nil
}

// noteAllocs adds the allocations whose directories exist to the record, since
// they are needed after the directories are gone.
func (s *stateFile) noteAllocs() error {
	var found []string
	for _, pattern := range []string{"c*/a/*", "c*/alloc_mounts/*"} {
		paths, err := filepath.Glob(filepath.Join(s.Dir, pattern))
		if err != nil {
			return fmt.Errorf("list allocations: %w", err)
		}
		for _, path := range paths {
			name := filepath.Base(path)
			if i := strings.IndexByte(name, '.'); i >= 0 {
				name = name[:i]
			}
			if len(name) > 36 { // alloc_mounts holds <alloc>-<task>
				name = name[:36]
			}
			if allocName.MatchString(name) {
				found = append(found, name)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.Allocs)
	s.Allocs = append(s.Allocs, found...)
	slices.Sort(s.Allocs)
	s.Allocs = slices.Compact(s.Allocs)
	if len(s.Allocs) == before {
		return nil
	}
	if _, err := os.Stat(s.path); err != nil {
		return nil // forgotten meanwhile, by Stop or by another sweep
	}
	return s.write()
}

// running lists the processes of the cluster without this process and those
// that it descends from.
func (s *stateFile) running() ([]procInfo, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	parent := make(map[int]int, len(all))
	for _, p := range all {
		parent[p.PID] = p.ppid
	}
	spare := map[int]bool{}
	for pid := os.Getpid(); pid > 0 && !spare[pid]; pid = parent[pid] {
		spare[pid] = true
	}
	var ours []procInfo
	for _, p := range all {
		if !spare[p.PID] && p.ident != s.Watchdog && p.ident != s.Owner && p.belongsTo(s.ID, s.Dir, s.Allocs) {
			ours = append(ours, p)
		}
	}
	return ours, nil
}

// killAll kills the processes of the cluster until there are none.
func (s *stateFile) killAll(ctx context.Context) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		list, err := s.running()
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return nil
		}
		for _, p := range list {
			if err := p.signal(syscall.SIGKILL); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill %d processes (first: %s): %w", len(list), list[0], ctx.Err())
		case <-tick.C:
		}
	}
}

// removeContainers removes the containers of the cluster.
func (s *stateFile) removeContainers(ctx context.Context) error {
	if !s.Docker {
		return nil
	}
	e, err := dialEngine(ctx)
	if err != nil {
		return fmt.Errorf("remove containers: %w", err)
	}
	defer e.close()
	list, err := e.containers(ctx, s.Dir, s.Allocs)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list {
		errs = append(errs, e.removeContainer(ctx, c.ID))
	}
	return errors.Join(errs...)
}

// leftovers lists in plain words what exists of the cluster.
func (s *stateFile) leftovers(ctx context.Context) ([]string, error) {
	if err := s.noteAllocs(); err != nil {
		return nil, err
	}
	procs, err := s.running()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, p := range procs {
		list = append(list, p.String())
	}
	if s.Docker {
		e, err := dialEngine(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for containers: %w", err)
		}
		defer e.close()
		containers, err := e.containers(ctx, s.Dir, s.Allocs)
		if err != nil {
			return nil, err
		}
		for _, c := range containers {
			list = append(list, c.String())
		}
	}
	mounts, err := mountsUnder(s.Dir)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		list = append(list, "mount "+m)
	}
	for _, path := range netnsOf(s.Allocs) {
		list = append(list, "network namespace "+path)
	}
	groups, err := cgroupsOf(s.Allocs)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		list = append(list, "cgroup "+g)
	}
	return list, nil
}
