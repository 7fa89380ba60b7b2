package merge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Defaults of a [ContainerConfig].
const (
	DefaultFoldBytes = 1 << 20
	DefaultFoldParts = 32
	DefaultMaxConns  = 64
)

const (
	// abortTime is for a call that gives a request up.
	abortTime = time.Second
	// maxAborts is how many of those there are at a time; more are dropped.
	maxAborts = 64
	// idleTime is shorter than that of the usual servers (from 2 s), so that no call is
	// lost on a connection that its server is just about to close.
	idleTime = time.Second
	// maxHeader is for the headers of an answer.
	maxHeader = 64 << 10
)

// ErrClosed says that the [Container] has been closed.
var ErrClosed = errors.New("closed")

// WithStatus is implemented by a [Merge] whose answer may have a status other than 200. It
// is known from the first Write on, and after Finish.
type WithStatus interface {
	Status() int
}

// WithGarbage is implemented by a [Merge] that may learn after Add that a partial was not
// what it should be.
type WithGarbage interface {
	// Garbage returns the shards of those, after Finish: nothing has been taken of them.
	Garbage() []string
}

// ContainerConfig is for [NewContainer].
type ContainerConfig struct {
	// URL is where the container is served, such as "http://127.0.0.1:9000/merge".
	URL string
	// FoldBytes is how long parts have to be together, with their frames, to be sent before
	// the last one has come. Default: DefaultFoldBytes.
	FoldBytes int
	// FoldParts is how many have to be gathered for the same. Default: DefaultFoldParts.
	FoldParts int
	// MaxConns is how many connections there are at most; calls wait for one. Default:
	// DefaultMaxConns.
	MaxConns int
}

// Container has the answers merged by a program of the user's; the package comment says
// how. Close has to be called.
type Container struct {
	cfg       ContainerConfig
	transport *http.Transport

	mu     sync.Mutex
	closed bool
	aborts sync.WaitGroup // Invariant: none is added once closed
	places chan struct{}  // for aborts: one is in it for each
}

// NewContainer returns an error that names the field that is wrong, if any. It calls
// nobody.
func NewContainer(cfg ContainerConfig) (*Container, error) {
	if err := checkURL(cfg.URL); err != nil {
		return nil, err
	}
	cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	var err error
	if cfg.FoldBytes, err = orDefault("FoldBytes", cfg.FoldBytes, DefaultFoldBytes); err != nil {
		return nil, err
	}
	if cfg.FoldParts, err = orDefault("FoldParts", cfg.FoldParts, DefaultFoldParts); err != nil {
		return nil, err
	}
	if cfg.MaxConns, err = orDefault("MaxConns", cfg.MaxConns, DefaultMaxConns); err != nil {
		return nil, err
	}
	return &Container{
		cfg:    cfg,
		places: make(chan struct{}, maxAborts),
		transport: &http.Transport{ // without a proxy, as the container is on this machine
			MaxConnsPerHost:        cfg.MaxConns,
			MaxIdleConnsPerHost:    cfg.MaxConns,
			IdleConnTimeout:        idleTime,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true, // the answer is passed on as it is
		},
	}, nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return wrong("URL", "it is missing; say where the merge container is, like http://127.0.0.1:9000")
	case err != nil:
		return wrong("URL", "%w; write it like http://127.0.0.1:9000", err)
	case u.Scheme != "http" || u.Hostname() == "":
		return wrong("URL", "%q is no HTTP address; write it like http://127.0.0.1:9000", text)
	case u.User != nil || strings.ContainsAny(text, "?#"):
		return wrong("URL", "%q has a user, a query or a fragment; leave that out", u.Redacted())
	}
	return nil
}

// Begin implements [Merger]. It calls nobody yet: the container hears of a request when
// there is something to merge, or nothing more to wait for.
func (c *Container) Begin(ctx context.Context, r Request, w Writer) (Merge, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("merge container: %w", ErrClosed)
	}
	if !isID(r.ID) {
		return nil, fmt.Errorf("merge container: the request's ID %q is not of letters and digits", r.ID)
	}
	if r.HTTP == nil || r.HTTP.URL == nil {
		return nil, errors.New("merge container: the client's request is missing")
	}
	return &fold{
		c: c, ctx: ctx, w: w, url: c.cfg.URL + "/" + r.ID, status: http.StatusOK,
		request: r.HTTP.Method + " " + r.HTTP.URL.RequestURI(), shards: r.Shards,
		usable: map[string]bool{},
	}, nil
}

// isID says whether it can be a part of a path as it is.
func isID(id string) bool {
	for _, c := range []byte(id) {
		if !isDigit(c) && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return id != ""
}

// abort tells the container that a request has been given up, and does not wait.
func (c *Container) abort(call func(ctx context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	select {
	case c.places <- struct{}{}:
	default:
		return
	}
	c.aborts.Go(func() {
		defer func() { <-c.places }()
		ctx, cancel := context.WithTimeout(context.Background(), abortTime)
		defer cancel()
		call(ctx)
	})
}

// Close waits for what is still to be told about requests that were given up, which takes
// a second at most, and closes the connections. All merges should have ended.
func (c *Container) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.aborts.Wait()
	c.transport.CloseIdleConnections()
	return nil
}
