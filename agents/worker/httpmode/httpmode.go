// Package httpmode does items by asking a program that is running already, over HTTP.
//
//	POST /work
//	{"queue":"photos","stage":"resize","item":"0-17","claim":5,
//	 "input":"/alloc/data/a.jpg","output":"/alloc/out/…/a.jpg",
//	 "attrs":{"size":"800"},"inputs":["…"],"progress":"/…","emit":"/…"}
//
// Paths are those of the worker, so the program needs the same volumes, and to be allowed to
// write there: the directories belong to the worker's user. It answers when it is done:
//
//	200, other 2xx  done; the output is written
//	204             skipped: done, and nothing comes of it
//	422             rejected: no other attempt would go better
//	anything else   failed: again later
//
// If it cannot be connected to, the item is given back and does not count as failed, and
// nothing more is claimed until it can.
//
// The first 200 bytes of the body are the reason. When the attempt has to end, because of
// max_runtime or a lost lease, the request is cancelled, that is, its connection is
// closed. A program that goes on then does no harm: what it writes is not published.
package httpmode

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
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	maxReason    = 200             // bytes of a reason that are kept
	maxBody      = 64 << 10        // bytes of a body that are read
	readyTimeout = 5 * time.Second // of one ready check
)

// Config says where the program is.
type Config struct {
	URL   string // http://…, https://…
	Ready string // answers 2xx when items can be done; empty: not asked
}

// Program does items by a program. It implements attempt.Way.
type Program struct {
	cfg       Config
	host      string // and port
	transport *http.Transport
	client    *http.Client
}

// CheckURL checks a URL of the program. The error does not show it: there may be a
// password in it.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("is not a URL such as http://127.0.0.1:9000/work")
	}
	if u.User != nil {
		return errors.New("must be without user and password")
	}
	return nil
}

// New checks the URLs.
func New(cfg Config) (*Program, error) {
	for _, u := range []string{cfg.URL, cfg.Ready} {
		if u == "" && cfg.URL != "" {
			continue
		}
		if err := CheckURL(u); err != nil {
			return nil, fmt.Errorf("the address of the program %w", err)
		}
	}
	t := agent.ClientTransport(nil)
	// A program may close a connection that is kept just when it is used again. Then
	// nobody knows whether it has begun, and the item would have failed for nothing.
	t.DisableKeepAlives = true
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	return &Program{cfg, host, t, &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a POST that becomes a GET would be done by nobody
	}}}, nil
}

// Close gives idle connections back.
func (p *Program) Close() error {
	p.transport.CloseIdleConnections()
	return nil
}

// Ready implements attempt.Way. Without a URL for that, to listen is to be ready.
func (p *Program) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if p.cfg.Ready == "" {
		conn, err := p.transport.DialContext(ctx, "tcp", p.host)
		if err != nil {
			return fmt.Errorf("the program is not ready: %w", err)
		}
		return conn.Close()
	}
	status, body, err := p.send(ctx, http.MethodGet, p.cfg.Ready, nil)
	if err != nil {
		return fmt.Errorf("the program is not ready: %w", err)
	}
	if status < 200 || status > 299 {
		return fmt.Errorf("the program is not ready: %s answers %d: %s", p.cfg.Ready, status, body)
	}
	return nil
}

// request is what the program is told.
type request struct {
	Queue    string            `json:"queue"`
	Stage    string            `json:"stage"`
	Item     string            `json:"item"`
	Claim    uint64            `json:"claim"`
	Input    string            `json:"input,omitempty"`
	Inputs   []string          `json:"inputs,omitempty"`
	Output   string            `json:"output,omitempty"`
	Attrs    map[string]string `json:"attrs,omitempty"`
	Progress string            `json:"progress,omitempty"`
	Emit     string            `json:"emit,omitempty"`
}

// Request is what a program that does an attempt is told, as JSON.
func Request(a *attempt.Attempt) ([]byte, error) {
	return json.Marshal(request{
		Queue: a.Queue, Stage: a.Stage, Item: a.ID.String(), Claim: a.Claim, Input: a.Input, Inputs: a.Item.Inputs,
		Output: a.Output, Attrs: a.Item.Attrs, Progress: a.Progress, Emit: a.Emit,
	})
}

// Do implements attempt.Way.
func (p *Program) Do(ctx context.Context, a *attempt.Attempt) attempt.Result {
	body, err := Request(a)
	if err != nil {
		return attempt.Failedf("ask the program: %v", err)
	}
	// Answering takes as long as the work, which the caller bounds.
	status, reason, err := p.send(ctx, http.MethodPost, p.cfg.URL, body)
	switch {
	case err != nil:
		res := attempt.Failedf("ask the program: %v", err)
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			res.Action = queue.Release // it has not been tried, and will not be before Ready
		}
		return res
	case status == http.StatusNoContent:
		return attempt.Result{Action: queue.Skip}
	case status >= 200 && status <= 299:
		return attempt.Result{Action: queue.Done}
	}
	if reason == "" {
		reason = fmt.Sprintf("the program answered %d", status)
	}
	if status == http.StatusUnprocessableEntity {
		return attempt.Result{Action: queue.Reject, Reason: reason}
	}
	return attempt.Result{Action: queue.Retry, Reason: reason}
}

// send returns the status and the beginning of the body.
func (p *Program) send(ctx context.Context, method, to string, body []byte) (status int, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, "", err
	}
	text = strings.TrimSpace(strings.ToValidUTF8(string(b[:min(len(b), maxReason)]), ""))
	return resp.StatusCode, text, nil
}
