package driver

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// fakeConsul is the part of Consul's key-value store that checkpoints need.
type fakeConsul struct {
	url   string
	delay time.Duration // of each answer; set while nobody asks

	mu   sync.Mutex // guards the fields below
	keys map[string][]byte
	fail int           // status that all requests fail with, 0 for none
	hold chan struct{} // if not nil, requests wait for its end
}

func newConsul(t *testing.T) *fakeConsul {
	t.Helper()
	c := &fakeConsul{keys: make(map[string][]byte)}
	server := httptest.NewServer(c)
	c.url = server.URL
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return c
}

// ServeHTTP implements http.Handler.
func (c *fakeConsul) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has left
	}
	time.Sleep(c.delay) // no test waits for less: it is what a network takes
	c.mu.Lock()
	fail, hold := c.fail, c.hold
	c.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	if fail != 0 {
		http.Error(w, "No cluster leader", fail)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/v1/kv/")
	c.mu.Lock()
	defer c.mu.Unlock()
	value, there := c.keys[name]
	var answer any
	switch {
	case r.Method == http.MethodPut && r.URL.Query().Get("cas") == "0":
		answer = !there
		if !there {
			c.keys[name] = body
		}
	case r.Method == http.MethodDelete:
		delete(c.keys, name)
		answer = true
	case r.URL.Query().Has("keys"):
		names := []string{}
		for k := range c.keys {
			if strings.HasPrefix(k, name) {
				names = append(names, k)
			}
		}
		slices.Sort(names)
		answer, there = names, len(names) > 0
		if !there {
			http.NotFound(w, r)
			return
		}
	case there:
		answer = []map[string]any{{"Key": name, "Value": value, "Flags": 0, "LockIndex": 0, "CreateIndex": 1, "ModifyIndex": 1}}
	default:
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(answer) // a client that has gone is no failure of the test
}

// fails has all requests fail with a status, 0 for not any more. One below 500
// is final.
func (c *fakeConsul) fails(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = status
}

// holds has requests wait until the function that it returns is called.
func (c *fakeConsul) holds() (release func()) {
	hold := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = hold
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hold = nil
		close(hold)
	})
}

// Without a word of the job, checkpoints are in Consul.
func TestConsul_IsTheDefault(t *testing.T) {
	r, c := newRig(t), newConsul(t)
	p := r.byConsul(t, c.url, "")
	p.app.set("the state")
	p.start(t)
	r.n.set(t, p.cfg.AllocID, drained)
	must.StrContains(t, p.leave(t, time.Minute), "checkpoint 1/1 saved: 9 B")
	c.mu.Lock()
	must.MapContainsKey(t, c.keys, "lifecycle/checkpoints/prod/shop/front/0/web/00000001/00000001.json")
	c.mu.Unlock()
	next := r.byConsul(t, c.url, "")
	next.start(t)
	must.Eq(t, []string{"start", "restore the state"}, next.all())
}

// A Consul that fails for a moment does not cost the state.
func TestConsul_IsTriedAgain(t *testing.T) {
	r, c := newRig(t), newConsul(t)
	p := r.byConsul(t, c.url, "")
	p.app.set("the state")
	p.start(t)
	c.fails(500)
	back := time.AfterFunc(300*time.Millisecond, func() { c.fails(0) })
	defer back.Stop()
	must.StrContains(t, p.leave(t, time.Minute), "checkpoint 1/1 saved: 9 B")
}

// One that stays away costs the stop its kill_timeout, and no more.
func TestConsul_StaysAway(t *testing.T) {
	r, c := newRig(t), newConsul(t)
	p := r.byConsul(t, c.url, "")
	p.start(t)
	c.fails(500)
	r.n.set(t, p.cfg.AllocID, drained)
	var given time.Duration
	stop := p.StopTaskF
	p.StopTaskF = func(id string, d time.Duration, signal string) error {
		given = d
		return stop(id, d, signal)
	}
	inTime(t, 10*time.Second, func() {
		must.StrContains(t, p.leave(t, time.Second), "checkpoint NOT saved: save checkpoint: ")
	})
	must.Between(t, 100*time.Millisecond, given, StopOverrun)
}

// A state that Consul does not take is told with the remedy.
func TestConsul_TooLarge(t *testing.T) {
	r, c := newRig(t), newConsul(t)
	p := r.byConsul(t, c.url, "max_size = \"2MiB\"")
	p.app.set(noise(1 << 20))
	p.start(t)
	inTime(t, 10*time.Second, func() {
		must.StrContains(t, p.leave(t, time.Minute), "is above Consul's limit of 512 KiB; use a blob store or save less")
	})
}

// noise is text that cannot be made much smaller.
func noise(n int) string {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}
