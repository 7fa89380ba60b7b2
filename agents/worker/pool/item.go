package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/files"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// ackTimeout bounds one try to tell the broker.
	ackTimeout = 30 * time.Second
	// publishTries is how often publishing is tried at once; then it is left to Sweep.
	publishTries   = 3
	publishTimeout = 10 * time.Minute
)

// do does an item, from its input to its publishing.
func (p *Pool) do(it *item, maxRuntime time.Duration) {
	start := time.Now()
	log := p.log.With("item", it.ID.String(), "claim", it.Claim)
	w, ack := p.attempt(it, maxRuntime)
	if ack.Action == queue.Release && errors.Is(context.Cause(it.ctx), attempt.ErrDrained) {
		p.returned.Add(1)
	}
	verdict := p.tell(it, &ack)
	p.leases.remove(it)
	p.metrics.count(ack.Action, verdict, time.Since(start))
	switch {
	case verdict == queue.Accepted && ack.Action != queue.Done && ack.Reason != "":
		log.Warn("item failed", "action", ack.Action, "reason", ack.Reason)
	case verdict != queue.Accepted && verdict != queue.Duplicate:
		log.Warn("attempt is over", "action", ack.Action, "verdict", verdict, "reason", ack.Reason)
	default:
		log.Debug("item ended", "action", ack.Action)
	}
	if w == nil {
		return
	}
	if err := p.settle(w, ack, verdict); err != nil {
		log.Error("publish or remove the output; it is tried again later", "error", err)
	}
	if err := w.Close(); err != nil {
		log.Warn("remove the directory of the attempt", "error", err)
	}
}

// attempt does an item up to the point where the broker has to be told. There may be no
// Work.
func (p *Pool) attempt(it *item, maxRuntime time.Duration) (*files.Work, queue.Ack) {
	ack := queue.Ack{ID: it.ID, Claim: it.Claim}
	a := &attempt.Attempt{
		Queue: p.cfg.Queue, Stage: p.cfg.Stage, ID: it.ID, Claim: it.Claim, Failed: it.Failed, Lost: it.Lost,
	}
	if err := json.Unmarshal(it.Item, &a.Item); err != nil {
		ack.Action, ack.Reason = queue.Reject, fmt.Sprintf("read the item: %v", err)
		return nil, ack
	}
	if a.Stage == "" {
		a.Stage = p.firstStage()
	}
	ctx := it.ctx
	if maxRuntime > 0 {
		timed, cancel := context.WithTimeoutCause(ctx, maxRuntime, fmt.Errorf("%w: not done within %s", attempt.ErrMaxRuntime, maxRuntime))
		defer cancel()
		ctx = timed
	}
	w, err := p.cfg.Files.Begin(ctx, a)
	if err != nil {
		p.failed(ctx, &ack, err)
		return w, ack
	}
	defer it.stopProgress()
	it.mu.Lock()
	it.progress = a.ReadProgress
	it.mu.Unlock()
	res := p.cfg.Way.Do(ctx, a)
	ack.Action, ack.Reason = res.Action, res.Reason
	switch {
	case res.Action == queue.Retry && ctx.Err() != nil:
		p.failed(ctx, &ack, errors.New(res.Reason))
	case res.Action == queue.Done:
		p.finish(it.ctx, w, a, &ack)
	}
	return w, ack
}

// failed says why an attempt went wrong. If its context has ended that is why.
func (p *Pool) failed(ctx context.Context, ack *queue.Ack, err error) {
	ack.Action, ack.Reason, ack.Output, ack.Emit = queue.Retry, err.Error(), "", nil
	cause := context.Cause(ctx)
	switch {
	case ctx.Err() != nil && errors.Is(cause, attempt.ErrDrained):
		ack.Action = queue.Release
	case ctx.Err() != nil:
		ack.Reason = cause.Error()
	case errors.Is(err, files.ErrBad):
		ack.Action = queue.Reject
	case errors.Is(err, files.ErrDown) && p.cfg.Files.Probe(ctx) != nil:
		// Nobody could have done better, so it is not the item's failure. If the place
		// works for others it is.
		ack.Action = queue.Release
		p.fault(err)
	}
}

// finish keeps the output of a program that says it is done.
func (p *Pool) finish(ctx context.Context, w *files.Work, a *attempt.Attempt, ack *queue.Ack) {
	items, given, err := attempt.ReadEmit(a.Emit)
	if err != nil {
		p.failed(ctx, ack, err)
		var bad *attempt.EmitError
		if errors.As(err, &bad) {
			ack.Action = queue.Reject
		}
		return
	}
	out, err := w.Finish(ctx)
	switch {
	case errors.Is(err, files.ErrNoOutput) && p.cfg.NoOutput:
		out = files.Output{}
	case err != nil:
		p.failed(ctx, ack, err)
		return
	}
	ack.Output, ack.Emit = out.URL, items
	if given && len(items) == 0 {
		ack.Action = queue.Skip // a program that emits nothing wants no item
	}
	if err := place(items, out, a.Output); err != nil {
		p.failed(ctx, ack, err)
		ack.Action = queue.Reject
	}
}

// place gives emitted items with the name of a file in the output, which is a directory,
// the place of that file.
func place(items []queue.Item, out files.Output, dir string) error {
	if !out.Dir {
		return nil
	}
	for i := range items {
		for _, input := range append([]*string{&items[i].Input}, pointers(items[i].Inputs)...) {
			name := *input
			if name == "" || filepath.IsAbs(name) || strings.Contains(name, "://") {
				continue
			}
			if !filepath.IsLocal(name) {
				return fmt.Errorf("item %d of $WQ_EMIT: the input %q is not in the output", i+1, name)
			}
			if !isThere(filepath.Join(dir, name)) && !isThere(filepath.Join(out.URL, name)) { // it may have been moved
				return fmt.Errorf("item %d of $WQ_EMIT: the input %q is not in the output", i+1, name)
			}
			*input = within(out.URL, name)
		}
	}
	return nil
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// within is the path or URL of a file in a directory.
func within(dir, name string) string {
	base, query, has := strings.Cut(dir, "?")
	if !strings.Contains(dir, "://") {
		return filepath.Join(dir, name)
	}
	u := url.URL{Path: name}
	base += "/" + u.EscapedPath()
	if has {
		base += "?" + query
	}
	return base
}

func pointers(list []string) []*string {
	out := make([]*string, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// tell tells the broker until it has answered. An empty verdict means that it has not, or
// that it need not be told.
func (p *Pool) tell(it *item, ack *queue.Ack) queue.Verdict {
	if cause := context.Cause(it.ctx); ack.Action != queue.Done && ack.Action != queue.Skip &&
		(errors.Is(cause, attempt.ErrLost) || errors.Is(cause, attempt.ErrCancelled)) {
		return queue.Stale // it is known already
	}
	for pause := p.first; ; pause = min(2*pause, p.last) {
		ctx, cancel := context.WithTimeout(p.talk, ackTimeout)
		results, err := p.cfg.Broker.Ack(ctx, p.cfg.Queue, []queue.Ack{*ack})
		cancel()
		var no *queue.RefusedError
		switch {
		case err == nil && len(results) == 1:
			if ack.Reason == "" {
				ack.Reason = results[0].Error
			}
			return results[0].Verdict
		case err == nil:
			err = fmt.Errorf("the broker answered one ack with %d results", len(results))
		case errors.As(err, &no) && (no.Status == 400 || no.Status == 413) && ack.Action != queue.Reject:
			// What the program has emitted cannot be. Nothing else is of its making.
			*ack = queue.Ack{ID: ack.ID, Claim: ack.Claim, Action: queue.Reject, Reason: "the broker refused the ack: " + err.Error()}
			continue
		case errors.As(err, &no) && no.Status == 404:
			return queue.Unknown
		}
		p.log.Warn("tell the broker how an item ended", "item", it.ID.String(), "error", err, "pause", pause)
		if !sleep(p.talk, pause) {
			return ""
		}
	}
}

// settle publishes the output, or removes it, if it is known what to do.
func (p *Pool) settle(w *files.Work, ack queue.Ack, verdict queue.Verdict) error {
	won := verdict == queue.Accepted || verdict == queue.Duplicate
	// When the worker has to end it is left to Sweep.
	if ack.Output == "" && won || verdict == queue.Stale {
		ctx, cancel := context.WithTimeout(p.talk, publishTimeout)
		defer cancel()
		return w.Discard(ctx)
	}
	if !won {
		return nil // Sweep finds out
	}
	for try, pause := 1, p.first; ; try, pause = try+1, 2*pause {
		ctx, cancel := context.WithTimeout(p.talk, publishTimeout)
		err := w.Publish(ctx)
		cancel()
		if err == nil || try == publishTries || !sleep(p.talk, pause) {
			return err
		}
	}
}
