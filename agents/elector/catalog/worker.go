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
	blind := false // the last audit failed
	for ctx.Err() == nil {
		t, wait, ok := c.next(time.Now())
		if ok {
			err := c.write(ctx, t)
			if ctx.Err() == nil {
				c.note(t, err)
			}
			continue
		}
		retry := time.NewTimer(wait)
		select {
		case <-c.wake:
		case <-retry.C:
		case <-audits.C:
			if err := c.audit(ctx); ctx.Err() == nil {
				c.logChange(blind, err)
				blind = err != nil
			}
		case <-ctx.Done():
		}
		retry.Stop()
	}
}

// next returns a service that is not as wanted: those that must lose the leader's tag
// come in any order with the others, because there are few at a time. If there is none
// that may be tried now, it says how long to wait.
func (c *Catalog) next(now time.Time) (t task, wait time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait = audit
	for election, e := range c.entries {
		if e.written == e.version {
			continue
		}
		if left := e.notBefore.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		return task{election: election, version: e.version, want: e.want, id: e.gone}, 0, true
	}
	return task{}, wait, false
}

// note notes how a call went. A service that the agent refuses must not keep the others
// waiting, so each has a pause of its own.
func (c *Catalog) note(t task, err error) {
	c.mu.Lock()
	e := c.entries[t.election]
	failed := e.failed > 0
	if err != nil {
		if e.version == t.version {
			e.notBefore = time.Now().Add(backoff(e.failed))
		}
		e.failed++
	} else {
		e.failed = 0
		c.wrote(e, t)
	}
	c.mu.Unlock()
	c.logChange(failed, err)
}

// logChange counts a failure, and logs the first one in a row and its end.
func (c *Catalog) logChange(failed bool, err error) {
	switch {
	case err != nil && !failed:
		c.log.Warn("services cannot be kept up to date; trying on", "error", err)
	case err == nil && failed:
		c.log.Info("services are kept up to date again")
	}
	if err != nil {
		c.mu.Lock()
		c.failures++
		c.mu.Unlock()
	}
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

// wrote notes a call that was made and tells those who wait for it. It is called with
// the lock.
func (c *Catalog) wrote(e *entry, t task) {
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
