package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

var (
	// errNotDone: another broker has certainly not done what it was asked for.
	errNotDone = errors.New("the leader was not reached")
	// errUnsure: it is not known what another broker has done.
	errUnsure = errors.New("the leader did not answer")
)

// maxPassed bounds what is read of another broker's answer, in bytes.
const maxPassed = 64 << 20

// errand is a request to another broker.
type errand struct {
	method string
	path   string // after the queue's name, with the query
	ctype  string // default: application/json
	body   []byte
	again  bool // to do it twice does no harm
}

// errandFor makes one with a value as the body.
func errandFor(method, path string, body any) (errand, error) {
	e := errand{method: method, path: path}
	if body == nil {
		return e, nil
	}
	var err error
	e.body, err = json.Marshal(body)
	return e, err
}

// passedError is an answer of another broker that is none of success.
type passedError struct {
	status int
	later  string // Retry-After
	body   []byte
}

func (e *passedError) Error() string {
	var said httpapi.Error
	if json.Unmarshal(e.body, &said) == nil && said.Message != "" {
		return said.Error()
	}
	return fmt.Sprintf("the leader answered %d", e.status)
}

// relay tells a client what the other broker has said.
func (e *passedError) relay(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if e.later != "" {
		h.Set("Retry-After", e.later)
	}
	w.WriteHeader(e.status)
	_, _ = w.Write(e.body) // it fails only when nobody is left to be told
}

// pass asks another broker about a queue and returns its answer as it is. The error is
// errNotDone, errUnsure, or a *passedError.
func (s *Server) pass(ctx context.Context, address, name string, e errand) ([]byte, error) {
	path := "/v1/queues"
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	return s.ask(ctx, address, path+e.path, e)
}

func (s *Server) ask(ctx context.Context, address, path string, e errand) ([]byte, error) {
	base, err := agent.BaseURL(address)
	if err != nil {
		return nil, fmt.Errorf("%w: its address %q %w", errNotDone, address, err)
	}
	req, err := http.NewRequestWithContext(ctx, e.method, base+path, bytes.NewReader(e.body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotDone, err)
	}
	req.Header.Set(forwardedHeader, "1")
	if token := *s.token.Load(); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if e.ctype == "" {
		e.ctype = "application/json"
	}
	req.Header.Set("Content-Type", e.ctype)
	s.counts.forwarded.Inc()
	resp, err := s.peers.Do(req)
	if err != nil {
		var dial *net.OpError
		if errors.As(err, &dial) && dial.Op == "dial" {
			return nil, fmt.Errorf("%w at %s: %w", errNotDone, address, err)
		}
		return nil, fmt.Errorf("%w at %s: %w", errUnsure, address, err)
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPassed))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w at %s: %w", errUnsure, address, err)
	case resp.StatusCode == http.StatusMisdirectedRequest:
		return nil, fmt.Errorf("%w: the broker at %s does not lead any more", errNotDone, address)
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		// It is this broker that was refused, not the client.
		return nil, fmt.Errorf("%w: the broker at %s refuses this one; set token_file in peer { }: %s", errNotDone, address, body)
	case resp.StatusCode >= http.StatusMultipleChoices:
		return nil, &passedError{resp.StatusCode, resp.Header.Get("Retry-After"), body}
	}
	return body, nil
}

// route does something to a shard: here if this broker leads it, or there. If nobody leads
// it, it waits for somebody. Errors of here other than *queue.NotLeaderError are final.
func (s *Server) route(r *request, here func(ctx context.Context) error, there func(ctx context.Context, leader string) error, again bool) error {
	ctx, cancel := context.WithTimeout(r.Context(), commitTimeout)
	defer cancel()
	patience := time.Now().Add(leaderWait)
	for {
		err := here(ctx)
		var away *queue.NotLeaderError
		if !errors.As(err, &away) || r.forwarded {
			return err
		}
		if away.Leader != "" && away.Leader != s.address {
			err = there(ctx, away.Leader)
			if !errors.Is(err, errNotDone) && (!again || !errors.Is(err, errUnsure)) {
				return err
			}
		}
		if ctx.Err() != nil || time.Now().After(patience) || s.draining.Load() {
			return err
		}
		pause(ctx, leaderPause)
	}
}

// onShard is route for something with an answer in JSON.
func onShard[T any](s *Server, r *request, e errand, here func(ctx context.Context) (T, error)) (out T, err error) {
	err = s.route(r, func(ctx context.Context) (err error) {
		out, err = here(ctx)
		return err
	}, func(ctx context.Context, leader string) error {
		body, err := s.pass(ctx, leader, r.queue, e)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(body, &out); err != nil {
			return fmt.Errorf("%w at %s as a broker does: %w", errUnsure, leader, err)
		}
		return nil
	}, e.again)
	return out, err
}

// onShards is onShard for several shards at the same time. The answers are in the order
// of the shards; the error is the first one.
func onShards[T any](shards int, do func(k int) (T, error)) ([]T, error) {
	type result struct {
		k   int
		out T
		err error
	}
	results := make(chan result, shards)
	for k := range shards {
		go func() {
			out, err := do(k)
			results <- result{k, out, err}
		}()
	}
	all := make([]T, shards)
	failed := make([]error, shards)
	for range shards {
		r := <-results
		all[r.k], failed[r.k] = r.out, r.err
	}
	for _, err := range failed {
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// places says who leads shards of a queue: the addresses of brokers, "" for this one, which
// comes first. Complete: each shard has a leader.
func (s *Server) places(name string, shards int, led []int) (places []string, complete bool) {
	if len(led) > 0 {
		places = append(places, "")
	}
	complete = true
	here := 0
	seen := map[string]bool{s.address: true, "": true}
	for k := range shards {
		if here < len(led) && led[here] == k {
			here++
			continue
		}
		leader := s.broker.Leader(name, k)
		if leader == "" || leader == s.address {
			complete = false
		}
		if !seen[leader] {
			seen[leader] = true
			places = append(places, leader)
		}
	}
	return places, complete
}

// pause waits, at most until the context ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
