package driver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nomad-patterns/nomad-patterns/plugin/checkpoint"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
	"github.com/nomad-patterns/nomad-patterns/plugin/reason"
)

// surroundings are what tasks reach outside of the plugin. Making them connects
// to nothing: Nomad starts plugins for a moment as well, only to check their
// configuration.
type surroundings struct {
	nomad   *reason.Client
	watcher *reason.Watcher
	scaler  *manage.Scaler
	config  agentBlock

	mu     sync.Mutex // guards stores
	stores map[string]checkpoint.Store
}

func (d *Driver) newSurroundings(b agentBlock) (*surroundings, error) {
	client, err := reason.New(b.nomadConfig())
	if err != nil {
		return nil, err
	}
	return &surroundings{
		nomad: client, watcher: reason.NewWatcher(d.ctx, client, d.logger),
		scaler: manage.NewScaler(client.API(), d.logger), config: b,
		stores: make(map[string]checkpoint.Store),
	}, nil
}

func (d *Driver) around() *surroundings {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shared
}

func (b agentBlock) nomadConfig() reason.Config {
	if b.Nomad == nil {
		return reason.Config{}
	}
	n := b.Nomad
	return reason.Config{
		Address: n.Address, Region: n.Region, TokenFile: n.TokenFile,
		CAFile: n.CAFile, CertFile: n.CertFile, KeyFile: n.KeyFile, TLSServerName: n.TLSServerName,
	}
}

func (b agentBlock) consulConfig() checkpoint.ConsulConfig {
	if b.Consul == nil {
		return checkpoint.ConsulConfig{}
	}
	c := b.Consul
	return checkpoint.ConsulConfig{
		Address: c.Address, TokenFile: c.TokenFile,
		CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, TLSServerName: c.TLSServerName,
	}
}

func (b agentBlock) endpointConfig() manage.Config {
	e := b.Endpoint
	return manage.Config{Dir: e.Dir, Listen: e.Listen, TokenFile: e.TokenFile, CertFile: e.CertFile, KeyFile: e.KeyFile}
}

// store opens the store that a job names. It is opened once.
func (s *surroundings) store(ctx context.Context, name string) (checkpoint.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.stores[name]; st != nil {
		return st, nil
	}
	st, err := s.open(ctx, name)
	if err != nil {
		return nil, err
	}
	s.stores[name] = st
	return st, nil
}

// named reports whether the operator has given a store this name. That it cannot
// be opened is another matter, which passes.
func (s *surroundings) named(name string) error {
	if _, ok := s.config.Stores[name]; ok || name == consulStore {
		return nil
	}
	have := append([]string{consulStore}, slices.Sorted(maps.Keys(s.config.Stores))...)
	return fmt.Errorf("this client's plugin configuration has no store %q; it has %s", name, strings.Join(have, ", "))
}

func (s *surroundings) open(ctx context.Context, name string) (st checkpoint.Store, err error) {
	if err := s.named(name); err != nil {
		return nil, err
	}
	if url, ok := s.config.Stores[name]; ok {
		st, err = checkpoint.OpenBlob(ctx, url)
	} else {
		st, err = checkpoint.NewConsul(s.config.consulConfig())
	}
	if err != nil {
		return nil, fmt.Errorf("open store %q: %w", name, err)
	}
	return st, nil
}
