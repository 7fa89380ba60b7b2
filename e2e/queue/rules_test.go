package queue_test

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nomad-patterns/nomad-patterns/queue"
	"github.com/shoenig/test/must"
)

func keys(s *scene) {
	first := s.putItems(queue.Item{Input: "a", Key: "k"})[0]
	out, err := s.Enqueue(s.ctx, "q", 0, []queue.Item{{Input: "b", Key: "k"}, {Input: "c", Key: "other"}})
	must.NoError(s.t, err)
	must.Eq(s.t, queue.Enqueued{ID: first, Duplicate: true}, out[0])
	must.False(s.t, out[1].Duplicate)
	got := s.claimFor("w", "", 10).Items
	must.Eq(s.t, []string{"a", "c"}, s.inputs(got))
	// Also when it is done, until it is forgotten.
	s.accept(got[0], queue.Ack{})
	must.Eq(s.t, first, s.putItems(queue.Item{Input: "d", Key: "k"})[0])
	s.nothing()
}

func groups(s *scene) {
	s.putItems(queue.Item{Input: "a1", Group: "a"}, queue.Item{Input: "a2", Group: "a"}, queue.Item{Input: "b1", Group: "b"})
	got := s.claimFor("w", "", 10).Items
	must.Eq(s.t, []string{"a1", "b1"}, s.inputs(got))
	s.nothing()
	s.accept(got[0], queue.Ack{})
	must.Eq(s.t, []string{"a2"}, s.inputs(s.claimFor("w", "", 10).Items))
}

func priorities(s *scene) {
	s.putItems(queue.Item{Input: "low"}, queue.Item{Input: "high", Priority: 9}, queue.Item{Input: "middle", Priority: 5})
	must.Eq(s.t, []string{"high", "middle", "low"}, s.inputs(s.claimFor("w", "", 10).Items))
}

func notBefore(s *scene) {
	at := time.Now().Add(300 * time.Millisecond)
	s.putItems(queue.Item{Input: "later", NotBefore: at}, queue.Item{Input: "now"})
	must.Eq(s.t, []string{"now"}, s.inputs(s.claimFor("w", "", 10).Items))
	must.Eq(s.t, []string{"later"}, s.inputs(s.claimFor("w", "", 10).Items))
	must.False(s.t, time.Now().Before(at.Truncate(time.Millisecond)))
}

func inFlight(s *scene) {
	s.put("a", "b", "c")
	got := s.claimFor("w", "", 10).Items
	must.Eq(s.t, []string{"a", "b"}, s.inputs(got))
	s.nothing()
	s.accept(got[1], queue.Ack{})
	must.Eq(s.t, []string{"c"}, s.inputs(s.claimFor("w", "", 10).Items))
}

func rate(s *scene) {
	s.put("a", "b", "c", "d")
	begun := time.Now()
	for n := 0; n < 4; {
		n += len(s.claimFor("w", "", 10).Items)
	}
	// A second's worth at once at most, and the rest at its rate.
	must.GreaterEq(s.t, 900*time.Millisecond, time.Since(begun))
}

func sealed(s *scene) {
	s.put("a")
	must.NoError(s.t, s.Set(s.ctx, "q", 0, queue.Seal))
	_, err := s.Enqueue(s.ctx, "q", 0, []queue.Item{{Input: "b"}})
	must.ErrorIs(s.t, err, queue.ErrSealed)
	waited := make(chan error, 1)
	go func() { waited <- s.Wait(s.ctx, "q", 0, true) }()
	got := s.claimFor("w", "", 1)
	must.False(s.t, got.Finished)
	s.accept(got.Items[0], queue.Ack{})
	must.NoError(s.t, <-waited)
	// Workers need not wait any longer: nothing will ever come.
	got = s.claimFor("w", "", 1)
	must.SliceEmpty(s.t, got.Items)
	must.True(s.t, got.Finished)
	must.True(s.t, s.status().Finished)
}

func paused(s *scene) {
	must.NoError(s.t, s.Set(s.ctx, "q", 0, queue.Pause))
	s.put("a")
	s.nothing()
	got := make(chan queue.ClaimResponse, 1)
	go func() {
		res, _ := s.Claim(s.ctx, "q", queue.ClaimRequest{Worker: "w", Wait: seconds(60)})
		got <- res
	}()
	must.True(s.t, s.status().Paused)
	must.NoError(s.t, s.Set(s.ctx, "q", 0, queue.Resume))
	must.Eq(s.t, []string{"a"}, s.inputs((<-got).Items))
}

func cancelled(s *scene) {
	ids := s.put("a", "b", "c", "d")
	claimed := s.claimOne("w")
	out, err := s.Cancel(s.ctx, "q", 0, []queue.ID{ids[0], ids[1], {Seq: 99}})
	must.NoError(s.t, err)
	must.Eq(s.t, []queue.Verdict{queue.Accepted, queue.Accepted, queue.Unknown}, []queue.Verdict{out[0].Verdict, out[1].Verdict, out[2].Verdict})
	e, err := s.Extend(s.ctx, "q", queue.Extend{Worker: "w", Claims: []uint64{claimed.Claim}})
	must.NoError(s.t, err)
	must.Eq(s.t, []queue.ID{ids[0]}, e.Cancelled)
	must.Eq(s.t, queue.Stale, s.say(claimed, queue.Ack{}))
	n, err := s.Purge(s.ctx, "q", 0)
	must.NoError(s.t, err)
	must.Eq(s.t, 2, n)
	st := s.status()
	must.Eq(s.t, 0, st.Items)
	must.Eq(s.t, 4, st.Stages[0].Cancelled)
	s.nothing()
}

func recurring(s *scene) {
	r := queue.Recurring{Name: "r", Every: seconds(1), Item: queue.Item{Input: "again"}}
	must.NoError(s.t, s.SetRecurring(s.ctx, "q", 0, r))
	list, err := s.Recurring(s.ctx, "q", 0)
	must.NoError(s.t, err)
	must.Len(s.t, 1, list)
	must.Eq(s.t, r, list[0].Recurring)
	must.False(s.t, list[0].Next.IsZero())
	for range 2 {
		got := s.claimOne("w")
		must.Eq(s.t, "again", s.item(got).Input)
		s.accept(got, queue.Ack{})
	}
	must.NoError(s.t, s.DeleteRecurring(s.ctx, "q", 0, "r"))
	var bad *queue.FieldError
	must.True(s.t, errors.As(s.DeleteRecurring(s.ctx, "q", 0, "r"), &bad))
}

// pipeline splits, works and merges in threes.
func pipeline() queue.Config {
	return queue.Config{Stages: []queue.Stage{{Name: "split", Next: "work"}, {Name: "work", Next: "merge"}, {Name: "merge", Collect: 3}}}
}

func stagesAndMerge(s *scene) {
	s.put("1", "2", "3", "4")
	for _, c := range s.claimFor("w", "split", 10).Items {
		s.accept(c, queue.Ack{Output: "split-" + s.item(c).Input})
	}
	for _, c := range s.claimFor("w", "work", 10).Items {
		s.accept(c, queue.Ack{Output: "work-" + s.item(c).Input})
	}
	merge := s.claimFor("w", "merge", 10).Items
	must.Len(s.t, 1, merge)
	must.Eq(s.t, []string{"work-split-1", "work-split-2", "work-split-3"}, s.item(merge[0]).Inputs)
	s.accept(merge[0], queue.Ack{Output: "first"})
	must.Eq(s.t, 1, s.status().Stages[2].Held)
	// What is left makes a smaller one when nothing more can come.
	must.NoError(s.t, s.Set(s.ctx, "q", 0, queue.Seal))
	rest := s.claimFor("w", "merge", 10).Items
	must.Len(s.t, 1, rest)
	must.Eq(s.t, []string{"work-split-4"}, s.item(rest[0]).Inputs)
	s.accept(rest[0], queue.Ack{Output: "second"})
	must.True(s.t, s.status().Finished)
}

// One item makes many, and the next broker knows all of it.
func emitted(s *scene) {
	s.put("big")
	parent := s.claimFor("w", "split", 1).Items[0]
	var emit []queue.Item
	for i := range 5 {
		emit = append(emit, queue.Item{Input: fmt.Sprintf("part-%d", i)})
	}
	s.accept(parent, queue.Ack{Emit: emit})
	s.close(s.Broker)
	s.Broker = s.broker("b")
	s.leads(s.Broker)
	parts := s.claimFor("w", "work", 10).Items
	must.Len(s.t, 5, parts)
	for _, p := range parts {
		must.Eq(s.t, parent.ID.String(), s.item(p).Parent)
	}
	s.accept(parts[0], queue.Ack{Action: queue.Skip})
	for _, p := range parts[1:] {
		s.accept(p, queue.Ack{Output: "done-" + s.item(p).Input})
	}
	must.NoError(s.t, s.Set(s.ctx, "q", 0, queue.Seal))
	var merged []string
	for range 2 {
		got := s.claimFor("w", "merge", 1).Items[0]
		merged = append(merged, s.item(got).Inputs...)
		s.accept(got, queue.Ack{})
	}
	slices.Sort(merged)
	must.Eq(s.t, []string{"done-part-1", "done-part-2", "done-part-3", "done-part-4"}, merged)
	must.True(s.t, s.status().Finished)
}

// What is finished leaves Consul when its time is over.
func forgotten(s *scene) {
	id := s.putItems(queue.Item{Input: "a", Key: "k"})[0]
	s.accept(s.claimOne("w"), queue.Ack{})
	s.until(func() error {
		keys, _, err := s.consul.Server(0).KV().Keys(s.key("segment/"), "", nil)
		if err == nil && len(keys) > 0 {
			err = fmt.Errorf("there is still %q", keys)
		}
		return err
	})
	_, err := s.Item(s.ctx, "q", id)
	must.ErrorIs(s.t, err, queue.ErrUnknownItem)
	must.NotEq(s.t, id, s.putItems(queue.Item{Input: "a", Key: "k"})[0])
	must.Eq(s.t, 1, s.status().Stages[0].Done)
}

// Something is wrong with everything, so nothing more is handed out until somebody looks.
func tooManyDead(s *scene) {
	s.put("a", "b")
	s.accept(s.claimOne("w"), queue.Ack{Action: queue.Reject, Reason: "bad"})
	s.nothing()
	n, err := s.Redrive(s.ctx, "q", 0, nil)
	must.NoError(s.t, err)
	must.Eq(s.t, 1, n)
	must.Len(s.t, 2, s.claimFor("w", "", 10).Items)
}

func changed(s *scene) {
	other := s.broker("b")
	s.put("a")
	cfg := work(queue.Stage{MaxFailed: 1})
	cfg.Stages = append(cfg.Stages, queue.Stage{Name: "more"})
	cfg.MaxItems = 1
	_, err := s.Create(s.ctx, "q", cfg)
	must.NoError(s.t, err)
	s.until(func() error {
		got, err := other.Config("q")
		if err == nil && len(got.Stages) != 2 {
			err = fmt.Errorf("the other broker does not know")
		}
		return err
	})
	s.until(func() error {
		if n := len(s.status().Stages); n != 2 {
			return fmt.Errorf("the shard has %d stages", n)
		}
		return nil
	})
	_, err = s.Enqueue(s.ctx, "q", 0, []queue.Item{{Input: "b"}})
	must.ErrorIs(s.t, err, queue.ErrFull)
	s.accept(s.claimOne("w"), queue.Ack{Action: queue.Retry})
	must.Eq(s.t, 1, s.status().Dead) // the new limit
	var bad *queue.FieldError
	_, err = s.Create(s.ctx, "q", queue.Config{Shards: 2})
	must.True(s.t, errors.As(err, &bad))
	must.Eq(s.t, "shards", bad.Field)
	_, err = s.Create(s.ctx, "q", queue.Config{Stages: []queue.Stage{{Name: "renamed"}}})
	must.True(s.t, errors.As(err, &bad))
	must.Eq(s.t, "stages", bad.Field)
}

func deleted(s *scene) {
	s.put("a")
	waiting := make(chan error, 1)
	go func() { waiting <- s.Wait(s.ctx, "q", 0, true) }()
	must.NoError(s.t, s.Delete(s.ctx, "q"))
	must.Error(s.t, <-waiting)
	_, err := s.Status(s.ctx, "q", 0)
	must.ErrorIs(s.t, err, queue.ErrUnknownQueue)
	keys, _, err := s.consul.Server(0).KV().Keys(s.prefix()+"/data/", "", nil)
	must.NoError(s.t, err)
	must.SliceEmpty(s.t, keys)
	// With another number of shards, which would be no change of the old one.
	_, err = s.Create(s.ctx, "q", queue.Config{Shards: 2})
	must.NoError(s.t, err)
	must.Eq(s.t, 0, s.leads(s.Broker).Items)
}
