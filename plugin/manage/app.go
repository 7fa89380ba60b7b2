package manage

import (
	"context"
	"time"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// App is one start of a task as the management API sees it. The driver
// implements it; its methods are called from several goroutines.
type App interface {
	// Info says who the task is and what its job lets it do. It does not change.
	Info() Info
	// Status returns the present status and a channel that is closed when it is
	// no longer the present one: [lifecycle.Machine.Status].
	Status() (lifecycle.Status, <-chan struct{})
	// Checkpoint is the newest one that is known to be durable, false if there
	// is none.
	Checkpoint() (Checkpoint, bool)
	// Save makes a checkpoint and returns when it is durable. It is called only
	// if Info.Saves. An *httpapi.Error is answered as it is, an error that comes of
	// the context's deadline with 504, any other with 502.
	Save(context.Context) (Checkpoint, error)
	// Replicate changes the count of the task's group by delta, as
	// [Scaler.Replicate] does. It is called only if Info.Replicate is set.
	// Errors are answered like those of Save.
	Replicate(ctx context.Context, delta int64) (Scaled, error)
}

// Info is who a task is, and what its job lets it do.
type Info struct {
	Namespace string `json:"namespace"`
	Job       string `json:"job"`
	Group     string `json:"group"`
	Task      string `json:"task"`
	AllocID   string `json:"alloc_id"`
	Index     int    `json:"index"` // of the allocation in its group, from 0

	Saves     bool    `json:"-"` // the job has a checkpoint block
	Replicate *Bounds `json:"-"` // nil: the job's manage block has no replicate block
}

// Bounds are the counts that a job lets its tasks ask for.
type Bounds struct{ Min, Max int64 }

// Checkpoint describes a durable checkpoint.
type Checkpoint struct {
	Version string    `json:"version"` // as the store orders them
	Bytes   int64     `json:"bytes"`   // of the task's state
	Saved   time.Time `json:"saved"`
}

// Scaled is what a replicate has done.
type Scaled struct {
	Count    int64  `json:"count"`    // of the group from now on
	Previous int64  `json:"previous"` // before
	EvalID   string `json:"eval_id"`  // Nomad's evaluation that places or stops allocations
}

// status is a task's status as it is answered.
type status struct {
	Info
	Driver string          `json:"driver,omitempty"` // upward only
	State  lifecycle.State `json:"state"`
	Since  time.Time       `json:"since"`
	// Soon: a stop has been decided and has not begun.
	Soon   bool   `json:"soon"`
	Reason string `json:"reason,omitempty"` // why it stops; absent while no stop is known of
	Final  bool   `json:"final"`            // nothing will take up the task's state again
	Detail string `json:"detail,omitempty"`
	// Deadline is when the process will be killed, and RemainingMS the time until
	// then, on the monotonic clock. Absent until the stop has begun.
	Deadline    time.Time         `json:"deadline,omitzero"`
	RemainingMS *int64            `json:"remaining_ms,omitempty"`
	Checkpoint  *Checkpoint       `json:"checkpoint,omitempty"`
	Links       map[string]string `json:"links,omitempty"` // upward only: what the task offers, by name
}

// statusOf describes app with status s at the time now.
func statusOf(app App, s lifecycle.Status, now time.Time) status {
	v := status{Info: app.Info(), State: s.State, Since: s.Since, Soon: s.Soon()}
	if stop := s.Stop; stop != nil {
		v.Reason, v.Final, v.Detail = stop.Reason, stop.Final, stop.Detail
		if !stop.Deadline.IsZero() {
			v.Deadline = stop.Deadline
			left := max(0, stop.Deadline.Sub(now).Milliseconds())
			v.RemainingMS = &left
		}
	}
	if c, ok := app.Checkpoint(); ok {
		v.Checkpoint = &c
	}
	return v
}
