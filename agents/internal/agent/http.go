package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// server makes the HTTP server of an address. It has no timeout for a whole request
// or answer, because streams go on for long; serveAPI bounds their parts.
func (a *Agent) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: a.opts.IOTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		// What it reports is the doing of clients.
		ErrorLog: a.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
}

// serveAPI is what all requests pass through.
func (a *Agent) serveAPI(inner http.ResponseWriter, r *http.Request) {
	start := time.Now()
	w := &answer{ResponseWriter: inner, ctrl: http.NewResponseController(inner), timeout: a.opts.IOTimeout}
	h, route := a.mux.Handler(r)
	defer func() {
		if v := recover(); v != nil {
			a.recovered(w, r, v)
		}
		// What the server still has in its buffer is sent after this.
		w.extend()
		// A handler that writes nothing answers 200.
		code := max(w.code, http.StatusOK)
		a.requests.WithLabelValues(route, strconv.Itoa(code)).Inc()
		a.log.Debug("request", "method", r.Method, "path", r.URL.Path, "status", code, "took", time.Since(start))
	}()
	refusal := a.access.check(r)
	if refusal == nil && route == "" {
		refusal = notFound(w, r, h)
	}
	if refusal == nil {
		refusal = a.readBody(w, r)
	}
	if refusal == nil {
		a.mux.ServeHTTP(w, r)
		return
	}
	if refusal.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	WriteError(w, refusal)
}

// recovered answers for a handler that panicked. If the answer has begun the
// connection is cut, so that the client does not take it for complete.
func (a *Agent) recovered(w *answer, r *http.Request, v any) {
	if err, is := v.(error); is && errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler)
	}
	a.log.Error("handler panicked", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
	if w.code != 0 {
		panic(http.ErrAbortHandler)
	}
	WriteError(w, Errorf(http.StatusInternalServerError, "", "internal error; the agent's log has the details"))
}

// notFound is the refusal of a request without a route: the mux's own answers are
// not JSON.
func notFound(w http.ResponseWriter, r *http.Request, mux http.Handler) *HTTPError {
	c := capture{header: http.Header{}}
	mux.ServeHTTP(&c, r)
	if c.code != http.StatusMethodNotAllowed {
		return Errorf(http.StatusNotFound, "", "there is no %s", r.URL.Path)
	}
	allow := c.header.Get("Allow")
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

// readBody reads the whole body before the handler runs, so that one deadline bounds
// it and the connection is free to tell when the client leaves.
func (a *Agent) readBody(w *answer, r *http.Request) *HTTPError {
	if r.Body == nil || r.ContentLength == 0 {
		return nil
	}
	if err := w.ctrl.SetReadDeadline(time.Now().Add(a.opts.IOTimeout)); err != nil {
		return Errorf(http.StatusInternalServerError, "", "limit the time of the body: %v", err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, a.opts.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
	case errors.As(err, &tooLarge):
		return Errorf(http.StatusRequestEntityTooLarge, "", "the body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Errorf(http.StatusRequestTimeout, "", "the body did not arrive within %s", a.opts.IOTimeout)
	default:
		return Errorf(http.StatusBadRequest, "", "read the body: %v", err)
	}
	if err := w.ctrl.SetReadDeadline(time.Time{}); err != nil {
		return Errorf(http.StatusInternalServerError, "", "limit the time of the body: %v", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// answer gives each write a deadline of its own and remembers the status.
type answer struct {
	http.ResponseWriter
	ctrl    *http.ResponseController // of the ResponseWriter
	timeout time.Duration
	code    int // 0: not yet written
}

// extend moves the deadline. Writers without deadlines, as tests have them, stay so.
func (w *answer) extend() { _ = w.ctrl.SetWriteDeadline(time.Now().Add(w.timeout)) }

// written takes the deadline away: HTTP/2 resets a stream by it even if nothing is being
// written.
func (w *answer) written() { _ = w.ctrl.SetWriteDeadline(time.Time{}) }

func (w *answer) WriteHeader(code int) {
	if w.code == 0 && code >= http.StatusOK {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code) // it is sent with what follows
}

func (w *answer) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	w.extend()
	defer w.written()
	return w.ResponseWriter.Write(b)
}

// FlushError is what http.ResponseController.Flush calls.
func (w *answer) FlushError() error {
	w.extend()
	defer w.written()
	return w.ctrl.Flush()
}

// Flush makes it an http.Flusher.
func (w *answer) Flush() { _ = w.FlushError() } // the interface has no error

// Unwrap is for http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// serveHealth answers 200 when the agent is ready, and else 503 with the reason.
func (a *Agent) serveHealth(w http.ResponseWriter, _ *http.Request) {
	reason := ""
	select {
	case <-a.draining:
		reason = "draining"
	default:
		if a.opts.Ready != nil {
			if err := a.opts.Ready(); err != nil {
				reason = err.Error()
			}
		}
	}
	status := http.StatusOK
	if reason != "" {
		status = http.StatusServiceUnavailable
	}
	WriteJSON(w, status, struct {
		Ready   bool   `json:"ready"`
		Reason  string `json:"reason,omitempty"`
		Version string `json:"version,omitempty"`
	}{reason == "", strings.TrimSpace(reason), a.opts.Version})
}

// servePrestop is a prestop hook of the lifecycle drivers: it begins the drain and
// answers when it has ended. If the caller leaves, the drain goes on.
func (a *Agent) servePrestop(w http.ResponseWriter, r *http.Request) {
	a.log.Info("draining", "cause", "prestop hook")
	a.beginDrain()
	select {
	case <-r.Context().Done():
	case <-a.drained:
	}
	select {
	case <-a.drained: // perhaps both: requests end right after the drain of a signal
	default:
		return
	}
	if a.drainErr != nil {
		status := http.StatusInternalServerError
		if errors.Is(a.drainErr, context.DeadlineExceeded) {
			status = http.StatusServiceUnavailable
		}
		WriteError(w, Errorf(status, "", "drain: %v", a.drainErr))
		return
	}
	WriteJSON(w, http.StatusOK, struct {
		Drained bool `json:"drained"`
	}{true})
}
