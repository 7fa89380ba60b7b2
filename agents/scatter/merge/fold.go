package merge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxReport is how long an answer may be that says which shards are garbage.
	maxReport = 1 << 20
	// maxQuote is how much of an answer is told in an error.
	maxQuote = 200
	// maxDrain is how much of an answer is read only to keep its connection.
	maxDrain = 64 << 10
	// maxType is how long the Content-Type of a partial may be.
	maxType = 1 << 10
)

// fold is the merge of one request by the container.
type fold struct {
	c       *Container
	ctx     context.Context
	w       Writer
	url     string // of this request
	request string // what the client asked
	shards  int

	parts  *bytes.Buffer   // framed, not yet sent; nil: none
	count  int             // of them
	usable map[string]bool // by shard, of all parts so far
	told   bool            // the container may have heard of the request
	ended  bool
	status int
}

// Add sends what has been gathered if it is enough.
func (f *fold) Add(p Partial) error {
	contentType := p.Header.Get("Content-Type")
	if len(contentType) > maxType {
		return garbage("its Content-Type has %d bytes; at most %d are passed on", len(contentType), maxType)
	}
	if f.parts == nil {
		f.parts = &bytes.Buffer{}
	}
	// That a leaf's status was 200 is what made its answer a partial one.
	part := Part{Shard: p.Shard, Status: http.StatusOK, Type: frameType(contentType), Body: p.Body}
	if err := WriteFrame(f.parts, part); err != nil {
		return err
	}
	f.usable[p.Shard] = true
	f.count++
	if f.parts.Len() < f.c.cfg.FoldBytes && f.count < f.c.cfg.FoldParts {
		return nil
	}
	return f.send()
}

// send sends the parts that have been gathered, if any.
func (f *fold) send() error {
	if f.parts == nil {
		return nil
	}
	// The transport may read the body for longer than the call takes: it is not used again.
	body := f.parts.Bytes()
	f.parts, f.count, f.told = nil, 0, true
	resp, err := f.call(f.ctx, http.MethodPost, f.url, body)
	if err != nil {
		return err
	}
	defer drain(resp)
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return nil
	case resp.StatusCode == http.StatusUnprocessableEntity:
		return f.report(resp)
	}
	return failure(resp)
}

// report reads which parts the container cannot use.
func (f *fold) report(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReport+1))
	if err != nil {
		return f.failed(f.ctx, resp.Request, "read its answer", err)
	}
	if len(b) > maxReport {
		return f.failed(f.ctx, resp.Request, "read its answer", fmt.Errorf("it is longer than %d bytes", maxReport))
	}
	var r struct {
		Garbage []string `json:"garbage"`
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return f.failed(f.ctx, resp.Request, "422 without the shards that are garbage", err)
	}
	if len(r.Garbage) == 0 {
		return f.failed(f.ctx, resp.Request, "422", errors.New("it names no shard in \"garbage\""))
	}
	for _, shard := range r.Garbage {
		if _, has := f.usable[shard]; !has {
			return f.failed(f.ctx, resp.Request, "422", fmt.Errorf("it names shard %.40q, which no part was of", shard))
		}
		f.usable[shard] = false
	}
	return nil
}

// Finish sends what is left and passes the merged answer on. If it fails before there is
// an answer, then the container is told that the request has been given up.
func (f *fold) Finish() error {
	resp, err := f.finish()
	if err != nil {
		f.Abort()
		return err
	}
	f.ended = true
	defer func() { _ = resp.Body.Close() }() // what is left of it is of no use
	if resp.StatusCode > 599 {               // it means nothing to a client
		return failure(resp)
	}
	f.status = resp.StatusCode
	passOn(f.w.Header(), resp.Header)
	return f.copyBody(resp)
}

func (f *fold) finish() (*http.Response, error) {
	if err := f.send(); err != nil {
		return nil, err
	}
	f.told = true
	return f.call(f.ctx, http.MethodPost, f.url+"/finish", nil)
}

// copyBody passes the body on as it comes. It tells the two sides' errors apart.
func (f *fold) copyBody(resp *http.Response) error {
	buf := make([]byte, writeSize)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if err := write(f.w, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return f.failed(f.ctx, resp.Request, "read its answer", err)
		}
	}
}

// Abort tells the container, unless it has not heard of the request or has ended it.
func (f *fold) Abort() {
	f.parts = nil
	if f.ended || !f.told {
		return
	}
	f.ended = true
	f.c.abort(func(ctx context.Context) {
		if resp, err := f.call(ctx, http.MethodDelete, f.url, nil); err == nil {
			drain(resp)
		} // else it finds out by itself
	})
}

// Status implements [WithStatus].
func (f *fold) Status() int { return f.status }

// Garbage implements [WithGarbage]. The shards are in order.
func (f *fold) Garbage() []string {
	var shards []string
	for shard, ok := range f.usable {
		if !ok {
			shards = append(shards, shard)
		}
	}
	slices.SortFunc(shards, compareShards)
	return shards
}

// call calls the container. It follows no redirection.
func (f *fold) call(ctx context.Context, method, target string, parts []byte) (*http.Response, error) {
	var body io.Reader
	if parts != nil {
		body = bytes.NewReader(parts)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fmt.Errorf("merge container: %w", err)
	}
	if parts != nil {
		req.Header.Set("Content-Type", PartsType)
	}
	req.Header.Set("Scatter-Request", f.request)
	req.Header.Set("Scatter-Shards", strconv.Itoa(f.shards))
	client := http.Client{
		Transport:     f.c.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, f.failed(ctx, req, "no answer", err)
	}
	if resp.StatusCode < 200 { // it switches to another protocol, so there is no body to read
		_ = resp.Body.Close()
		return nil, fmt.Errorf("merge container: %s %s: status %s", method, target, resp.Status)
	}
	return resp, nil
}

// failed says what was called and what went wrong: because ctx ended, if it has.
func (f *fold) failed(ctx context.Context, req *http.Request, what string, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // what it adds is said already
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("merge container: %s %s: %s: %w", req.Method, req.URL, what, err)
}

// failure is the error of an answer whose status is none of those that are agreed.
func failure(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxQuote)) // of use only if it is there
	return fmt.Errorf("merge container: %s %s: status %s: %q",
		resp.Request.Method, resp.Request.URL, resp.Status, strings.TrimSpace(string(text)))
}

// drain makes the connection of an answer free for the next call.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain) // if it fails the connection is closed
	_ = resp.Body.Close()
}

// hopByHop are the headers that are about one connection (RFC 9110, section 7.6.1).
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te",
	"Trailer", "Transfer-Encoding", "Upgrade",
}

// passOn copies the headers that are not about the connection to the container.
func passOn(to, from http.Header) {
	drop := slices.Clone(hopByHop)
	for _, list := range from.Values("Connection") {
		for name := range strings.SplitSeq(list, ",") {
			drop = append(drop, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	for name, values := range from {
		if !slices.Contains(drop, name) {
			to[name] = slices.Clone(values)
		}
	}
}
