package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-patterns/nomad-patterns/election"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what happens at once unless the code is broken.
const patience = 30 * time.Second

// lonely is a server whose Consul does not answer: so it joins, and never leads. What
// needs a leader is tested against a real Consul, in e2e.
type lonely struct {
	*Server
	url    string
	client *http.Client
}

func alone(t *testing.T, elections ...Election) lonely {
	t.Helper()
	e, err := election.New(election.Config{Consul: &api.Config{Address: "127.0.0.1:1"}, ID: "me"})
	must.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // there is nothing to be said to Consul
		_ = e.Close(ctx)
	})
	s, err := New(Config{Elector: e, Elections: elections})
	must.NoError(t, err)
	mux := http.NewServeMux()
	s.Routes(mux.Handle)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	t.Cleanup(client.CloseIdleConnections)
	return lonely{Server: s, url: srv.URL, client: client}
}

// reply is a decoded answer.
type reply struct {
	code int
	body map[string]any
}

func (r reply) text(key string) string { return fmt.Sprint(r.body[key]) }

func (l lonely) do(t *testing.T, method, path, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, l.url+path, strings.NewReader(body))
	must.NoError(t, err)
	resp, err := l.client.Do(req)
	must.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	r := reply{code: resp.StatusCode}
	must.NoError(t, json.Unmarshal(b, &r.body), must.Sprint(string(b)))
	return r
}

// events is an open stream.
type events struct {
	lines *bufio.Scanner
	end   context.CancelFunc
}

// open opens a stream; the client leaves when end is called.
func (l lonely) open(t *testing.T, path string) events {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+path, nil)
	must.NoError(t, err)
	resp, err := l.client.Do(req)
	must.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	t.Cleanup(cancel)
	must.Eq(t, http.StatusOK, resp.StatusCode)
	must.Eq(t, "text/event-stream", resp.Header.Get("Content-Type"))
	return events{lines: bufio.NewScanner(resp.Body), end: cancel}
}

// next reads an event; its name is empty at the end of the stream.
func (e events) next(t *testing.T) (name string, data map[string]any) {
	t.Helper()
	for e.lines.Scan() {
		key, value, _ := strings.Cut(e.lines.Text(), ": ")
		switch key {
		case "event":
			name = value
		case "data":
			must.NoError(t, json.Unmarshal([]byte(value), &data))
		case "":
			return name, data
		}
	}
	return "", nil
}

// eventually polls until ok is true, for states that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// fakeTerm is a leadership whose trust a test decides on.
type fakeTerm struct {
	ctx  context.Context
	lose context.CancelCauseFunc
	left []time.Duration // what Trusted returns, one after the other, then 0
}

func newTerm() *fakeTerm {
	f := &fakeTerm{}
	f.ctx, f.lose = context.WithCancelCause(context.Background())
	return f
}

func (f *fakeTerm) Token() uint64            { return 7 }
func (f *fakeTerm) Term() uint64             { return 1 }
func (f *fakeTerm) Valid() bool              { return f.ctx.Err() == nil }
func (f *fakeTerm) Done() <-chan struct{}    { return f.ctx.Done() }
func (f *fakeTerm) Err() error               { return context.Cause(f.ctx) }
func (f *fakeTerm) Context() context.Context { return f.ctx }

func (f *fakeTerm) Trusted() time.Duration {
	if len(f.left) == 0 {
		return 0
	}
	first := f.left[0]
	f.left = f.left[1:]
	return first
}

// pairsOf makes pairs of keys and values.
func pairsOf(list ...string) []*api.KVPair {
	var pairs []*api.KVPair
	for i := 0; i < len(list); i += 2 {
		pairs = append(pairs, &api.KVPair{Key: list[i], Value: []byte(list[i+1]), ModifyIndex: 9})
	}
	return pairs
}

// conflictAt is the error for an operation as package election counts them.
func conflictAt(n string) error {
	return fmt.Errorf("operation %s: %w: why", n, election.ErrConflict)
}
