package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/tracing"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// Headers of requests and answers, besides those of package gather.
const (
	// CoverageWantedHeader is the share of leaves that a client is content with: "0.9".
	CoverageWantedHeader = "Scatter-Min-Coverage"
	// DepthHeader counts the roots and parents that a request has passed.
	DepthHeader = "Scatter-Depth"
	// PathHeader names them, with commas.
	PathHeader = "Scatter-Path"
	// grpcTimeout is understood as well: "250m" are milliseconds.
	grpcTimeout = "Grpc-Timeout"
	traceParent = "Traceparent"
)

// RouteConfig says what is asked of whom.
type RouteConfig struct {
	Name   string
	Group  *gather.Group
	Merger merge.Merger
	// Token is what leaves are shown. Private: what the client has shown is not for them.
	Token   string
	Private bool
	// Idempotent: a leaf may be asked twice whatever the method is.
	Idempotent bool
	// Stream: the answer begins with the first partial answer. What is missing then shows
	// in the trailer, and cuts the answer if it is not allowed.
	Stream bool
	// MaxAnswer is the size of the largest merged answer that does not stream, in bytes.
	MaxAnswer int64
	// MaxDepth bounds the roots and parents that a request may pass.
	MaxDepth int
}

// route serves requests.
type route struct {
	RouteConfig
	self    string // name in the path
	metrics *metrics
	tracer  *tracing.Tracer // nil: none
	shared  *shared         // nil: each request is answered by itself
}

// notForLeaves are headers that are between two neighbours only (RFC 9110, 7.6.1), those
// about an answer that the client has already or wants in part, which is the merged one, and
// those that this agent sets itself.
var notForLeaves = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Content-Length": true, "Accept-Encoding": true, "Expect": true,
	"Range": true, "If-Range": true, "If-Match": true, "If-None-Match": true, "If-Modified-Since": true, "If-Unmodified-Since": true,
	CoverageWantedHeader: true, gather.TimeoutHeader: true, gather.AttemptHeader: true, DepthHeader: true, PathHeader: true, grpcTimeout: true, traceParent: true,
}

func (rt *route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	req, err := rt.request(r)
	if err != nil {
		rt.metrics.took.WithLabelValues(rt.Name, refused).Observe(time.Since(began).Seconds())
		rt.fail(w, err)
		return
	}
	span := rt.tracer.Start(r, rt.Name)
	if span != nil {
		req.Trace = span.Leaf
	}
	if rt.Stream {
		c, err := rt.stream(w, r, req)
		span.End(c, err)
		rt.metrics.count(rt.Name, time.Since(began), c, err)
		if err != nil {
			// The status is sent; a client that gets the end of the answer takes it for whole.
			panic(http.ErrAbortHandler)
		}
		return
	}
	var a *answered
	if rt.shared != nil && req.Again {
		a, err = rt.shared.get(r.Context(), keyOf(r, req), func(ctx context.Context) (*answered, error) { return rt.answer(ctx, r, req) })
	} else {
		a, err = rt.answer(r.Context(), r, req)
	}
	if err != nil {
		var c gather.Coverage
		var short *gather.ShortError
		if errors.As(err, &short) {
			c = short.Coverage
		}
		span.End(c, err)
		rt.metrics.count(rt.Name, time.Since(began), c, err)
		rt.fail(w, err)
		return
	}
	span.End(a.coverage, nil)
	rt.metrics.count(rt.Name, time.Since(began), a.coverage, nil)
	a.write(w)
}

// answer gathers an answer as a whole.
func (rt *route) answer(ctx context.Context, r *http.Request, req *gather.Request) (*answered, error) {
	a := &answered{status: http.StatusOK, header: http.Header{}, most: rt.MaxAnswer}
	var m merge.Merge
	c, err := rt.Group.Gather(ctx, req, func(ctx context.Context, shards int) (merge.Merge, error) {
		var err error
		m, err = rt.Merger.Begin(ctx, merge.Request{ID: newID(), HTTP: r, Shards: shards}, a)
		return m, err
	})
	if err != nil {
		return nil, err
	}
	if s, is := m.(merge.WithStatus); is && s.Status() != 0 {
		a.status = s.Status()
	}
	a.coverage, a.at = c, time.Now()
	return a, nil
}

// stream sends the answer as it is merged. An error after which the answer cannot be whole
// any more is returned; others are answered.
func (rt *route) stream(w http.ResponseWriter, r *http.Request, req *gather.Request) (gather.Coverage, error) {
	out := &streamed{w: w}
	w.Header().Set("Trailer", gather.CoverageHeader+", "+gather.MissingHeader)
	c, err := rt.Group.Gather(r.Context(), req, func(ctx context.Context, shards int) (merge.Merge, error) {
		var err error
		out.m, err = rt.Merger.Begin(ctx, merge.Request{ID: newID(), HTTP: r, Shards: shards}, out)
		return out.m, err
	})
	switch {
	case err != nil && out.begun:
		return c, err
	case err != nil:
		rt.fail(w, err)
		return c, nil
	}
	if !out.begun {
		w.Header().Del("Trailer")
	}
	c.Set(w.Header()) // the trailer, if it has begun
	return c, nil
}

// request is what leaves are asked.
func (rt *route) request(r *http.Request) (*gather.Request, error) {
	h := r.Header
	depth, err := number(h, DepthHeader)
	if err != nil {
		return nil, err
	}
	if int(depth) >= rt.MaxDepth {
		return nil, httpapi.Errorf(http.StatusLoopDetected, DepthHeader, "the request has passed %d roots, and %d are the limit", int(depth), rt.MaxDepth)
	}
	path := h.Get(PathHeader)
	for name := range strings.SplitSeq(path, ",") {
		if strings.TrimSpace(name) == rt.self {
			return nil, httpapi.Errorf(http.StatusLoopDetected, PathHeader, "the request has passed this root, %q, already", rt.self)
		}
	}
	req := &gather.Request{Method: r.Method, URL: r.URL, Header: make(http.Header, len(h)+4)}
	if r.Method == http.MethodHead {
		req.Method = http.MethodGet // the head is that of the merged answer, which has to be made
	}
	req.Again = rt.Idempotent || r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if req.MinCoverage, err = number(h, CoverageWantedHeader); err == nil && h.Get(CoverageWantedHeader) != "" && !(req.MinCoverage > 0 && req.MinCoverage <= 1) {
		err = httpapi.Errorf(http.StatusBadRequest, CoverageWantedHeader, "%q is not more than 0 and at most 1", h.Get(CoverageWantedHeader))
	}
	if err != nil {
		return nil, err
	}
	// The first root judges: those below it give what they have.
	req.Part = depth > 0
	if req.Timeout, err = timeout(h); err != nil {
		return nil, err
	}
	if r.Body != nil {
		if req.Body, err = io.ReadAll(r.Body); err != nil { // it has been read before, so this is memory only
			return nil, httpapi.Errorf(http.StatusBadRequest, "", "read the body: %v", err)
		}
	}
	connection := h.Values("Connection")
	for name, values := range h {
		if !notForLeaves[name] && !named(connection, name) {
			req.Header[name] = values
		}
	}
	if rt.Private {
		req.Header.Del("Authorization")
	}
	if rt.Token != "" {
		req.Header.Set("Authorization", "Bearer "+rt.Token)
	}
	req.Header.Set(CoverageWantedHeader, strconv.FormatFloat(rt.Group.Wanted(req), 'g', -1, 64))
	req.Header.Set(DepthHeader, strconv.Itoa(int(depth)+1))
	if path != "" {
		path += ","
	}
	req.Header.Set(PathHeader, path+rt.self)
	req.Header.Set(traceParent, trace(h.Get(traceParent)))
	return req, nil
}

// named is whether the header Connection names another one.
func named(connection []string, name string) bool {
	for _, v := range connection {
		for n := range strings.SplitSeq(v, ",") {
			if textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(n)) == name {
				return true
			}
		}
	}
	return false
}

func number(h http.Header, name string) (float64, error) {
	text := h.Get(name)
	if text == "" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0 && v < 1<<20) {
		return 0, httpapi.Errorf(http.StatusBadRequest, name, "%q is not a number", text)
	}
	return v, nil
}

// timeout is what the client waits for; 0: it does not say.
func timeout(h http.Header) (time.Duration, error) {
	if text := h.Get(gather.TimeoutHeader); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, httpapi.Errorf(http.StatusBadRequest, gather.TimeoutHeader, "%q is not a time such as 250ms", text)
		}
		if d <= 0 {
			return 0, httpapi.Errorf(http.StatusGatewayTimeout, gather.TimeoutHeader, "the deadline is over")
		}
		return d, nil
	}
	text := h.Get(grpcTimeout)
	if text == "" {
		return 0, nil
	}
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}
	unit := units[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if err != nil || unit == 0 || len(text) > 9 {
		return 0, httpapi.Errorf(http.StatusBadRequest, grpcTimeout, "%q is not a number of up to 8 digits with a unit", text)
	}
	return time.Duration(n) * unit, nil
}

// trace is the W3C trace context for leaves: that of the client with this hop as the
// parent, or a new one.
func trace(given string) string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // it never fails
	id, span, flags := hex.EncodeToString(b[:16]), hex.EncodeToString(b[16:]), "00"
	parts := strings.Split(given, "-")
	if len(parts) == 4 && parts[0] == "00" && isHex(parts[1], 32) && isHex(parts[2], 16) && isHex(parts[3], 2) {
		id, flags = parts[1], parts[3]
	}
	return "00-" + id + "-" + span + "-" + flags
}

func isHex(text string, n int) bool {
	if len(text) != n {
		return false
	}
	for _, c := range text {
		if !strings.ContainsRune("0123456789abcdef", c) {
			return false
		}
	}
	return true
}

func newID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// failure is the body of an answer that says why there is none.
type failure struct {
	Error    string           `json:"error"`
	Field    string           `json:"field,omitempty"`
	Coverage *gather.Coverage `json:"coverage,omitempty"`
}

// retryAfter is how long clients should wait when there are too many, or nobody is there.
const retryAfter = "1"

func (rt *route) fail(w http.ResponseWriter, err error) {
	w.Header().Del("Trailer")
	body, status := failure{Error: err.Error()}, http.StatusBadGateway
	var bad *httpapi.Error
	var short *gather.ShortError
	switch {
	case errors.As(err, &bad):
		status, body.Error, body.Field = bad.Status, bad.Message, bad.Field
	case errors.Is(err, gather.ErrShed):
		status = http.StatusTooManyRequests
		w.Header().Set("Retry-After", retryAfter)
	case errors.Is(err, gather.ErrNoLeaves):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", retryAfter)
	case errors.As(err, &short) && short.Answer != nil:
		rt.refuse(w, short)
		return
	case errors.As(err, &short):
		short.Coverage.Set(w.Header())
		body.Coverage = &short.Coverage
		for _, m := range short.Coverage.Missing {
			if m.Reason == gather.Timeout {
				status = http.StatusGatewayTimeout
			}
		}
	case errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
	case errors.Is(err, merge.ErrRequest):
		status = http.StatusBadRequest
	case errors.Is(err, context.Canceled): // the client has gone, or this root is ending
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", retryAfter)
	}
	httpapi.WriteJSON(w, status, body)
}

// refuse passes on what leaves have said that do not accept the request.
func (rt *route) refuse(w http.ResponseWriter, short *gather.ShortError) {
	for _, name := range []string{"Content-Type", "Www-Authenticate", "Allow"} {
		if v := short.Answer.Header.Values(name); len(v) > 0 {
			w.Header()[name] = v
		}
	}
	short.Coverage.Set(w.Header())
	w.WriteHeader(short.Answer.Status)
	_, _ = w.Write(short.Answer.Body) // it fails only when nobody is left to be told
}

// errTooLarge says that the merged answer has no room.
var errTooLarge = errors.New("the merged answer is too large")

// answered is a merged answer. It implements merge.Writer.
type answered struct {
	status   int
	header   http.Header
	body     bytes.Buffer
	most     int64 // bytes of body
	coverage gather.Coverage
	at       time.Time // when it was whole
}

func (a *answered) Header() http.Header { return a.header }

func (a *answered) Write(b []byte) (int, error) {
	if int64(a.body.Len()+len(b)) > a.most {
		return 0, fmt.Errorf("%w: %d bytes are the limit; let the route stream", errTooLarge, a.most)
	}
	return a.body.Write(b)
}

func (a *answered) write(w http.ResponseWriter) {
	h := w.Header()
	for name, values := range a.header {
		h[name] = values
	}
	a.coverage.Set(h)
	h.Set("Content-Length", strconv.Itoa(a.body.Len()))
	if age := int(time.Since(a.at).Seconds()); age > 0 {
		h.Set("Age", strconv.Itoa(age))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // it fails only when nobody is left to be told
}

// streamed implements merge.Writer with what is sent at once.
type streamed struct {
	w     http.ResponseWriter
	m     merge.Merge
	begun bool // the status was sent
}

func (s *streamed) Header() http.Header { return s.w.Header() }

func (s *streamed) Write(b []byte) (int, error) {
	if m, is := s.m.(merge.WithStatus); is && !s.begun && m.Status() != 0 {
		s.w.WriteHeader(m.Status())
	}
	s.begun = true
	n, err := s.w.Write(b)
	if err == nil { // the next may be long in coming
		err = http.NewResponseController(s.w).Flush()
	}
	return n, err
}
