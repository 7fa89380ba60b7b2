package agent

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

// serviceTask is one call that has to be made.
type serviceTask struct {
	key     string
	version uint64
	want    *api.AgentServiceRegistration // nil: deregister id
	id      string
}

// run makes the calls until ctx ends.
func (s *Services) run(ctx context.Context) {
	audits := time.NewTicker(audit)
	defer audits.Stop()
	blind := false // the last audit failed
	for ctx.Err() == nil {
		t, wait, ok := s.next(time.Now())
		if ok {
			err := s.write(ctx, t)
			if ctx.Err() == nil {
				s.note(t, err)
			}
			continue
		}
		retry := time.NewTimer(wait)
		select {
		case <-s.wake:
		case <-retry.C:
		case <-audits.C:
			if err := s.audit(ctx); ctx.Err() == nil {
				s.logChange(blind, err)
				blind = err != nil
			}
		case <-ctx.Done():
		}
		retry.Stop()
	}
}

// next returns a service that is not as wanted; in any order, because there are few at a
// time. If there is none that may be tried now, it says how long to wait.
func (s *Services) next(now time.Time) (t serviceTask, wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = audit
	for key, e := range s.entries {
		if e.written == e.version {
			continue
		}
		if left := e.notBefore.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		return serviceTask{key: key, version: e.version, want: e.want, id: e.gone}, 0, true
	}
	return serviceTask{}, wait, false
}

// note notes how a call went. A service that the agent refuses must not keep the others
// waiting, so each has a pause of its own.
func (s *Services) note(t serviceTask, err error) {
	s.mu.Lock()
	e := s.entries[t.key]
	failed := e.failed > 0
	if err != nil {
		if e.version == t.version {
			e.notBefore = time.Now().Add(backoff(e.failed))
		}
		e.failed++
	} else {
		e.failed = 0
		s.wrote(e, t)
	}
	s.mu.Unlock()
	s.logChange(failed, err)
}

// logChange counts a failure, and logs the first one in a row and its end.
func (s *Services) logChange(failed bool, err error) {
	switch {
	case err != nil && !failed:
		s.log.Warn("services cannot be kept up to date; trying on", "error", err)
	case err == nil && failed:
		s.log.Info("services are kept up to date again")
	}
	if err != nil {
		s.mu.Lock()
		s.failures++
		s.mu.Unlock()
	}
}

// write makes the call.
func (s *Services) write(ctx context.Context, t serviceTask) error {
	ctx, cancel := context.WithTimeout(ctx, serviceCall)
	defer cancel()
	if t.want != nil {
		err := s.cfg.Consul.Agent().ServiceRegisterOpts(t.want, api.ServiceRegisterOpts{}.WithContext(ctx))
		if err != nil {
			return fmt.Errorf("register service %q: %w", t.want.ID, err)
		}
		return nil
	}
	if t.id == "" {
		return nil // it never was
	}
	err := s.cfg.Consul.Agent().ServiceDeregisterOpts(t.id, (&api.QueryOptions{}).WithContext(ctx))
	var status api.StatusError
	if err != nil && (!errors.As(err, &status) || status.Code != http.StatusNotFound) {
		return fmt.Errorf("deregister service %q: %w", t.id, err)
	}
	return nil
}

// wrote notes a call that was made and tells those who wait for it. It is called with
// the lock.
func (s *Services) wrote(e *serviceEntry, t serviceTask) {
	e.written = t.version
	e.waiters = slices.DeleteFunc(e.waiters, func(w serviceWaiter) bool {
		if w.version > t.version {
			return false
		}
		close(w.done)
		return true
	})
	if e.want == nil && e.written == e.version {
		delete(s.entries, t.key)
	}
}

// audit finds the services that the agent has forgotten, or has with other tags.
func (s *Services) audit(ctx context.Context) error {
	s.mu.Lock()
	empty := len(s.entries) == 0
	s.mu.Unlock()
	if empty {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, serviceCall)
	defer cancel()
	have, err := s.cfg.Consul.Agent().ServicesWithFilterOpts(s.cfg.Filter, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if e.want == nil || e.written != e.version {
			continue
		}
		if is := have[e.want.ID]; is == nil || !slices.Equal(is.Tags, e.want.Tags) {
			e.written = 0
			e.version++
		}
	}
	select {
	case s.wake <- struct{}{}:
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
