package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
)

// task is one call that has to be made.
type task struct {
	election string
	version  uint64
	want     *api.AgentServiceRegistration // nil: deregister id
	id       string
}

// run makes the calls until ctx ends.
func (c *Catalog) run(ctx context.Context) {
	audits := time.NewTicker(audit)
	defer audits.Stop()
	failed := 0 // in a row
	for {
		for ctx.Err() == nil {
			t, ok := c.next()
			if !ok {
				break
			}
			err := c.write(ctx, t)
			if c.note(ctx, &failed, err) {
				c.wrote(t)
				continue
			}
			// Whatever failed fails for all services: the agent is the same.
			if !pause(ctx, backoff(failed)) {
				return
			}
		}
		select {
		case <-c.wake:
		case <-audits.C:
			if err := c.audit(ctx); !c.note(ctx, &failed, err) && !pause(ctx, backoff(failed)) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// note counts a failure and logs the first one in a row, and returns whether there was
// none.
func (c *Catalog) note(ctx context.Context, failed *int, err error) bool {
	if err == nil {
		if *failed > 0 {
			c.log.Info("services are registered again")
		}
		*failed = 0
		return true
	}
	if ctx.Err() == nil {
		if *failed == 0 {
			c.log.Warn("services cannot be kept up to date; trying on", "error", err)
		}
		c.mu.Lock()
		c.failures++
		c.mu.Unlock()
	}
	*failed++
	return false
}

// next returns a service that is not as wanted: those that must lose the leader's tag
// come in any order with the others, because there are few at a time.
func (c *Catalog) next() (task, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for election, e := range c.entries {
		if e.written == e.version {
			continue
		}
		return task{election: election, version: e.version, want: e.want, id: e.gone}, true
	}
	return task{}, false
}

// write makes the call.
func (c *Catalog) write(ctx context.Context, t task) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if t.want != nil {
		err := c.cfg.Consul.Agent().ServiceRegisterOpts(t.want, api.ServiceRegisterOpts{}.WithContext(ctx))
		if err != nil {
			return fmt.Errorf("register service %q: %w", t.want.ID, err)
		}
		return nil
	}
	if t.id == "" {
		return nil // it never was
	}
	err := c.cfg.Consul.Agent().ServiceDeregisterOpts(t.id, (&api.QueryOptions{}).WithContext(ctx))
	var status api.StatusError
	if err != nil && (!errors.As(err, &status) || status.Code != http.StatusNotFound) {
		return fmt.Errorf("deregister service %q: %w", t.id, err)
	}
	return nil
}

// wrote notes a call that was made and tells those who wait for it.
func (c *Catalog) wrote(t task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[t.election]
	e.written = t.version
	e.waiters = slices.DeleteFunc(e.waiters, func(w waiter) bool {
		if w.version > t.version {
			return false
		}
		close(w.done)
		return true
	})
	if e.want == nil && e.written == e.version {
		delete(c.entries, t.election)
	}
}

// audit finds the services that the agent has forgotten, or has with other tags.
func (c *Catalog) audit(ctx context.Context) error {
	c.mu.Lock()
	empty := len(c.entries) == 0
	c.mu.Unlock()
	if empty {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	filter := fmt.Sprintf("Meta.candidate == %q", c.cfg.ID)
	have, err := c.cfg.Consul.Agent().ServicesWithFilterOpts(filter, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.want == nil || e.written != e.version {
			continue
		}
		if s := have[e.want.ID]; s == nil || !slices.Equal(s.Tags, e.want.Tags) {
			e.written = 0
			e.version++
		}
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// backoff is the pause after so many failures in a row.
func backoff(failed int) time.Duration {
	d := longestPause
	if failed < 8 {
		d = min(d, firstPause<<failed)
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, and hides nothing
}

// pause waits, or returns false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
