package group

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/plugin/process"
)

const (
	memberSuffix = ".json"
	// maxMember bounds a member's file. The largest part of it is the group
	// hooks, which come from a job file.
	maxMember = 256 << 10 // bytes
)

// ErrInvalid is matched by all errors about what the author of a job has
// written. A new try does not mend them.
var ErrInvalid = errors.New("the group's lifecycle blocks contradict each other or its job")

type invalid struct{ text string }

func (e *invalid) Error() string        { return e.text }
func (e *invalid) Is(target error) bool { return target == ErrInvalid }

func invalidf(format string, args ...any) error {
	return &invalid{fmt.Sprintf(format, args...)}
}

// State is how far a task is in one of its starts.
type State string

// The states, in order.
const (
	Starting State = "starting" // has joined; its process may not run yet
	Running  State = "running"  // ready, and so told to Nomad
	Stopping State = "stopping" // its stop was asked for
	Stopped  State = "stopped"  // its process has ended; it may start again
)

var states = []State{Starting, Running, Stopping, Stopped}

// Member is one task as the others see it. The fields of the first part are the
// caller's of [Join], those of the second are written by the package.
type Member struct {
	Task      string                    `json:"task"`
	Driver    string                    `json:"driver"`
	State     State                     `json:"state"`
	StopAfter []string                  `json:"stop_after,omitempty"` // tasks that stop before this one
	Hooks     map[Event]json.RawMessage `json:"hooks,omitempty"`      // group hooks declared on it; any JSON

	Since   time.Time  `json:"since"`                     // when the state was entered
	Started time.Time  `json:"started"`                   // when this start of the task joined; tells its starts apart
	First   time.Time  `json:"first"`                     // when its first start joined; restarts in place do not change it
	Reason  string     `json:"stopping_reason,omitempty"` // "" until it stops by request
	Whole   bool       `json:"whole,omitempty"`           // it stops because the whole allocation does
	Writer  process.ID `json:"writer"`                    // the plugin process that has the task

	// Lost says that the writer has died. The task itself may run on: Nomad
	// starts the plugin again and has it recover the task.
	Lost bool `json:"-"`
}

// decodeMember reads the file of a task. Fields that it does not know are let
// pass: the file may be from a newer plugin.
func decodeMember(task string, data []byte) (Member, error) {
	var m Member
	if err := json.Unmarshal(data, &m); err != nil {
		return Member{}, err
	}
	if m.Task != task {
		return Member{}, fmt.Errorf("is about task %q", m.Task)
	}
	if !slices.Contains(states, m.State) {
		return Member{}, fmt.Errorf("no such state: %q", m.State)
	}
	if m.Writer.PID <= 0 || m.Writer.Boot == "" {
		return Member{}, errors.New("does not say which process wrote it")
	}
	return m, nil
}

func encodeMember(m Member) ([]byte, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, invalidf("task %q: lifecycle.group: %v", m.Task, err)
	}
	if len(data) > maxMember {
		return nil, invalidf("task %q: lifecycle.group: stop_after and the group's hooks take %d bytes, at most %d", m.Task, len(data), maxMember)
	}
	return data, nil
}

// readMember reads one task's file. The error is fs.ErrNotExist if there is
// none.
func readMember(dir, task string) (Member, error) {
	f, err := os.Open(filepath.Join(dir, task+memberSuffix))
	if err != nil {
		return Member{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxMember+1))
	if err != nil {
		return Member{}, err
	}
	if len(data) > maxMember {
		return Member{}, fmt.Errorf("is longer than %d bytes", maxMember)
	}
	return decodeMember(task, data)
}

// check finds what is wrong with a member by itself.
func (m *Member) check() error {
	if m.Task == "" || m.Task == "." || m.Task == ".." || strings.ContainsAny(m.Task, "/\x00") {
		return invalidf("task %q: the name cannot be that of a file", m.Task)
	}
	if slices.Contains(m.StopAfter, m.Task) {
		return invalidf("task %q: lifecycle.stop_after names the task itself", m.Task)
	}
	return checkEvents(m.Task, m.Hooks)
}

func byTask(members []Member) map[string]Member {
	index := make(map[string]Member, len(members))
	for _, m := range members {
		index[m.Task] = m
	}
	return index
}

// replace writes a file by one rename, so that a reader finds the old content
// or the new one. With sync it also outlives the machine's death.
func replace(path string, data []byte, sync bool) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "new-*") // owner only: hooks can hold secrets
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
