package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/catalog"
	"github.com/nomad-patterns/nomad-patterns/agents/elector/hook"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// What cannot be is refused, with the field that is to blame.
func TestBadRequest(t *testing.T) {
	l := alone(t)
	ops := func(op string) string { return `{"ops":[` + op + `]}` }
	cases := map[string]struct {
		method, path, body string
		code               int
		field, message     string
	}{
		"name":             {"PUT", "/v1/elections/-x", "", 400, "election", "letters, digits"},
		"long name":        {"GET", "/v1/elections/" + strings.Repeat("x", 129), "", 400, "election", "1 to 128"},
		"parameter":        {"PUT", "/v1/elections/x?wiat=1s", "", 400, "wiat", "unknown parameter; there are wait, mode"},
		"parameter twice":  {"PUT", "/v1/elections/x?mode=strict&mode=fenced", "", 400, "mode", "2 times"},
		"no parameters":    {"GET", "/v1/elections/x?stale", "", 400, "stale", "there are none"},
		"query":            {"PUT", "/v1/elections/x?mode=%zz", "", 400, "", "malformed"},
		"wait":             {"PUT", "/v1/elections/x?wait=5", "", 400, "wait", `"5" is not a duration`},
		"long wait":        {"PUT", "/v1/elections/x?wait=11m", "", 400, "wait", "not between 0s and 10m0s"},
		"negative wait":    {"PUT", "/v1/elections/x?wait=-1s", "", 400, "wait", "not between"},
		"mode":             {"PUT", "/v1/elections/x?mode=lax", "", 400, "mode", `"lax" is not one of`},
		"priority":         {"PUT", "/v1/elections/x?priority=101", "", 400, "priority", "from -100 to 100"},
		"no number":        {"PUT", "/v1/elections/x?priority=high", "", 400, "priority", "whole number"},
		"short lease":      {"PUT", "/v1/elections/x?lease=100ms", "", 400, "lease", "not between 200ms and 1h0m0s"},
		"hold: lease":      {"GET", "/v1/elections/x/hold?lease=2h", "", 400, "lease", "not between"},
		"hold: wait":       {"GET", "/v1/elections/x/hold?wait=1s", "", 400, "wait", "unknown parameter"},
		"watch: parameter": {"GET", "/v1/elections/x/watch?index=1", "", 400, "index", "unknown parameter"},
		"list: joined":     {"GET", "/v1/elections?joined=yes", "", 400, "joined", `"yes" is not "true" or "false"`},
		"delete: to":       {"DELETE", "/v1/elections/x?to=a/b", "", 400, "to", "cannot be the name"},
		"delete: no to":    {"DELETE", "/v1/elections/x?to=", "", 400, "to", "cannot be the name"},
		"delete: both":     {"DELETE", "/v1/elections/x?to=b&leave=true", "", 400, "leave", "stays a candidate"},

		"body":         {"PUT", "/v1/elections/x", "wait=1s", 400, "", "this request takes no body; parameters belong into the query"},
		"delete: body": {"DELETE", "/v1/elections/x", "to=b", 400, "", "takes no body"},
		"renew: body":  {"POST", "/v1/elections/x/renew", "{}", 400, "", "takes no body"},

		"unknown":          {"GET", "/v1/elections/x", "", 404, "", `election "x": no such election`},
		"not joined":       {"DELETE", "/v1/elections/x", "", 404, "", "no candidate"},
		"renew unjoined":   {"POST", "/v1/elections/x/renew", "", 404, "", "no candidate"},
		"kv unjoined":      {"POST", "/v1/elections/x/kv", ops(`{"verb":"get","key":"a"}`), 404, "", "no candidate"},
		"kv: no body":      {"POST", "/v1/elections/x/kv", "", 400, "", "the body is empty"},
		"kv: not UTF-8":    {"POST", "/v1/elections/x/kv", ops("{\"verb\":\"set\",\"key\":\"a\",\"value\":\"\xff\"}"), 400, "", "the body is not UTF-8; use value_base64 for bytes"},
		"kv: field":        {"POST", "/v1/elections/x/kv", `{"op":[]}`, 400, "op", "unknown field"},
		"kv: no ops":       {"POST", "/v1/elections/x/kv", `{"ops":[]}`, 400, "ops", "0 operations"},
		"kv: many ops":     {"POST", "/v1/elections/x/kv", ops(strings.Repeat(`{"verb":"get","key":"a"},`, 100) + `{}`), 400, "ops", "101 operations"},
		"kv: delete-cas":   {"POST", "/v1/elections/x/kv", ops(strings.Repeat(`{"verb":"delete-cas","key":"a","index":1},`, 63) + `{"verb":"get","key":"a"}`), 400, "ops", "127 operations"},
		"kv: verb":         {"POST", "/v1/elections/x/kv", ops(`{"verb":"put","key":"a"}`), 400, "ops[0].verb", "is not one of"},
		"kv: second":       {"POST", "/v1/elections/x/kv", ops(`{"verb":"get","key":"a"},{"verb":"set","key":"a"}`), 400, "ops[1].value", "is missing"},
		"kv: two values":   {"POST", "/v1/elections/x/kv", ops(`{"verb":"set","key":"a","value":"","value_base64":""}`), 400, "ops[0].value", "one of them"},
		"kv: value":        {"POST", "/v1/elections/x/kv", ops(`{"verb":"get","key":"a","value":""}`), 400, "ops[0].value", "takes no value"},
		"kv: base64":       {"POST", "/v1/elections/x/kv", ops(`{"verb":"set","key":"a","value_base64":"!"}`), 400, "ops[0].value_base64", "is not base64"},
		"kv: no index":     {"POST", "/v1/elections/x/kv", ops(`{"verb":"cas","key":"a","value":"1"}`), 400, "ops[0].index", "is missing"},
		"kv: index":        {"POST", "/v1/elections/x/kv", ops(`{"verb":"set","key":"a","value":"1","index":3}`), 400, "ops[0].index", "takes no index"},
		"kv: index 0":      {"POST", "/v1/elections/x/kv", ops(`{"verb":"delete-cas","key":"a","index":0}`), 400, "ops[0].index", "not 0"},
		"kv: no key":       {"POST", "/v1/elections/x/kv", ops(`{"verb":"get"}`), 400, "ops[0].key", "1 to 512"},
		"kv: long key":     {"POST", "/v1/elections/x/kv", ops(`{"verb":"get","key":"` + strings.Repeat("k", 513) + `"}`), 400, "ops[0].key", "1 to 512"},
		"kv: way up":       {"POST", "/v1/elections/x/kv", ops(`{"verb":"get","key":"a/../../other/b"}`), 400, "ops[0].key", `".."`},
		"kv: dot":          {"POST", "/v1/elections/x/kv", ops(`{"verb":"get","key":"./a"}`), 400, "ops[0].key", `"."`},
		"kv: root":         {"POST", "/v1/elections/x/kv", ops(`{"verb":"get","key":"/a"}`), 400, "ops[0].key", "empty segment"},
		"kv: end":          {"POST", "/v1/elections/x/kv", ops(`{"verb":"get","key":"a/"}`), 400, "ops[0].key", "empty segment"},
		"kv: control":      {"POST", "/v1/elections/x/kv", ops(`{"verb":"get","key":"a\u0000b"}`), 400, "ops[0].key", "control character"},
		"kv: large body":   {"POST", "/v1/elections/x/kv", ops(`{"verb":"set","key":"a","value":"` + strings.Repeat("v", 512<<10) + `"}`), 413, "", "larger than 512 KiB"},
		"kv: large values": {"POST", "/v1/elections/x/kv", ops(`{"verb":"set","key":"a","value":"` + strings.Repeat("v", 400<<10) + `"}`), 413, "ops[0].value", "more than 500 KiB in base64"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := l.do(t, tc.method, tc.path, tc.body)
			must.Eq(t, tc.code, r.code, must.Sprint(r.body))
			if tc.field == "" {
				must.MapNotContainsKey(t, r.body, "field")
			} else {
				must.Eq(t, tc.field, r.text("field"), must.Sprint(r.body))
			}
			must.StrContains(t, r.text("error"), tc.message)
		})
	}
}

// A stream has no headers to be asked for, and to hold has effects.
func TestHead(t *testing.T) {
	l := alone(t)
	for _, route := range []string{"hold", "watch"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, l.url+"/v1/elections/x/"+route, nil)
		must.NoError(t, err)
		resp, err := l.client.Do(req)
		must.NoError(t, err)
		must.NoError(t, resp.Body.Close())
		must.Eq(t, http.StatusMethodNotAllowed, resp.StatusCode)
		must.Eq(t, "GET", resp.Header.Get("Allow"))
	}
	must.SliceEmpty(t, l.elector.List())
}

// Joining needs no Consul; leading does, and the answer says why it is not possible.
func TestAlone(t *testing.T) {
	l := alone(t)
	r := l.do(t, "PUT", "/v1/elections/x", "")
	must.Eq(t, http.StatusAccepted, r.code)
	must.Eq(t, "x", r.text("election"))
	must.Eq(t, "balanced", r.text("mode"))
	must.Eq(t, "true", r.text("joined"))
	must.Eq(t, "false", r.text("self"))
	must.Eq(t, "-1", r.text("observed_ms"))

	// Again, and with what it has already.
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/x", "").code)
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/x?mode=balanced&priority=0&lease=0s&wait=0s", "").code)

	r = l.do(t, "PUT", "/v1/elections/x?wait=1ms", "")
	must.Eq(t, http.StatusServiceUnavailable, r.code)
	must.StrContains(t, r.text("error"), "cannot take part: ")
	must.MapContainsKey(t, r.body, "status")

	for query, field := range map[string]string{"mode=strict": "mode", "priority=1": "priority", "lease=1s": "lease"} {
		r = l.do(t, "PUT", "/v1/elections/x?"+query, "")
		must.Eq(t, http.StatusConflict, r.code)
		must.Eq(t, field, r.text("field"))
	}

	r = l.do(t, "POST", "/v1/elections/x/renew", "")
	must.Eq(t, http.StatusConflict, r.code)
	must.StrContains(t, r.text("error"), "not the leader")
	must.MapContainsKey(t, r.body, "status")

	r = l.do(t, "POST", "/v1/elections/x/kv", `{"token":7,"ops":[{"verb":"get","key":"a"}]}`)
	must.Eq(t, http.StatusConflict, r.code)
	must.StrContains(t, r.text("error"), "not the leader")

	r = l.do(t, "DELETE", "/v1/elections/x?to=other", "")
	must.Eq(t, http.StatusConflict, r.code)

	must.Len(t, 1, l.do(t, "GET", "/v1/elections", "").body["elections"].([]any))
	must.Len(t, 1, l.do(t, "GET", "/v1/elections?joined=true", "").body["elections"].([]any))
	must.Len(t, 0, l.do(t, "GET", "/v1/elections?joined=false", "").body["elections"].([]any))

	must.Eq(t, 200, l.do(t, "DELETE", "/v1/elections/x?leave=true", "").code)
	must.Eq(t, 404, l.do(t, "DELETE", "/v1/elections/x", "").code)
	must.Error(t, l.Ready())
}

// Who comes from the configuration stays, and can be joined and held as it is.
func TestConfigured(t *testing.T) {
	l := alone(t, Election{Name: "x", Mode: election.Strict, Priority: 7}, Election{Name: "y"})
	r := l.do(t, "GET", "/v1/elections/x", "")
	must.Eq(t, 200, r.code)
	must.Eq(t, "strict", r.text("mode"))
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/x?mode=strict&priority=7", "").code)
	must.Eq(t, 409, l.do(t, "DELETE", "/v1/elections/x", "").code) // it resigns only, and does not lead
	must.Eq(t, 200, l.do(t, "GET", "/v1/elections/x", "").code)
	must.Eq(t, 200, l.do(t, "DELETE", "/v1/elections/x?leave=true", "").code)
	must.Eq(t, 404, l.do(t, "POST", "/v1/elections/x/renew", "").code)

	// Joined again, it is what it was.
	must.Eq(t, "strict", l.do(t, "PUT", "/v1/elections/x", "").text("mode"))
	must.Eq(t, 409, l.do(t, "DELETE", "/v1/elections/x", "").code)
}

// On demand, a client decides, and the configuration says how.
func TestOnDemand(t *testing.T) {
	l := alone(t, Election{Name: "x", Mode: election.Strict, OnDemand: true})
	must.Eq(t, 404, l.do(t, "GET", "/v1/elections/x", "").code)
	h := l.open(t, "/v1/elections/x/hold")
	_, data := h.next(t)
	must.Eq(t, "strict", data["mode"])
	h.end()
	eventually(t, "it has left", func() bool { return l.do(t, "GET", "/v1/elections/x", "").code == 404 })
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/x", "").code)
	must.Eq(t, 200, l.do(t, "DELETE", "/v1/elections/x", "").code)
	must.Eq(t, 404, l.do(t, "GET", "/v1/elections/x", "").code)
}

func TestNew(t *testing.T) {
	l := alone(t)
	_, err := New(Config{Elector: l.elector, Elections: []Election{{Name: "a"}, {Name: "a"}}})
	must.ErrorContains(t, err, `election "a" is configured twice`)
	_, err = New(Config{Elector: l.elector, Elections: []Election{{Name: "a", Service: &catalog.Service{}}}})
	must.ErrorContains(t, err, "there is no catalog")
	_, err = New(Config{Elector: l.elector, Elections: []Election{{Name: "/"}}})
	must.ErrorContains(t, err, `join election "/"`)
}

// A hold stream is a candidate for as long as it is open, one for each election.
func TestHold(t *testing.T) {
	l := alone(t)
	h := l.open(t, "/v1/elections/x/hold?priority=3")
	name, data := h.next(t)
	must.Eq(t, "candidate", name)
	must.Eq(t, true, data["joined"])

	r := l.do(t, "GET", "/v1/elections/x/hold", "")
	must.Eq(t, http.StatusConflict, r.code)
	must.StrContains(t, r.text("error"), "another client holds")

	h.end()
	eventually(t, "it has left", func() bool { return l.do(t, "POST", "/v1/elections/x/renew", "").code == 404 })

	// At once again, while the last one may still be leaving.
	for range 20 {
		h := l.open(t, "/v1/elections/x/hold")
		name, _ := h.next(t)
		must.Eq(t, "candidate", name)
		h.end()
		eventually(t, "the server has noticed", func() bool { return l.holds.Load() == 0 })
	}
}

// On an election that is joined, it attaches and leaves nothing.
func TestHold_Attached(t *testing.T) {
	l := alone(t, Election{Name: "configured"})
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/put", "").code)
	for _, name := range []string{"configured", "put"} {
		must.Eq(t, 409, l.do(t, "GET", "/v1/elections/"+name+"/hold?mode=fenced", "").code)
		h := l.open(t, "/v1/elections/"+name+"/hold")
		h.next(t)
		h.end()
		eventually(t, "the stream is closed", func() bool { return l.holds.Load() == 0 })
		must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/"+name, "").code)
	}
	// A PUT makes what a stream has joined stay.
	h := l.open(t, "/v1/elections/z/hold")
	h.next(t)
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/z", "").code)
	h.end()
	eventually(t, "the stream is closed", func() bool { return l.holds.Load() == 0 })
	must.Eq(t, 200, l.do(t, "GET", "/v1/elections/z", "").code)
}

// Who comes back while the end of his stream is worked off waits for that, and finds
// nothing that is about to go.
func TestHold_BackAtOnce(t *testing.T) {
	l := alone(t)
	_, err := l.join(t.Context(), "put", wish{}, byPut)
	must.NoError(t, err)
	for name, leaves := range map[string]bool{"put": false, "held": true} {
		j, err := l.join(t.Context(), name, wish{}, byHold)
		must.NoError(t, err)
		must.Eq(t, leaves, l.detach(j))
		for _, by := range []origin{byHold, byPut} {
			again, over, err := l.tryJoin(name, wish{}, by)
			if by == byPut && !leaves {
				must.NoError(t, err)
				must.True(t, again == j)
				continue
			}
			must.ErrorIs(t, err, errLeaving)
			select {
			case <-over:
				t.Fatal("it is not over yet")
			default:
			}
		}
		if leaves {
			must.NoError(t, l.leave(t.Context(), j))
		}
		l.release(j)
		again, err := l.join(t.Context(), name, wish{}, byHold)
		must.NoError(t, err)
		must.Eq(t, leaves, again != j)
	}
}

// A candidate whose lease has ended is not kept.
func TestLease_Forgotten(t *testing.T) {
	l := alone(t)
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/x?lease=200ms", "").code)
	eventually(t, "it is forgotten", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.joins) == 0
	})
}

// A term tells that it goes on, however long its window is, and how it ends.
func TestTerm(t *testing.T) {
	l := alone(t)
	l.refresh = time.Millisecond
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/x", "").code)
	cases := map[string]struct {
		lead   func(h *holder, f *fakeTerm)
		events []string
		reason error
	}{
		"over before it is told": {
			// The elector does not lead, so it cannot say so.
			lead:   func(h *holder, f *fakeTerm) { h.lead(t.Context(), f) },
			events: []string{"lost"}, reason: election.ErrTrustExpired,
		},
		"lost before it is told": {
			lead:   func(h *holder, f *fakeTerm) { f.lose(election.ErrLockLost); h.lead(t.Context(), f) },
			events: []string{"lost"}, reason: election.ErrLockLost,
		},
		"trust runs out": {
			lead:   func(h *holder, f *fakeTerm) { f.left = []time.Duration{time.Hour, time.Hour}; h.trust(t.Context(), f) },
			events: []string{"trusted", "lost"}, reason: election.ErrTrustExpired,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			stream, err := httpapi.OpenStream(w)
			must.NoError(t, err)
			tc.lead(&holder{s: l.Server, name: "x", stream: stream}, newTerm())
			e := events{lines: bufio.NewScanner(w.Body)}
			for _, want := range tc.events {
				name, data := e.next(t)
				must.Eq(t, want, name)
				must.Eq(t, 7, data["token"].(float64))
				if want == "lost" {
					must.Eq(t, tc.reason.Error(), data["reason"].(string))
				}
			}
			name, _ := e.next(t)
			must.Eq(t, "", name)
		})
	}
}

// The end of a drain ends the hooks, which have more time otherwise.
func TestDrain_EndsHooks(t *testing.T) {
	l := alone(t)
	begun := filepath.Join(t.TempDir(), "begun")
	e := Election{Name: "x", OnLoss: &hook.Command{
		Args: []string{"/bin/sh", "-c", `: >"$0"; sleep 600`, begun}, Timeout: hook.MaxTimeout,
	}}
	over := make(chan struct{})
	go func() {
		defer close(over)
		l.lost(e, newTerm(), election.ErrLeft)
	}()
	eventually(t, "the hook runs", func() bool {
		_, err := os.Stat(begun)
		return err == nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must.NoError(t, l.Drain(ctx))
	select {
	case <-over:
	case <-time.After(patience):
		t.Fatal("the hook runs on")
	}
	must.Eq(t, 1, l.hookFailures[1].Load())
}

// What is told late of a term that is over is not followed any more.
func TestGained_Late(t *testing.T) {
	l := alone(t)
	f := newTerm()
	f.lose(election.ErrLockLost)
	l.gained(Election{Name: "x", OnGain: &hook.Command{Args: []string{"/no/such/program"}}}, f)
	must.Eq(t, 0, l.hookFailures[0].Load())
	l.gained(Election{Name: "x", OnGain: &hook.Command{Args: []string{"/no/such/program"}}}, newTerm())
	must.Eq(t, 1, l.hookFailures[0].Load())
}

// The application's lease ends the candidate, and the stream that waits for it.
func TestHold_Lease(t *testing.T) {
	l := alone(t)
	h := l.open(t, "/v1/elections/x/hold?lease=200ms")
	name, _ := h.next(t)
	must.Eq(t, "candidate", name)
	name, data := h.next(t)
	must.Eq(t, "lost", name)
	must.Eq(t, 0.0, data["token"])
	must.StrContains(t, data["reason"].(string), "did not renew its lease")
	name, _ = h.next(t)
	must.Eq(t, "", name)
	must.Eq(t, 404, l.do(t, "POST", "/v1/elections/x/renew", "").code)
}

func TestWatch(t *testing.T) {
	l := alone(t)
	l.refresh = time.Millisecond
	w := l.open(t, "/v1/elections/x/watch") // before there is such an election
	var name string
	var data map[string]any
	for range 3 { // repeated
		name, data = w.next(t)
		must.Eq(t, "status", name)
		must.Eq(t, false, data["joined"])
	}
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/x", "").code)
	for data["joined"] == false {
		name, data = w.next(t)
		must.Eq(t, "status", name)
	}
	must.Eq(t, "x", data["election"])
	w.end()
	eventually(t, "the stream is closed", func() bool { return l.watches.Load() == 0 })
}

// After a drain nothing is joined, and nothing can be.
func TestDrain(t *testing.T) {
	l := alone(t, Election{Name: "configured"})
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/put", "").code)
	h := l.open(t, "/v1/elections/held/hold")
	h.next(t)
	must.NoError(t, l.Drain(t.Context()))
	name, _ := h.next(t)
	must.Eq(t, "lost", name)
	must.Len(t, 0, l.elector.List())
	for _, name := range []string{"configured", "put", "new"} {
		r := l.do(t, "PUT", "/v1/elections/"+name, "")
		must.Eq(t, http.StatusServiceUnavailable, r.code)
		must.StrContains(t, r.text("error"), "draining")
	}
	must.ErrorContains(t, l.Ready(), "draining")
	must.NoError(t, l.Drain(t.Context()))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must.NoError(t, l.Drain(ctx)) // there is nothing left to wait for
}

func TestMetrics(t *testing.T) {
	l := alone(t)
	must.Eq(t, 202, l.do(t, "PUT", "/v1/elections/x", "").code)
	registry := prometheus.NewPedanticRegistry()
	must.NoError(t, registry.Register(l.Collector()))
	families, err := registry.Gather()
	must.NoError(t, err)
	var text bytes.Buffer
	for _, f := range families {
		text.WriteString(f.String())
	}
	for _, want := range []string{"elector_elections_joined", "elector_elections_leading", "elector_streams", "elector_observed_age_seconds"} {
		must.StrContains(t, text.String(), want)
	}
}

// What Consul returns is put beside the operations that asked for it.
func TestResults(t *testing.T) {
	index := uint64(5)
	text := "text"
	req := kvRequest{Ops: []kvOp{
		{Verb: "get", Key: "a"},
		{Verb: "delete", Key: "b"},
		{Verb: "delete-cas", Key: "c", Index: &index},
		{Verb: "get", Key: "d"},
		{Verb: "set", Key: "e", Value: &text},
	}}
	ops, err := req.ops("p/x/")
	must.NoError(t, err)
	must.Len(t, 6, ops)
	pairs := pairsOf("p/x/a", "plain", "p/x/c", "", "p/x/d", "\xff", "p/x/e", "")
	got := req.results(pairs, "p/x/")
	must.Len(t, 3, got)
	must.Eq(t, "a", got[0].Key)
	must.Eq(t, "plain", *got[0].Value)
	must.Nil(t, got[1].Value)
	must.Eq(t, base64.StdEncoding.EncodeToString([]byte{0xff}), *got[1].ValueBase64)
	must.Eq(t, "e", got[2].Key)
	must.Nil(t, got[2].Value)

	for n, want := range map[string]string{"0": "ops[0]", "1": "ops[1]", "2": "ops[2]", "3": "ops[2]", "4": "ops[3]", "5": "ops[4]"} {
		must.StrContains(t, req.conflict(conflictAt(n)).Error(), want+": ")
	}
	must.StrContains(t, req.conflict(election.ErrConflict).Error(), "ops: ")
}
