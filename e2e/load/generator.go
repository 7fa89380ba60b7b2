package load

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// FirstPhase is the name of the phase that begins with Start.
const FirstPhase = "start"

// Generator sends the load from Start to Stop. Its methods may be called from any
// goroutine.
type Generator struct {
	cfg      Config
	client   *http.Client
	cancel   context.CancelFunc // ends the pacing and the discovery, not the requests
	abort    context.CancelFunc // ends the requests too
	loops    sync.WaitGroup     // the pacers and the discovery
	requests sync.WaitGroup     // the requests in flight
	slots    chan struct{}      // one element per request in flight
	next     atomic.Uint64      // round robin position
	gone     atomic.Bool        // ExpectGone was called

	mu        sync.Mutex
	instances []string
	rec       recorder
}

// Start asks for the instances once, and then sends the load until Stop is called
// or ctx ends. It fails if the configuration is wrong or the first discovery does
// not succeed; that no instance is known yet is no error (the requests fail).
//
// Stop has to be called in any case, it waits for what Start has begun.
func Start(ctx context.Context, cfg Config) (*Generator, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}

	transport := &http.Transport{
		// Only as many idle connections as requests can run: nothing is opened anew
		// for want of a place to keep it.
		MaxIdleConns:        cfg.MaxInFlight,
		MaxIdleConnsPerHost: cfg.MaxInFlight,
		IdleConnTimeout:     30 * time.Second,
		// The expected length and hash are those of the file as it is.
		DisableCompression: true,
	}
	requestCtx, abort := context.WithCancel(ctx)
	loopCtx, cancel := context.WithCancel(requestCtx)
	g := &Generator{
		cfg:    cfg,
		client: &http.Client{Transport: transport, CheckRedirect: noRedirect},
		cancel: cancel,
		abort:  abort,
		slots:  make(chan struct{}, cfg.MaxInFlight),
	}

	if g.instances, err = g.discover(loopCtx); err != nil {
		cancel()
		abort()
		return nil, err
	}

	begin := time.Now()
	g.rec.begin(FirstPhase, begin, cfg.Streams)

	g.loops.Add(1)
	go func() {
		defer g.loops.Done()
		g.refresh(loopCtx)
	}()
	for i := range cfg.Streams {
		g.loops.Add(1)
		go func() {
			defer g.loops.Done()
			g.pace(loopCtx, requestCtx, i, begin)
		}()
	}
	return g, nil
}

// noRedirect hands a redirect to the caller as the answer: following it would
// measure another address than the one that was chosen.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Phase begins a new phase. Requests due from now on count for it.
func (g *Generator) Phase(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rec.begin(name, time.Now(), g.cfg.Streams)
}

// ExpectGone says that the service is being stopped for good. Instances that are
// still known are sent requests as before, and those requests have to succeed, but
// while none is known nothing is sent and nothing counted.
func (g *Generator) ExpectGone() { g.gone.Store(true) }

// Snapshot returns the results so far, of the requests that have ended.
func (g *Generator) Snapshot() Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rec.result()
}

// Stop ends the load, waits for the requests that are running (each is bounded by
// the timeout of its stream) and returns the results. It may be called again and
// returns the same then.
func (g *Generator) Stop() Result {
	g.cancel()
	g.loops.Wait()
	g.requests.Wait()
	g.abort()
	g.client.CloseIdleConnections()
	return g.Snapshot()
}

// discover asks once, within the time that an answer would be used.
func (g *Generator) discover(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, max(g.cfg.Refresh, time.Second))
	defer cancel()
	instances, err := g.cfg.Discover(ctx)
	if err != nil {
		return nil, fmt.Errorf("load: discover instances: %w", err)
	}
	return instances, nil
}

// refresh keeps the list of instances at most Refresh old.
func (g *Generator) refresh(ctx context.Context) {
	ticker := time.NewTicker(g.cfg.Refresh)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		instances, err := g.discover(ctx)
		g.mu.Lock()
		if err == nil {
			g.instances = instances
		} else if ctx.Err() == nil {
			// The old list stays in use, as in any client with a cache.
			g.rec.discoveryFailed(err)
		}
		g.mu.Unlock()
	}
}

// pace starts the requests of one stream when they are due. If it falls behind it
// starts the overdue ones at once: their latency counts from when they were due.
func (g *Generator) pace(ctx, requestCtx context.Context, stream int, begin time.Time) {
	rate := g.cfg.Streams[stream].Rate
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := int64(0); ; n++ {
		due := begin.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		g.launch(requestCtx, stream, due)
	}
}

// launch sends one request that is due, in its own goroutine, or records why not.
func (g *Generator) launch(ctx context.Context, stream int, due time.Time) {
	address, ok := g.pick()
	if !ok {
		if !g.gone.Load() {
			g.record(stream, due, outcome{reason: ReasonNoInstance})
		}
		return
	}
	select {
	case g.slots <- struct{}{}:
	default:
		g.record(stream, due, outcome{address: address, reason: ReasonOverload})
		return
	}
	g.requests.Add(1)
	go func() {
		defer g.requests.Done()
		defer func() { <-g.slots }()
		out := send(ctx, g.client, g.cfg.Streams[stream], address)
		if ctx.Err() != nil {
			return // the owner has given up: says nothing about the service
		}
		out.latency = time.Since(due)
		g.record(stream, due, out)
	}()
}

// pick returns the instance whose turn it is.
func (g *Generator) pick() (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.instances) == 0 {
		return "", false
	}
	return g.instances[g.next.Add(1)%uint64(len(g.instances))], true
}

func (g *Generator) record(stream int, due time.Time, out outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rec.record(stream, due, out)
}
