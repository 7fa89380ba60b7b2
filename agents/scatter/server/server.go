// Package server serves the routes of the agent scatter, and tells about them.
package server

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/page"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/catalog"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/tracing"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// Defaults of routes.
const (
	DefaultMaxAnswer = 32 << 20 // bytes
	DefaultMaxDepth  = 8
	// DefaultCacheBytes is that of Route.CacheBytes.
	DefaultCacheBytes = 16 << 20
)

// Route is a route of the configuration.
type Route struct {
	Name string
	// Pattern is one of http.ServeMux: "GET /search".
	Pattern string
	// Service is the leaves' in Consul, with all of the Tags.
	Service string
	Tags    []string
	// ShardMeta is the key of the service's meta that names the shard of an instance.
	// Instances without it, and all if it is empty, are shards of their own.
	ShardMeta string
	Gather    gather.Config // without name and logger
	Merger    merge.Merger
	// Token is what leaves are shown as "Authorization: Bearer …". Empty: what the client
	// has sent.
	Token string
	// Idempotent: leaves may be asked twice whatever the method is.
	Idempotent bool
	// Stream: the answer begins with the first partial one. What is missing then shows in
	// the trailer, and cuts the answer if it is too much.
	Stream bool
	// MaxAnswer is the size of the largest merged answer that does not stream, in bytes.
	MaxAnswer int64
	// MaxDepth is the largest number of roots that a request may have passed.
	MaxDepth int
	// Coalesce: requests that are alike and come at the same time get one answer. They
	// have to be idempotent, and must not stream.
	Coalesce bool
	// Cache is how long a whole answer is used again for requests that are alike, and
	// CacheBytes bounds what is kept. Default: not at all; 16 MiB.
	Cache      time.Duration
	CacheBytes int
}

// Config says what is served.
type Config struct {
	// ID is the name of this root, unique among all that a request may pass.
	ID string
	// Private: clients show this root a token of its own, which is not for leaves.
	Private bool
	// Address is shown on the status page.
	Address string
	Consul  *api.Client
	// Tracer makes spans. Nil: none.
	Tracer *tracing.Tracer
	Routes []Route
	Logger hclog.Logger
}

// Server is the routes. New starts to watch the catalog; Close ends that.
type Server struct {
	cfg     Config
	routes  []*served
	metrics *metrics
	page    *page.Template
}

// served is a route with what it needs.
type served struct {
	Route
	group *gather.Group
	watch *catalog.Watch
	// shared is nil if each request is answered by itself.
	shared *shared
}

// New makes a server.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	tmpl, err := newPage()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, metrics: newMetrics(), page: tmpl}
	for _, r := range cfg.Routes {
		r.Gather.Name, r.Gather.Logger = r.Service, cfg.Logger.With("route", r.Name)
		g, err := gather.New(r.Gather)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("route %q: %w", r.Name, err)
		}
		var sh *shared
		if r.Coalesce || r.Cache > 0 {
			sh = newShared(r.Cache, orDefault(r.CacheBytes, DefaultCacheBytes))
		}
		s.routes = append(s.routes, &served{Route: r, group: g, shared: sh, watch: catalog.Start(catalog.Config{
			Consul: cfg.Consul, Service: r.Service, Tags: r.Tags, Logger: r.Gather.Logger,
			Found: func(list []catalog.Instance) { g.Update(leaves(list, r.ShardMeta)) },
		})})
	}
	return s, nil
}

func leaves(list []catalog.Instance, meta string) []gather.Leaf {
	all := make([]gather.Leaf, len(list))
	for i, in := range list {
		all[i] = gather.Leaf{ID: in.ID, Address: in.Address, Node: in.Node, Shard: in.ID}
		if name := in.Meta[meta]; meta != "" && name != "" {
			all[i].Shard = name
		}
	}
	return all
}

// Close ends the watches and waits for requests that are under way.
func (s *Server) Close() {
	for _, r := range s.routes {
		r.watch.Close()
		if r.shared != nil {
			r.shared.work.Wait()
		}
		r.group.Close()
	}
}

// Ready says why requests cannot be answered; nil: they can.
func (s *Server) Ready() error {
	var errs []error
	for _, r := range s.routes {
		if len(r.group.Status().Shards) > 0 {
			continue
		}
		err := fmt.Errorf("route %q: service %q has no instance that passes its checks", r.Name, r.Service)
		if _, trouble := r.watch.Trouble(); trouble != nil {
			err = fmt.Errorf("route %q: %w", r.Name, trouble)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// RouteStatus tells about a route.
type RouteStatus struct {
	Name    string `json:"name"`
	Pattern string `json:"pattern"`
	Service string `json:"service"`
	// Consul says why the catalog cannot be asked, and Since since when.
	Consul string     `json:"consul,omitempty"`
	Since  *time.Time `json:"since,omitempty"`
	gather.Status
}

// Memory is how many bytes partial answers may have in all.
func (s *Server) Memory() int64 {
	var sum int64
	for _, r := range s.routes {
		sum += r.group.Memory()
	}
	return sum
}

// Status tells about all routes, in the order of the configuration.
func (s *Server) Status() []RouteStatus {
	all := make([]RouteStatus, 0, len(s.routes))
	for _, r := range s.routes {
		st := RouteStatus{Name: r.Name, Pattern: r.Pattern, Service: r.Service, Status: r.group.Status()}
		if since, err := r.watch.Trouble(); err != nil {
			st.Consul, st.Since = err.Error(), &since
		}
		all = append(all, st)
	}
	return all
}

// Routes calls handle for each route, with a pattern of [http.ServeMux].
func (s *Server) Routes(handle func(pattern string, h http.Handler)) {
	for _, r := range s.routes {
		handle(r.Pattern, &route{
			RouteConfig: RouteConfig{
				Name: r.Name, Group: r.group, Merger: r.Merger, Idempotent: r.Idempotent, Stream: r.Stream,
				Token: r.Token, Private: s.cfg.Private, MaxAnswer: orDefault(r.MaxAnswer, DefaultMaxAnswer), MaxDepth: orDefault(r.MaxDepth, DefaultMaxDepth),
			},
			self: s.cfg.ID, metrics: s.metrics, tracer: s.cfg.Tracer, shared: r.shared,
		})
	}
	handle("GET /{$}", http.HandlerFunc(s.servePage))
	handle("GET /v1/routes", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, http.StatusOK, struct {
			Routes []RouteStatus `json:"routes"`
		}{s.Status()})
	}))
}

func orDefault[T int | int64](v, preset T) T {
	if v == 0 {
		return preset
	}
	return v
}
