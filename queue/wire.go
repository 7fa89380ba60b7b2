package queue

import (
	"encoding/json"
	"time"
)

// Limits of requests.
const (
	// MaxBatch is how many items can be enqueued, claimed or acknowledged at once.
	MaxBatch = 1000
	// MaxBatchBytes bounds the items that are enqueued at once, as JSON.
	MaxBatchBytes = 192 << 10
	// MaxEmit and MaxEmitBytes bound what one item can hand on to the next stage.
	MaxEmit      = 256
	MaxEmitBytes = 48 << 10
	// MaxWait is how long a claim or a wait can be held.
	MaxWait = 5 * time.Minute
)

// Enqueued is what became of an item.
type Enqueued struct {
	ID ID `json:"id"`
	// Duplicate: there was an item with this key, and ID is its.
	Duplicate bool `json:"duplicate,omitempty"`
}

// Claimed is an item that a worker has got, until its lease runs out or it answers.
type Claimed struct {
	ID ID `json:"id"`
	// Claim is the attempt. It goes with everything that is said of the item, and
	// into the name of its output. Later attempts have higher numbers.
	Claim  uint64          `json:"claim"`
	Failed int             `json:"failed,omitempty"`
	Lost   int             `json:"lost,omitempty"`
	Item   json.RawMessage `json:"item"` // an Item
}

// ClaimRequest asks for items.
type ClaimRequest struct {
	Worker string `json:"worker"`
	Stage  string `json:"stage,omitempty"` // default: the first
	Max    int    `json:"max,omitempty"`   // default 1
	// Wait is how long to wait for one. Zero: not at all.
	Wait Duration `json:"wait,omitempty"`
}

// ClaimResponse has the items, and what a worker needs to know of their stage.
type ClaimResponse struct {
	Items      []Claimed `json:"items"`
	Lease      Duration  `json:"lease,omitempty"`
	MaxRuntime Duration  `json:"max_runtime,omitempty"`
	// Finished: the queue is sealed and nothing is left, so nothing will ever come.
	Finished bool `json:"finished,omitempty"`
}

// Action is what a worker says of an item.
type Action string

// The actions.
const (
	Done    Action = "done"    // it is done
	Retry   Action = "retry"   // it failed; again later
	Reject  Action = "reject"  // it failed, and will again: a dead letter
	Release Action = "release" // it was not tried, or given up for no fault of its own
	Skip    Action = "skip"    // it is done, and nothing comes of it in the next stage
)

// Ack ends an attempt.
type Ack struct {
	ID     ID     `json:"id"`
	Claim  uint64 `json:"claim"`
	Action Action `json:"action,omitempty"` // default Done
	// Output of what is done: a path or URL, at most 512 bytes.
	Output string `json:"output,omitempty"`
	// Emit is what the next stage gets in place of one item with this output.
	Emit []Item `json:"emit,omitempty"`
	// Reason of a failure. The first 200 bytes are kept.
	Reason string `json:"reason,omitempty"`
}

// Verdict is what became of an Ack.
type Verdict string

// The verdicts.
const (
	Accepted  Verdict = "accepted"
	Duplicate Verdict = "duplicate" // it was accepted before
	Stale     Verdict = "stale"     // the lease ran out, or the item was cancelled; the output must not be used
	Unknown   Verdict = "unknown"   // no such item
)

// AckResult is what became of an Ack, and why if it was not accepted.
type AckResult struct {
	ID      ID      `json:"id"`
	Verdict Verdict `json:"verdict"`
	Error   string  `json:"error,omitempty"`
}

// Extend renews leases: those of all items of the claims.
type Extend struct {
	Worker string   `json:"worker"`
	Claims []uint64 `json:"claims"`
	Shard  int      `json:"shard"`
	// Progress of items, from 0 to 1, for people to see.
	Progress map[string]float64 `json:"progress,omitempty"`
}

// Extended is what became of an Extend.
type Extended struct {
	// Lost are the claims whose lease had run out: stop working on their items.
	Lost []uint64 `json:"lost,omitempty"`
	// Cancelled are items that nobody wants any more.
	Cancelled []ID `json:"cancelled,omitempty"`
}

// ItemStatus tells about one item.
type ItemStatus struct {
	ID        ID              `json:"id"`
	State     string          `json:"state"`
	Stage     string          `json:"stage"`
	Claim     uint64          `json:"claim,omitempty"`
	Worker    string          `json:"worker,omitempty"`
	Progress  float64         `json:"progress,omitempty"`
	Failed    int             `json:"failed,omitempty"`
	Lost      int             `json:"lost,omitempty"`
	Output    string          `json:"output,omitempty"`
	Reason    string          `json:"reason,omitempty"`
	NotBefore time.Time       `json:"not_before,omitzero"`
	Item      json.RawMessage `json:"item"`
}

// DeadLetter is an item that was given up.
type DeadLetter struct {
	ID     ID              `json:"id"`
	Stage  string          `json:"stage"`
	Reason string          `json:"reason"`
	Failed int             `json:"failed,omitempty"`
	Lost   int             `json:"lost,omitempty"`
	Worker string          `json:"worker,omitempty"` // the last one
	At     time.Time       `json:"at"`
	Item   json.RawMessage `json:"item"`
}

// StageStatus counts the items of a stage.
type StageStatus struct {
	Name     string `json:"name"`
	Ready    int    `json:"ready"`
	Delayed  int    `json:"delayed"`
	Waiting  int    `json:"waiting"` // for another of their group
	InFlight int    `json:"in_flight"`
	Held     int    `json:"held"` // outputs of the stage before that wait for a merge
	Counters
}

// Counters count since the queue was made.
type Counters struct {
	Done      uint64 `json:"done"`
	Failed    uint64 `json:"failed"`
	Lost      uint64 `json:"lost"`
	Dead      uint64 `json:"dead"`
	Cancelled uint64 `json:"cancelled"`
}

// Status tells about a shard, or all shards of a queue added up.
type Status struct {
	Queue    string        `json:"queue"`
	Paused   bool          `json:"paused"`
	Sealed   bool          `json:"sealed"`
	Finished bool          `json:"finished"` // sealed, and all is done, dead or cancelled
	Enqueued uint64        `json:"enqueued"`
	Items    int           `json:"items"` // not finished
	Dead     int           `json:"dead"`  // dead letters that are kept
	OldestMS int64         `json:"oldest_ms"`
	Stages   []StageStatus `json:"stages"`
	Workers  []WorkerState `json:"workers"`
}

// WorkerState tells about a worker that has items.
type WorkerState struct {
	Name    string `json:"name"`
	Stage   string `json:"stage"`
	Items   int    `json:"items"`
	LeaseMS int64  `json:"lease_ms"` // what is left of the shortest of its leases
}
