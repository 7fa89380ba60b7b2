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
	"strings"
	"time"
	"unicode"
)

const (
	maxReply     = 4 << 10 // bytes of a reply that are read at all
	maxReplyTail = 160     // bytes of a reply or output that go into a task event
)

// doHTTP sends one request and returns the status code as text.
func doHTTP(ctx context.Context, h *Hook, ev Event, d *Dialer) (string, error) {
	c := h.HTTP
	target, dial, err := d.place(c)
	if err != nil {
		return "", err
	}
	var body io.Reader
	if c.Method != http.MethodGet && c.Method != http.MethodHead {
		data, err := json.Marshal(ev)
		if err != nil {
			return "", fmt.Errorf("encode event: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, c.Method, target, body)
	if err != nil {
		return "", fmt.Errorf("build request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "nomad-driver-lifecycle")
	for k, v := range c.Headers {
		if strings.EqualFold(k, "host") {
			req.Host = v
			continue
		}
		req.Header.Set(k, v)
	}

	// A transport of its own and no keep-alive: hooks are rare, and an idle
	// connection would outlive the task or hold its network namespace.
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, addr) },
		DisableKeepAlives: true,
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		// url.Error repeats the URL, with a password or token that it may hold.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return "", fmt.Errorf("%s %s: %w", c.Method, h.where(), err)
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
		return "", fmt.Errorf("%s %s: status %d%s", c.Method, h.where(), resp.StatusCode, tail)
	}
	return fmt.Sprint(resp.StatusCode), nil
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
