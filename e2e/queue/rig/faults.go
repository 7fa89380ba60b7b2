package rig

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/election/proxy"
)

// luck is what a fault draws from.
type luck struct{ *rand.Rand }

// between is a random duration.
func (l luck) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(l.Int64N(int64(hi-lo)))
}

// faults are what a run injects, with their share. Each returns when the fault is over;
// hit says whether there was something to hit.
var faults = []struct {
	name   string
	weight int
	inject func(context.Context, *chaos, luck) (hit bool, err error)
}{
	{"broker-kill", 6, killBroker},
	{"broker-freeze", 5, freezeBroker},
	{"worker-kill", 6, killWorker},
	{"worker-freeze", 5, freezeWorker},
	{"consul-cut", 3, network(func(b *Broker, _ luck) *proxy.Proxy { b.Consul().Drop(); return b.Consul() })},
	{"consul-answers-lost", 4, network(func(b *Broker, _ luck) *proxy.Proxy { b.Consul().DropAnswers(); return b.Consul() })},
	{"consul-reset", 3, network(func(b *Broker, _ luck) *proxy.Proxy { b.Consul().Reset(); return b.Consul() })},
	{"consul-slow", 2, network(func(b *Broker, l luck) *proxy.Proxy {
		b.Consul().Delay(l.between(10*time.Millisecond, 300*time.Millisecond))
		return b.Consul()
	})},
	{"front-cut", 3, network(func(b *Broker, _ luck) *proxy.Proxy { b.Front().Refuse(); return b.Front() })},
	{"front-answers-lost", 4, network(func(b *Broker, _ luck) *proxy.Proxy { b.Front().DropAnswers(); return b.Front() })},
	{"front-reset", 4, network(func(b *Broker, _ luck) *proxy.Proxy { b.Front().Reset(); return b.Front() })},
	{"consul-leader-kill", 3, killConsulLeader},
	{"consul-leader-freeze", 2, freezeConsulLeader},
}

// atOnce is how many faults there can be at a time.
const atOnce = 2

// inject injects all faults, and gives the right to enqueue a share of the items with
// each. It closes share at the end.
func (c *chaos) inject(ctx context.Context, share chan<- int) {
	defer close(share)
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{}, atOnce)
	each := (c.cfg.Items + c.cfg.Faults - 1) / c.cfg.Faults
	var bag []int
	for i, f := range faults {
		for range f.weight {
			bag = append(bag, i)
		}
	}
	for n := range c.cfg.Faults {
		// All kinds come before the first one comes again.
		kind := n % len(faults)
		if n >= len(faults) {
			kind = bag[c.rnd.IntN(len(bag))]
		}
		l := luck{rand.New(rand.NewPCG(c.rnd.Uint64(), c.rnd.Uint64()))}
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		select {
		case share <- each:
		case <-ctx.Done():
			<-free
			return
		}
		wg.Go(func() {
			defer func() { <-free }()
			f := faults[kind]
			begun := time.Now()
			hit, err := f.inject(ctx, c, l)
			c.mu.Lock()
			defer c.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				c.problems = append(c.problems, fmt.Sprintf("fault %s: %v", f.name, err))
			}
			if hit {
				c.faults[f.name]++
			}
			say(c.cfg.Progress, "fault %d of %d: %s took %s (hit: %t)", n+1, c.cfg.Faults, f.name, time.Since(begun).Round(time.Millisecond), hit)
		})
	}
}

// sleep waits, or less if the run ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// take takes a random process that no other fault has.
func take[T any](list []*slot[T], l luck) (s *slot[T], release func()) {
	for _, i := range l.Perm(len(list)) {
		if list[i].busy.TryLock() {
			return list[i], list[i].busy.Unlock
		}
	}
	return nil, nil
}

// leading takes the broker that leads shard 0 most of the time.
func (c *chaos) leading(ctx context.Context, l luck) (*slot[*Broker], func()) {
	if l.IntN(4) > 0 {
		for _, s := range c.brokers {
			if Leads(ctx, s.it, chaosQueue) && s.busy.TryLock() {
				return s, s.busy.Unlock
			}
		}
	}
	return take(c.brokers, l)
}

func killBroker(ctx context.Context, c *chaos, l luck) (bool, error) {
	s, release := c.leading(ctx, l)
	if s == nil {
		return false, nil
	}
	defer release()
	if err := s.it.Kill(); err != nil {
		return false, err
	}
	sleep(ctx, l.between(0, 3*time.Second))
	return true, s.it.Start()
}

func freezeBroker(ctx context.Context, c *chaos, l luck) (bool, error) {
	s, release := c.leading(ctx, l)
	if s == nil {
		return false, nil
	}
	defer release()
	if err := s.it.Pause(); err != nil {
		return false, err
	}
	sleep(ctx, l.between(200*time.Millisecond, 5*time.Second))
	return true, s.it.Resume()
}

func killWorker(ctx context.Context, c *chaos, l luck) (bool, error) {
	s, release := take(c.workers, l)
	if s == nil {
		return false, nil
	}
	defer release()
	if err := s.it.Kill(); err != nil {
		return false, err
	}
	sleep(ctx, l.between(0, time.Second))
	return true, s.it.Start()
}

// freezeWorker freezes a worker beyond its lease.
func freezeWorker(ctx context.Context, c *chaos, l luck) (bool, error) {
	s, release := take(c.workers, l)
	if s == nil {
		return false, nil
	}
	defer release()
	if err := s.it.Pause(); err != nil {
		return false, err
	}
	sleep(ctx, l.between(chaosLease, 2*chaosLease))
	return true, s.it.Resume()
}

func network(what func(*Broker, luck) *proxy.Proxy) func(context.Context, *chaos, luck) (bool, error) {
	return func(ctx context.Context, c *chaos, l luck) (bool, error) {
		s, release := c.leading(ctx, l)
		if s == nil {
			return false, nil
		}
		defer release()
		p := what(s.it, l)
		sleep(ctx, l.between(200*time.Millisecond, 3*time.Second))
		p.Pass()
		if l.IntN(2) == 0 {
			// Otherwise what was held back arrives late, which is worth a try as well.
			p.Reset()
		}
		return true, nil
	}
}

func killConsulLeader(ctx context.Context, c *chaos, l luck) (bool, error) {
	c.consulMu.Lock()
	defer c.consulMu.Unlock()
	leader, err := c.cfg.Consul.Leader(ctx)
	if err != nil {
		return false, err
	}
	if err := c.cfg.Consul.KillServer(leader); err != nil {
		return false, err
	}
	sleep(ctx, l.between(0, 3*time.Second))
	// Whatever ctx says: Consul is left whole.
	return true, c.cfg.Consul.StartServer(context.WithoutCancel(ctx), leader)
}

func freezeConsulLeader(ctx context.Context, c *chaos, l luck) (bool, error) {
	c.consulMu.Lock()
	defer c.consulMu.Unlock()
	leader, err := c.cfg.Consul.Leader(ctx)
	if err != nil {
		return false, err
	}
	if err := c.cfg.Consul.PauseServer(leader); err != nil {
		return false, err
	}
	sleep(ctx, l.between(200*time.Millisecond, 4*time.Second))
	return true, c.cfg.Consul.ResumeServer(leader)
}
