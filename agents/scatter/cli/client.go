package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

const (
	statusTimeout = 15 * time.Second
	maxStatus     = 64 << 20 // bytes
	maxRefusal    = 64 << 10 // bytes that are read of an answer that says why there is none
	maxQuote      = 1 << 10  // bytes that are shown of one that the agent did not write
)

// client talks to an agent.
type client struct {
	*agent.Target
	base string // for example http://127.0.0.1:4060
	http *http.Client
}

// newClient uses the flags. The error is an *agent.ConfigError.
func newClient(f *agent.ClientFlags) (*client, error) {
	t, err := f.Target()
	if err != nil {
		return nil, err
	}
	base, err := agent.BaseURL(t.Address)
	if err != nil {
		return nil, err
	}
	return &client{t, base, &http.Client{Transport: agent.ClientTransport(t.TLS)}}, nil
}

// request is one for do.
func (c *client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	return req, nil
}

// do makes a request. What is said of the answer is the caller's business.
func (c *client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err // the rest is said here
	}
	if err != nil {
		return nil, fmt.Errorf("ask the agent (is it running at %s?): %w", c.Address, err)
	}
	return resp, nil
}

// succeeded is whether an answer is one of success.
func succeeded(resp *http.Response) bool {
	return resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusMultipleChoices
}

// refused is an answer that is none of success, as an error.
func (c *client) refused(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	var refusal httpapi.Error
	if json.Unmarshal(body, &refusal) == nil && refusal.Message != "" {
		return errors.New(printable(refusal.Error()))
	}
	text := strings.TrimSpace(string(body[:min(len(body), maxQuote)]))
	if text == "" {
		return fmt.Errorf("the agent at %s answered %s", c.Address, resp.Status)
	}
	return fmt.Errorf("the agent at %s answered %s: %q", c.Address, resp.Status, text)
}

// get returns the body of an answer of success.
func (c *client) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	defer c.http.CloseIdleConnections()
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	if !succeeded(resp) {
		return nil, c.refused(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
	}
	return body, nil
}
