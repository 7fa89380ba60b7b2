package history

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// Kind of an Event.
type Kind string

// Kinds of events. A worker that dies leaves an AckBegun without its end.
const (
	Ready    Kind = "ready"     // the worker runs
	Claim    Kind = "claim"     // it has got items
	AckBegun Kind = "ack begun" // it says what became of items
	AckEnded Kind = "ack ended" // and has the verdicts, or an error
)

// Event is a line that a worker writes. Times are those of election.Now, which all
// processes of a machine share.
type Event struct {
	Kind   Kind          `json:"kind"`
	Call   time.Duration `json:"call,omitempty"`
	Return time.Duration `json:"return,omitempty"`
	// Batch pairs AckBegun and AckEnded of a worker.
	Batch    int             `json:"batch,omitempty"`
	Attempts []Attempt       `json:"attempts,omitempty"`
	Verdicts []queue.Verdict `json:"verdicts,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// Attempt is one at an item, and what was said of it.
type Attempt struct {
	ID     queue.ID     `json:"id"`
	Claim  uint64       `json:"claim"`
	Action queue.Action `json:"action,omitempty"`
}

// Record is an event of a process. A worker that was killed and started again is
// another process.
type Record struct {
	Process string
	Event
}

// Transform is the work: what the output of an input has to be.
func Transform(input []byte) []byte {
	return fmt.Appendf(nil, "%x\n%s", sha256.Sum256(input), bytes.ToUpper(input))
}
