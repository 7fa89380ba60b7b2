package cli

import (
	"bufio"
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
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

const (
	requestTimeout = 15 * time.Second // an answer of the agent; it gives up earlier
	silence        = 15 * time.Second // an event comes every 5 s
	maxAnswer      = 64 << 20         // bytes
	maxEvent       = 1 << 20          // bytes of an event's line
)

// client talks to an agent.
type client struct {
	*agent.Target
	base string // for example http://127.0.0.1:4040
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

// electionPath is the path of an election, with more path and query behind it.
func electionPath(name, rest string) string { return "/v1/elections/" + url.PathEscape(name) + rest }

// open makes a request. The answer is one of success, or the error says what the agent
// said.
func (c *client) open(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.http.Do(req)
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err // the rest is said here
	}
	if err != nil {
		return nil, fmt.Errorf("ask the agent (is it running at %s?): %w", c.Address, err)
	}
	if resp.StatusCode < http.StatusMultipleChoices {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
	}
	var refusal struct {
		httpapi.Error
		Status *election.Status `json:"status"`
	}
	if json.Unmarshal(body, &refusal) != nil || refusal.Message == "" {
		return nil, fmt.Errorf("the agent at %s answered %s", c.Address, resp.Status)
	}
	if st := refusal.Status; st != nil && st.Leader != nil {
		return nil, fmt.Errorf("%w; the leader is %s", &refusal.Error, st.Leader.ID)
	}
	return nil, &refusal.Error
}

// do returns the body of an answer.
func (c *client) do(ctx context.Context, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	defer c.http.CloseIdleConnections()
	resp, err := c.open(ctx, method, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
	}
	return body, nil
}

// errSilent ends a stream that says nothing any more.
var errSilent = fmt.Errorf("the agent said nothing for %s", silence)

// follow calls each with the data of each event until it returns an error, the
// context ends or the agent closes the stream, which is an error too.
func (c *client) follow(ctx context.Context, path string, each func(data []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.http.CloseIdleConnections()
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	resp, err := c.open(ctx, http.MethodGet, path)
	if err != nil {
		return because(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		watchdog.Reset(silence)
		// Our events have one line of data each.
		if data, is := strings.CutPrefix(lines.Text(), "data: "); is {
			if err := each([]byte(data)); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return because(ctx, fmt.Errorf("read events: %w", err))
	}
	return because(ctx, errors.New("the agent ended the stream"))
}

// because returns why the context has ended, if it has.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
