package gather

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	dialTimeout = 2 * time.Second
	// readSize is enough for most headers; large bodies are read around it.
	readSize = 2 << 10
	// maxHead bounds the header of an answer, in bytes.
	maxHead = 64 << 10
	// maxInformal bounds the answers from 100 to 199 before the real one.
	maxInformal = 5
	// idleTime is how long a connection is kept that nobody uses, and maxIdle how many
	// are, of an address.
	idleTime = 90 * time.Second
	maxIdle  = 64
)

// transport sends requests to leaves over connections that are kept. It does what
// net/http's does for plain HTTP/1.1 without a proxy, and is there because that needs two
// goroutines and several switches between them for each request: with a thousand leaves
// that is most of the work of a root. A request is written and its answer read by the
// goroutine that asks; its deadline is the connection's.
type transport struct {
	dialer net.Dialer

	mu    sync.Mutex
	idle  map[string][]*conn // by address; the one that was used last is the last
	known map[string]bool    // addresses whose connections are kept; nil: all
}

// conn is a connection to a leaf.
type conn struct {
	net.Conn
	in    *bufio.Reader
	left  int64 // bytes that may be read
	got   bool  // something was read since the last request
	used  bool  // it has answered before
	since time.Time
}

// Read reads within the limit.
func (c *conn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errHead
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	c.got = c.got || n > 0
	return n, err
}

var errHead = fmt.Errorf("the header of the answer has more than %d bytes", maxHead)

func newTransport() *transport {
	return &transport{dialer: net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}, idle: map[string][]*conn{}}
}

// RoundTrip implements http.RoundTripper. The body of the answer has to be closed.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	address := req.URL.Host
	again := replayable(req)
	for {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		c := t.take(address, !again)
		if c == nil {
			var err error
			if c, err = t.dial(ctx, address); err != nil {
				return nil, err
			}
		}
		resp, err := t.exchange(ctx, c, req)
		if err == nil {
			return resp, nil
		}
		stale := c.used && !c.got
		_ = c.Close()
		if err = ended(ctx, err); ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
		if !stale || !again {
			return nil, err
		}
		if req.GetBody != nil {
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// ended is the end of the context if an error comes from that. The connection's deadline is
// the context's, and may come a moment before.
func ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.DeadlineExceeded
	}
	return err
}

// replayable is whether a request may be sent again if the leaf has closed a kept
// connection meanwhile, which cannot be told from closing it because of the request.
func replayable(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

func (t *transport) dial(ctx context.Context, address string) (*conn, error) {
	nc, err := t.dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc}
	c.in = bufio.NewReaderSize(c, readSize)
	return c, nil
}

// exchange writes the request and reads the header of the answer.
func (t *transport) exchange(ctx context.Context, c *conn, req *http.Request) (*http.Response, error) {
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	c.got, c.left = false, maxHead
	resp, err := c.ask(req)
	if err != nil {
		stop()
		return nil, err
	}
	c.left = math.MaxInt64
	resp.Body = &body{ReadCloser: resp.Body, t: t, c: c, req: req, stop: stop, keep: !resp.Close && resp.StatusCode != http.StatusSwitchingProtocols}
	return resp, nil
}

func (c *conn) ask(req *http.Request) (*http.Response, error) {
	if err := c.send(req); err != nil {
		return nil, err
	}
	for range maxInformal + 1 {
		resp, err := http.ReadResponse(c.in, req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
	}
	return nil, errors.New("too many informational answers")
}

// writers are not the connections', of which there may be thousands that write nothing.
var writers = sync.Pool{New: func() any { return bufio.NewWriter(nil) }}

func (c *conn) send(req *http.Request) error {
	out := writers.Get().(*bufio.Writer)
	out.Reset(c.Conn)
	err := req.Write(out)
	if err == nil {
		err = out.Flush()
	}
	out.Reset(nil)
	writers.Put(out)
	return err
}

// body is that of an answer. When it was read to its end the connection is kept.
type body struct {
	io.ReadCloser
	t    *transport
	c    *conn
	req  *http.Request
	stop func() bool // of the watch on the context
	keep bool
	eof  bool
	once sync.Once
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.eof = true
	} else if err != nil {
		err, b.keep = ended(b.req.Context(), err), false
	}
	return n, err
}

// Close gives the connection back.
func (b *body) Close() error {
	b.once.Do(func() {
		// If the context has ended the deadline is over, or is about to be.
		if !b.stop() || !b.keep || !b.eof {
			_ = b.c.Close() // what was wanted of it was read
			return
		}
		b.t.put(b.req.URL.Host, b.c)
	})
	return nil
}

// take returns a kept connection; nil: there is none. Checked ones were looked at: the leaf
// has not closed them.
func (t *transport) take(address string, checked bool) *conn {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		list := t.idle[address]
		if len(list) == 0 {
			return nil
		}
		c := list[len(list)-1]
		list[len(list)-1] = nil
		t.idle[address] = list[:len(list)-1]
		if now.Sub(c.since) < idleTime && c.in.Buffered() == 0 && (!checked || !closed(c.Conn)) {
			return c
		}
		_ = c.Close()
	}
}

// closed looks whether the other side has closed a connection, or sends what nobody has
// asked for.
func closed(nc net.Conn) bool {
	sc, is := nc.(syscall.Conn)
	if !is {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err != nil || !open
}

func (t *transport) put(address string, c *conn) {
	c.used, c.since = true, time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known != nil && !t.known[address] {
		_ = c.Close() // the leaf has gone meanwhile
		return
	}
	list := t.idle[address]
	drop := 0
	for drop < len(list) && (len(list)-drop >= maxIdle || c.since.Sub(list[drop].since) >= idleTime) {
		_ = list[drop].Close()
		drop++
	}
	t.idle[address] = append(list[drop:], c)
}

// retain closes kept connections of addresses that are no leaves any more, and keeps no
// others from now on.
func (t *transport) retain(addresses map[string]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known = addresses
	for address, list := range t.idle {
		if addresses[address] {
			continue
		}
		for _, c := range list {
			_ = c.Close()
		}
		delete(t.idle, address)
	}
}
