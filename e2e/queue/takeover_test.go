package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/queue"
	"github.com/shoenig/test/must"
)

// What happens when the broker or Consul goes away.
func TestTakeover(t *testing.T) {
	consul := oneServer(t)
	for name, c := range map[string]struct {
		cfg queue.Config
		run func(*scene)
	}{
		"fresh leases":       {work(queue.Stage{Lease: seconds(1), MaxLost: 5}), freshLeases},
		"everything is kept": {queue.Config{Stages: []queue.Stage{{Name: "work", MaxFailed: 1, Next: "merge"}, {Name: "merge", Collect: 9}}}, everythingKept},
		"who waits is told":  {queue.Config{}, waitersAreTold},
		"several shards":     {queue.Config{Shards: 4}, severalShards},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.run(newScene(t, consul, c.cfg))
		})
	}
}

// handOver lets another broker lead.
func (s *scene) handOver() {
	s.t.Helper()
	b := s.broker("b")
	_, err := b.Status(s.ctx, "q", 0)
	for errors.Is(err, queue.ErrUnknownQueue) {
		s.until(func() error { _, err = b.Config("q"); return err })
		_, err = b.Status(s.ctx, "q", 0)
	}
	must.ErrorIs(s.t, err, queue.ErrNotLeader)
	s.close(s.Broker)
	s.Broker = b
	s.leads(b)
}

// A claim that the next broker finds has a whole new lease, whether or not the old one
// had nearly run out, and its worker goes on as if nothing had been.
func freshLeases(s *scene) {
	s.put("a", "b")
	a, b := s.claimOne("w1"), s.claimOne("w2")
	s.handOver()
	st := s.status()
	must.Eq(s.t, 2, st.Stages[0].InFlight)
	must.Len(s.t, 2, st.Workers)
	e, err := s.Extend(s.ctx, "q", queue.Extend{Worker: "w1", Claims: []uint64{a.Claim}})
	must.NoError(s.t, err)
	must.SliceEmpty(s.t, e.Lost)
	s.accept(a, queue.Ack{Output: "out"})
	must.Eq(s.t, queue.Duplicate, s.say(a, queue.Ack{Output: "out"}))
	again := s.claimOne("w3") // when the new lease has run out
	must.Eq(s.t, b.ID, again.ID)
	must.Greater(s.t, b.Claim, again.Claim)
	must.Eq(s.t, queue.Stale, s.say(b, queue.Ack{}))
}

func everythingKept(s *scene) {
	ids := s.putItems(
		queue.Item{Input: "dead"}, queue.Item{Input: "held"}, queue.Item{Input: "claimed"}, queue.Item{Input: "cancelled"},
		queue.Item{Input: "g1", Group: "g", Key: "k"}, queue.Item{Input: "g2", Group: "g"},
		queue.Item{Input: "later", NotBefore: time.Now().Add(time.Hour)}, queue.Item{Input: "first", Priority: 9},
	)
	first := s.claimOne("w")
	must.Eq(s.t, "first", s.item(first).Input)
	s.accept(first, queue.Ack{Action: queue.Skip})
	s.accept(s.claimOne("w"), queue.Ack{Action: queue.Retry, Reason: "why"})
	s.accept(s.claimOne("w"), queue.Ack{Output: "output"})
	claimed := s.claimOne("worker-x")
	_, err := s.Cancel(s.ctx, "q", 0, ids[3:4])
	must.NoError(s.t, err)
	must.NoError(s.t, s.SetRecurring(s.ctx, "q", 0, queue.Recurring{Name: "r", Cron: "0 0 1 1 *", Item: queue.Item{Input: "yearly"}}))
	must.NoError(s.t, s.Set(s.ctx, "q", 0, queue.Pause))
	before := s.status()
	schedules, err := s.Recurring(s.ctx, "q", 0)
	must.NoError(s.t, err)
	must.Len(s.t, 1, schedules)
	states := func() (all []queue.ItemStatus) {
		for _, id := range ids {
			st, err := s.Item(s.ctx, "q", id)
			must.NoError(s.t, err)
			all = append(all, st)
		}
		return all
	}
	was := states()
	s.handOver()
	after := s.status()
	before.OldestMS, after.OldestMS = 0, 0
	before.Workers[0].LeaseMS, after.Workers[0].LeaseMS = 0, 0
	must.Eq(s.t, before, after)
	must.Eq(s.t, was, states())
	kept, err := s.Recurring(s.ctx, "q", 0)
	must.NoError(s.t, err)
	must.Eq(s.t, schedules, kept)
	dead, err := s.Dead(s.ctx, "q", 0, 0, 10)
	must.NoError(s.t, err)
	must.Eq(s.t, "why", dead[0].Reason)
	must.NoError(s.t, s.DeleteRecurring(s.ctx, "q", 0, "r"))
	must.NoError(s.t, s.Set(s.ctx, "q", 0, queue.Resume))
	must.Eq(s.t, ids[4], s.putItems(queue.Item{Key: "k"})[0])
	g := s.claimFor("w", "", 10).Items
	must.Eq(s.t, []string{"g1"}, s.inputs(g))
	s.accept(g[0], queue.Ack{})
	must.Eq(s.t, []string{"g2"}, s.inputs(s.claimFor("w", "", 10).Items))
	s.accept(claimed, queue.Ack{})
}

// Nobody is left waiting for a broker that has gone.
func waitersAreTold(s *scene) {
	const n = 20
	errs := make(chan error, n)
	for i := range n {
		go func() {
			_, err := s.Claim(s.ctx, "q", queue.ClaimRequest{Worker: fmt.Sprint("w", i), Wait: seconds(60)})
			errs <- err
		}()
	}
	b := s.broker("b")
	s.close(s.Broker)
	for range n {
		must.ErrorIs(s.t, <-errs, queue.ErrNotLeader)
	}
	s.Broker = b
	s.leads(b)
}

// Each shard has its own leader, and a claim is served from all that its broker leads.
func severalShards(s *scene) {
	for k := range 4 {
		s.until(func() error {
			_, err := s.Enqueue(s.ctx, "q", k, []queue.Item{{Input: fmt.Sprint(k)}})
			return err
		})
	}
	seen := map[string]bool{}
	for range 4 {
		got := s.claimFor("w", "", 1).Items[0]
		seen[s.item(got).Input] = true
		out, err := s.Ack(s.ctx, "q", got.ID.Shard, []queue.Ack{{ID: got.ID, Claim: got.Claim}})
		must.NoError(s.t, err)
		must.Eq(s.t, queue.Accepted, out[0].Verdict)
	}
	must.MapLen(s.t, 4, seen)
	// A claim that waits at all of them takes one item, wherever it comes.
	got := make(chan queue.ClaimResponse, 1)
	go func() {
		res, _ := s.Claim(s.ctx, "q", queue.ClaimRequest{Worker: "w", Max: 5, Wait: seconds(60)})
		got <- res
	}()
	_, err := s.Enqueue(s.ctx, "q", 3, []queue.Item{{Input: "x"}})
	must.NoError(s.t, err)
	must.Eq(s.t, []string{"x"}, s.inputs((<-got).Items))
}

// Consul is killed and comes back on its data. What was answered is still there, and
// what was not is there once or not at all.
func TestConsulRestart(t *testing.T) {
	consul := oneServer(t)
	s := newScene(t, consul, queue.Config{})
	s.put("before")
	claimed := s.claimOne("w")
	stop := make(chan struct{})
	type result struct{ stored, doubtful int }
	ended := make(chan result, 1)
	go func() {
		var r result
		for i := 0; ; i++ {
			select {
			case <-stop:
				ended <- r
				return
			default:
			}
			ctx, cancel := context.WithTimeout(s.ctx, time.Second)
			_, err := s.Enqueue(ctx, "q", 0, []queue.Item{{Input: fmt.Sprint(i)}})
			cancel()
			var away *queue.NotLeaderError
			switch {
			case err == nil:
				r.stored++
			case errors.As(err, &away) || errors.Is(err, queue.ErrBusy):
				// certainly not done
			default:
				r.doubtful++
			}
		}
	}()
	s.until(func() error {
		if s.status().Enqueued < 20 {
			return errors.New("not yet")
		}
		return nil
	})
	must.NoError(t, consul.KillServer(0))
	must.NoError(t, consul.StartServer(s.ctx, 0))
	s.until(func() error {
		_, err := s.Enqueue(s.ctx, "q", 0, []queue.Item{{Input: "after"}})
		return err
	})
	close(stop)
	r := <-ended
	st := s.leads(s.Broker)
	stored := uint64(r.stored) + 2 // before and after
	must.Between(t, stored, st.Enqueued, stored+uint64(r.doubtful))
	must.Eq(t, int(st.Enqueued), st.Items)
	s.until(func() error { // its lease is whole, whoever leads
		out, err := s.Ack(s.ctx, "q", 0, []queue.Ack{{ID: claimed.ID, Claim: claimed.Claim}})
		if err == nil {
			must.NotEq(t, queue.Stale, out[0].Verdict)
		}
		return err
	})
}
