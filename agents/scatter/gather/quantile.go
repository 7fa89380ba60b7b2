package gather

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// subBits is the number of bits by which a bucket is told from others of the same
	// power of two: its width is at most 1/16 of its values.
	subBits = 4
	buckets = (64 - subBits) << subBits
	// window is how long a latency counts: for one to two of them.
	window = 10 * time.Second
	// refresh is how long a quantile is not computed anew.
	refresh = 50 * time.Millisecond
	// enough is how many latencies there have to be before a quantile means something.
	enough = 20
)

// latencies is a moving quantile of latencies: a histogram with buckets that grow with
// their values, of two windows of which the older one is dropped. Methods may be called
// from any goroutine.
type latencies struct {
	q       float64
	begun   time.Time
	windows [2]histogram
	current atomic.Int64 // number of the window
	value   atomic.Int64 // the quantile, in nanoseconds; 0: not known
	next    atomic.Int64 // when it is computed anew, in nanoseconds since begun
}

type histogram struct{ counts [buckets]atomic.Uint32 }

func newLatencies(q float64) *latencies { return &latencies{q: q, begun: time.Now()} }

func bucketOf(d time.Duration) int {
	v := uint64(max(d, 1))
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift) //nolint:gosec // less than buckets
}

// upper is the largest value of a bucket.
func upper(i int) time.Duration {
	if i < 2<<subBits {
		return time.Duration(i)
	}
	shift := i>>subBits - 1
	low := uint64(i&(1<<subBits-1)|1<<subBits) << shift //nolint:gosec // not negative
	return time.Duration(low + 1<<shift - 1)            //nolint:gosec // of a duration
}

// add takes a latency.
func (l *latencies) add(d time.Duration) {
	since := time.Since(l.begun)
	n := int64(since / window)
	if old := l.current.Load(); n > old && l.current.CompareAndSwap(old, n) {
		// What others add to it meanwhile may be lost, which does not matter.
		l.clear(n)
		if n > old+1 {
			l.clear(n - 1)
		}
	}
	l.windows[n&1].counts[bucketOf(d)].Add(1)
	if at := l.next.Load(); int64(since) >= at && l.next.CompareAndSwap(at, int64(since+refresh)) {
		l.value.Store(int64(l.compute()))
	}
}

func (l *latencies) clear(n int64) {
	h := &l.windows[n&1]
	for i := range h.counts {
		h.counts[i].Store(0)
	}
}

func (l *latencies) compute() time.Duration {
	var sum [buckets]uint32
	total := uint64(0)
	for i := range sum {
		sum[i] = l.windows[0].counts[i].Load() + l.windows[1].counts[i].Load()
		total += uint64(sum[i])
	}
	if total < enough || l.q < 0 {
		return 0
	}
	rank := uint64(l.q * float64(total))
	seen := uint64(0)
	for i, n := range sum {
		if seen += uint64(n); seen > rank {
			return upper(i)
		}
	}
	return 0
}

// quantile is the present one; 0: it is not known.
func (l *latencies) quantile() time.Duration { return time.Duration(l.value.Load()) }
