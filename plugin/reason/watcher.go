package reason

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
)

const (
	// maxReads bounds how many allocations are read at once.
	maxReads = 4

	// firstPause and lastPause bound the pauses between tries that fail.
	firstPause = time.Second
	lastPause  = 15 * time.Second
)

// Watcher hears from Nomad's event stream of changes to allocations, so that a
// task can be told of its end before it is asked to stop. Its methods may be
// called from several goroutines.
//
// There is one stream for each namespace in which something is watched: with
// namespace "*" Nomad would want a token that may read every namespace. An
// allocation that begins to be watched, or whose stream was broken, is also read
// once, after the stream has been opened, so that no decision falls between.
type Watcher struct {
	ctx    context.Context // the life of all goroutines
	client *Client
	logger hclog.Logger
	reads  chan struct{} // a place for each read that may run at once

	wg    sync.WaitGroup   // all goroutines; one is added only with mu held, before ctx has ended
	mu    sync.Mutex       // guards feeds, and all that says so
	feeds map[string]*feed // by namespace; those in which something is watched
}

// watched is an allocation that somebody listens to.
type watched struct {
	id   string
	wake chan struct{} // of capacity 1: something below has changed
	end  context.CancelFunc

	// Guarded by Watcher.mu.
	listeners []*listener
	known     *api.Allocation // the newest, nil if there is none; never written to
	stale     bool            // known may be old: read it now
}

type listener struct {
	fn      func(*api.Allocation)
	told    uint64 // ModifyIndex of what fn was given last; guarded by Watcher.mu
	removed atomic.Bool
}

// NewWatcher returns a watcher that works until ctx ends. It does nothing before
// something is added.
func NewWatcher(ctx context.Context, client *Client, logger hclog.Logger) *Watcher {
	return &Watcher{
		ctx: ctx, client: client, logger: logger.Named("watcher"),
		reads: make(chan struct{}, maxReads),
		feeds: make(map[string]*feed),
	}
}

// Add calls fn with the allocation as it is once the stream is open, and with
// each change after that. fn is called by one goroutine for each allocation, so
// it may take its time; changes that come meanwhile are joined, and it gets the
// newest state. The allocation has no Job if it comes from the stream. fn must
// not write to it.
//
// remove ends it and returns at once: a call of fn that has begun goes on. fn may
// call it.
func (w *Watcher) Add(namespace, allocID string, fn func(*api.Allocation)) (remove func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		return func() {}
	}
	f := w.feeds[namespace]
	if f == nil {
		ctx, cancel := context.WithCancel(w.ctx)
		f = &feed{
			w: w, namespace: namespace, end: cancel,
			grown: make(chan struct{}, 1), allocs: make(map[string]*watched),
		}
		w.feeds[namespace] = f
		w.wg.Go(func() { f.run(ctx) })
	}
	a := f.allocs[allocID]
	if a == nil {
		ctx, cancel := context.WithCancel(w.ctx)
		a = &watched{id: allocID, wake: make(chan struct{}, 1), end: cancel}
		f.allocs[allocID] = a
		w.wg.Go(func() { f.serve(ctx, a) })
		poke(f.grown)
	}
	l := &listener{fn: fn}
	a.listeners = append(a.listeners, l)
	poke(a.wake) // what is known already is news to this one
	return func() { w.remove(f, a, l) }
}

func (w *Watcher) remove(f *feed, a *watched, l *listener) {
	if l.removed.Swap(true) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range a.listeners {
		if a.listeners[i] == l {
			a.listeners = append(a.listeners[:i:i], a.listeners[i+1:]...)
			break
		}
	}
	if len(a.listeners) > 0 {
		return
	}
	a.end()
	delete(f.allocs, a.id)
	if len(f.allocs) == 0 {
		f.end()
		delete(w.feeds, f.namespace)
	}
}

// Wait returns when ctx, as given to NewWatcher, has ended and no goroutine of
// the watcher is left.
func (w *Watcher) Wait() {
	<-w.ctx.Done()
	w.mu.Lock() // an Add that came before is through, a later one does nothing
	clear(w.feeds)
	w.mu.Unlock()
	w.wg.Wait()
}

// serve is the goroutine of one allocation: it reads it when told to, and calls
// the listeners.
func (f *feed) serve(ctx context.Context, a *watched) {
	w := f.w
	var again <-chan time.Time // set while reading it has failed
	tries := 0
	for {
		due := false
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-again:
			due = true
		}
		w.mu.Lock()
		due = due || a.stale
		w.mu.Unlock()
		if due {
			again = nil
			if err := f.read(ctx, a); err != nil {
				f.report(err)
				again = time.After(pause(tries))
				tries++
			} else {
				tries = 0
			}
		}
		w.tell(a)
	}
}

// read asks for an allocation. One that is gone will not change any more.
func (f *feed) read(ctx context.Context, a *watched) error {
	w := f.w
	select {
	case w.reads <- struct{}{}:
		defer func() { <-w.reads }()
	case <-ctx.Done():
		return ctx.Err()
	}
	w.mu.Lock()
	a.stale = false // now, so that it is read again if it becomes so meanwhile
	w.mu.Unlock()
	got, err := w.client.Allocation(ctx, f.namespace, a.id)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	a.learn(got)
	return nil
}

// learn takes note of a state, which may be older than the known one. w.mu is
// held.
func (a *watched) learn(got *api.Allocation) {
	if got != nil && (a.known == nil || a.known.ModifyIndex < got.ModifyIndex) {
		a.known = got
	}
}

// tell calls the listeners that do not know the newest state.
func (w *Watcher) tell(a *watched) {
	w.mu.Lock()
	known := a.known
	var news []*listener
	for _, l := range a.listeners {
		if known != nil && l.told < known.ModifyIndex {
			l.told = known.ModifyIndex
			news = append(news, l)
		}
	}
	w.mu.Unlock()
	for _, l := range news {
		if !l.removed.Load() {
			l.fn(known)
		}
	}
}

// poke puts a token into a channel of capacity 1, if there is none.
func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// pause is how long to wait after a number of tries that failed. Half of it is
// random: what all clients lost at once they must not ask for at once.
func pause(tries int) time.Duration {
	d := lastPause
	if tries < 4 {
		d = min(firstPause<<tries, lastPause)
	}
	return d/2 + rand.N(d/2) //nolint:gosec // spreads load
}

// sleep waits for d. It reports false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
