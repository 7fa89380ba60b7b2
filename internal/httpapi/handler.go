package httpapi

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Handler is what all requests to a mux pass through. Its fields do not change
// while it serves.
type Handler struct {
	Mux *http.ServeMux
	Log hclog.Logger

	// Refuse says why a request gets no further, nil if it does. It is asked before
	// anything else is told or read, and may set headers of the answer. Optional.
	Refuse func(w http.ResponseWriter, r *http.Request) *Error
	// Answered is called after each request, unless its connection was cut. Route
	// is the pattern of the mux, "" if there is none. Optional.
	Answered func(r *http.Request, route string, status int, took time.Duration)

	NoHead  bool          // HEAD is refused, so that no answer may name it as allowed
	MaxBody int64         // bytes
	Timeout time.Duration // for a body to come, and for each write to be taken
	Details string        // what has the details of internal errors, for example "the agent's log"
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(inner http.ResponseWriter, r *http.Request) {
	start := time.Now()
	w := &answer{ResponseWriter: inner, ctrl: http.NewResponseController(inner), timeout: h.Timeout}
	found, route := h.Mux.Handler(r)
	defer func() {
		if v := recover(); v != nil {
			h.recovered(w, r, v)
		}
		w.extend() // what the server still has in its buffer is sent after this
		if h.Answered != nil {
			// A handler that writes nothing answers 200.
			h.Answered(r, route, max(w.code, http.StatusOK), time.Since(start))
		}
	}()
	var refusal *Error
	if h.Refuse != nil {
		refusal = h.Refuse(w, r)
	}
	if refusal == nil && route == "" {
		refusal = h.notFound(w, r, found)
	}
	if refusal == nil {
		refusal = h.readBody(w, r)
	}
	if refusal == nil {
		h.Mux.ServeHTTP(w, r)
		return
	}
	if refusal.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	WriteError(w, refusal)
}

// HasToken says whether a request has the bearer token with this hash.
func HasToken(r *http.Request, hash [sha256.Size]byte) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	// Hashes have the same length, which the comparison would otherwise tell.
	got := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(got[:], hash[:]) == 1
}

// recovered answers for a handler that panicked. If the answer has begun the
// connection is cut, so that the client does not take it for complete.
func (h *Handler) recovered(w *answer, r *http.Request, v any) {
	if err, is := v.(error); is && errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler)
	}
	h.Log.Error("handler panicked", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
	if w.code != 0 {
		panic(http.ErrAbortHandler)
	}
	WriteError(w, Errorf(http.StatusInternalServerError, "", "internal error; %s has the details", h.Details))
}

// notFound is the refusal of a request without a route: the mux's own answers are
// not JSON.
func (h *Handler) notFound(w http.ResponseWriter, r *http.Request, mux http.Handler) *Error {
	c := capture{header: http.Header{}}
	mux.ServeHTTP(&c, r)
	if c.code != http.StatusMethodNotAllowed {
		return Errorf(http.StatusNotFound, "", "there is no %s", r.URL.Path)
	}
	allow := c.header.Get("Allow")
	if h.NoHead {
		allow = strings.ReplaceAll(allow, ", HEAD", "")
	}
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
func (h *Handler) readBody(w *answer, r *http.Request) *Error {
	if r.ContentLength == 0 {
		return nil
	}
	if err := w.readUntil(time.Now().Add(h.Timeout)); err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return Errorf(http.StatusRequestEntityTooLarge, "", "the body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Errorf(http.StatusRequestTimeout, "", "the body did not arrive within %s", h.Timeout)
	case err != nil:
		return Errorf(http.StatusBadRequest, "", "read the body: %w", err)
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	return w.readUntil(time.Time{})
}
