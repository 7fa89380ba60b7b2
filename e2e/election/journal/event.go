package journal

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/election"
)

// Kind says what an event is about.
type Kind string

// The kinds of events.
const (
	Ready  Kind = "ready"  // the candidate takes commands
	Gained Kind = "gained" // it leads: Election, Token
	Lost   Kind = "lost"   // it leads no more: Election, Token, Error
	Begun  Kind = "begun"  // a fenced write begins: Election, Token, Target, Value
	Ended  Kind = "ended"  // it ended: as above, and Result
	Did    Kind = "did"    // a command was carried out: Command, Value, Error if it failed
	Closed Kind = "closed" // the candidate has resigned everything and ends
)

// Results of a fenced write.
const (
	OK      = "ok"
	Refused = "refused" // it is certain that nothing was written
	Unknown = "unknown"
)

// Targets of fenced writes.
const (
	TargetKV       = "kv"       // a key in Consul, through Leadership.KV
	TargetRegister = "register" // the register of the test, through HTTP
)

// Event is one line.
type Event struct {
	Kind     Kind          `json:"kind"`
	At       time.Duration `json:"at"` // election.Now, in nanoseconds
	Election string        `json:"election,omitempty"`
	Token    uint64        `json:"token,omitempty"`
	Target   string        `json:"target,omitempty"`
	Value    string        `json:"value,omitempty"` // of a write, unique in a run; or the answer to a command
	Result   string        `json:"result,omitempty"`
	Command  string        `json:"command,omitempty"`
	Error    string        `json:"error,omitempty"`
}

// Writer writes events, each as one line in one write, so that a process that
// is killed leaves whole lines.
type Writer struct {
	mu  sync.Mutex
	out io.Writer
	err error // the first one
}

// NewWriter writes to out.
func NewWriter(out io.Writer) *Writer { return &Writer{out: out} }

// Write writes an event with the present time, unless it has one.
func (w *Writer) Write(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.At == 0 {
		e.At = election.Now()
	}
	b, err := json.Marshal(e)
	if err == nil {
		_, err = w.out.Write(append(b, '\n'))
	}
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("write journal: %w", err)
	}
}

// Err is the first error of a Write.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
