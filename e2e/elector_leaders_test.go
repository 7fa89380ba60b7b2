package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	nomadapi "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

// leaders watches who leads, and what the leader's work shows.
type leaders struct {
	j *electionJob

	mu     sync.Mutex
	terms  map[uint64]*term
	counts []string // values that the app has written, in order
	errs   []error
}

// term is what was seen of one term. From the answer in which it was seen first to the
// question after which it was seen last, its holder led.
type term struct {
	alloc       *nomadapi.Allocation
	token       uint64
	first, last time.Time
}

// watchLeaders asks all electors, and watches the key that the apps write, until the
// test ends.
func watchLeaders(t *testing.T, c *cluster.Cluster, j *electionJob) *leaders {
	t.Helper()
	w := &leaders{j: j, terms: map[uint64]*term{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.poll(ctx) })
	wg.Go(func() { w.follow(ctx, c.Consul()) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return w
}

func (w *leaders) poll(ctx context.Context) {
	for ctx.Err() == nil {
		// A question that Nomad does not answer is one that was not asked: the next one
		// comes at once, and leads has a limit.
		stubs, _, _ := w.j.c.Nomad().Jobs().Allocations(w.j.name, true, nil)
		var wg sync.WaitGroup
		for _, s := range stubs {
			if s.ClientStatus != "running" {
				continue
			}
			a, _, err := w.j.c.Nomad().Allocations().Info(s.ID, nil)
			if err != nil {
				continue
			}
			wg.Go(func() {
				asked := time.Now()
				st, err := ask(electorAddr(a), w.j.name)
				if err == nil && st.Self {
					w.saw(a, st.Token, asked, time.Now())
				}
			})
		}
		wg.Wait()
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// follow reads all values that the apps write.
func (w *leaders) follow(ctx context.Context, consul *consulapi.Client) {
	var index uint64
	for ctx.Err() == nil {
		pair, meta, err := consul.KV().Get("election-data/"+w.j.name+"/count", (&consulapi.QueryOptions{WaitIndex: index, WaitTime: 10 * time.Second}).WithContext(ctx))
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		index = meta.LastIndex
		if pair != nil {
			w.mu.Lock()
			if n := len(w.counts); n == 0 || w.counts[n-1] != string(pair.Value) {
				w.counts = append(w.counts, string(pair.Value))
			}
			w.mu.Unlock()
		}
	}
}

func (w *leaders) saw(a *nomadapi.Allocation, token uint64, asked, answered time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch k := w.terms[token]; {
	case k == nil:
		w.terms[token] = &term{alloc: a, token: token, first: answered, last: answered}
	case k.alloc.ID != a.ID:
		w.errs = append(w.errs, fmt.Errorf("token %d is held by %s and %s", token, k.alloc.ID, a.ID))
	case asked.After(k.last):
		k.last = asked
	}
}

// newest is the term with the highest token that was seen, or nil.
func (w *leaders) newest() *term {
	w.mu.Lock()
	defer w.mu.Unlock()
	var best *term
	for _, k := range w.terms {
		if best == nil || k.token > best.token {
			best = k
		}
	}
	if best == nil {
		return nil
	}
	k := *best
	return &k
}

// leads waits until somebody leads with a token above the given one, and works.
func (w *leaders) leads(t *testing.T, above uint64) *term {
	t.Helper()
	var k *term
	await(t, fmt.Sprintf("somebody leads with a token above %d, and works", above), func() bool {
		k = w.newest()
		if k == nil || k.token <= above {
			return false
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		n := len(w.counts)
		return n > 0 && strings.HasSuffix(w.counts[n-1], fmt.Sprintf(" by %s with token %d", k.alloc.ID, k.token))
	})
	return k
}

// moves waits until somebody leads after a leader who was seen before the fault.
func (w *leaders) moves(t *testing.T, from *term) {
	t.Helper()
	w.leads(t, from.token)
}

// check looks at all that was seen: terms that do not overlap, in the order of their
// tokens, and work that goes on where it stopped, with tokens that never fall.
func (w *leaders) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	must.SliceEmpty(t, w.errs)
	must.Greater(t, 5, len(w.terms))
	for _, a := range w.terms {
		for _, b := range w.terms {
			if a.token < b.token {
				must.False(t, b.first.Before(a.last), must.Sprintf("%+v and %+v lead at once", a, b))
			}
		}
	}
	count, token := 0, uint64(0)
	for i, text := range w.counts {
		var n int
		var alloc string
		var tk uint64
		_, err := fmt.Sscanf(text, "%d by %s with token %d", &n, &alloc, &tk)
		must.NoError(t, err, must.Sprint(text))
		if i > 0 {
			// A blocking query can miss a value, but none may be written twice.
			must.Greater(t, count, n, must.Sprint(w.counts))
			must.GreaterEq(t, token, tk, must.Sprint(w.counts))
		}
		count, token = n, tk
	}
}
