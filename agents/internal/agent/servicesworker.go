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
	failed := 0 // in a row
	for {
		for ctx.Err() == nil {
			t, ok := s.next()
			if !ok {
				break
			}
			err := s.write(ctx, t)
			if s.note(ctx, &failed, err) {
				s.wrote(t)
				continue
			}
			// Whatever failed fails for all services: the agent is the same.
			if !pause(ctx, backoff(failed)) {
				return
			}
		}
		select {
		case <-s.wake:
		case <-audits.C:
			if err := s.audit(ctx); !s.note(ctx, &failed, err) && !pause(ctx, backoff(failed)) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// note counts a failure and logs the first one in a row, and returns whether there was
// none.
func (s *Services) note(ctx context.Context, failed *int, err error) bool {
	if err == nil {
		if *failed > 0 {
			s.log.Info("services are registered again")
		}
		*failed = 0
		return true
	}
	if ctx.Err() == nil {
		if *failed == 0 {
			s.log.Warn("services cannot be kept up to date; trying on", "error", err)
		}
		s.mu.Lock()
		s.failures++
		s.mu.Unlock()
	}
	*failed++
	return false
}

// next returns a service that is not as wanted; in any order, because there are few at a
// time.
func (s *Services) next() (serviceTask, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, e := range s.entries {
		if e.written == e.version {
			continue
		}
		return serviceTask{key: key, version: e.version, want: e.want, id: e.gone}, true
	}
	return serviceTask{}, false
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

// wrote notes a call that was made and tells those who wait for it.
func (s *Services) wrote(t serviceTask) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[t.key]
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
