package server

import (
	"encoding/json"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// What is written by hand is what the library writes.
func TestEncode(t *testing.T) {
	id := queue.ID{Shard: 3, Seq: 17}
	for name, c := range map[string]struct {
		got  []byte
		want any
	}{
		"enqueued": {
			encodeEnqueued([]queue.Enqueued{{ID: id}, {ID: id, Duplicate: true}}),
			queue.EnqueuedBatch{Items: []queue.Enqueued{{ID: id}, {ID: id, Duplicate: true}}},
		},
		"claimed": {
			encodeClaimed(&queue.ClaimResponse{Items: []queue.Claimed{{ID: id, Claim: 9, Failed: 1, Lost: 2, Item: json.RawMessage(`{"input":"a"}`)}, {ID: id, Item: json.RawMessage(`{}`)}}, Lease: 15e9, MaxRuntime: 1e6}),
			queue.ClaimResponse{Items: []queue.Claimed{{ID: id, Claim: 9, Failed: 1, Lost: 2, Item: json.RawMessage(`{"input":"a"}`)}, {ID: id, Item: json.RawMessage(`{}`)}}, Lease: 15e9, MaxRuntime: 1e6},
		},
		"finished": {
			encodeClaimed(&queue.ClaimResponse{Items: []queue.Claimed{}, Finished: true}),
			queue.ClaimResponse{Items: []queue.Claimed{}, Finished: true},
		},
		"results": {
			encodeResults([]queue.AckResult{{ID: id, Verdict: queue.Accepted}, {ID: id, Verdict: queue.Stale, Error: "a \"b\"\n"}}),
			queue.AckResults{Results: []queue.AckResult{{ID: id, Verdict: queue.Accepted}, {ID: id, Verdict: queue.Stale, Error: "a \"b\"\n"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := json.Marshal(c.want)
			must.NoError(t, err)
			must.Eq(t, string(want)+"\n", string(c.got))
		})
	}
}

// Whatever a client sends, a batch that is accepted has as many lines as items, within the
// limit.
func FuzzReadBatch(f *testing.F) {
	f.Add([]byte("{\"input\":\"a\"}\n\n{}\n"), ndjson)
	f.Add([]byte(`{"items":[{"input":"a"},{}]}`), "application/json")
	f.Add([]byte(`[]`), "")
	f.Add([]byte("{}\n{"), "application/x-ndjson; charset=x")
	f.Fuzz(func(t *testing.T, body []byte, ctype string) {
		b, err := readBatch(body, ctype)
		if err != nil {
			return
		}
		must.Between(t, 1, len(b.items), queue.MaxBatch)
		if b.lines != nil {
			must.Eq(t, len(b.items), len(b.lines))
			last := 0
			for _, l := range b.lines {
				must.Greater(t, last, l)
				last = l
			}
		}
	})
}

func TestRates(t *testing.T) {
	h := newHistory()
	must.Eq(t, 0, h.rates("a").Over)
	see := func(second int, enqueued, done uint64, missing string) {
		h.note(start.Add(secs(second)), []queue.Overview{{
			Status: queue.Status{Queue: "a", Enqueued: enqueued, Stages: []queue.StageStatus{{Name: "s", Counters: queue.Counters{Done: done}}}},
			Shards: []queue.ShardStatus{{Error: missing}},
		}})
	}
	see(0, 100, 0, "")
	see(5, 1, 1, "not whole") // is left out
	see(10, 200, 50, "")
	r := h.rates("a")
	must.Eq(t, secs(10), r.Over)
	must.Eq(t, 10, r.Enqueued)
	must.Eq(t, 5, r.Stages["s"].Done)
	must.Eq(t, 5, r.Done())
	see(20, 0, 0, "") // it was made anew
	must.Eq(t, 0, h.rates("a").Enqueued)
	for i := range 2 * samples {
		see(100+i, 0, 0, "")
	}
	must.Eq(t, secs(samples-1), h.rates("a").Over)
	h.note(start, nil)
	must.MapEmpty(t, h.queues)
}
