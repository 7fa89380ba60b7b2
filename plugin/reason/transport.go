package reason

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	// maxBody bounds an answer. An allocation with its job has some 10 to 100
	// KiB.
	maxBody = 8 << 20
	// maxHeader bounds the headers of an answer.
	maxHeader = 64 << 10

	dialTimeout = 5 * time.Second
	idleTimeout = 90 * time.Second

	streamPath = "/v1/event/stream"
)

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// transport puts the token into requests to Nomad and bounds the answers. The
// only answer without a bound is an event stream that was granted: its reader
// bounds each frame.
type transport struct {
	base   *http.Transport
	tokens *tokens
	host   string // the only one that gets the token
}

func newTransport(u *url.URL, tlsConfig *tls.Config, tokens *tokens, dial dialFunc) *transport {
	host := u.Host
	if u.Scheme == "unix" {
		host = unixHost
	}
	if dial == nil {
		d := &net.Dialer{Timeout: dialTimeout}
		dial = d.DialContext
		if u.Scheme == "unix" {
			dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", u.Path) }
		}
	}
	return &transport{
		base: &http.Transport{
			DialContext:            dial, // and no proxy: the token is for Nomad
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    dialTimeout,
			IdleConnTimeout:        idleTimeout,
			MaxIdleConnsPerHost:    4,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true, // a small answer can unpack to any size
		},
		tokens: tokens,
		host:   host,
	}
}

// unixHost is the host that package api sends to over a unix socket.
const unixHost = "127.0.0.1"

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Del("Accept-Encoding") // package api asks for gzip
	if req.URL.Host == t.host && req.Header.Get("X-Nomad-Token") == "" {
		token, err := t.tokens.get()
		if err != nil {
			return nil, errors.Join(err, closeBody(req.Body))
		}
		if token != "" {
			req.Header.Set("X-Nomad-Token", token)
		}
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" {
		return nil, errors.Join(fmt.Errorf("the answer is encoded as %q, which was not asked for", clean(e)), resp.Body.Close())
	}
	if resp.StatusCode != http.StatusOK || req.URL.Path != streamPath {
		resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxBody}
	}
	return resp, nil
}

// CloseIdleConnections makes http.Client's method of this name work.
func (t *transport) CloseIdleConnections() { t.base.CloseIdleConnections() }

func closeBody(b io.Closer) error {
	if b == nil {
		return nil
	}
	return b.Close()
}

// boundedBody fails, unlike io.LimitReader, if there is more than it may read.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		// A body that has ended exactly here has no more.
		var one [1]byte
		n, err := b.ReadCloser.Read(one[:])
		if n > 0 {
			return 0, fmt.Errorf("the answer has more than %d bytes", maxBody)
		}
		return 0, err
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
