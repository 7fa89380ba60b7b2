package catalog

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

// Tags of a service, unless its configuration says otherwise.
const (
	DefaultLeaderTag = "leader"
	CandidateTag     = "candidate"
)

const (
	// callTimeout bounds one call of the local agent.
	callTimeout = 2 * time.Second
	// firstPause and longestPause bound the pause after a failure, which doubles.
	firstPause   = 50 * time.Millisecond
	longestPause = 5 * time.Second
	// audit is how often it is checked that the agent has not forgotten a service:
	// an agent that lost its data does so, and operators deregister by hand.
	audit = 10 * time.Second
	// reapAfter is when Consul drops a service whose elector is gone. It must be at
	// least a minute.
	reapAfter = "10m"
)

// Service is the service of a candidate.
type Service struct {
	Name      string   // in Consul
	Address   string   // empty: that of the agent's node
	Port      int      // 0: none
	Tags      []string // besides the one that tells the role
	LeaderTag string   // default DefaultLeaderTag
}

// Config says where services are registered.
type Config struct {
	// Consul is the client of the local agent.
	Consul *api.Client
	// ID is the candidate's name. It makes the services' IDs unique.
	ID string
	// Alias is the ID of the service whose health the services share: the elector's
	// own one. Empty: they have no check.
	Alias string
	// Logger is told about failures. Default: none.
	Logger hclog.Logger
}

// ErrClosed says that the catalog is closed.
var ErrClosed = errors.New("catalog is closed")

// Catalog keeps the services of a candidate registered. One goroutine does all calls,
// one after the other; while it is busy only the latest state of each election is
// kept.
type Catalog struct {
	cfg    Config
	log    hclog.Logger
	wake   chan struct{} // of size 1: there is something to do
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex
	entries  map[string]*entry // by election
	failures uint64            // calls that failed
}

// waiter is somebody who waits until a version, or a later one, has been written.
type waiter struct {
	version uint64
	done    chan struct{}
}

// entry is what one election should look like, and does. Guarded by Catalog.mu.
type entry struct {
	want    *api.AgentServiceRegistration // nil: it should be gone
	gone    string                        // ID of the service when want is nil
	version uint64                        // of want
	written uint64                        // version that the agent has; 0: none
	waiters []waiter

	failed    int       // calls in a row
	notBefore time.Time // is the next one made; a change makes it at once
}

// New starts a catalog. Close ends it.
func New(cfg Config) *Catalog {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Catalog{
		cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1), cancel: cancel,
		done: make(chan struct{}), entries: map[string]*entry{},
	}
	go func() {
		defer close(c.done)
		c.run(ctx)
	}()
	return c
}

// Set says how the service of an election should look from now on. It does not wait.
func (c *Catalog) Set(election string, s Service, leading bool) {
	c.change(election, c.registration(election, s, leading), nil)
}

// SetWait is Set, and waits until the local agent has it, or something later. The
// error is that of ctx, or ErrClosed.
func (c *Catalog) SetWait(ctx context.Context, election string, s Service, leading bool) error {
	done := make(chan struct{})
	c.change(election, c.registration(election, s, leading), done)
	select {
	case <-done:
		return nil
	case <-c.done:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("register service %q: %w", s.Name, ctx.Err())
	}
}

// Remove deregisters the service of an election. It does not wait.
func (c *Catalog) Remove(election string) { c.change(election, nil, nil) }

// Failures is the number of calls of the local agent that failed.
func (c *Catalog) Failures() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failures
}

// Close deregisters all services, until ctx ends, and ends the catalog. It is called
// once. The error says what is left, which Consul drops after some minutes.
func (c *Catalog) Close(ctx context.Context) error {
	c.mu.Lock()
	gone := make([]chan struct{}, 0, len(c.entries))
	names := slices.Sorted(maps.Keys(c.entries))
	c.mu.Unlock()
	for _, name := range names {
		done := make(chan struct{})
		c.change(name, nil, done)
		gone = append(gone, done)
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
			errs = append(errs, fmt.Errorf("deregister the service of election %q: %w", names[i], ctx.Err()))
		}
	}
	c.cancel()
	<-c.done
	return errors.Join(errs...)
}

// registration is what the agent should have.
func (c *Catalog) registration(election string, s Service, leading bool) *api.AgentServiceRegistration {
	role := CandidateTag
	if leading {
		role = s.LeaderTag
		if role == "" {
			role = DefaultLeaderTag
		}
	}
	id := s.Name + "-" + election + "-" + c.cfg.ID
	reg := &api.AgentServiceRegistration{
		ID: id, Name: s.Name, Address: s.Address, Port: s.Port,
		Tags: append(slices.Clone(s.Tags), role),
		Meta: map[string]string{"election": election, "candidate": c.cfg.ID},
	}
	if c.cfg.Alias != "" {
		reg.Check = &api.AgentServiceCheck{
			CheckID: "elector:" + id, Name: "elector of " + c.cfg.ID + " is alive",
			AliasService: c.cfg.Alias, DeregisterCriticalServiceAfter: reapAfter,
		}
	}
	return reg
}

// change sets what is wanted and wakes the worker. Done, if any, is closed when the
// agent has it.
func (c *Catalog) change(election string, want *api.AgentServiceRegistration, done chan struct{}) {
	c.mu.Lock()
	e := c.entries[election]
	if e == nil {
		e = &entry{}
		c.entries[election] = e
	}
	if want == nil && e.want != nil {
		e.gone = e.want.ID
	}
	e.want = want
	e.version++
	e.notBefore = time.Time{}
	if done != nil {
		e.waiters = append(e.waiters, waiter{e.version, done})
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // it will look
	}
}
