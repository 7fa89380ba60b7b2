package cli

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// gate is what requests to routes pass, until it is closed. The zero gate is open.
type gate struct {
	mu     sync.Mutex
	closed bool
	inside int           // requests under way
	empty  chan struct{} // made by close, and closed when nobody is inside any more
}

// pass is a handler behind the gate.
func (g *gate) pass(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.enter() {
			w.Header().Set("Retry-After", "1")
			w.Header().Set("Connection", "close") // the next one finds another root
			httpapi.WriteError(w, httpapi.Errorf(http.StatusServiceUnavailable, "", "this root is about to end"))
			return
		}
		defer g.leave()
		h.ServeHTTP(w, r)
	})
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.closed && g.inside == 0 {
		close(g.empty)
	}
}

// close lets nobody in any more, and waits for those inside until ctx ends. It is called
// once.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	g.closed, g.empty = true, make(chan struct{})
	empty := g.empty
	if g.inside == 0 {
		close(empty)
	}
	g.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside == 0 {
		return nil
	}
	return fmt.Errorf("%s under way: %w", plural(g.inside, "request"), ctx.Err())
}
