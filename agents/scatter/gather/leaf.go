package gather

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Leaf is an instance that can be asked.
type Leaf struct {
	ID      string // unique
	Address string // host:port
	Shard   string // instances with the same one can stand in for each other
	Node    string // for people
}

const (
	// ejectAfter is how many failures in a row eject a leaf.
	ejectAfter = 5
	// firstEjection and longestEjection bound the time for which it is ejected, which
	// doubles each time.
	firstEjection   = 2 * time.Second
	longestEjection = time.Minute
	// weight is that of a new latency in the average.
	weight = 0.2
	// forget is the time in which an average halves: a leaf that was slow is asked again
	// some time, since nothing else tells whether it still is.
	forget = 10 * time.Second
	// muchBetter is by how much a replica has to be better to be preferred.
	muchBetter = 1.5
)

// leaf is a Leaf with what is known of it. It stays the same as long as the catalog has it.
type leaf struct {
	Leaf
	inFlight atomic.Int64
	average  atomic.Int64 // of latencies, in nanoseconds; 0: not known
	at       atomic.Int64 // when it was changed, in Unix nanoseconds
	asked    atomic.Uint64
	failed   atomic.Uint64
	leaves   atomic.Int64 // behind it, as it said last

	mu         sync.Mutex
	inRow      int       // failures
	ejections  int       // in a row
	ejectedFor time.Time // until then; zero: not ejected
}

// took notes an answer.
func (l *leaf) took(d time.Duration) {
	l.learn(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inRow, l.ejections, l.ejectedFor = 0, 0, time.Time{}
}

// outrun notes that another leaf was faster. It would have taken longer than it has.
func (l *leaf) outrun(d time.Duration) {
	if int64(d) > l.average.Load() {
		l.learn(d)
	}
}

func (l *leaf) learn(d time.Duration) {
	for {
		old := l.average.Load()
		next := int64(d)
		if old != 0 {
			next = old + int64(weight*float64(int64(d)-old))
		}
		if l.average.CompareAndSwap(old, max(next, 1)) {
			break
		}
	}
	l.at.Store(time.Now().UnixNano())
}

// wrong notes a failure that says something about the leaf. It returns whether the leaf is
// ejected by it.
func (l *leaf) wrong() (ejected bool) {
	l.failed.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inRow++
	now := time.Now()
	if l.inRow < ejectAfter || now.Before(l.ejectedFor) {
		return false
	}
	l.ejectedFor = now.Add(min(firstEjection<<min(l.ejections, 10), longestEjection))
	l.ejections++
	// The next failure after that time ejects it again.
	l.inRow = ejectAfter - 1
	return true
}

// usable is whether it is not ejected.
func (l *leaf) usable(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ejectedFor.IsZero() || !now.Before(l.ejectedFor)
}

// cost is what asking it is thought to cost: how long it takes, and how many wait.
func (l *leaf) cost(unknown time.Duration, now time.Time) float64 {
	average := float64(l.average.Load())
	if average == 0 {
		average = float64(max(unknown, 2)) / 2 // rather too little, so that it becomes known
	} else if age := now.UnixNano() - l.at.Load(); age > 0 {
		average *= math.Exp2(-float64(age) / float64(forget))
	}
	return average * float64(l.inFlight.Load()+1)
}

// shard is leaves that can stand in for each other.
type shard struct {
	name     string
	replicas []*leaf
	since    time.Time // the catalog has none of them since then; zero: it has
	behind   int       // leaves that there were, if there are no replicas any more
}

// leaves is how many there are behind it, as its replicas said last.
func (s *shard) leaves() int {
	n := int64(max(1, s.behind))
	for _, l := range s.replicas {
		n = max(n, l.leaves.Load())
	}
	return int(n)
}

// pick chooses a replica that was not asked yet: of two random ones the better. If most are
// ejected the ejections are not believed: it is more likely that something else is wrong,
// and the others could not bear the load. nil: all were asked.
func (s *shard) pick(asked []*leaf, unknown time.Duration) *leaf {
	if len(s.replicas) == 1 {
		if len(asked) > 0 {
			return nil
		}
		return s.replicas[0]
	}
	var buf [16]*leaf
	now := time.Now()
	usable, rest := buf[:0], 0
	for _, l := range s.replicas {
		if contains(asked, l) {
			continue
		}
		if rest++; l.usable(now) {
			usable = append(usable, l)
		}
	}
	if rest == 0 {
		return nil
	}
	if out := s.ejected(now); len(usable) == 0 && len(asked) > 0 && 2*out <= len(s.replicas) {
		return nil // what is left is ejected, and that is believed
	} else if 2*out > len(s.replicas) || len(usable) == 0 {
		usable = usable[:0]
		for _, l := range s.replicas {
			if !contains(asked, l) {
				usable = append(usable, l)
			}
		}
	}
	a := rand.IntN(len(usable)) //nolint:gosec // spreads load
	if len(usable) == 1 {
		return usable[a]
	}
	b := rand.IntN(len(usable) - 1) //nolint:gosec // likewise
	if b >= a {
		b++
	}
	// A little better is chance, and to follow it would leave others without work, so that
	// nothing is known of them.
	if muchBetter*usable[b].cost(unknown, now) < usable[a].cost(unknown, now) {
		a = b
	}
	return usable[a]
}

// ejected counts replicas that are.
func (s *shard) ejected(now time.Time) (n int) {
	for _, l := range s.replicas {
		if !l.usable(now) {
			n++
		}
	}
	return n
}

func contains(list []*leaf, l *leaf) bool {
	for _, x := range list {
		if x == l {
			return true
		}
	}
	return false
}
