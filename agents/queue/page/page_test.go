package page

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/page"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// sample is a queue with something in each part of its page.
func sample() Queue {
	return Queue{
		Overview: queue.Overview{
			Status: queue.Status{
				Queue: "docs", Sealed: true, Paused: true, Enqueued: 1234567, Items: 5, Dead: 2, OldestMS: 65_000,
				Stages:  []queue.StageStatus{{Name: "words", Ready: 4, InFlight: 1}, {Name: "merge", Held: 2}},
				Workers: []queue.WorkerState{{Name: "w-1", Stage: "words", Items: 1, LeaseMS: 14_500}},
			},
			Config: queue.Config{Shards: 2, Stages: []queue.Stage{{Name: "words", Next: "merge"}, {Name: "merge", Collect: 3}}},
			Shards: []queue.ShardStatus{{Shard: 0, Leader: "10.0.0.1:4050"}, {Shard: 1, Error: "it has no leader at the moment"}},
		},
		Rates: Rates{Over: time.Minute, Enqueued: 13.4, Stages: map[string]StageRates{"words": {Done: 0.25}, "merge": {Done: 1000}}},
		Letters: []queue.DeadLetter{{
			ID: queue.ID{Seq: 17}, Stage: "words", Reason: `<script>alert("x")</script>`, Worker: "w-0",
			Item: json.RawMessage(`{"input":"/docs/<b>.txt"}`),
		}},
		More: true,
		Schedules: []queue.Schedule{
			{Recurring: queue.Recurring{Name: "nightly", Cron: "30 3 * * *", Item: queue.Item{Input: "/n"}}, Next: time.Date(2026, 11, 26, 3, 30, 0, 0, time.UTC)},
			{Recurring: queue.Recurring{Name: "often", Every: queue.Duration(time.Minute)}},
		},
	}
}

func TestPages(t *testing.T) {
	p, err := New()
	must.NoError(t, err)
	b := page.Agent{Kind: "broker", Address: "10.0.0.1:4050", At: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), Trouble: "consul is away"}
	failed := sample()
	failed.Letters, failed.Error, failed.ScheduleError = nil, "no leader", "nobody"
	for name, c := range map[string]struct {
		write func() ([]byte, error)
		want  []string
	}{
		"index": {func() ([]byte, error) { return p.Index(b, []Queue{sample()}) }, []string{
			`<a href="/queues/docs">docs</a>`, "sealed, paused, incomplete", "1 min 5 s", "13/s", "1\u2009000/s", "consul is away", "12:00:00 UTC",
		}},
		"no queues": {func() ([]byte, error) { return p.Index(b, nil) }, []string{"There are no queues yet"}},
		"queue": {func() ([]byte, error) { return p.Queue(b, sample()) }, []string{
			"1\u2009234\u2009567", "0-17", "&lt;script&gt;", "/docs/&lt;b&gt;.txt", "0.25/s", "merges 3", "w-1", "14.5 s",
			"10.0.0.1:4050", "not counted: it has no leader at the moment", "These are the first of 2", "30 3 * * *", "2026-11-26 03:30:00", "every 1m0s", "never",
		}},
		"new queue": {func() ([]byte, error) {
			return p.Queue(page.Agent{}, Queue{Overview: queue.Overview{Status: queue.Status{Stages: []queue.StageStatus{{Name: "work"}}}}})
		}, []string{"None has items", "None.", "–"}},
		"dead letters that cannot be read": {func() ([]byte, error) { return p.Queue(b, failed) }, []string{"They cannot be listed: no leader", "again and again cannot be listed: nobody"}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := c.write()
			must.NoError(t, err)
			w := string(b)
			for _, text := range c.want {
				must.StrContains(t, w, text)
			}
			must.StrNotContains(t, w, "<script")
			must.StrContains(t, w, `http-equiv="refresh"`)
			must.True(t, strings.HasSuffix(strings.TrimSpace(w), "</html>"))
		})
	}
}
