package gather

import (
	"sync"
	"time"
)

// budget bounds extra requests to a share of the others: each request pays the share of a
// token in, and an extra one takes a whole one out. A floor, in tokens a second, lets those
// who have few requests have extra ones too.
type budget struct {
	share float64
	most  float64 // tokens
	floor float64 // tokens a second

	mu     sync.Mutex
	tokens float64
	at     time.Time
}

// burst is for how many requests' share tokens are kept.
const burst = 1000

// kept is the share of the most tokens that is left to who takes the last ones. Without it
// all may have gone to requests that were a little late, and none be left for one that
// hangs; and if all clients wait for such ones, nobody pays in any more.
const kept = 0.2

// newBudget has none with a negative share.
func newBudget(share, floor float64) *budget {
	if share < 0 {
		share, floor = 0, 0
	}
	return &budget{share: share, floor: floor, most: max(share*burst, floor), tokens: floor, at: time.Now()}
}

// earn is called for requests that are not extra.
func (b *budget) earn(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.tokens+b.share*float64(n), b.most)
}

// spend takes a token. False: there is none, or of the last ones, which are kept for who
// needs them most.
func (b *budget) spend(last bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.floor > 0 {
		now := time.Now()
		b.tokens = min(b.tokens+b.floor*now.Sub(b.at).Seconds(), b.most)
		b.at = now
	}
	need := 1.0
	if !last {
		need += b.most * kept
	}
	if b.tokens < need {
		return false
	}
	b.tokens--
	return true
}
