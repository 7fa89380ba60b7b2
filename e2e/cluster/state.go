package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stateFile is what is known about a cluster outside its owner, so that
// somebody else can sweep it. It lies in the cache as clusters/<id>.json.
type stateFile struct {
	record
	path string
	mu   sync.Mutex // guards record.Agents and the file
}

// record is the content of a state file.
type record struct {
	ID  string `json:"id"`
	Dir string `json:"dir"`
	// Boot identifies the run of the kernel; after a reboot no process lives.
	Boot string `json:"boot"`
	// Owner is the process that called Start; zero if Detached.
	Owner    ident `json:"owner"`
	Detached bool  `json:"detached,omitempty"`
	Watchdog ident `json:"watchdog"`
	// Block is the port block in use.
	Block int `json:"block"`
	// Docker says that containers may exist.
	Docker bool             `json:"docker"`
	Keep   bool             `json:"keep,omitempty"`
	Agents map[string]ident `json:"agents"`
	// Allocs are the allocations that were ever seen in Dir.
	Allocs  []string  `json:"allocs,omitempty"`
	Created time.Time `json:"created"`
	// For "devcluster up", which has to tell addresses a second time.
	NomadAddr  string `json:"nomad_addr"`
	ConsulAddr string `json:"consul_addr"`
	Ready      bool   `json:"ready"`
	// Name tells a cluster of a checkout from those of tests.
	Name string `json:"name,omitempty"`
}

// cacheDir is the directory of this project outside any checkout.
func cacheDir() (string, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the cache directory: %w", err)
		}
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "nomad-patterns"), nil
}

// stateDir is where state files lie. It is made if missing.
func stateDir() (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "clusters")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make state directory: %w", err)
	}
	return dir, nil
}

// bootID identifies the run of the kernel.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// orphaned says whether nobody is left who would stop the cluster.
func (r *record) orphaned(boot string) bool {
	if r.Boot != boot {
		return true
	}
	if !r.Detached {
		return !r.Owner.alive() && !r.Watchdog.alive()
	}
	if !r.Ready {
		return !r.Owner.alive() // died while starting it
	}
	for _, a := range r.Agents {
		if a.alive() {
			return false
		}
	}
	return true
}

// update changes the record under the lock and writes it.
func (s *stateFile) update(change func(*record)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.record)
	return s.write()
}

// write replaces the file as a whole.
func (s *stateFile) write() error {
	b, err := json.MarshalIndent(&s.record, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state of cluster %s: %w", s.ID, err)
	}
	tmp := s.path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return fmt.Errorf("write state of cluster %s: %w", s.ID, err)
	}
	if err := os.Rename(tmp, s.path); err != nil {
		return fmt.Errorf("write state of cluster %s: %w", s.ID, err)
	}
	return nil
}

// remove forgets the cluster.
func (s *stateFile) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state of cluster %s: %w", s.ID, err)
	}
	return nil
}

// loadState reads one state file.
func loadState(path string) (*stateFile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read cluster state: %w", err)
	}
	s := &stateFile{path: path}
	if err := json.Unmarshal(b, &s.record); err != nil {
		return nil, fmt.Errorf("read cluster state %s: %w", path, err)
	}
	return s, nil
}

// loadStates reads all state files. One that ends meanwhile is left out.
func loadStates(dir string) ([]*stateFile, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list cluster states: %w", err)
	}
	var all []*stateFile
	for _, path := range paths {
		s, err := loadState(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// reserve chooses a port block that no other cluster has and whose ports are
// free, and writes the first state file with it. plan deals out the ports of a
// block and lists those that the agents listen on; its last call counts.
func reserve(r record, plan func(block int) ([]int, error)) (*stateFile, error) {
	dir, err := stateDir()
	if err != nil {
		return nil, err
	}
	unlock, err := lockFile(filepath.Join(dir, ".lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	states, err := loadStates(dir)
	if err != nil {
		return nil, err
	}
	taken := map[int]bool{}
	for _, s := range states {
		taken[s.Block] = true
	}
	err = fmt.Errorf("all %d port blocks are used by other clusters", blockCount)
	// A random order makes it unlikely that clusters of different users, who
	// do not see one another's state files, try the same block.
	for _, b := range rand.Perm(blockCount) {
		if taken[b] {
			continue
		}
		var ports []int
		if ports, err = plan(b); err != nil {
			return nil, err
		}
		if err = portsFree(ports); err != nil {
			continue
		}
		r.Block = b
		s := &stateFile{record: r, path: filepath.Join(dir, r.ID+".json")}
		if err = s.write(); err != nil {
			return nil, err
		}
		return s, nil
	}
	return nil, fmt.Errorf("no free ports: %w", err)
}

// lockFile takes an exclusive lock between processes and waits for it. The
// returned function gives it back.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing gives the lock back, whatever Close says
}
