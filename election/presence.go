package election

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// forgetService is when the local agent forgets the service of a process that died: the
// shortest time that Consul takes.
const forgetService = "1m"

// presence is this process in the catalog of its Consul agent: a service with a TTL
// check, which is kept passing by heartbeats. A heartbeat goes no further than the
// agent, so it costs no Raft write and no call to a server.
type presence struct {
	e          *Elector
	serviceID  string
	checkID    string
	mu         sync.Mutex
	registered chan struct{} // closed while the service is registered
}

func newPresence(e *Elector) *presence {
	id := e.cfg.Service + "-" + e.cfg.ID + "-" + e.instance
	return &presence{e: e, serviceID: id, checkID: "alive:" + id, registered: make(chan struct{})}
}

// heartbeat is the time between two heartbeats: a delayed one and a lost one must not
// cost the session.
func (p *presence) heartbeat() time.Duration { return p.e.cfg.TTL * 4 / 15 }

// up returns a channel that is closed while the service is registered.
func (p *presence) up() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.registered
}

// set changes whether it is.
func (p *presence) set(registered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.registered:
		if !registered {
			p.registered = make(chan struct{})
		}
	default:
		if registered {
			close(p.registered)
		}
	}
}

// run registers the service and sends heartbeats until the context ends.
func (p *presence) run(ctx context.Context) {
	tick := time.NewTicker(p.heartbeat())
	defer tick.Stop()
	registered := false
	for {
		var err error
		if !registered {
			err = p.register(ctx)
			registered = err == nil
			p.set(registered)
		} else if err = p.beat(ctx); unknownCheck(err) {
			// The agent was restarted without its data, or somebody deregistered
			// the service. The sessions went with the check.
			registered = false
			p.set(false)
			p.e.verify()
			continue
		}
		if ctx.Err() != nil {
			return
		}
		p.e.trouble("heartbeat", err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// register adds the service and its check, which passes from the beginning: a session
// cannot be bound to a critical one.
func (p *presence) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cfg := p.e.cfg
	err := p.e.consul.vital.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID: p.serviceID, Name: cfg.Service, Port: cfg.ServicePort, Tags: cfg.ServiceTags,
		Meta: map[string]string{"candidate": cfg.ID, "prefix": cfg.Prefix},
		Check: &api.AgentServiceCheck{
			CheckID: p.checkID, Name: "candidate " + cfg.ID + " is alive", TTL: cfg.TTL.String(), Status: api.HealthPassing,
			DeregisterCriticalServiceAfter: forgetService,
		},
	}, api.ServiceRegisterOpts{}.WithContext(ctx))
	if p.e.consul.note(ctx, err) != nil {
		return fmt.Errorf("register service %q: %w", cfg.Service, err)
	}
	return nil
}

// beat sends one heartbeat. Its text never changes, or each would be a Raft write.
func (p *presence) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.heartbeat())
	defer cancel()
	err := p.e.consul.vital.Agent().UpdateTTLOpts(p.checkID, "", api.HealthPassing, (&api.QueryOptions{}).WithContext(ctx))
	if p.e.consul.note(ctx, err) != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	return nil
}

// unknownCheck says whether the agent answered that there is no such check.
func unknownCheck(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.Code == http.StatusNotFound
}

// deregister removes the service, its check, and with it the sessions bound to it.
func (p *presence) deregister(ctx context.Context) error {
	err := p.e.consul.vital.Agent().ServiceDeregisterOpts(p.serviceID, (&api.QueryOptions{}).WithContext(ctx))
	if p.e.consul.note(ctx, err) != nil && !unknownCheck(err) {
		return fmt.Errorf("deregister service %q: %w", p.serviceID, err)
	}
	return nil
}

// backoff returns a time that doubles from try to try up to a bound, with jitter.
func backoff(try int, least, most time.Duration) time.Duration {
	d := most
	if try < 16 {
		d = min(most, least<<try)
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, and hides nothing
}

// pause waits, or returns false when the context has ended.
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
