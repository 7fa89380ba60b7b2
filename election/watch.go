package election

import (
	"context"
	"sync"
	"time"
)

// restPerKey is the pause after a read for each key that was read, about three times what
// it takes to read one. So a change is seen at once, and a storm, such as a thousand
// elections that begin together, takes a fraction of a core.
const restPerKey = 20 * time.Microsecond

// refresh is a request to give the present query up and to read everything anew.
type refresh struct {
	mu      sync.Mutex
	cancel  context.CancelFunc // of the query
	wanted  bool
	forgets bool // what was known is wrong
}

// ask makes the request.
func (r *refresh) ask(forget bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = true
	r.forgets = r.forgets || forget
	if r.cancel != nil {
		r.cancel()
	}
}

// begin notes the query that the next request is to give up, and takes the present one.
func (r *refresh) begin(cancel context.CancelFunc) (wanted, forget bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted, forget = r.wanted, r.forgets
	r.wanted, r.forgets, r.cancel = false, false, cancel
	return wanted, forget
}

// watch follows everything under the prefix with one blocking query.
func (e *Elector) watch(ctx context.Context) {
	var last view
	forget, failed := false, 0
	for ctx.Err() == nil {
		query, cancel := context.WithCancel(ctx)
		wanted, f := e.refresh.begin(cancel)
		forget = forget || f
		index := last.index
		if wanted || forget || failed > 0 {
			index = 0 // read at once
		}
		pairs, index, err := e.consul.list(query, e.keys.root(), index)
		givenUp := query.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case givenUp:
			continue
		case err != nil:
			e.trouble("watch", err)
			failed++
			if !pause(ctx, backoff(failed, 25*time.Millisecond, time.Second)) {
				return
			}
			continue
		}
		e.trouble("watch", nil)
		failed = 0
		v := e.keys.parse(last, pairs, index, e.clock.Now(), forget)
		news := v.index != last.index || v.reset || wanted
		last, forget = v, false
		if news {
			e.post(ctx, func(c *core, _ time.Duration) []action { c.setView(v); return nil })
		}
		if !pause(ctx, time.Duration(len(pairs))*restPerKey) {
			return
		}
	}
}

// confirm reads the index of the prefix, over and over, in a way that proves that it is
// the present one. All trust comes from here.
func (e *Elector) confirm(ctx context.Context) {
	for failed := 0; ; {
		interval := time.Duration(e.interval.Load())
		started := e.clock.Now()
		read, cancel := context.WithTimeout(ctx, interval)
		index, err := e.consul.index(read, e.keys.root())
		cancel()
		if ctx.Err() != nil {
			return
		}
		e.trouble("read", err)
		wait := interval - (e.clock.Now() - started)
		if err != nil {
			// A try that took its whole time was long enough to wait for.
			failed++
			wait = max(min(wait, interval/4), backoff(failed, 20*time.Millisecond, interval/2))
		} else {
			failed = 0
			again, first := false, false
			e.call(ctx, func(c *core, now time.Duration) []action {
				again = c.confirm(now, started, index)
				first = !c.hasBeen
				return nil
			})
			switch {
			case again:
				wait = retryRead
			case first:
				wait = min(wait, firstRead)
			}
		}
		if wait <= 0 {
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-e.sooner:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// firstRead is the time between reads until the first that agrees with the view: who has
// just started has no view yet, or nothing is under the prefix.
const firstRead = 50 * time.Millisecond

// retryRead is the pause before a read that the one before could not be used for.
const retryRead = 5 * time.Millisecond
