package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/rig"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// trialLimit bounds one trial of ours.
const trialLimit = time.Minute

// pauseLimit is the range of the pause before a fault, so that it meets heartbeats
// at any moment.
const pauseLimit = 500 * time.Millisecond

// crew is three electors, each at a Consul agent of its own.
type crew struct {
	bench    *electionBench
	consul   *cluster.Consul
	log      *rig.Log
	sidecars []*sidecar
}

// newCrew starts three electors that take part in these elections.
func (b *electionBench) newCrew(ctx context.Context, c *cluster.Consul, prefix string, elections map[string]election.Mode) (*crew, error) {
	w := &crew{bench: b, consul: c, log: rig.NewLog()}
	var names []string
	for name := range elections {
		names = append(names, name)
	}
	for i := range 3 {
		s := b.newSidecar(c, w.log, i, names, "-prefix", prefix)
		w.sidecars = append(w.sidecars, s)
		if err := w.enter(ctx, s, elections); err != nil {
			return nil, errors.Join(err, w.end())
		}
	}
	return w, nil
}

// enter starts an elector and makes it a candidate.
func (w *crew) enter(ctx context.Context, s *sidecar, elections map[string]election.Mode) error {
	watch := s.watch
	s.watch = nil // there is nothing to watch before it has joined
	err := s.start(ctx)
	s.watch = watch
	if err != nil {
		return err
	}
	for name, mode := range elections {
		if err := s.call(ctx, http.MethodPut, "/v1/elections/"+name+"?mode="+string(mode), nil); err != nil {
			return err
		}
	}
	streams, stop := context.WithCancel(context.WithoutCancel(ctx))
	before := s.stop
	s.stop = func() { before(); stop() }
	for _, name := range watch {
		opened := make(chan error, 1)
		s.wg.Go(func() { s.follow(streams, name, opened) })
		if err := <-opened; err != nil {
			return err
		}
	}
	return nil
}

// end stops the electors.
func (w *crew) end() error {
	var errs []error
	for _, s := range w.sidecars {
		errs = append(errs, s.end())
	}
	return errors.Join(errs...)
}

// leader waits until an elector leads that sees all candidates.
func (w *crew) leader(ctx context.Context, name string, candidates int) (leader *sidecar, err error) {
	err = until(ctx, func() error {
		r, ok := w.log.Leader(name)
		if !ok {
			return fmt.Errorf("nobody leads %s", name)
		}
		for _, s := range w.sidecars {
			if s.name != r.Candidate {
				continue
			}
			st, err := s.status(ctx, name)
			if err != nil {
				return err
			}
			if !st.Self || len(st.Candidates) != candidates {
				return fmt.Errorf("%s: %s sees %d candidates", name, s.name, len(st.Candidates))
			}
			leader = s
		}
		return nil
	})
	return leader, err
}

// trial makes a fault that hits the leader, and returns the time from the fault
// to the event of the next leader.
func (w *crew) trial(ctx context.Context, name string, candidates int, fault func(context.Context, *sidecar) (time.Duration, error)) (time.Duration, *sidecar, error) {
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	leader, err := w.leader(ctx, name, candidates)
	if err != nil {
		return 0, nil, err
	}
	if err := wait(ctx, rand.N(pauseLimit)); err != nil {
		return 0, nil, err
	}
	from := w.log.Len()
	at, err := fault(ctx, leader)
	if err != nil {
		return 0, nil, err
	}
	r, err := w.log.AwaitGain(ctx, from, name, leader.name)
	return r.At - at, leader, err
}

// withPeers runs a part on a Consul with three client agents, with the peers.
func (b *electionBench) withPeers(ctx context.Context, run func(*cluster.Consul, *peers) error) error {
	return b.consul(ctx, cluster.ConsulConfig{Clients: 3}, func(c *cluster.Consul) error {
		p, err := b.newPeers(ctx, c)
		if err != nil {
			return err
		}
		return run(c, p)
	})
}

// resignElections is how many elections take turns, since who has resigned from
// one lets others go first there for a second.
const resignElections = 12

// resign measures from the sending of DELETE.
func (b *electionBench) resign(ctx context.Context) error {
	return b.withPeers(ctx, func(c *cluster.Consul, p *peers) error { return b.resignWith(ctx, c, p) })
}

func (b *electionBench) resignWith(ctx context.Context, c *cluster.Consul, peers *peers) (err error) {
	elections := map[string]election.Mode{}
	for i := range resignElections {
		elections[fmt.Sprintf("x%d", i)] = election.Balanced
	}
	w, err := b.newCrew(ctx, c, "bench-resign", elections)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.end()) }()
	var ours, commits []time.Duration
	for i := range b.Trials {
		name := fmt.Sprintf("x%d", i%resignElections)
		d, _, err := w.trial(ctx, name, 3, func(ctx context.Context, s *sidecar) (time.Duration, error) {
			at := election.Now()
			return at, s.call(ctx, http.MethodDelete, "/v1/elections/"+name+"?leave=false", nil)
		})
		if err != nil {
			return fmt.Errorf("resign: %w", err)
		}
		ours = append(ours, d)
		if d, err = commit(ctx, c.Client(i%c.Clients())); err != nil {
			return err
		}
		commits = append(commits, d)
		if i < b.PeerTrials {
			if err := peers.trial(ctx, "resign"); err != nil {
				return err
			}
		}
	}
	b.say("election.resign: done")
	return errors.Join(b.printTimes("election.resign", ours), b.printTimes("election.one-put", commits), peers.print("resign"))
}

// commit is what one write to Consul takes: no lock can change hands in less than
// two of them.
func commit(ctx context.Context, c *consulapi.Client) (time.Duration, error) {
	begin := election.Now()
	_, err := c.KV().Put(&consulapi.KVPair{Key: "bench/put", Value: make([]byte, 200)}, (&consulapi.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return 0, fmt.Errorf("write to consul: %w", err)
	}
	return election.Now() - begin, nil
}

// application holds the stream of an election.
type application struct {
	sidecar *sidecar
	close   context.CancelFunc
	done    chan struct{}
}

// hold opens the stream and notes in the log when it says that it leads.
func (w *crew) hold(ctx context.Context, s *sidecar, name string, mode election.Mode) (*application, error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	a := &application{sidecar: s, close: stop, done: make(chan struct{})}
	opened := make(chan error, 1)
	go func() {
		defer close(a.done)
		_ = s.events(ctx, "/v1/elections/"+name+"/hold?mode="+string(mode), opened, func(event string, _ []byte) {
			if event == "leader" {
				w.log.Add(rig.Record{Process: s.name, Candidate: s.name, Event: journal.Event{Kind: journal.Gained, Election: name, At: election.Now()}})
			}
		})
		w.log.Add(rig.Record{Process: s.name, Candidate: s.name, Event: journal.Event{Kind: rig.Ended, Election: name, At: election.Now()}})
	}()
	if err := <-opened; err != nil {
		stop()
		<-a.done
		return nil, err
	}
	return a, nil
}

// appCrash measures from the closing of the leader's hold stream, as the kernel
// does it for a process that dies.
func (b *electionBench) appCrash(ctx context.Context) error {
	return b.withPeers(ctx, func(c *cluster.Consul, p *peers) error { return b.appCrashWith(ctx, c, p) })
}

func (b *electionBench) appCrashWith(ctx context.Context, c *cluster.Consul, peers *peers) (err error) {
	const name = "x"
	w, err := b.newCrew(ctx, c, "bench-appcrash", nil)
	if err != nil {
		return err
	}
	apps := map[*sidecar]*application{}
	defer func() {
		for _, a := range apps {
			a.close()
			<-a.done
		}
		err = errors.Join(err, w.end())
	}()
	for _, s := range w.sidecars {
		if apps[s], err = w.hold(ctx, s, name, election.Balanced); err != nil {
			return err
		}
	}
	var ours []time.Duration
	for i := range b.Trials {
		d, s, err := w.trial(ctx, name, 3, func(_ context.Context, s *sidecar) (time.Duration, error) {
			apps[s].close()
			at := election.Now()
			<-apps[s].done
			return at, nil
		})
		if err != nil {
			return fmt.Errorf("appcrash: %w", err)
		}
		ours = append(ours, d)
		// The last stream of an elector may take a moment to be given back.
		err = until(ctx, func() error {
			app, err := w.hold(ctx, s, name, election.Balanced)
			if err == nil {
				apps[s] = app
			}
			return err
		})
		if err != nil {
			return err
		}
		if i < b.PeerTrials {
			if err := peers.trial(ctx, "appcrash"); err != nil {
				return err
			}
		}
	}
	b.say("election.appcrash: done")
	return errors.Join(b.printTimes("election.appcrash", ours), peers.print("appcrash"))
}

// sidecarKill measures from the return of kill(2).
func (b *electionBench) sidecarKill(ctx context.Context) error {
	return b.consul(ctx, cluster.ConsulConfig{Clients: 3}, func(c *cluster.Consul) error {
		return errors.Join(
			b.sidecarKillIn(ctx, c, "election.sidecarkill", election.Fenced),
			b.sidecarKillIn(ctx, c, "election.sidecarkill.balanced", election.Balanced),
		)
	})
}

// sidecarKillIn is sidecarKill in a mode.
func (b *electionBench) sidecarKillIn(ctx context.Context, c *cluster.Consul, line string, mode election.Mode) (err error) {
	elections := map[string]election.Mode{"x": mode}
	w, err := b.newCrew(ctx, c, "bench-kill-"+string(mode), elections)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.end()) }()
	var ours []time.Duration
	for range b.Trials {
		d, s, err := w.trial(ctx, "x", 3, func(_ context.Context, s *sidecar) (time.Duration, error) { return s.kill() })
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		ours = append(ours, d)
		if err := w.enter(ctx, s, elections); err != nil {
			return err
		}
	}
	b.say("%s: done", line)
	return b.printTimes(line, ours)
}

// nodeKill measures from the return of the second of two kill(2): of the elector
// and of its Consul agent. One election of each mode is led by the same elector.
func (b *electionBench) nodeKill(ctx context.Context) error {
	return b.consul(ctx, cluster.ConsulConfig{Clients: 3}, func(c *cluster.Consul) (err error) {
		elections := map[string]election.Mode{"fenced": election.Fenced, "balanced": election.Balanced}
		w, err := b.newCrew(ctx, c, "bench-nodekill", elections)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.end()) }()
		times := map[string][]time.Duration{}
		for i := range b.Trials {
			if err := w.nodeTrial(ctx, w.sidecars[i%len(w.sidecars)], elections, times); err != nil {
				return err
			}
			b.say("election.nodekill: %d of %d, %s and %s", i+1, b.Trials, times["fenced"][i], times["balanced"][i])
		}
		return errors.Join(b.printTimes("election.nodekill", times["fenced"]), b.printTimes("election.nodekill.balanced", times["balanced"]))
	})
}

// nodeTrial makes an elector the leader of all elections and kills its node.
func (w *crew) nodeTrial(ctx context.Context, victim *sidecar, elections map[string]election.Mode, times map[string][]time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 2*trialLimit)
	defer cancel()
	for name := range elections {
		err := until(ctx, func() error {
			leader, err := w.leader(ctx, name, 3)
			if err != nil || leader == victim {
				return err
			}
			return errors.Join(errors.New("not yet"), leader.call(ctx, http.MethodDelete, "/v1/elections/"+name+"?to="+victim.name, nil))
		})
		if err != nil {
			return fmt.Errorf("hand over to %s: %w", victim.name, err)
		}
	}
	if err := wait(ctx, rand.N(pauseLimit)); err != nil {
		return err
	}
	from := w.log.Len()
	if _, err := victim.kill(); err != nil {
		return err
	}
	if err := w.consul.KillClient(victim.agent); err != nil {
		return err
	}
	at := election.Now()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for name := range elections {
		wg.Go(func() {
			r, err := w.log.AwaitGain(ctx, from, name, victim.name)
			mu.Lock()
			defer mu.Unlock()
			times[name] = append(times[name], r.At-at)
			errs = append(errs, err)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := w.consul.StartClient(ctx, victim.agent); err != nil {
		return err
	}
	return w.enter(ctx, victim, elections)
}
