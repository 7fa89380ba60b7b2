package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

const (
	// serviceCall bounds one call of the local Consul agent.
	serviceCall = 2 * time.Second
	// firstPause and longestPause bound the pause after a failure, which doubles.
	firstPause   = 50 * time.Millisecond
	longestPause = 5 * time.Second
	// audit is how often it is checked that Consul's agent has not forgotten a service:
	// one that lost its data does so, and operators deregister by hand.
	audit = 10 * time.Second

	// ReapAfter is when Consul drops a service of ours whose check is critical. It must
	// be at least a minute.
	ReapAfter = "10m"
)

// ServicesConfig says where services are registered.
type ServicesConfig struct {
	// Consul is the client of the local agent.
	Consul *api.Client
	// Filter is an expression that all services of ours match.
	Filter string
	// Logger is told about failures. Default: none.
	Logger hclog.Logger
}

// ErrServicesClosed says that the services are closed.
var ErrServicesClosed = errors.New("catalog is closed")

// Services keeps services registered at the local Consul agent, each under a key of
// ours. One goroutine does all calls, one after the other; while it is busy only the
// latest state of each key is kept.
type Services struct {
	cfg    ServicesConfig
	log    hclog.Logger
	wake   chan struct{} // of size 1: there is something to do
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex
	entries  map[string]*serviceEntry
	failures uint64 // calls that failed
}

// serviceWaiter is somebody who waits until a version, or a later one, has been written.
type serviceWaiter struct {
	version uint64
	done    chan struct{}
}

// serviceEntry is what one service should look like, and does. Guarded by Services.mu.
type serviceEntry struct {
	want    *api.AgentServiceRegistration // nil: it should be gone
	gone    string                        // ID of the service when want is nil
	version uint64                        // of want
	written uint64                        // version that the agent has; 0: none
	waiters []serviceWaiter

	failed    int       // calls in a row
	notBefore time.Time // is the next one made; a change makes it at once
}

// NewServices starts to keep services, with none yet. Close ends it.
func NewServices(cfg ServicesConfig) *Services {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Services{
		cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1), cancel: cancel,
		done: make(chan struct{}), entries: map[string]*serviceEntry{},
	}
	go func() {
		defer close(s.done)
		s.run(ctx)
	}()
	return s
}

// Set says how the service of a key should look from now on. It does not wait. The ID
// of a key's service stays the same.
func (s *Services) Set(key string, want *api.AgentServiceRegistration) { s.change(key, want, nil) }

// SetWait is Set, and waits until the local agent has it, or something later. The
// error is that of ctx, or ErrServicesClosed.
func (s *Services) SetWait(ctx context.Context, key string, want *api.AgentServiceRegistration) error {
	done := make(chan struct{})
	s.change(key, want, done)
	select {
	case <-done:
		return nil
	case <-s.done:
		return ErrServicesClosed
	case <-ctx.Done():
		return fmt.Errorf("register service %q: %w", want.Name, ctx.Err())
	}
}

// Remove deregisters the service of a key. It does not wait.
func (s *Services) Remove(key string) { s.change(key, nil, nil) }

// Failures is the number of calls of the local agent that failed.
func (s *Services) Failures() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures
}

// Close deregisters all services, until ctx ends, and ends the goroutine. It is called
// once. The error says what is left, which Consul drops after some minutes.
func (s *Services) Close(ctx context.Context) error {
	s.mu.Lock()
	keys := slices.Sorted(maps.Keys(s.entries))
	s.mu.Unlock()
	gone := make([]chan struct{}, len(keys))
	for i, key := range keys {
		gone[i] = make(chan struct{})
		s.change(key, nil, gone[i])
	}
	var errs []error
	for i, done := range gone {
		select {
		case <-done:
			continue
		case <-ctx.Done():
		}
		select {
		case <-done: // both had happened
		default:
			errs = append(errs, fmt.Errorf("deregister the service of %q: %w", keys[i], ctx.Err()))
		}
	}
	s.cancel()
	<-s.done
	return errors.Join(errs...)
}

// change sets what is wanted and wakes the worker. Done, if any, is closed when the
// agent has it.
func (s *Services) change(key string, want *api.AgentServiceRegistration, done chan struct{}) {
	s.mu.Lock()
	e := s.entries[key]
	if e == nil {
		e = &serviceEntry{}
		s.entries[key] = e
	}
	if want == nil && e.want != nil {
		e.gone = e.want.ID
	}
	e.want = want
	e.version++
	e.notBefore = time.Time{}
	if done != nil {
		e.waiters = append(e.waiters, serviceWaiter{e.version, done})
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // it will look
	}
}
