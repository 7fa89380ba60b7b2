package queue_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nomad-patterns/nomad-patterns/queue"
	"github.com/shoenig/test/must"
)

// Every mistake names the field, and changes nothing.
func TestBadInput(t *testing.T) {
	s := newScene(t, oneServer(t), queue.Config{MaxItems: 1000})
	long := strings.Repeat("x", 513)
	for name, c := range map[string]struct {
		field string
		try   func() error
	}{
		"queue name":     {"queue", func() error { _, err := s.Create(s.ctx, "No Name", queue.Config{}); return err }},
		"shards":         {"shards", func() error { _, err := s.Create(s.ctx, "x", queue.Config{Shards: 65}); return err }},
		"stage name":     {"stages[0].name", stage(s, queue.Stage{Name: "A"})},
		"lease":          {"stages[0].lease", stage(s, queue.Stage{Name: "a", Lease: seconds(0.5)})},
		"backoff":        {"stages[0].max_backoff", stage(s, queue.Stage{Name: "a", Backoff: seconds(2), MaxBackoff: seconds(1)})},
		"next":           {"stages[0].next", stage(s, queue.Stage{Name: "a", Next: "b"})},
		"next of itself": {"stages[0].next", stage(s, queue.Stage{Name: "a", Next: "a"})},
		"collect": {"stages[0].collect", func() error {
			_, err := s.Create(s.ctx, "x", queue.Config{Shards: 2, Stages: []queue.Stage{{Name: "a", Collect: 2}}})
			return err
		}},
		"input":               {"input", enqueue(s, queue.Item{Input: long})},
		"input not text":      {"input", enqueue(s, queue.Item{Input: "\xff"})},
		"key":                 {"key", enqueue(s, queue.Item{Key: long})},
		"attrs":               {"attrs", enqueue(s, queue.Item{Attrs: map[string]string{"a": long}})},
		"priority":            {"priority", enqueue(s, queue.Item{Priority: 10})},
		"stage of an item":    {"stage", enqueue(s, queue.Item{Stage: "unknown"})},
		"worker":              {"worker", claim(s, queue.ClaimRequest{})},
		"worker with blanks":  {"worker", claim(s, queue.ClaimRequest{Worker: "a b"})},
		"max":                 {"max", claim(s, queue.ClaimRequest{Worker: "w", Max: 1001})},
		"wait":                {"wait", claim(s, queue.ClaimRequest{Worker: "w", Wait: seconds(3600)})},
		"stage of a claim":    {"stage", claim(s, queue.ClaimRequest{Worker: "w", Stage: "unknown"})},
		"action":              {"action", ack(s, queue.Ack{Action: "eat"})},
		"output":              {"output", ack(s, queue.Ack{Output: long})},
		"emit with a failure": {"emit", ack(s, queue.Ack{Action: queue.Retry, Emit: []queue.Item{{}}})},
		"emitted item":        {"emit[0]", ack(s, queue.Ack{Emit: []queue.Item{{Priority: -1}}})},
		"id of another shard": {"id", ack(s, queue.Ack{ID: queue.ID{Shard: 1}})},
		"no acks":             {"acks", func() error { _, err := s.Ack(s.ctx, "q", 0, nil); return err }},
		"shard":               {"shard", func() error { _, err := s.Status(s.ctx, "q", 1); return err }},
		"recurring":           {"cron", func() error { return s.SetRecurring(s.ctx, "q", 0, queue.Recurring{Name: "r"}) }},
		"cron":                {"cron", func() error { return s.SetRecurring(s.ctx, "q", 0, queue.Recurring{Name: "r", Cron: "no"}) }},
		"recurring with key": {"item", func() error {
			return s.SetRecurring(s.ctx, "q", 0, queue.Recurring{Name: "r", Every: seconds(1), Item: queue.Item{Key: "k"}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.try()
			var bad *queue.FieldError
			must.True(t, errors.As(err, &bad), must.Sprint(err))
			must.Eq(t, c.field, bad.Field)
			must.NotEq(t, "", bad.Problem)
		})
	}
	for name, c := range map[string]struct {
		want error
		try  func() error
	}{
		"unknown queue": {queue.ErrUnknownQueue, func() error { _, err := s.Status(s.ctx, "other", 0); return err }},
		"unknown item":  {queue.ErrUnknownItem, func() error { _, err := s.Item(s.ctx, "q", queue.ID{Seq: 7}); return err }},
		"unknown dead letter": {queue.ErrUnknownItem, func() error {
			_, err := s.Redrive(s.ctx, "q", 0, []queue.ID{{Seq: 7}})
			return err
		}},
		"too many at once": {queue.ErrTooLarge, func() error { _, err := s.Enqueue(s.ctx, "q", 0, make([]queue.Item, 1001)); return err }},
		"too many bytes": {queue.ErrTooLarge, func() error {
			_, err := s.Enqueue(s.ctx, "q", 0, slices.Repeat([]queue.Item{{Input: strings.Repeat("x", 500)}}, 500))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) { must.ErrorIs(t, c.try(), c.want) })
	}
	t.Run("full", func(t *testing.T) {
		_, err := s.Enqueue(s.ctx, "q", 0, make([]queue.Item, 1000))
		must.NoError(t, err)
		_, err = s.Enqueue(s.ctx, "q", 0, make([]queue.Item, 1))
		must.ErrorIs(t, err, queue.ErrFull)
	})
	// Of all the bad ones nothing was accepted.
	must.Eq(t, 1000, s.status().Enqueued)
}

// What TestBadInput tries.
func stage(s *scene, st queue.Stage) func() error {
	return func() error {
		_, err := s.Create(s.ctx, "x", queue.Config{Stages: []queue.Stage{st}})
		return err
	}
}

func enqueue(s *scene, bad queue.Item) func() error {
	return func() error {
		_, err := s.Enqueue(s.ctx, "q", 0, []queue.Item{{Input: "good"}, bad})
		return err
	}
}

func claim(s *scene, req queue.ClaimRequest) func() error {
	return func() error {
		_, err := s.Claim(s.ctx, "q", req)
		return err
	}
}

func ack(s *scene, a queue.Ack) func() error {
	return func() error {
		_, err := s.Ack(s.ctx, "q", 0, []queue.Ack{a})
		return err
	}
}
