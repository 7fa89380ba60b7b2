package server

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/queue/page"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// lookEvery is how often it is looked, in memory, which shards this broker leads.
	lookEvery = 200 * time.Millisecond
	// sampleEvery and samples are those of the rates: over the last minute.
	sampleEvery = 5 * time.Second
	samples     = 13
)

// Catalog shows in Consul which queues this broker leads.
type Catalog interface {
	// Show says which shards of a queue this broker leads from now on. None: it does
	// not lead the queue. It does not wait.
	Show(name string, led []int)
	// Failures is the number of calls that failed.
	Failures() uint64
}

// register keeps the catalog in step with what this broker leads.
func (s *Server) register(ctx context.Context) {
	shown := map[string][]int{}
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	for {
		names := s.broker.Queues()
		for _, name := range names {
			if led := s.broker.Led(name); !slices.Equal(led, shown[name]) {
				shown[name] = led
				s.catalog.Show(name, led)
			}
		}
		for name, led := range shown {
			if _, there := slices.BinarySearch(names, name); there {
				continue
			}
			delete(shown, name)
			if len(led) > 0 {
				s.catalog.Show(name, nil)
			}
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}

// Services is the Catalog of a real agent: a service queue-<name> for each queue that this
// broker leads, at the address of its API.
type Services struct {
	services *agent.Services
	broker   string
	alias    string
	address  string // as others are told
	host     string // empty: that of the node
	port     int    // 0: none
}

// NewServices starts to keep services at the local Consul agent. Broker is this broker's
// ID; alias is the ID of the service whose health they share. Close ends it.
func NewServices(cfg agent.ServicesConfig, broker, alias, address string) *Services {
	cfg.Filter = fmt.Sprintf("Meta.broker == %q", broker)
	s := &Services{services: agent.NewServices(cfg), broker: broker, alias: alias, address: address}
	host := address
	if u, err := url.Parse(address); err == nil && strings.Contains(address, "://") {
		host = u.Host
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		s.host = h
		s.port, _ = strconv.Atoi(p) // 0 if it is none
	}
	return s
}

// Show implements Catalog.
func (s *Services) Show(name string, led []int) {
	if len(led) == 0 {
		s.services.Remove(name)
		return
	}
	s.services.Set(name, s.registration(name, led))
}

func (s *Services) registration(name string, led []int) *api.AgentServiceRegistration {
	var tags []string
	for _, k := range led {
		tags = append(tags, "shard-"+strconv.Itoa(k))
	}
	id := "queue-" + name + "-" + s.broker
	return &api.AgentServiceRegistration{
		ID: id, Name: "queue-" + name, Address: s.host, Port: s.port, Tags: tags,
		Meta: map[string]string{"queue": name, "broker": s.broker, "address": s.address},
		Check: &api.AgentServiceCheck{
			CheckID: "queue:" + id, Name: "broker " + s.broker + " is alive",
			AliasService: s.alias, DeregisterCriticalServiceAfter: agent.ReapAfter,
		},
	}
}

// Failures implements Catalog.
func (s *Services) Failures() uint64 { return s.services.Failures() }

// Close deregisters all services.
func (s *Services) Close(ctx context.Context) error { return s.services.Close(ctx) }

// history has the counters of all queues as they were during the last minute.
type history struct {
	mu     sync.Mutex
	queues map[string][]sample // the oldest first
}

// sample is what a queue had counted at a time.
type sample struct {
	at       time.Time
	enqueued uint64
	stages   map[string]queue.Counters
}

func newHistory() *history { return &history{queues: map[string][]sample{}} }

// sample takes a look at all queues from time to time.
func (s *Server) sample(ctx context.Context) {
	ticks := time.NewTicker(sampleEvery)
	defer ticks.Stop()
	for {
		s.history.note(time.Now(), s.view(ctx, s.broker.Queues(), false))
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}

// note adds what was seen now, and forgets queues that are no more. Queues that were not
// seen whole are left out, so that no rate is of a part of one.
func (h *history) note(now time.Time, all []queue.Overview) {
	h.mu.Lock()
	defer h.mu.Unlock()
	had := h.queues
	h.queues = make(map[string][]sample, len(all))
	for i := range all {
		st := &all[i]
		list := had[st.Queue]
		if whole(st) {
			one := sample{at: now, enqueued: st.Enqueued, stages: map[string]queue.Counters{}}
			for _, stage := range st.Stages {
				one.stages[stage.Name] = stage.Counters
			}
			list = append(list, one)
		}
		h.queues[st.Queue] = list[max(0, len(list)-samples):]
	}
}

// rates tells those of a queue.
func (h *history) rates(name string) page.Rates {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.queues[name]
	if len(list) < 2 {
		return page.Rates{}
	}
	first, last := list[0], list[len(list)-1]
	over := last.at.Sub(first.at)
	per := func(a, b uint64) float64 {
		if b < a {
			return 0 // the queue was deleted and made again
		}
		return float64(b-a) / over.Seconds()
	}
	r := page.Rates{Over: over, Enqueued: per(first.enqueued, last.enqueued), Stages: map[string]page.StageRates{}}
	for stage, b := range last.stages {
		a := first.stages[stage]
		r.Stages[stage] = page.StageRates{Done: per(a.Done, b.Done), Failed: per(a.Failed, b.Failed), Lost: per(a.Lost, b.Lost)}
	}
	return r
}
