package queue_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/queue"
	"github.com/shoenig/test/must"
)

// seconds is a Duration.
func seconds(n float64) queue.Duration { return queue.Duration(n * float64(time.Second)) }

// work is a configuration with the one stage "work".
func work(st queue.Stage) queue.Config {
	st.Name = "work"
	return queue.Config{Stages: []queue.Stage{st}}
}

// What a queue does, on one Consul. Each case has keys of its own.
func TestLife(t *testing.T) {
	consul := oneServer(t)
	for name, c := range map[string]struct {
		cfg queue.Config
		run func(*scene)
	}{
		"enqueue claim ack":        {queue.Config{}, wholeLife},
		"many at once":             {queue.Config{}, manyAtOnce},
		"long poll":                {queue.Config{}, longPoll},
		"extend":                   {work(queue.Stage{Lease: seconds(1), MaxLost: 5}), extended},
		"lease expires":            {work(queue.Stage{Lease: seconds(1), MaxLost: 5}), leaseExpires},
		"late answer":              {work(queue.Stage{Lease: seconds(1), MaxLost: 5}), lateAnswer},
		"retry then dead":          {work(queue.Stage{MaxFailed: 2, Backoff: seconds(0.01)}), retryThenDead},
		"lost then dead":           {work(queue.Stage{Lease: seconds(1), MaxLost: 2}), lostThenDead},
		"release is no failure":    {work(queue.Stage{MaxFailed: 1, MaxLost: 1}), released},
		"keys":                     {queue.Config{}, keys},
		"group":                    {queue.Config{}, groups},
		"priority":                 {queue.Config{}, priorities},
		"not before":               {queue.Config{}, notBefore},
		"in flight at most":        {work(queue.Stage{MaxInFlight: 2}), inFlight},
		"rate":                     {work(queue.Stage{Rate: 2}), rate},
		"seal and wait":            {queue.Config{}, sealed},
		"pause":                    {queue.Config{}, paused},
		"cancel and purge":         {work(queue.Stage{Lease: seconds(5)}), cancelled},
		"recurring":                {queue.Config{}, recurring},
		"stages and merge":         {pipeline(), stagesAndMerge},
		"emit":                     {pipeline(), emitted},
		"retention":                {queue.Config{Retention: seconds(0.2)}, forgotten},
		"too many dead letters":    {queue.Config{MaxDead: 1}, tooManyDead},
		"configuration is changed": {work(queue.Stage{MaxFailed: 3}), changed},
		"delete and make again":    {queue.Config{}, deleted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.run(newScene(t, consul, c.cfg))
		})
	}
}

func wholeLife(s *scene) {
	id := s.put("/in/a")[0]
	must.Eq(s.t, "0-0", id.String())
	got := s.claimOne("w1")
	must.Eq(s.t, id, got.ID)
	must.Eq(s.t, "/in/a", s.item(got).Input)
	st, err := s.Item(s.ctx, "q", id)
	must.NoError(s.t, err)
	must.Eq(s.t, "claimed", st.State)
	must.Eq(s.t, "w1", st.Worker)
	s.accept(got, queue.Ack{Output: "/out/a"})
	must.Eq(s.t, queue.Duplicate, s.say(got, queue.Ack{Output: "/out/other"}))
	st, err = s.Item(s.ctx, "q", id)
	must.NoError(s.t, err)
	must.Eq(s.t, "done", st.State)
	must.Eq(s.t, "/out/a", st.Output)
	must.Eq(s.t, 1, s.status().Stages[0].Done)
	// Everything is there to be read in Consul, as JSON.
	pairs, _, err := s.consul.Server(0).KV().List(s.prefix()+"/data/", nil)
	must.NoError(s.t, err)
	must.Len(s.t, 3, pairs)
	for _, p := range pairs {
		must.True(s.t, json.Valid(p.Value), must.Sprint(p.Key, ": ", string(p.Value)))
	}
}

func manyAtOnce(s *scene) {
	var inputs []string
	for i := range 600 {
		inputs = append(inputs, fmt.Sprint(i))
	}
	s.put(inputs...)
	var acks []queue.Ack
	var claimed []queue.Claimed
	for len(claimed) < len(inputs) {
		// One claim takes as many as fit a transaction.
		got := s.claimFor("w", "", queue.MaxBatch).Items
		must.SliceNotEmpty(s.t, got)
		claimed = append(claimed, got...)
	}
	must.Eq(s.t, inputs, s.inputs(claimed))
	for _, c := range claimed {
		acks = append(acks, queue.Ack{ID: c.ID, Claim: c.Claim})
	}
	out, err := s.Ack(s.ctx, "q", 0, acks)
	must.NoError(s.t, err)
	for _, r := range out {
		must.Eq(s.t, queue.Accepted, r.Verdict)
	}
	must.Eq(s.t, 0, s.status().Items)
}

func longPoll(s *scene) {
	s.nothing()
	type result struct {
		res queue.ClaimResponse
		err error
	}
	results := make(chan result, 1)
	go func() {
		res, err := s.Claim(s.ctx, "q", queue.ClaimRequest{Worker: "w", Wait: seconds(60)})
		results <- result{res, err}
	}()
	s.put("a")
	r := <-results
	must.NoError(s.t, r.err)
	must.Eq(s.t, []string{"a"}, s.inputs(r.res.Items))
	// What waits in vain is told so.
	got, err := s.Claim(s.ctx, "q", queue.ClaimRequest{Worker: "w", Wait: seconds(0.05)})
	must.NoError(s.t, err)
	must.SliceEmpty(s.t, got.Items)
}

// A claim that is extended outlives its lease: another item, claimed at the same time,
// is lost meanwhile.
func extended(s *scene) {
	s.put("kept", "lost")
	kept, lost := s.claimOne("w1"), s.claimOne("w2")
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			e, err := s.Extend(s.ctx, "q", queue.Extend{
				Worker: "w1", Claims: []uint64{kept.Claim}, Progress: map[string]float64{kept.ID.String(): 0.5},
			})
			if err == nil && len(e.Lost) > 0 {
				err = fmt.Errorf("the claim is lost")
			}
			select {
			case <-stop:
				ended <- err
				return
			case <-tick.C:
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	again := s.claimOne("w3")
	must.Eq(s.t, lost.ID, again.ID)
	st, err := s.Item(s.ctx, "q", kept.ID)
	must.NoError(s.t, err)
	must.Eq(s.t, "claimed", st.State)
	must.Eq(s.t, 0.5, st.Progress)
	close(stop)
	must.NoError(s.t, <-ended)
	s.accept(kept, queue.Ack{})
	e, err := s.Extend(s.ctx, "q", queue.Extend{Worker: "w2", Claims: []uint64{lost.Claim}})
	must.NoError(s.t, err)
	must.Eq(s.t, []uint64{lost.Claim}, e.Lost)
}

func leaseExpires(s *scene) {
	s.put("a")
	first := s.claimOne("w1")
	second := s.claimOne("w2")
	must.Eq(s.t, first.ID, second.ID)
	must.Greater(s.t, first.Claim, second.Claim)
	must.Eq(s.t, 1, second.Lost)
	must.Eq(s.t, 0, second.Failed)
	must.Eq(s.t, queue.Stale, s.say(first, queue.Ack{Output: "first"}))
	s.accept(second, queue.Ack{Output: "second"})
	st, err := s.Item(s.ctx, "q", first.ID)
	must.NoError(s.t, err)
	must.Eq(s.t, "second", st.Output)
	must.Eq(s.t, 1, s.status().Stages[0].Lost)
}

// Who is late, but before anybody else has the item, is not sent away with his work.
func lateAnswer(s *scene) {
	s.put("a")
	got := s.claimOne("w1")
	s.until(func() error {
		if s.status().Stages[0].InFlight > 0 {
			return fmt.Errorf("the lease has not run out")
		}
		return nil
	})
	must.Eq(s.t, queue.Stale, s.say(got, queue.Ack{Action: queue.Retry}))
	s.accept(got, queue.Ack{})
	s.nothing()
}

func retryThenDead(s *scene) {
	id := s.put("a")[0]
	s.accept(s.claimOne("w"), queue.Ack{Action: queue.Retry, Reason: "no luck"})
	second := s.claimOne("w")
	must.Eq(s.t, 1, second.Failed)
	s.accept(second, queue.Ack{Action: queue.Retry, Reason: "again no luck"})
	dead, err := s.Dead(s.ctx, "q", 0, 0, 10)
	must.NoError(s.t, err)
	must.Len(s.t, 1, dead)
	must.Eq(s.t, id, dead[0].ID)
	must.Eq(s.t, "again no luck", dead[0].Reason)
	must.Eq(s.t, 2, dead[0].Failed)
	must.Eq(s.t, 1, s.status().Dead)
	s.nothing()
	n, err := s.Redrive(s.ctx, "q", 0, nil)
	must.NoError(s.t, err)
	must.Eq(s.t, 1, n)
	again := s.claimOne("w")
	must.Eq(s.t, "a", s.item(again).Input)
	must.Eq(s.t, 0, again.Failed)
	s.accept(again, queue.Ack{})
	must.Eq(s.t, 0, s.status().Dead)
	must.Eq(s.t, 0, s.status().Items)
}

// An item over which every worker vanishes is given up, and the others go on.
func lostThenDead(s *scene) {
	s.put("poison", "good")
	got := s.claimOne("w1")
	must.Eq(s.t, "poison", s.item(got).Input)
	s.accept(s.claimOne("w1"), queue.Ack{})
	got = s.claimOne("w2")
	must.Eq(s.t, 1, got.Lost)
	s.until(func() error {
		if s.status().Dead == 0 {
			return fmt.Errorf("not dead")
		}
		return nil
	})
	dead, err := s.Dead(s.ctx, "q", 0, 0, 10)
	must.NoError(s.t, err)
	must.Eq(s.t, 2, dead[0].Lost)
	must.Eq(s.t, "w2", dead[0].Worker)
	must.Eq(s.t, 1, s.status().Stages[0].Done)
}

func released(s *scene) {
	s.put("a")
	for range 3 {
		s.accept(s.claimOne("w"), queue.Ack{Action: queue.Release})
	}
	got := s.claimOne("w")
	must.Eq(s.t, 0, got.Failed+got.Lost)
}
