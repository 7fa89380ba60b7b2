package hook

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
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	maxReply     = 4 << 10 // bytes of a reply that are read at all
	maxReplyTail = 160     // bytes of a reply or output that go into a task event
)

// doHTTP sends one request and returns the status code as text, and for a save
// the answer.
func doHTTP(ctx context.Context, h *Hook, ev Event, t Target) (string, []byte, error) {
	c := h.HTTP
	target, dial, err := t.Dial.place(c)
	if err != nil {
		return "", nil, err
	}
	req, err := newRequest(ctx, h, ev, t, target)
	if err != nil {
		return "", nil, err
	}

	// A transport of its own and no keep-alive: hooks are rare, and an idle
	// connection would outlive the task or hold its network namespace. No
	// compression either: what is unpacked on the way has no length.
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, addr) },
		DisableKeepAlives: true, DisableCompression: true,
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "", nil, context.Cause(ctx)
		}
		// url.Error repeats the URL, with a password or token that it may hold.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return "", nil, fmt.Errorf("%s %s: %w", c.Method, h.where(), err)
	}
	defer func() { _ = resp.Body.Close() }() // the status is all that counts
	if !c.accepts(resp.StatusCode) {
		tail := ""
		// What the task itself says helps its author. What some other host
		// says is not shown: a hook must not become a way to read it.
		if c.URL == "" {
			reply, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply)) // what came of it is enough
			tail = quoteTail(string(reply))
		}
		return "", nil, fmt.Errorf("%s %s: status %d%s", c.Method, h.where(), resp.StatusCode, tail)
	}
	status := fmt.Sprint(resp.StatusCode)
	if h.Kind != Save || resp.StatusCode == http.StatusNoContent {
		return status, nil, nil
	}
	reply, err := readReply(ctx, resp, t.Receive)
	if err != nil {
		return "", nil, fmt.Errorf("%s %s: %w", c.Method, h.where(), err)
	}
	return status, reply, nil
}

// newRequest makes the request of a hook. What the event says is in headers as
// well, for requests whose body is none or something else.
func newRequest(ctx context.Context, h *Hook, ev Event, t Target, target string) (*http.Request, error) {
	var body []byte
	kind := ""
	switch c := h.HTTP; {
	case c.Method == http.MethodGet || c.Method == http.MethodHead:
	case h.Kind == Restore:
		body, kind = t.Send, "application/octet-stream"
	default:
		data, err := json.Marshal(ev)
		if err != nil {
			return nil, fmt.Errorf("encode event: %w", err)
		}
		body, kind = data, "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, h.HTTP.Method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("build request: %w", err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	req.Header.Set("User-Agent", "nomad-driver-lifecycle")
	req.Header.Set("Lifecycle-Event", string(ev.Event))
	req.Header.Set("Lifecycle-Deadline", ev.Deadline.UTC().Format(time.RFC3339Nano))
	req.Header.Set("Lifecycle-Remaining-Ms", strconv.FormatInt(ev.RemainingMS, 10))
	if ev.Reason != "" {
		req.Header.Set("Lifecycle-Reason", ev.Reason)
		req.Header.Set("Lifecycle-Final", strconv.FormatBool(ev.Final))
	}
	for k, v := range h.HTTP.Headers {
		if strings.EqualFold(k, "host") {
			req.Host = v
			continue
		}
		req.Header.Set(k, v)
	}
	return req, nil
}

// readReply reads an answer whole, or not at all: half a checkpoint is none.
func readReply(ctx context.Context, resp *http.Response, limit int64) ([]byte, error) {
	// Without a length the end of the connection is the end of the answer, and
	// a task that died half-way could not be told from one that has finished.
	if resp.ContentLength < 0 && !slices.Contains(resp.TransferEncoding, "chunked") {
		return nil, errors.New("the answer says no length; send Content-Length, or chunks")
	}
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes; at most %d", ErrTooLarge, resp.ContentLength, limit)
	}
	reply, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case int64(len(reply)) > limit:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return reply, nil
}

func (c *HTTPSpec) accepts(code int) bool {
	if len(c.Status) > 0 {
		return slices.Contains(c.Status, code)
	}
	return code >= 200 && code <= 299
}

// where names the place for a person, without secrets.
func (h *Hook) where() string {
	switch c := h.HTTP; {
	case c.Socket != "":
		return "local/" + c.Socket + " " + Redact(c.Path)
	case c.Port != "":
		return "port " + c.Port + " " + Redact(c.Path)
	default:
		return Redact(c.URL)
	}
}

// quoteTail renders the end of some output for a one-line message.
func quoteTail(s string) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	if len(s) > maxReplyTail {
		s = "…" + s[len(s)-maxReplyTail:]
	}
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return ": " + strings.TrimSpace(s)
}

// timeoutDialer dials with a limit of its own, for callers whose context has
// none.
func timeoutDialer() *net.Dialer { return &net.Dialer{Timeout: 30 * time.Second} }
