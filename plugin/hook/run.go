package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"
)

// Event is what a hook is told: the JSON body of an HTTP hook, and the file
// that a command finds at $LIFECYCLE_EVENT_FILE.
type Event struct {
	Event Kind `json:"event"`
	// Reason is why the task stops, for hooks of the stop: "drained" and the
	// others of package reason.
	Reason string `json:"reason,omitempty"`
	// Final says that nothing will take up the task's state again.
	Final bool `json:"final,omitempty"`
	// Detail is why in the words of whoever decided.
	Detail   string    `json:"detail,omitempty"`
	Deadline time.Time `json:"deadline"` // when the hook will be cut
	// RemainingMS is the time until the deadline when the event was made. A
	// clock that jumps does not change it.
	RemainingMS int64 `json:"remaining_ms"`
	// KillMS is the time until the task's process is killed, for hooks of the
	// stop; what the hooks leave of it is the process's after its signal.
	KillMS  int64 `json:"kill_ms,omitempty"`
	Attempt int   `json:"attempt"` // number of this try of this hook, from 1

	kill      time.Time
	Namespace string `json:"namespace"`
	Job       string `json:"job"`
	Group     string `json:"group"`
	Task      string `json:"task"`
	AllocID   string `json:"alloc_id"`
}

// Target is the task that hooks are run for: how it is reached.
type Target struct {
	// Dial connects to the place that an HTTP hook names.
	Dial *Dialer
	// Exec runs a command for the task and returns its exit code and the end
	// of its output. It must return soon after ctx ends.
	Exec func(ctx context.Context, command []string, ev Event) (code int, output string, err error)
	// Gone is closed when the task's process has ended. A hook that needs the
	// process gives up then. nil means that the process does not matter.
	Gone <-chan struct{}
	// Send, for a restore, is the body of the request in place of the event.
	Send []byte
	// Receive, for a save, is how many bytes of the answer are taken.
	Receive int64
}

// Outcome is how a hook ended.
type Outcome struct {
	Hook     *Hook
	Tries    int
	Duration time.Duration
	Detail   string // what a person wants to know of a success: "204", "exit 0"
	Reply    []byte // what a save has answered over HTTP; nil if that was 204
	Err      error  // nil: it succeeded
}

// ErrTooLarge says that a save's answer had more bytes than it may.
var ErrTooLarge = errors.New("the answer is too large")

// ErrGone says that the task's process ended while a hook needed it.
var ErrGone = errors.New("the task's process has ended")

// Stopping returns ev with what a hook of the stop is told besides.
func (ev Event) Stopping(reason string, final bool, detail string, kill time.Time) Event {
	ev.Reason, ev.Final, ev.Detail, ev.kill = reason, final, detail, kill
	return ev
}

// Run runs one hook: up to Retries+1 tries, a ready hook as many as its
// timeout allows. It returns when one succeeds, by the hook's timeout, when
// ctx ends or when the task is gone, whichever is first.
func Run(ctx context.Context, h *Hook, ev Event, t Target) Outcome {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	// A sleep before the stop is worth nothing once nobody is left to wait
	// for, so every action ends with the process.
	if t.Gone != nil {
		stop := make(chan struct{})
		defer close(stop)
		var cancelGone context.CancelCauseFunc
		ctx, cancelGone = context.WithCancelCause(ctx)
		defer cancelGone(nil)
		go func() {
			select {
			case <-t.Gone:
				cancelGone(ErrGone)
			case <-stop:
			}
		}()
	}

	out := Outcome{Hook: h}
	polls := 0 // tries that are not counted against retries
	for {
		out.Tries++
		ev.Attempt = out.Tries
		ev.Event = h.Kind
		ev.Deadline, _ = ctx.Deadline()
		ev.RemainingMS = time.Until(ev.Deadline).Milliseconds()
		if !ev.kill.IsZero() {
			ev.KillMS = max(1, time.Until(ev.kill).Milliseconds())
		}
		out.Detail, out.Reply, out.Err = try(ctx, h, ev, t)
		if out.Err == nil || errors.Is(out.Err, ErrTooLarge) {
			break
		}
		if cause := stopCause(ctx, h); cause != nil {
			out.Err = combine(cause, out.Err)
			break
		}
		if h.Kind == Ready || h.Kind == Restore && notListening(out.Err) {
			polls++
		}
		if out.Tries-polls > h.Retries {
			break
		}
		if !pause(ctx, h.Interval) {
			out.Err = combine(stopCause(ctx, h), out.Err)
			break
		}
	}
	out.Duration = time.Since(begin)
	return out
}

// try runs the action once, within its share of the time that is left.
func try(ctx context.Context, h *Hook, ev Event, t Target) (string, []byte, error) {
	if share := h.share(); share < h.Timeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, share, fmt.Errorf("no answer within %s", share.Round(time.Millisecond)))
		defer cancel()
	}
	switch {
	case h.HTTP != nil:
		return doHTTP(ctx, h, ev, t)
	case h.Exec != nil:
		code, output, err := t.Exec(ctx, h.Exec.Command, ev)
		switch {
		case err != nil:
			return "", nil, fmt.Errorf("run %q: %w", h.Exec.Command[0], err)
		case code != 0:
			return "", nil, fmt.Errorf("%q ended with exit code %d%s", h.Exec.Command[0], code, quoteTail(output))
		}
		return "exit 0", nil, nil
	default:
		if !pause(ctx, h.Sleep) {
			return "", nil, context.Cause(ctx)
		}
		return h.Sleep.String(), nil, nil
	}
}

// notListening reports whether the task's process has not begun to listen. It
// was started a moment ago when it is given its checkpoint. Docker accepts
// connections to a published port in its place, and ends them without an answer.
func notListening(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
}

// share is the time of one try. One that hangs must leave time for the next
// ones, or retries would mean nothing.
func (h *Hook) share() time.Duration {
	switch {
	case h.Sleep > 0: // it never hangs
		return h.Timeout
	case h.Kind == Ready:
		return min(h.Timeout, max(h.Interval, minPollTry))
	}
	return h.Timeout / time.Duration(h.Retries+1)
}

// stopCause is why no further try is made: nil if nothing forbids it.
func stopCause(ctx context.Context, h *Hook) error {
	if ctx.Err() == nil {
		return nil
	}
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("cut at its timeout of %s", h.Timeout)
	}
	return cause
}

// combine keeps the last try's error, unless it says only that time was up.
func combine(cause, last error) error {
	if last == nil || errors.Is(last, context.DeadlineExceeded) || errors.Is(last, context.Canceled) || errors.Is(last, cause) {
		return cause
	}
	return fmt.Errorf("%w; last try: %w", cause, last)
}

// pause waits for d and reports whether it did, or ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
