package server

import (
	"container/list"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
)

// shared answers requests that are alike with one answer: those that come at the same time,
// and those that come soon after.
type shared struct {
	keep time.Duration // 0: nothing is kept
	most int           // bytes that are kept

	work sync.WaitGroup // answers that are being made

	mu    sync.Mutex
	calls map[key]*call
	kept  map[key]*list.Element // of *entry
	order *list.List            // the one that was used last is the first
	bytes int
	hits  uint64 // requests that were answered from what is kept
	joins uint64 // requests that others have answered at the same time
}

// key is what makes requests alike.
type key [sha256.Size]byte

// call is an answer that is being made.
type call struct {
	done    chan struct{}
	answer  *answered // after done
	err     error
	waiting int
	cancel  context.CancelFunc
}

type entry struct {
	key    key
	answer *answered
	size   int
}

func newShared(keep time.Duration, most int) *shared {
	return &shared{keep: keep, most: most, calls: map[key]*call{}, kept: map[key]*list.Element{}, order: list.New()}
}

// notAlike are headers in which requests that are alike may differ.
var notAlike = map[string]bool{gather.TimeoutHeader: true, DepthHeader: true, PathHeader: true, traceParent: true, "Tracestate": true, "User-Agent": true}

// keyOf is the key of a request: all that leaves may answer differently to, and what is
// asked for of the answer.
func keyOf(r *http.Request, req *gather.Request) (k key) {
	h := sha256.New()
	write := func(text string) { _, _ = io.WriteString(h, strconv.Itoa(len(text))+":"+text) } // it never fails
	write(r.Method)
	write(r.URL.RequestURI())
	write(fmt.Sprint(req.Timeout, req.MinCoverage, req.Part))
	for _, name := range slices.Sorted(maps.Keys(req.Header)) {
		if notAlike[name] {
			continue
		}
		write(name)
		for _, v := range req.Header[name] {
			write(v)
		}
	}
	_, _ = h.Write(req.Body)
	h.Sum(k[:0])
	return k
}

// get returns the answer to a request: one that is kept, one that is being made, or a new
// one. It is made until nobody waits for it any more.
func (s *shared) get(ctx context.Context, k key, ask func(ctx context.Context) (*answered, error)) (*answered, error) {
	s.mu.Lock()
	if a := s.lookup(k); a != nil {
		s.hits++
		s.mu.Unlock()
		return a, nil
	}
	c := s.calls[k]
	if c != nil {
		s.joins++
	} else {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		c = &call{done: make(chan struct{}), cancel: cancel}
		s.calls[k] = c
		s.work.Go(func() { s.make(own, k, c, ask) })
	}
	c.waiting++
	s.mu.Unlock()
	select {
	case <-c.done:
		return c.answer, c.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.waiting--; c.waiting == 0 {
		c.cancel()
		if s.calls[k] == c {
			delete(s.calls, k)
		}
	}
	return nil, context.Cause(ctx)
}

// make makes an answer. Its end is that of the request's own deadline, at the latest.
func (s *shared) make(ctx context.Context, k key, c *call, ask func(ctx context.Context) (*answered, error)) {
	defer c.cancel()
	c.answer, c.err = ask(ctx)
	s.mu.Lock()
	if s.calls[k] == c {
		delete(s.calls, k)
	}
	if a := c.answer; c.err == nil && s.keep > 0 && a.coverage.Whole() && a.status == http.StatusOK {
		s.add(k, a)
	}
	s.mu.Unlock()
	close(c.done)
}

// lookup returns an answer that is kept.
func (s *shared) lookup(k key) *answered {
	e := s.kept[k]
	if e == nil {
		return nil
	}
	a := e.Value.(*entry).answer
	if time.Since(a.at) >= s.keep {
		s.drop(e)
		return nil
	}
	s.order.MoveToFront(e)
	return a
}

// add keeps an answer, and drops those that were not used for longest.
func (s *shared) add(k key, a *answered) {
	if old := s.kept[k]; old != nil {
		s.drop(old)
	}
	e := &entry{key: k, answer: a, size: a.body.Cap() + 512}
	if e.size > s.most/4 {
		return
	}
	s.kept[k] = s.order.PushFront(e)
	for s.bytes += e.size; s.bytes > s.most; {
		s.drop(s.order.Back())
	}
}

func (s *shared) drop(e *list.Element) {
	old := s.order.Remove(e).(*entry)
	delete(s.kept, old.key)
	s.bytes -= old.size
}
