package election

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// fakeConsul is the model behind Consul's HTTP API, in the time of a bubble of
// testing/synctest. Each process speaks to it through a wire of its own.
type fakeConsul struct {
	wg sync.WaitGroup // of requests on their way

	mu      sync.Mutex // guards all fields below and the model
	model   *model
	since   time.Time
	changed chan struct{} // closed and replaced at each change
	blocked map[chan listing]func() listing
	agents  map[string]*fakeCheck // by check
	expiry  map[string]*time.Timer
}

// fakeCheck is a TTL check of an agent.
type fakeCheck struct {
	service string
	ttl     time.Duration
	timer   *time.Timer
}

func newFakeConsul() *fakeConsul {
	f := &fakeConsul{
		since: time.Now(), changed: make(chan struct{}), blocked: map[chan listing]func() listing{},
		agents: map[string]*fakeCheck{}, expiry: map[string]*time.Timer{},
	}
	f.model = newModel(func() time.Duration { return time.Since(f.since) })
	f.model.changed = func() {
		close(f.changed)
		f.changed = make(chan struct{})
	}
	f.model.restored = func() {
		for ch, old := range f.blocked {
			ch <- old()
			delete(f.blocked, ch)
		}
	}
	return f
}

// do changes or looks at the model.
func (f *fakeConsul) do(change func(m *model)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.model)
}

// key returns a key as it is.
func (f *fakeConsul) key(name string) (k modelKey, ok bool) {
	f.do(func(m *model) { k, ok = m.kv[name] })
	return k, ok
}

// answer is an HTTP response.
type answer struct {
	status int
	index  uint64
	body   any
}

// handle carries out a request.
func (f *fakeConsul) handle(ctx context.Context, method, path string, query map[string][]string, body []byte) answer {
	_, keys := query["keys"]
	_, recurse := query["recurse"]
	at := func(prefix string) string { return strings.TrimPrefix(path, prefix) }
	switch {
	case method == http.MethodGet && strings.HasPrefix(path, "/v1/kv/") && (keys || recurse):
		return f.read(ctx, at("/v1/kv/"), keys, query)
	case method == http.MethodGet:
	case path == "/v1/txn":
		if _, consistent := query["consistent"]; !consistent {
			// Without it one that writes nothing would be answered from memory that may
			// be old.
			return answer{status: http.StatusNotImplemented, body: "a transaction that is not consistent"}
		}
		return f.txn(body)
	case path == "/v1/session/create":
		return f.createSession(body)
	case strings.HasPrefix(path, "/v1/session/renew/"):
		return f.renewSession(at("/v1/session/renew/"))
	case strings.HasPrefix(path, "/v1/session/destroy/"):
		f.do(func(m *model) { m.destroy(at("/v1/session/destroy/")) })
		return answer{status: http.StatusOK, body: true}
	case path == "/v1/agent/service/register":
		return f.register(body)
	case strings.HasPrefix(path, "/v1/agent/service/deregister/"):
		return f.deregister(at("/v1/agent/service/deregister/"))
	case strings.HasPrefix(path, "/v1/agent/check/update/"):
		return f.beat(at("/v1/agent/check/update/"))
	}
	return answer{status: http.StatusNotImplemented, body: method + " " + path}
}

// read is a list of keys, blocking or not.
func (f *fakeConsul) read(ctx context.Context, prefix string, keys bool, query map[string][]string) answer {
	number := func(name string) uint64 {
		if len(query[name]) == 0 {
			return 0
		}
		n, err := strconv.ParseUint(query[name][0], 10, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	var limit <-chan time.Time
	index := number("index")
	if index > 0 && len(query["wait"]) > 0 {
		d, err := time.ParseDuration(query["wait"][0])
		if err != nil {
			panic(err)
		}
		t := time.NewTimer(d)
		defer t.Stop()
		limit = t.C
	}
	abandoned := make(chan listing, 1)
	for over := index == 0; ; {
		f.mu.Lock()
		now := func() listing { return listing{index: f.model.prefixIndex(prefix), pairs: f.model.list(prefix)} }
		l, changed := now(), f.changed
		if over || l.index > index {
			f.mu.Unlock()
			return l.answer(keys)
		}
		f.blocked[abandoned] = func() listing { return l }
		f.mu.Unlock()
		select {
		case <-changed:
		case <-limit:
			over = true
		case l = <-abandoned:
			return l.answer(keys)
		case <-ctx.Done():
			over = true
		}
		f.mu.Lock()
		delete(f.blocked, abandoned)
		f.mu.Unlock()
	}
}

func (l listing) answer(keys bool) answer {
	a := answer{status: http.StatusOK, index: l.index, body: l.pairs}
	if keys {
		names := []string{}
		for _, p := range l.pairs {
			names = append(names, p.Key)
		}
		a.body = names
	}
	if len(l.pairs) == 0 {
		a.status = http.StatusNotFound
	}
	return a
}

func (f *fakeConsul) txn(body []byte) (a answer) {
	var ops api.TxnOps
	decode(body, &ops)
	list := make([]*api.KVTxnOp, len(ops))
	for i, op := range ops {
		list[i] = op.KV
	}
	f.do(func(m *model) {
		results, errs := m.txn(list)
		a = answer{status: http.StatusOK, body: api.TxnResponse{Results: results, Errors: errs}}
		if errs != nil {
			a.status = http.StatusConflict
		}
	})
	return a
}

func (f *fakeConsul) createSession(body []byte) (a answer) {
	var s struct {
		Name, LockDelay, TTL string
		ServiceChecks        []struct{ ID string }
	}
	decode(body, &s)
	entry := modelSession{name: s.Name, delay: duration(s.LockDelay), ttl: duration(s.TTL)}
	if len(s.ServiceChecks) > 0 {
		entry.check = s.ServiceChecks[0].ID
	}
	f.do(func(m *model) {
		id, err := m.newSession(entry)
		if err != nil {
			a = answer{status: http.StatusInternalServerError, body: err.Error()}
			return
		}
		f.expire(id)
		a = answer{status: http.StatusOK, body: map[string]string{"ID": id}}
	})
	return a
}

// expire ends a session with a TTL twice that after its last renewal, as Consul does.
func (f *fakeConsul) expire(id string) {
	if t := f.expiry[id]; t != nil {
		t.Stop()
	}
	if ttl := f.model.sessions[id].ttl; ttl > 0 {
		f.expiry[id] = time.AfterFunc(2*ttl, func() { f.do(func(m *model) { m.destroy(id) }) })
	}
}

func (f *fakeConsul) renewSession(id string) (a answer) {
	a = answer{status: http.StatusNotFound, body: "Session id '" + id + "' not found"}
	f.do(func(m *model) {
		if m.renew(id) {
			f.expire(id)
			a = answer{status: http.StatusOK, body: []*api.SessionEntry{{ID: id}}}
		}
	})
	return a
}

func (f *fakeConsul) register(body []byte) answer {
	var s api.AgentServiceRegistration
	decode(body, &s)
	f.do(func(m *model) {
		f.agents[s.Check.CheckID] = &fakeCheck{service: s.ID, ttl: duration(s.Check.TTL), timer: time.NewTimer(0)}
	})
	return f.beat(s.Check.CheckID)
}

func (f *fakeConsul) deregister(id string) answer {
	a := answer{status: http.StatusNotFound, body: fmt.Sprintf("Unknown service ID %q", id)}
	f.do(func(m *model) {
		for check, c := range f.agents {
			if c.service == id {
				c.timer.Stop()
				delete(f.agents, check)
				m.check(check, false)
				a = answer{status: http.StatusOK}
			}
		}
	})
	return a
}

// beat lets a check pass for its TTL.
func (f *fakeConsul) beat(check string) answer {
	a := answer{status: http.StatusOK}
	f.do(func(m *model) {
		c := f.agents[check]
		if c == nil {
			a = answer{status: http.StatusNotFound, body: fmt.Sprintf("Unknown check ID %q", check)}
			return
		}
		m.check(check, true)
		c.timer.Stop()
		c.timer = time.AfterFunc(c.ttl, func() { f.do(func(m *model) { m.check(check, false) }) })
	})
	return a
}

func decode(body []byte, v any) {
	if err := json.Unmarshal(body, v); err != nil {
		panic(fmt.Sprintf("%v in %s", err, body))
	}
}

// duration reads what a request says; empty is none.
func duration(s string) time.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

// response makes an HTTP response.
func (a answer) response(req *http.Request) *http.Response {
	var body []byte
	if s, ok := a.body.(string); ok {
		body = []byte(s)
	} else {
		var err error
		if body, err = json.Marshal(a.body); err != nil {
			panic(err)
		}
	}
	h := http.Header{"X-Consul-Lastcontact": {"0"}, "X-Consul-Knownleader": {"true"}}
	if a.index > 0 {
		h.Set("X-Consul-Index", strconv.FormatUint(a.index, 10))
	}
	return &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}
