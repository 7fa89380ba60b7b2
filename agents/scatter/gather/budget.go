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

// short is 0 as long as there are tokens enough, 1 when there are few, and 2 when there are
// very few.
func (b *budget) short() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.tokens >= min(b.most/2, 10):
		return 0
	case b.tokens >= min(b.most/4, 4):
		return 1
	}
	return 2
}

// spend takes a token. False: there is none.
func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.floor > 0 {
		now := time.Now()
		b.tokens = min(b.tokens+b.floor*now.Sub(b.at).Seconds(), b.most)
		b.at = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
