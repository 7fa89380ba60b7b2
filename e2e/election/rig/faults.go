package rig

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// scope is what a fault draws its luck from.
type scope struct {
	rnd    *rand.Rand
	prefix string
}

// between is a random duration.
func (sc *scope) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(sc.rnd.Int64N(int64(hi-lo)))
}

// errMissed means that there was nothing to hit: no leader, or a process that
// another fault has already.
var errMissed = errors.New("nothing to hit")

// errBeside means that it was done, but is no fault that could make leaderships overlap
// where they must not: an orderly change, or something done to an election of mode
// fenced.
var errBeside = errors.New("no fault of strict or balanced")

// faults are what a soak run injects, with their share. Each returns when the
// fault is over.
var faults = []struct {
	name   string
	weight int
	inject func(context.Context, *soak, *scope) error
}{
	{"resign", 6, resign},
	{"handover", 6, handOver},
	{"freeze", 12, freeze},
	{"freeze-long", 1, freezeLong},
	{"drop", 8, network(func(s *candidateSlot, _ *scope) { s.Proxy().Drop() })},
	{"drop-answers", 6, network(func(s *candidateSlot, _ *scope) { s.Proxy().DropAnswers() })},
	{"delay", 6, network(func(s *candidateSlot, sc *scope) {
		s.Proxy().Delay(sc.between(20*time.Millisecond, 700*time.Millisecond))
	})},
	{"refuse", 4, network(func(s *candidateSlot, _ *scope) { s.Proxy().Refuse() })},
	{"reset", 4, network(func(s *candidateSlot, _ *scope) { s.Proxy().Reset() })},
	{"kill", 4, kill},
	{"session-destroy", 6, destroySession},
	{"key-delete", 4, deleteKey},
	{"key-put", 4, putKey},
	{"consul-leader-kill", 2, killConsulLeader},
	{"consul-leader-freeze", 2, freezeConsulLeader},
	{"agent-kill", 2, killAgent},
	{"agent-freeze", 4, freezeAgent},
	{"snapshot-restore", 3, restoreSnapshot},
}

// electionOf picks an election.
func (s *soak) electionOf(sc *scope) Election {
	return s.cfg.Elections[sc.rnd.IntN(len(s.cfg.Elections))]
}

// leaderOf is the slot of the candidate that leads.
func (s *soak) leaderOf(e Election) (*candidateSlot, error) {
	leader, ok := s.log.Leader(e.Name)
	if ok {
		for _, c := range s.list {
			if c.ID() == leader.Candidate {
				return c, nil
			}
		}
	}
	return nil, errMissed
}

// victim is a candidate, most of the time one that leads something. It belongs
// to the caller until release.
func (s *soak) victim(sc *scope) (c *candidateSlot, release func(), err error) {
	c, err = s.leaderOf(s.electionOf(sc))
	if err != nil || sc.rnd.IntN(4) == 0 {
		c = s.list[sc.rnd.IntN(len(s.list))]
	}
	if !c.busy.TryLock() {
		return nil, nil, errMissed
	}
	return c, c.busy.Unlock, nil
}

// command sends a command to the leader of an election. That it is refused, or
// not answered in time, is part of the game.
func (s *soak) command(ctx context.Context, e Election, text func(leader string) string) error {
	c, err := s.leaderOf(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_ = c.Do(ctx, text(c.ID()))
	return errBeside
}

func resign(ctx context.Context, s *soak, sc *scope) error {
	e := s.electionOf(sc)
	return s.command(ctx, e, func(string) string { return "resign " + e.Name })
}

func handOver(ctx context.Context, s *soak, sc *scope) error {
	e := s.electionOf(sc)
	return s.command(ctx, e, func(string) string {
		return fmt.Sprintf("handover %s %s", e.Name, s.list[sc.rnd.IntN(len(s.list))].ID())
	})
}

// frozen stops the process of a candidate for some time.
func (s *soak) frozen(ctx context.Context, sc *scope, d time.Duration) error {
	c, release, err := s.victim(sc)
	if err != nil {
		return err
	}
	defer release()
	err = c.Pause()
	sleep(ctx, d)
	return errors.Join(err, c.Resume())
}

func freeze(ctx context.Context, s *soak, sc *scope) error {
	return s.frozen(ctx, sc, sc.between(100*time.Millisecond, 4*time.Second))
}

// freezeLong is longer than the window of the mode strict.
func freezeLong(ctx context.Context, s *soak, sc *scope) error {
	return s.frozen(ctx, sc, sc.between(9*time.Second, 12*time.Second))
}

// network does something to the connections of a candidate for some time.
func network(what func(*candidateSlot, *scope)) func(context.Context, *soak, *scope) error {
	return func(ctx context.Context, s *soak, sc *scope) error {
		c, release, err := s.victim(sc)
		if err != nil {
			return err
		}
		defer release()
		what(c, sc)
		sleep(ctx, sc.between(200*time.Millisecond, 3500*time.Millisecond))
		c.Proxy().Pass()
		return nil
	}
}

func kill(ctx context.Context, s *soak, sc *scope) error {
	c, release, err := s.victim(sc)
	if err != nil {
		return err
	}
	defer release()
	if _, err := c.Kill(); err != nil {
		return err
	}
	// Its end by a signal is what was asked for.
	_ = c.Wait(ctx)
	sleep(ctx, sc.between(0, 2*time.Second))
	// The run may be over meanwhile, and a candidate that is down is fine then.
	return c.Start(ctx)
}

// lockKey is the key of an election in Consul.
func (sc *scope) lockKey(e Election) string { return sc.prefix + "/leader/" + e.Name }

// operator is what a person does to an election with Consul's API, through a server that
// runs.
func (s *soak) operator(ctx context.Context, sc *scope, do func(context.Context, *consulapi.Client, Election) error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	leader, err := s.cfg.Consul.Leader(ctx)
	if err != nil {
		return errMissed // another fault has just hit it
	}
	e := s.electionOf(sc)
	if err := do(ctx, s.cfg.Consul.Server(leader), e); err != nil && !errors.Is(err, errMissed) {
		return fmt.Errorf("%w: %w", errMissed, err)
	} else if err != nil {
		return err
	}
	if e.Mode == election.Fenced {
		return errBeside
	}
	return nil
}

func destroySession(ctx context.Context, s *soak, sc *scope) error {
	return s.operator(ctx, sc, func(ctx context.Context, c *consulapi.Client, e Election) error {
		kv, _, err := c.KV().Get(sc.lockKey(e), (&consulapi.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		if kv == nil || kv.Session == "" {
			return errMissed
		}
		_, err = c.Session().Destroy(kv.Session, (&consulapi.WriteOptions{}).WithContext(ctx))
		return err
	})
}

func deleteKey(ctx context.Context, s *soak, sc *scope) error {
	return s.operator(ctx, sc, func(ctx context.Context, c *consulapi.Client, e Election) error {
		_, err := c.KV().Delete(sc.lockKey(e), (&consulapi.WriteOptions{}).WithContext(ctx))
		return err
	})
}

func putKey(ctx context.Context, s *soak, sc *scope) error {
	return s.operator(ctx, sc, func(ctx context.Context, c *consulapi.Client, e Election) error {
		values := []string{"", "overwritten", `{"state":"held","candidate":"nobody"}`, `{"state":"released"}`, `[1]`}
		kv := &consulapi.KVPair{Key: sc.lockKey(e), Value: []byte(values[sc.rnd.IntN(len(values))])}
		_, err := c.KV().Put(kv, (&consulapi.WriteOptions{}).WithContext(ctx))
		return err
	})
}

func killConsulLeader(ctx context.Context, s *soak, sc *scope) error {
	s.consulMu.Lock()
	defer s.consulMu.Unlock()
	leader, err := s.cfg.Consul.Leader(ctx)
	if err != nil {
		return err
	}
	if err := s.cfg.Consul.KillServer(leader); err != nil {
		return err
	}
	sleep(ctx, sc.between(0, 4*time.Second))
	// Whatever ctx says: the Consul is left whole.
	return s.cfg.Consul.StartServer(context.WithoutCancel(ctx), leader)
}

func freezeConsulLeader(ctx context.Context, s *soak, sc *scope) error {
	s.consulMu.Lock()
	defer s.consulMu.Unlock()
	leader, err := s.cfg.Consul.Leader(ctx)
	if err != nil {
		return err
	}
	if err := s.cfg.Consul.PauseServer(leader); err != nil {
		return err
	}
	sleep(ctx, sc.between(200*time.Millisecond, 4*time.Second))
	return s.cfg.Consul.ResumeServer(leader)
}

func killAgent(ctx context.Context, s *soak, sc *scope) error {
	s.consulMu.Lock()
	defer s.consulMu.Unlock()
	i := sc.rnd.IntN(s.cfg.Consul.Clients())
	if err := s.cfg.Consul.KillClient(i); err != nil {
		return err
	}
	sleep(ctx, sc.between(0, 2*time.Second))
	if sc.rnd.IntN(2) == 0 {
		if err := s.cfg.Consul.ForgetClient(i); err != nil {
			return err
		}
	}
	return s.cfg.Consul.StartClient(context.WithoutCancel(ctx), i)
}

func freezeAgent(ctx context.Context, s *soak, sc *scope) error {
	s.consulMu.Lock()
	defer s.consulMu.Unlock()
	i := sc.rnd.IntN(s.cfg.Consul.Clients())
	if err := s.cfg.Consul.PauseClient(i); err != nil {
		return err
	}
	sleep(ctx, sc.between(200*time.Millisecond, 3*time.Second))
	return s.cfg.Consul.ResumeClient(i)
}

func restoreSnapshot(ctx context.Context, s *soak, sc *scope) error {
	s.consulMu.Lock()
	defer s.consulMu.Unlock()
	o := Observation{Kind: SnapshotTaken, Call: election.Now()}
	snapshot, err := s.cfg.Consul.Snapshot(ctx)
	if err != nil {
		return err
	}
	o.Return = election.Now()
	s.observe(o)
	sleep(ctx, sc.between(100*time.Millisecond, 4*time.Second))
	o = Observation{Kind: SnapshotRestored, Call: election.Now()}
	if err := s.cfg.Consul.Restore(context.WithoutCancel(ctx), snapshot); err != nil {
		return err
	}
	o.Return = election.Now()
	s.observe(o)
	return nil
}
