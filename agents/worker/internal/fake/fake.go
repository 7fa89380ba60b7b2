// Package fake is a broker in memory with the HTTP API of real ones, for tests of workers.
// It has one queue of one shard with leases and attempts; stages, groups and limits are
// left to real brokers, which are tested elsewhere.
package fake

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// Queue is the name of the queue.
const Queue = "q"

// Broker is a broker.
type Broker struct {
	URL string
	// Lease and MaxRuntime are what workers are told.
	Lease, MaxRuntime time.Duration
	// NoExpiry keeps leases until Lose.
	NoExpiry bool

	mu       sync.Mutex
	items    []*Item
	claims   uint64
	finished bool
	changed  chan struct{} // closed and replaced at each change
	before   func(path string) int
	after    func(path string) bool
}

// Item is an item and all that has happened to it.
type Item struct {
	queue.Item
	State  string // as in queue.ItemStatus
	Claim  uint64
	Worker string
	Failed int
	Ack    queue.Ack // the last one that was accepted
	Acks   []queue.Verdict
	Done   float64 // progress
	until  time.Time
	lost   bool
	forgot bool
}

// New starts a broker.
func New(t *testing.T) *Broker {
	b := &Broker{Lease: 30 * time.Second, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/queues/q/claim", b.claim)
	mux.HandleFunc("POST /v1/queues/q/ack", b.ack)
	mux.HandleFunc("POST /v1/queues/q/extend", b.extend)
	mux.HandleFunc("GET /v1/queues/q/items/{id}", b.item)
	mux.HandleFunc("GET /v1/queues/q", func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, 200, queue.Overview{Config: queue.Config{Stages: []queue.Stage{{Name: "first"}}}})
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		before, after := b.before, b.after
		b.mu.Unlock()
		if before != nil {
			if status := before(r.URL.Path); status != 0 {
				httpapi.WriteError(w, httpapi.Errorf(status, "", "as the test wants it"))
				return
			}
		}
		if after != nil {
			held := httptest.NewRecorder()
			mux.ServeHTTP(held, r)
			if after(r.URL.Path) { // the answer is lost
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(held.Code)
			_, _ = w.Write(held.Body.Bytes())
			return
		}
		mux.ServeHTTP(w, r)
	}))
	b.URL = s.URL
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return b
}

// Before is asked before each request: a status other than 0 is the answer.
func (b *Broker) Before(f func(path string) int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.before = f
}

// After is asked after each request: true loses the answer.
func (b *Broker) After(f func(path string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.after = f
}

func (b *Broker) change() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Put enqueues items.
func (b *Broker) Put(items ...queue.Item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, it := range items {
		b.items = append(b.items, &Item{Item: it, State: "ready"})
	}
	b.change()
}

// Seal says that nothing more comes.
func (b *Broker) Seal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.finished = true
	b.change()
}

// Get is a copy of an item.
func (b *Broker) Get(i int) Item {
	b.mu.Lock()
	defer b.mu.Unlock()
	it := *b.items[i]
	it.Acks = slices.Clone(it.Acks)
	return it
}

// Lose ends the lease of an item.
func (b *Broker) Lose(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lose(b.items[i])
}

func (b *Broker) lose(it *Item) {
	if it.State == "claimed" {
		it.State, it.lost = "ready", true
		b.change()
	}
}

// Cancel cancels an item.
func (b *Broker) Cancel(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.items[i].State = "cancelled"
	b.change()
}

// Forget forgets an item that is finished.
func (b *Broker) Forget(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.items[i].forgot = true
}

// Until waits until something is so.
func (b *Broker) Until(t *testing.T, what string, is func(items []*Item) bool) {
	t.Helper()
	over := time.After(30 * time.Second)
	for {
		b.mu.Lock()
		ok, changed := is(b.items), b.changed
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-over:
			t.Fatal("not in time: " + what)
		}
	}
}

// UntilState waits until an item has a state.
func (b *Broker) UntilState(t *testing.T, i int, states ...string) {
	t.Helper()
	b.Until(t, "item is "+strings.Join(states, " or "), func(items []*Item) bool { return slices.Contains(states, items[i].State) })
}

func (b *Broker) expire() {
	for _, it := range b.items {
		if !b.NoExpiry && time.Now().After(it.until) {
			b.lose(it)
		}
	}
}

func id(i int) queue.ID { return queue.ID{Seq: uint64(i)} } //nolint:gosec // it is a place in a list

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	err := httpapi.ReadJSON(r.Body, into)
	if err != nil {
		httpapi.WriteError(w, err)
	}
	return err == nil
}

func (b *Broker) claim(w http.ResponseWriter, r *http.Request) {
	var req queue.ClaimRequest
	if !decode(w, r, &req) {
		return
	}
	over := time.After(time.Duration(req.Wait))
	expire := time.NewTicker(20 * time.Millisecond)
	defer expire.Stop()
	for {
		b.mu.Lock()
		b.expire()
		res := queue.ClaimResponse{Items: []queue.Claimed{}, Lease: queue.Duration(b.Lease), MaxRuntime: queue.Duration(b.MaxRuntime)}
		left := false
		for i, it := range b.items {
			left = left || slices.Contains([]string{"ready", "claimed"}, it.State)
			if it.State != "ready" || len(res.Items) >= max(1, req.Max) || r.Context().Err() != nil {
				continue
			}
			if len(res.Items) == 0 {
				b.claims++
			}
			raw, err := json.Marshal(it.Item)
			if err != nil {
				panic(err)
			}
			it.State, it.Claim, it.Worker, it.until = "claimed", b.claims, req.Worker, time.Now().Add(b.Lease)
			res.Items = append(res.Items, queue.Claimed{ID: id(i), Claim: b.claims, Failed: it.Failed, Item: raw})
		}
		res.Finished = b.finished && !left
		if len(res.Items) > 0 {
			b.change()
		}
		changed := b.changed
		b.mu.Unlock()
		if len(res.Items) > 0 || res.Finished {
			httpapi.WriteJSON(w, 200, res)
			return
		}
		select {
		case <-changed:
		case <-expire.C:
		case <-over:
			httpapi.WriteJSON(w, 200, res)
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (b *Broker) ack(w http.ResponseWriter, r *http.Request) {
	var req queue.Acks
	if !decode(w, r, &req) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	var res queue.AckResults
	for _, a := range req.Acks {
		v := b.verdict(&a)
		if a.ID.Seq < uint64(len(b.items)) {
			it := b.items[a.ID.Seq]
			it.Acks = append(it.Acks, v)
		}
		res.Results = append(res.Results, queue.AckResult{ID: a.ID, Verdict: v})
	}
	b.change()
	httpapi.WriteJSON(w, 200, res)
}

func (b *Broker) verdict(a *queue.Ack) queue.Verdict {
	if a.ID.Seq >= uint64(len(b.items)) || b.items[a.ID.Seq].forgot {
		return queue.Unknown
	}
	it := b.items[a.ID.Seq]
	late := it.State == "ready" && it.lost
	switch {
	case it.Claim != a.Claim:
		return queue.Stale
	case it.State == "done":
		return queue.Duplicate
	case it.State != "claimed" && (!late || a.Action != queue.Done && a.Action != queue.Skip):
		return queue.Stale
	}
	it.Ack, it.lost = *a, false
	switch a.Action {
	case queue.Done, queue.Skip:
		it.State = "done"
	case queue.Reject:
		it.State = "dead"
	case queue.Release:
		it.State, it.Claim = "ready", 0
	default:
		it.Failed++
		it.State, it.Claim = "delayed", 0 // for good: tests make it ready again
	}
	return queue.Accepted
}

// Again makes an item ready that has failed.
func (b *Broker) Again(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.items[i].State = "ready"
	b.change()
}

func (b *Broker) extend(w http.ResponseWriter, r *http.Request) {
	var req queue.Extend
	if !decode(w, r, &req) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire()
	var res queue.Extended
	for _, c := range req.Claims {
		held := false
		for i, it := range b.items {
			switch {
			case it.Claim != c:
			case it.State == "cancelled":
				held = true
				res.Cancelled = append(res.Cancelled, id(i))
			case it.State == "claimed" && it.Worker == req.Worker:
				held = true
				it.until = time.Now().Add(b.Lease)
				if p, ok := req.Progress[id(i).String()]; ok {
					it.Done = p
				}
			}
		}
		if !held {
			res.Lost = append(res.Lost, c)
		}
	}
	b.change()
	httpapi.WriteJSON(w, 200, res)
}

func (b *Broker) item(w http.ResponseWriter, r *http.Request) {
	id, err := queue.ParseID(r.PathValue("id"))
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || id.Seq >= uint64(len(b.items)) || b.items[id.Seq].forgot {
		httpapi.WriteError(w, httpapi.Errorf(404, "", "no such item"))
		return
	}
	it := b.items[id.Seq]
	httpapi.WriteJSON(w, 200, queue.ItemStatus{
		ID: id, State: it.State, Claim: it.Claim, Output: it.Ack.Output, Item: json.RawMessage(`{}`),
	})
}
