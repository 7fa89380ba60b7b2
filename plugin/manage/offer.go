package manage

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// Limits of what is passed on from a task.
const (
	passLimit  = 30 * time.Second // for the whole answer
	maxProfile = 120              // seconds that a profile may take on top
	maxPassed  = 64 << 20         // bytes
)

// passed are the headers of a task's answer that are passed on. Those of the
// connection are its own affair, and cookies are not meant for operators.
func passed() []string {
	return []string{"Content-Type", "Content-Encoding", "Content-Disposition", "Content-Length", "Etag", "Last-Modified", "X-Content-Type-Options"}
}

// passOn asks the task and copies its answer, whatever its status is. It
// returns an error only if nothing has been written. Of the request only query
// and wanted form are passed on, so no token and no cookie.
func (o Offer) passOn(w http.ResponseWriter, r *http.Request) *httpapi.Error {
	limit := passLimit
	if o.Kind == KindProfile {
		extra, refusal := profileTime(r.URL.Query())
		if refusal != nil {
			return refusal
		}
		limit += extra
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	target := url.URL{Scheme: o.Scheme, Host: "localhost", Path: o.path(r), RawQuery: r.URL.RawQuery}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return httpapi.Errorf(http.StatusInternalServerError, "", "build the request: %w", err)
	}
	for _, name := range []string{"Accept", "Accept-Encoding"} {
		if v := r.Header.Values(name); len(v) > 0 {
			req.Header[name] = v
		}
	}
	transport := o.transport()
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req) // without a client nothing follows redirects
	if err != nil {
		if ctx.Err() != nil && r.Context().Err() == nil {
			return httpapi.Errorf(http.StatusGatewayTimeout, "", "the task's %s did not answer within %s", o.Kind, limit)
		}
		return httpapi.Errorf(http.StatusBadGateway, "", "ask the task's %s: %w", o.Kind, err)
	}
	defer func() { _ = resp.Body.Close() }() // what was read is passed on already
	if resp.StatusCode < http.StatusOK {
		return httpapi.Errorf(http.StatusBadGateway, "", "the task's %s answers with status %d", o.Kind, resp.StatusCode)
	}
	if resp.StatusCode >= 300 && resp.StatusCode <= 399 && resp.StatusCode != http.StatusNotModified {
		return httpapi.Errorf(http.StatusBadGateway, "", "the task's %s answers with a redirect (%d), which is not followed; write the path that it leads to into the job", o.Kind, resp.StatusCode)
	}
	if resp.ContentLength > maxPassed {
		return httpapi.Errorf(http.StatusBadGateway, "", "the task's %s has %d bytes; at most %d are passed on", o.Kind, resp.ContentLength, maxPassed)
	}
	for _, name := range passed() {
		if v := resp.Header.Values(name); len(v) > 0 {
			w.Header()[name] = v
		}
	}
	w.WriteHeader(resp.StatusCode)
	if !copyBounded(w, resp.Body, maxPassed) {
		panic(http.ErrAbortHandler) // the client must not take it for complete
	}
	return nil
}

// path is where in the task the request goes. A path below that of a profile
// cannot leave it.
func (o Offer) path(r *http.Request) string {
	if o.Kind != KindProfile {
		return o.Path
	}
	sub := r.PathValue("path")
	if sub == "" && !strings.HasSuffix(r.URL.Path, "/") {
		return o.Path
	}
	clean := path.Clean("/" + sub)
	if strings.HasSuffix(sub, "/") && clean != "/" {
		clean += "/"
	}
	return strings.TrimSuffix(o.Path, "/") + clean
}

// profileTime is how long a profile takes by the parameter seconds.
func profileTime(q url.Values) (time.Duration, *httpapi.Error) {
	text := q.Get("seconds")
	if text == "" {
		return 0, nil
	}
	s, err := strconv.ParseFloat(text, 64)
	if err != nil || !(s >= 0 && s <= maxProfile) {
		return 0, httpapi.Errorf(http.StatusBadRequest, "seconds", "%q is not within 0 and %d", text, maxProfile)
	}
	return time.Duration(s * float64(time.Second)), nil
}

// transport is for one request: an idle connection would outlive the task or
// hold its network namespace.
func (o Offer) transport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return o.Dial(ctx) },
		TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // see Offer.Scheme
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// copyBounded copies at most limit bytes and flushes each piece. It reports
// whether that was all.
func copyBounded(w http.ResponseWriter, from io.Reader, limit int64) bool {
	ctrl := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if limit -= int64(n); limit < 0 {
			return false
		}
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return false
			}
			if ctrl.Flush() != nil {
				return false
			}
		}
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return false
		}
	}
}
