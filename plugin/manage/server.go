package manage

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/net/netutil"
)

// Limits of every server of this package.
const (
	maxBody    = 64 << 10 // bytes of a request's body
	maxHeader  = 16 << 10 // bytes of its header
	maxConns   = 64       // connections; further ones wait to be accepted
	maxStreams = 32       // answers that may take long; further ones get 503

	ioTimeout   = 10 * time.Second // for a header or body to come, and for each write to be taken
	idleTimeout = time.Minute
	grace       = 2 * time.Second // for requests to end after their context has
)

// server is what all requests pass through, whoever they are for.
type server struct {
	mux     *http.ServeMux
	log     hclog.Logger
	access  *access     // who may ask; nil: whoever has reached the socket
	tls     *tls.Config // nil: no TLS
	streams chan struct{}
}

func newServer(log hclog.Logger) *server {
	return &server{mux: http.NewServeMux(), log: log, streams: make(chan struct{}, maxStreams)}
}

// serve answers on ln until ctx ends, and closes it. Requests then have a short
// time to end; one that ignores the end of its context is left behind. The error is nil unless the listener has failed before.
func (s *server) serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: ioTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		TLSConfig:         s.tls,
		// What it reports is the doing of clients.
		ErrorLog:  s.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		Protocols: new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	served := make(chan error, 1)
	go func() {
		limited := netutil.LimitListener(ln, maxConns)
		if s.tls != nil {
			served <- srv.ServeTLS(limited, "", "")
			return
		}
		served <- srv.Serve(limited)
	}()
	var failed error
	select {
	case failed = <-served:
		failed = fmt.Errorf("serve: %w", failed)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if srv.Shutdown(end) != nil { // a request did not end in time, or the listener is closed already
		_ = srv.Close() // the same
	}
	if failed == nil {
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			failed = fmt.Errorf("serve: %w", err)
		}
	}
	return failed
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(inner http.ResponseWriter, r *http.Request) {
	w := &answer{ResponseWriter: inner, ctrl: http.NewResponseController(inner)}
	defer func() {
		if v := recover(); v != nil {
			s.recovered(w, r, v)
		}
		w.extend() // what the server still has in its buffer is sent after this
	}()
	if refusal := s.refuse(w, r); refusal != nil {
		if refusal.Status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		writeError(w, refusal)
		return
	}
	s.mux.ServeHTTP(w, r)
}

func (s *server) refuse(w *answer, r *http.Request) *Error {
	if s.access != nil {
		if e := s.access.check(r); e != nil {
			return e
		}
	}
	if r.Method == http.MethodHead { // the mux would take it for GET, also of streams
		w.Header().Set("Allow", "GET, POST")
		return Errorf(http.StatusMethodNotAllowed, "", "HEAD is not possible here")
	}
	if h, route := s.mux.Handler(r); route == "" {
		return notFound(w, r, h)
	}
	return readBody(w, r)
}

// notFound is the refusal of a request without a route: the mux's own answers
// are not JSON.
func notFound(w http.ResponseWriter, r *http.Request, h http.Handler) *Error {
	c := capture{header: http.Header{}}
	h.ServeHTTP(&c, r)
	if c.code != http.StatusMethodNotAllowed {
		return Errorf(http.StatusNotFound, "", "there is no %s", r.URL.Path)
	}
	allow := strings.ReplaceAll(c.header.Get("Allow"), ", HEAD", "")
	w.Header().Set("Allow", allow)
	return Errorf(c.code, "", "%s is not possible on %s, but %s", r.Method, r.URL.Path, allow)
}

// capture keeps status and header of an answer.
type capture struct {
	header http.Header
	code   int
}

func (c *capture) Header() http.Header         { return c.header }
func (c *capture) Write(b []byte) (int, error) { return len(b), nil }
func (c *capture) WriteHeader(code int)        { c.code = code }

// readBody reads the whole body before the handler runs, so that one deadline
// bounds it and the connection is free to tell when the client leaves.
func readBody(w *answer, r *http.Request) *Error {
	if r.ContentLength == 0 {
		return nil
	}
	// A writer without deadlines is a test's.
	_ = w.ctrl.SetReadDeadline(time.Now().Add(ioTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return Errorf(http.StatusRequestEntityTooLarge, "", "the body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Errorf(http.StatusRequestTimeout, "", "the body did not arrive within %s", ioTimeout)
	case err != nil:
		return Errorf(http.StatusBadRequest, "", "read the body: %w", err)
	}
	_ = w.ctrl.SetReadDeadline(time.Time{})
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	return nil
}

// recovered answers for a handler that panicked. If the answer has begun the
// connection is cut, so that the client does not take it for complete.
func (s *server) recovered(w *answer, r *http.Request, v any) {
	err, _ := v.(error)
	aborted := errors.Is(err, http.ErrAbortHandler)
	if !aborted {
		s.log.Error("handler panicked", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
	}
	if aborted || w.begun {
		panic(http.ErrAbortHandler)
	}
	writeError(w, Errorf(http.StatusInternalServerError, "", "internal error; the log of the Nomad agent has the details"))
}

// stream takes one of the places for long answers. The caller calls done.
func (s *server) stream() (done func(), refusal *Error) {
	select {
	case s.streams <- struct{}{}:
		return func() { <-s.streams }, nil
	default:
		return nil, Errorf(http.StatusServiceUnavailable, "", "there are %d streams already", maxStreams).after(time.Second)
	}
}

// answer gives each write a deadline of its own and remembers whether there was
// one.
type answer struct {
	http.ResponseWriter
	ctrl  *http.ResponseController // of the ResponseWriter
	begun bool
}

// extend moves the deadline. Writers without deadlines, as tests have them,
// stay so.
func (w *answer) extend() { _ = w.ctrl.SetWriteDeadline(time.Now().Add(ioTimeout)) }

func (w *answer) WriteHeader(code int) {
	w.begun = w.begun || code >= http.StatusOK
	w.ResponseWriter.WriteHeader(code) // it is sent with what follows
}

func (w *answer) Write(b []byte) (int, error) {
	w.begun = true
	w.extend()
	return w.ResponseWriter.Write(b)
}

// FlushError is what http.ResponseController.Flush calls.
func (w *answer) FlushError() error {
	w.extend()
	return w.ctrl.Flush()
}

// Unwrap is for http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
