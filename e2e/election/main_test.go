// Package election_test runs package election in processes of its own against
// a real Consul of three servers, breaks what can break, and checks that at no
// moment two of them believe to lead.
package election_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/rig"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

// binary is the candidate, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "candidate")
	if err == nil {
		binary, err = rig.Build(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// scene is a Consul with candidates of its own prefix.
type scene struct {
	t      *testing.T
	ctx    context.Context
	consul *cluster.Consul
	log    *rig.Log
	all    []*rig.Candidate
}

// startConsul starts three servers with as many client agents.
func startConsul(t *testing.T, cfg cluster.ConsulConfig) *cluster.Consul {
	t.Helper()
	cfg.Servers, cfg.Clients = 3, 3
	return clustertest.StartConsul(t, cfg)
}

// newScene makes a scene for one test. The checks of all processes come with
// the end of the test.
func newScene(t *testing.T, c *cluster.Consul) *scene {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	s := &scene{t: t, ctx: ctx, consul: c, log: rig.NewLog()}
	t.Cleanup(func() {
		cancel()
		s.end()
	})
	return s
}

// prefix of the keys is the test's own.
func (s *scene) prefix() string { return "test-" + strings.ReplaceAll(s.t.Name(), "/", "-") }

// candidate makes a candidate of one election at client agent i. It is not
// started.
func (s *scene) candidate(id string, mode election.Mode, agent int, change ...func(*rig.CandidateConfig)) *rig.Candidate {
	s.t.Helper()
	cfg := rig.CandidateConfig{
		Consul: s.consul, Log: s.log, Binary: binary, ID: id, Prefix: s.prefix(),
		Elections: []rig.Election{{Name: "x", Mode: mode}}, Agent: s.consul.ClientAddr(agent),
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := rig.NewCandidate(cfg)
	must.NoError(s.t, err)
	s.all = append(s.all, c)
	return c
}

// leader starts a candidate and waits until it leads.
func (s *scene) leader(id string, mode election.Mode, agent int, change ...func(*rig.CandidateConfig)) *rig.Candidate {
	s.t.Helper()
	c := s.candidate(id, mode, agent, change...)
	from := s.log.Len()
	must.NoError(s.t, c.Start(s.ctx))
	s.gain(from, id)
	return c
}

// follower starts a candidate of an election that has a leader.
func (s *scene) follower(id string, mode election.Mode, agent int, change ...func(*rig.CandidateConfig)) *rig.Candidate {
	s.t.Helper()
	c := s.candidate(id, mode, agent, change...)
	must.NoError(s.t, c.Start(s.ctx))
	s.listed(id)
	return c
}

// listed waits until Consul shows a candidate.
func (s *scene) listed(id string) {
	s.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		kv, _, err := s.consul.Server(0).KV().Get(s.prefix()+"/candidate/"+id, (&api.QueryOptions{}).WithContext(s.ctx))
		must.NoError(s.t, err)
		if kv != nil && kv.Session != "" {
			return
		}
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("candidate %s is not in consul", id)
		case <-tick.C:
		}
	}
}

// gain waits for the candidate's gain.
func (s *scene) gain(from int, id string) rig.Record {
	s.t.Helper()
	r, err := s.log.Await(s.ctx, from, "the leadership of "+id, func(r rig.Record) bool {
		return r.Kind == journal.Gained && r.Candidate == id
	})
	must.NoError(s.t, err)
	return r
}

// loss waits for the candidate's loss, which has to tell this reason.
func (s *scene) loss(from int, id string, reason error) rig.Record {
	s.t.Helper()
	r, err := s.log.AwaitLoss(s.ctx, from, "x", id)
	must.NoError(s.t, err)
	if reason != nil {
		must.StrContains(s.t, r.Error, reason.Error())
	}
	return r
}

// status waits until the candidate's status of the election is right.
func (s *scene) status(c *rig.Candidate, what string, right func(election.Status) bool) election.Status {
	s.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := c.Status(s.ctx, "x")
		must.NoError(s.t, err)
		if right(status) {
			return status
		}
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("%s: not %s: %+v", c.ID(), what, status)
		case <-tick.C:
		}
	}
}

// settled waits until somebody leads whom Consul and the candidate itself
// believe, and returns the candidate.
func (s *scene) settled() *rig.Candidate {
	s.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if leader, ok := s.log.Leader("x"); ok {
			for _, c := range s.all {
				if c.ID() != leader.Candidate {
					continue
				}
				status, err := c.Status(s.ctx, "x")
				must.NoError(s.t, err)
				if status.Self && status.Token == leader.Token && status.Observed < time.Second {
					return c
				}
			}
		}
		select {
		case <-s.ctx.Done():
			s.t.Fatal("nobody leads")
		case <-tick.C:
		}
	}
}

// moves checks that the election still works: its leader resigns and another
// candidate leads.
func (s *scene) moves() {
	s.t.Helper()
	for _, c := range s.all {
		s.status(c, "well and with all others", func(st election.Status) bool {
			return st.Error == "" && st.Observed >= 0 && st.Observed < time.Second && len(st.Candidates) == len(s.all)
		})
	}
	c := s.settled()
	from := s.log.Len()
	must.NoError(s.t, c.Do(s.ctx, "resign x"))
	_, err := s.log.AwaitGain(s.ctx, from, "x", c.ID())
	must.NoError(s.t, err)
}

// steady checks that a candidate does not lose its leadership for some time.
func (s *scene) steady(c *rig.Candidate, d time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, d)
	defer cancel()
	r, err := s.log.AwaitLoss(ctx, 0, "x", c.ID())
	must.ErrorIs(s.t, err, context.DeadlineExceeded, must.Sprintf("lost: %+v", r))
}

// end closes the candidates and checks what they tell.
func (s *scene) end() {
	var spans []rig.Span
	for _, c := range s.all {
		if err := c.Close(); err != nil {
			s.t.Errorf("close candidate: %v", err)
		}
		list, err := c.Spans()
		if err != nil {
			s.t.Errorf("read spans: %v", err)
		}
		spans = append(spans, list...)
	}
	for _, problem := range append(rig.Overlaps(spans), rig.Tokens(spans)...) {
		s.t.Error(problem)
	}
	for _, problem := range rig.Stale(s.log.All()) {
		s.t.Error(problem)
	}
	if s.t.Failed() {
		for _, span := range spans {
			s.t.Log(span)
		}
	}
}
