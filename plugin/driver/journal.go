package driver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-patterns/nomad-patterns/plugin/process"
)

// journal remembers, across the death of the plugin process, what Nomad does
// not: an inner task whose start has not been answered yet, and which prestop
// hooks have ended. It is a file in the allocation's directory, outside of what
// tasks see, and readable by its owner only: an inner handle can hold the
// task's environment.
type journal struct {
	path string

	mu    sync.Mutex // guards entry and the file
	entry journalEntry
}

type journalEntry struct {
	// Writer is the process that starts the task, as long as Nomad does not know
	// of that start, and Driver the name of its driver.
	Writer      *process.ID    `json:"writer,omitempty"`
	Driver      string         `json:"driver,omitempty"`
	Inner       *journalHandle `json:"inner,omitempty"`
	PrestopDone int            `json:"prestop_done,omitempty"`
}

type journalHandle struct {
	Version int    `json:"version"`
	State   []byte `json:"state"`
	Config  []byte `json:"config"` // msgpack of the drivers.TaskConfig
}

func newJournal(cfg *drivers.TaskConfig) *journal {
	return &journal{path: filepath.Join(cfg.AllocDir, ".lifecycle", cfg.Name+".json")}
}

// load reads what an earlier process left. No file is an empty journal.
func (j *journal) load() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	data, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	if err := json.Unmarshal(data, &j.entry); err != nil {
		return fmt.Errorf("read journal %s: %w", j.path, err)
	}
	return nil
}

// starting notes that a process is about to be started. Until the inner driver
// has returned its handle nothing else tells that it is there.
func (j *journal) starting(writer process.ID, driver string) error {
	return j.change(func(e *journalEntry) { *e = journalEntry{Writer: &writer, Driver: driver} })
}

// started notes an inner task whose start Nomad does not know of yet.
func (j *journal) started(h *drivers.TaskHandle) error {
	var cfg []byte
	if err := base.MsgPackEncode(&cfg, h.Config); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return j.change(func(e *journalEntry) {
		e.Inner, e.PrestopDone = &journalHandle{Version: h.Version, State: h.DriverState, Config: cfg}, 0
	})
}

// accepted notes that Nomad knows the inner task.
func (j *journal) accepted() error {
	return j.change(func(e *journalEntry) { *e = journalEntry{PrestopDone: e.PrestopDone} })
}

// abandoned reports whether a start was begun by a process of this driver that
// has died, and Nomad never heard of its end; and whether the inner driver had
// returned its handle.
func (j *journal) abandoned(driver string) (yes, handle bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.entry
	return e.Writer != nil && e.Driver == driver && e.Writer.Dead(), e.Inner != nil
}

// answered notes that there is no inner task any more.
func (j *journal) answered() error {
	return j.change(func(e *journalEntry) { *e = journalEntry{} })
}

func (j *journal) setPrestopDone(n int) error {
	return j.change(func(e *journalEntry) { e.PrestopDone = n })
}

func (j *journal) prestopDone() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.entry.PrestopDone
}

// orphan returns the inner task that an earlier process started and left, or
// nil.
func (j *journal) orphan() (*drivers.TaskHandle, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.entry.Inner == nil {
		return nil, nil
	}
	var cfg drivers.TaskConfig
	if err := base.MsgPackDecode(j.entry.Inner.Config, &cfg); err != nil {
		return nil, fmt.Errorf("read journal %s: %w", j.path, err)
	}
	h := drivers.NewTaskHandle(j.entry.Inner.Version)
	h.Config, h.State, h.DriverState = &cfg, drivers.TaskStateRunning, j.entry.Inner.State
	return h, nil
}

// change edits the entry and replaces the file by one rename, so that a reader
// finds the old journal or the new one. It is not synced to the disk: what it
// guards against is the death of the process; with the machine the task is
// gone as well.
func (j *journal) change(edit func(*journalEntry)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	edit(&j.entry)
	if j.entry == (journalEntry{}) {
		if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write journal: %w", err)
		}
		return nil
	}
	data, err := json.Marshal(j.entry)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(j.path), 0o700); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	tmp := j.path + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := os.Rename(tmp, j.path); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}
