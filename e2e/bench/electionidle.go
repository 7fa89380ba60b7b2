package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/rig"
	"github.com/nomad-patterns/nomad-patterns/election"
)

const (
	idleMinute  = time.Minute
	idleSettle  = 10 * time.Second
	idleLimit   = 3 * time.Minute
	idleElected = 500
)

// idle measures what an elector costs that leads and has nothing else to do. The
// coordinates of Consul's agents are off: they are Raft writes at random times.
func (b *electionBench) idle(ctx context.Context) error {
	cfg := cluster.ConsulConfig{Clients: 1, ExtraConfig: `{"disable_coordinates": true}`}
	return b.consul(ctx, cfg, func(c *cluster.Consul) error {
		leader, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		alone, err := b.raftWrites(ctx, c, leader)
		if err != nil {
			return err
		}
		for _, n := range []int{1, 100, idleElected, 1000} {
			if err := b.idleWith(ctx, c, leader, n, alone); err != nil {
				return fmt.Errorf("%d elections: %w", n, err)
			}
		}
		return nil
	})
}

// idleWith measures one elector that leads n elections.
func (b *electionBench) idleWith(ctx context.Context, c *cluster.Consul, leader, n, alone int) (err error) {
	pattern := "shard-0"
	if n > 1 {
		pattern = fmt.Sprintf("shard-[000-%03d]", n-1)
	}
	s := b.newSidecar(c, rig.NewLog(), 0, nil, "-prefix", fmt.Sprintf("idle-%d", n), "-election", pattern)
	defer func() { err = errors.Join(err, s.end()) }()
	begin := election.Now()
	if err := s.start(ctx); err != nil {
		return err
	}
	if err := s.leadsAll(ctx, n); err != nil {
		return err
	}
	b.say("election: %d elections led after %s", n, election.Now()-begin)
	if err := wait(ctx, idleSettle); err != nil {
		return err
	}
	agent, err := url.Parse(c.ClientAddr(0))
	if err != nil {
		return err
	}
	before, err := s.footprint(agent.Port())
	if err != nil {
		return err
	}
	at := election.Now()
	writes, err := b.raftWrites(ctx, c, leader)
	if err != nil {
		return err
	}
	after, err := s.footprint(agent.Port())
	if err != nil {
		return err
	}
	if err := s.leadsAll(ctx, n); err != nil {
		return err
	}
	percent := 100 * float64(after.cpu-before.cpu) / float64(election.Now()-at)
	if n == idleElected {
		return b.print("# election.idle.raft: commit index of the Consul leader in a minute, %d elections led by one elector, less the same with no elector (%d and %d; "+
			"coordinates of Consul's own agents off)\nbench election.idle.raft %d count", n, writes, alone, max(0, writes-alone))
	}
	return b.print("# %d elections led by one elector for a minute: %d Raft writes, %d with no elector\n"+
		"bench election.rss.%d %.1f MiB\nbench election.conns.%d %d count\nbench election.cpu.%d %.2f percent",
		n, writes, alone, n, after.rss, n, max(before.conns, after.conns), n, percent)
}

// leadsAll waits until the elector leads n elections.
func (s *sidecar) leadsAll(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, idleLimit)
	defer cancel()
	return until(ctx, func() error {
		var list struct{ Elections []election.Status }
		if err := s.call(ctx, http.MethodGet, "/v1/elections?joined=true", &list); err != nil {
			return err
		}
		led := 0
		for _, st := range list.Elections {
			if st.Self {
				led++
			}
		}
		if led != n {
			return fmt.Errorf("leads %d of %d", led, n)
		}
		return nil
	})
}

// raftWrites is how far the commit index of Raft moves in a minute.
func (b *electionBench) raftWrites(ctx context.Context, c *cluster.Consul, leader int) (int, error) {
	before, err := commitIndex(c, leader)
	if err == nil {
		err = wait(ctx, idleMinute)
	}
	if err != nil {
		return 0, err
	}
	after, err := commitIndex(c, leader)
	return after - before, err
}

// commitIndex is Raft's, as a server tells it.
func commitIndex(c *cluster.Consul, server int) (int, error) {
	self, err := c.Server(server).Agent().Self()
	if err != nil {
		return 0, fmt.Errorf("read raft's index: %w", err)
	}
	raft, ok := self["Stats"]["raft"].(map[string]any)
	if !ok {
		return 0, errors.New("read raft's index: no statistics")
	}
	text, ok := raft["commit_index"].(string)
	if !ok {
		return 0, errors.New("read raft's index: no commit_index")
	}
	return strconv.Atoi(text)
}

// wait waits.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
