// Package catalog watches the instances of a service in Consul's catalog.
//
// It never says that nobody is there because Consul cannot be asked: what it has said last
// holds until there is something better.
package catalog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

const (
	// waitTime is how long a blocking query is held; Consul adds up to a sixteenth.
	waitTime  = 5 * time.Minute
	waitSlack = 10 * time.Second
	// firstPause and lastPause bound the pause after a failure, which doubles.
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

// Instance is one of a service.
type Instance struct {
	ID      string
	Address string // host:port
	Node    string
	Meta    map[string]string
}

// Config says what is watched.
type Config struct {
	Consul  *api.Client
	Service string
	// Tags that instances have to have.
	Tags []string
	// Found gets all instances that pass their checks, at first and whenever something has
	// changed. It is called by one goroutine.
	Found  func([]Instance)
	Logger hclog.Logger
}

// Watch is a running watch.
type Watch struct {
	cfg    Config
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	trouble error
	since   time.Time // of trouble
}

// Start begins to watch. Close ends it.
func Start(cfg Config) *Watch {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watch{cfg: cfg, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.run(ctx)
	}()
	return w
}

// Close ends the watch and waits until it has ended.
func (w *Watch) Close() {
	w.cancel()
	<-w.done
}

// Trouble says why Consul cannot be asked, and since when; nil: it can.
func (w *Watch) Trouble() (since time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.since, w.trouble
}

func (w *Watch) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil && w.trouble == nil:
		w.since = time.Now()
		w.cfg.Logger.Warn("consul cannot be asked; what is known is used on", "service", w.cfg.Service, "error", err)
	case err == nil && w.trouble != nil:
		w.cfg.Logger.Info("consul can be asked again", "service", w.cfg.Service)
	}
	w.trouble = err
}

func (w *Watch) run(ctx context.Context) {
	index, pause := uint64(0), firstPause
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, waitTime+waitTime/16+waitSlack)
		opts := (&api.QueryOptions{WaitIndex: index, WaitTime: waitTime}).WithContext(call)
		entries, meta, err := w.cfg.Consul.Health().ServiceMultipleTags(w.cfg.Service, w.cfg.Tags, true, opts)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.note(err)
			index = 0
			sleep(ctx, pause/2+rand.N(pause/2)) //nolint:gosec // spreads load
			pause = min(2*pause, lastPause)
			continue
		}
		w.note(nil)
		pause = firstPause
		if meta.LastIndex < index {
			index = 0 // Consul went back in time: ask without an index
			continue
		}
		if changed := meta.LastIndex != index; !changed {
			continue // only the time was over
		}
		index = max(1, meta.LastIndex)
		w.cfg.Found(instances(entries))
	}
}

func instances(entries []*api.ServiceEntry) []Instance {
	list := make([]Instance, 0, len(entries))
	for _, e := range entries {
		address := e.Service.Address
		if address == "" {
			address = e.Node.Address
		}
		list = append(list, Instance{
			// The ID is only unique on its node.
			ID:      fmt.Sprintf("%s/%s", e.Node.Node, e.Service.ID),
			Address: net.JoinHostPort(address, strconv.Itoa(e.Service.Port)), Node: e.Node.Node, Meta: e.Service.Meta,
		})
	}
	return list
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
