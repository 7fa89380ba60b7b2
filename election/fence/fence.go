// Package fence is the other side of a fencing token: it lets a receiver of writes
// refuse those of a leader that has been replaced.
//
// It guarantees that after a write with some token has been let in, none with a lower
// token is. It does not remember across restarts: a receiver that keeps data has to keep
// the highest token with the data, in the same transaction, and give it to New.
package fence

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

// Header is the HTTP header that carries the token.
const Header = "Fencing-Token"

// ErrStale means that the token is lower than one that was seen before.
var ErrStale = errors.New("stale fencing token")

// Guard remembers the highest token of one election. Use one for each election whose
// leaders write here.
type Guard struct {
	mu      sync.Mutex
	highest uint64
}

// New returns a guard that has seen a token, or none: 0.
func New(highest uint64) *Guard { return &Guard{highest: highest} }

// Highest returns the highest token seen.
func (g *Guard) Highest() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.highest
}

// Do runs write unless the token is stale, and nothing else of this guard meanwhile: a
// write that was let in has ended before a higher token is. The error is ErrStale or
// write's. The token counts as seen even if write fails.
func (g *Guard) Do(token uint64, write func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if token < g.highest {
		return fmt.Errorf("%w: %d after %d", ErrStale, token, g.highest)
	}
	g.highest = token
	return write()
}

// Handler lets requests through that carry a token which is not stale, one after the
// other. Without a token the answer is 400, with a stale one 409. While next runs it
// holds up all others, those of a new leader too, so the server needs a ReadTimeout: a
// leader that was frozen in the middle of a request must not hold it up for ever.
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := strconv.ParseUint(r.Header.Get(Header), 10, 64)
		if err != nil {
			http.Error(w, "the header "+Header+" has to be the decimal fencing token of the leader", http.StatusBadRequest)
			return
		}
		err = g.Do(token, func() error {
			next.ServeHTTP(w, r)
			return nil
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
}
