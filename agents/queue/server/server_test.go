package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// TestContract goes through all routes with one broker. Each step builds on those before.
func TestContract(t *testing.T) {
	n := nodes(t, 1)[0]
	for _, c := range []struct {
		name, method, path, body string
		code                     int
		want                     string // the answer begins so
	}{
		{"no queues", "GET", "/v1/queues", "", 200, `{"queues":[]}`},
		{"create", "PUT", "/v1/queues/a", `{"shards":1,"stages":[{"name":"work","lease":"20s"}]}`, 200, `{"shards":1,"stages":[{"name":"work","lease":"20s","max_failed":5,`},
		{"create with defaults", "PUT", "/v1/queues/b", "", 200, `{"shards":1,`},
		{"bad name", "PUT", "/v1/queues/A", "", 400, `{"error":"\"A\" is not 1 to 63 small letters`},
		{"bad configuration", "PUT", "/v1/queues/c", `{"shards":99}`, 400, `{"error":"99 is not between 1 and 64","field":"shards"}`},
		{"misspelt", "PUT", "/v1/queues/c", `{"shard":9}`, 400, `{"error":"unknown field","field":"shard"}`},
		{"parameter", "PUT", "/v1/queues/c?x=1", `{}`, 400, `{"error":"unknown parameter; there are none","field":"x"}`},
		{"delete", "DELETE", "/v1/queues/b", "", 200, `{}`},
		{"delete what", "DELETE", "/v1/queues/b", "", 404, `{"error":"queue \"b\": no such queue"}`},

		{"no items", "POST", "/v1/queues/a/items", `{"items":[]}`, 400, `{"error":"there are none","field":"items"}`},
		{"items", "POST", "/v1/queues/a/items", `{"items":[{"input":"/x","key":"x"},{"input":"/y"},{"input":"/x","key":"x"}]}`, 200, `{"items":[{"id":"0-0"},{"id":"0-1"},{"id":"0-0","duplicate":true}]}`},
		{"to a shard", "POST", "/v1/queues/a/items?shard=0", `{"items":[{"input":"/z"}]}`, 200, `{"items":[{"id":"0-2"}]}`},
		{"to no shard", "POST", "/v1/queues/a/items?shard=3", `{"items":[{"input":"/z"}]}`, 400, `{"error":"there is no such shard","field":"shard"}`},
		{"bad item", "POST", "/v1/queues/a/items", `{"items":[{"input":"/x"},{"priority":10}]}`, 400, `{"error":"10 is not between 0 and 9","field":"items[1].priority"}`},
		{"unknown stage", "POST", "/v1/queues/a/items", `{"items":[{"input":"/x","stage":"s"}]}`, 400, `{"error":"\"s\" is not one of [\"work\"]","field":"items[0].stage"}`},
		{"item of no kind", "POST", "/v1/queues/a/items", `{"items":[{"inptu":"/x"}]}`, 400, `{"error":"unknown field","field":"inptu"}`},
		{"unknown queue", "POST", "/v1/queues/b/items", `{"items":[{"input":"/x"}]}`, 404, `{"error":"queue \"b\": no such queue"}`},
		{"too many", "POST", "/v1/queues/a/items", `{"items":[` + strings.Repeat(`{},`, 1000) + `{}]}`, 413, `{"error":"too much at once: 1001 items, more than 1000`},

		{"item", "GET", "/v1/queues/a/items/0-1", "", 200, `{"id":"0-1","state":"ready","stage":"work","item":{"input":"/y"}}`},
		{"item what", "GET", "/v1/queues/a/items/0-9", "", 404, `{"error":"item 0-9: no such item"}`},
		{"item how", "GET", "/v1/queues/a/items/x", "", 400, `{"error":"\"x\" is not the ID of an item, such as 0-17","field":"id"}`},

		{"claim", "POST", "/v1/queues/a/claim", `{"worker":"w","max":2}`, 200, `{"items":[{"id":"0-0","claim":1,"item":{"input":"/x","key":"x"}},{"id":"0-1","claim":2,"item":{"input":"/y"}}],"lease":"15s"}`},
		{"claim one", "POST", "/v1/queues/a/claim", `{"worker":"v"}`, 200, `{"items":[{"id":"0-2","claim":3,`},
		{"claim none", "POST", "/v1/queues/a/claim", `{"worker":"w"}`, 200, `{"items":[]}`},
		{"claim and wait", "POST", "/v1/queues/a/claim", `{"worker":"w","wait":"1ms"}`, 200, `{"items":[]}`},
		{"claim badly", "POST", "/v1/queues/a/claim", `{}`, 400, `{"error":"is missing","field":"worker"}`},
		{"claim too long", "POST", "/v1/queues/a/claim", `{"worker":"w","wait":"1h"}`, 400, `{"error":"1h0m0s is not between 0s and 5m0s","field":"wait"}`},

		{"extend", "POST", "/v1/queues/a/extend", `{"worker":"w","claims":[1,7],"shard":0}`, 200, `{"lost":[7]}`},
		{"ack", "POST", "/v1/queues/a/ack", `{"acks":[{"id":"0-0","claim":1,"output":"/o"},{"id":"0-0","claim":1},{"id":"0-9","claim":1}]}`, 200, `{"results":[{"id":"0-0","verdict":"accepted"},{"id":"0-0","verdict":"stale","error":"attempt is \"over\""},{"id":"0-9","verdict":"unknown","error":"there is no such item"}]}`},
		{"ack nothing", "POST", "/v1/queues/a/ack", `{"acks":[]}`, 400, `{"error":"0 of them; 1 to 1000 are possible","field":"acks"}`},
		{"nack", "POST", "/v1/queues/a/nack", `{"acks":[{"id":"0-1","claim":2}]}`, 200, `{"results":[{"id":"0-1","verdict":"accepted"}]}`},
		{"it is ready again", "GET", "/v1/queues/a/items/0-1", "", 200, `{"id":"0-1","state":"ready"`},
		{"reject", "POST", "/v1/queues/a/nack", `{"acks":[{"id":"0-2","claim":3,"action":"reject","reason":"bad"}]}`, 200, `{"results":[{"id":"0-2","verdict":"accepted"}]}`},

		{"status", "GET", "/v1/queues/a", "", 200, `{"queue":"a","paused":false,"sealed":false,"finished":false,"enqueued":3,"items":1,"dead":1,"oldest_ms":1500,"stages":[{"name":"work","ready":1,`},
		{"status of what", "GET", "/v1/queues/b", "", 404, `{"error":"queue \"b\": no such queue"}`},
		{"list", "GET", "/v1/queues", "", 200, `{"queues":[{"queue":"a",`},

		{"dead", "GET", "/v1/queues/a/dead", "", 200, `{"dead":[{"id":"0-2","stage":"work","reason":"bad","failed":1,"worker":"v","at":"2026-11-25T12:00:00Z","item":{"input":"/z"}}]}`},
		{"dead from", "GET", "/v1/queues/a/dead?from=0-3", "", 200, `{"dead":[]}`},
		{"dead badly", "GET", "/v1/queues/a/dead?limit=0", "", 400, `{"error":"\"0\" is not a whole number from 1 to 1000","field":"limit"}`},
		{"redrive what", "POST", "/v1/queues/a/dead/redrive", `{"ids":["0-1"]}`, 404, `{"error":"item: no such item among the dead letters"}`},
		{"redrive some", "POST", "/v1/queues/a/dead/redrive", `{"ids":["0-1","0-2"]}`, 200, `{"items":1,"error":"item: no such item among the dead letters"}`},
		{"redrive all", "POST", "/v1/queues/a/dead/redrive", `{}`, 200, `{"items":0}`},

		{"recurring", "PUT", "/v1/queues/a/recurring/r", `{"every":"1h","item":{"input":"/r"}}`, 200, `{}`},
		{"recurring, a list", "GET", "/v1/queues/a/recurring", "", 200, `{"recurring":[{"name":"r","every":"1h0m0s","item":{"input":"/r"}}]}`},
		{"recurring, other name", "PUT", "/v1/queues/a/recurring/r", `{"name":"s"}`, 400, `{"error":"\"s\" is not the name in the URL, \"r\"","field":"name"}`},
		{"recurring no more", "DELETE", "/v1/queues/a/recurring/r", "", 200, `{}`},
		{"recurring, none", "GET", "/v1/queues/a/recurring", "", 200, `{"recurring":[]}`},
		{"recurring what", "DELETE", "/v1/queues/a/recurring/r", "", 404, `{"error":"there is no recurring item \"r\"","field":"name"}`},

		{"not empty", "GET", "/v1/queues/a/wait?state=empty&timeout=1ms", "", 200, `{"reached":false}`},
		{"wait for what", "GET", "/v1/queues/a/wait?state=x", "", 400, `{"error":"\"x\" is not \"done\" or \"empty\"","field":"state"}`},
		{"cancel", "POST", "/v1/queues/a/cancel", `{"ids":["0-1"]}`, 200, `{"results":[{"id":"0-1","verdict":"accepted"}]}`},
		{"pause", "POST", "/v1/queues/a/pause", "", 200, `{}`},
		{"paused", "GET", "/v1/queues/a", "", 200, `{"queue":"a","paused":true,`},
		{"resume", "POST", "/v1/queues/a/resume", "", 200, `{}`},
		{"purge", "POST", "/v1/queues/a/purge", "", 200, `{"items":1}`},
		{"empty", "GET", "/v1/queues/a/wait?state=empty", "", 200, `{"reached":true}`},
		{"not done", "GET", "/v1/queues/a/wait?timeout=1ms", "", 200, `{"reached":false}`},
		{"seal", "POST", "/v1/queues/a/seal", "", 200, `{}`},
		{"sealed", "POST", "/v1/queues/a/items", `{"items":[{"input":"/x"}]}`, 409, `{"error":"the queue is sealed and takes no more items"}`},
		{"done", "GET", "/v1/queues/a/wait", "", 200, `{"reached":true}`},
		{"finished", "POST", "/v1/queues/a/claim", `{"worker":"w","wait":"30s"}`, 200, `{"items":[],"finished":true}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := n.do(t, c.method, c.path, c.body)
			must.Eq(t, c.code, r.code, must.Sprint(r.body))
			must.StrHasPrefix(t, c.want, r.body)
		})
	}
}

func TestNDJSON(t *testing.T) {
	n := nodes(t, 1)[0]
	makeQueue(t, "a", 1, n)
	for name, c := range map[string]struct {
		body string
		code int
		want string
	}{
		"good, with an empty line": {"{\"input\":\"/1\"}\n\n{\"input\":\"/2\"}\r\n{\"input\":\"/3\"}", 200, `{"items":[{"id":"0-`},
		"no JSON":                  {"{\"input\":\"/1\"}\n\n{\"input\":\n", 400, `{"error":"the body is not JSON: unexpected EOF","field":"line 3"}`},
		"two in a line":            {"{}{}\n", 400, `{"error":"more than one JSON value in the body","field":"line 1"}`},
		"unknown field":            {"{}\n{\"inptu\":1}\n", 400, `{"error":"inptu: unknown field","field":"line 2"}`},
		"bad field":                {"{}\n\n{\"priority\":-1}\n", 400, `{"error":"priority: -1 is not between 0 and 9","field":"line 3"}`},
		"unknown stage":            {"{}\n{\"stage\":\"x\"}\n", 400, `{"error":"stage: \"x\" is not one of [\"work\"]","field":"line 2"}`},
		"nothing":                  {"\n\n", 400, `{"error":"there are none","field":"items"}`},
		"too many":                 {strings.Repeat("{}\n", 1001), 413, `{"error":"too much at once`},
	} {
		t.Run(name, func(t *testing.T) {
			before := decode[queue.Overview](t, n.do(t, "GET", "/v1/queues/a", "")).Enqueued
			r := n.do(t, "POST", "/v1/queues/a/items", c.body, "Content-Type", "application/x-ndjson; charset=utf-8")
			must.Eq(t, c.code, r.code, must.Sprint(r.body))
			must.StrHasPrefix(t, c.want, r.body)
			after := decode[queue.Overview](t, n.do(t, "GET", "/v1/queues/a", "")).Enqueued
			must.Eq(t, c.code == 200, after > before) // nothing of a bad batch is accepted
		})
	}
}

func TestErrors(t *testing.T) {
	n := nodes(t, 1)[0]
	makeQueue(t, "a", 1, n)
	for name, c := range map[string]struct {
		err   error
		code  int
		later string
		want  string
	}{
		"full":         {fmt.Errorf("%w: max_items", queue.ErrFull), 429, "1", `{"error":"the queue is full: max_items"}`},
		"busy":         {queue.ErrBusy, 429, "1", `{"error":"the broker is busy"}`},
		"too large":    {queue.ErrTooLarge, 413, "", `{"error":"too much at once"}`},
		"sealed":       {queue.ErrSealed, 409, "", `{"error":"the queue is sealed and takes no more items"}`},
		"field":        {&queue.FieldError{Field: "f", Problem: "is bad"}, 400, "", `{"error":"is bad","field":"f"}`},
		"leader lost":  {fmt.Errorf("%w: why", queue.ErrNotLeader), 503, "", `{"error":"it may have been done: this broker does not lead the shard: why"}`},
		"out of time":  {context.DeadlineExceeded, 503, "", `{"error":"it may have been done: context deadline exceeded"}`},
		"consul":       {fmt.Errorf("write: no"), 503, "", `{"error":"write: no"}`},
		"unknown item": {queue.ErrUnknownItem, 404, "", `{"error":"no such item"}`},
	} {
		t.Run(name, func(t *testing.T) {
			n.Fail(c.err)
			r := n.do(t, "POST", "/v1/queues/a/pause", "")
			must.Eq(t, c.code, r.code)
			must.Eq(t, c.later, r.head.Get("Retry-After"))
			must.Eq(t, c.want, r.body)
		})
	}
}

// Items without a key go to one shard a batch, in turn; others where they belong, and
// results come in the order of the items.
func TestShards(t *testing.T) {
	all := nodes(t, 2)
	makeQueue(t, "a", 4, all...)
	seen := map[int]bool{}
	for range 4 {
		out := decode[queue.EnqueuedBatch](t, all[0].do(t, "POST", "/v1/queues/a/items", `{"items":[{"input":"/1"},{"input":"/2"}]}`))
		must.SliceLen(t, 2, out.Items)
		must.Eq(t, out.Items[0].ID.Shard, out.Items[1].ID.Shard)
		seen[out.Items[0].ID.Shard] = true
	}
	must.MapLen(t, 4, seen)

	var batch queue.Batch
	for i := range 50 {
		batch.Items = append(batch.Items, queue.Item{Input: fmt.Sprint(i), Key: fmt.Sprint(i)})
	}
	body, err := json.Marshal(batch)
	must.NoError(t, err)
	first := decode[queue.EnqueuedBatch](t, all[0].do(t, "POST", "/v1/queues/a/items", string(body)))
	shards := map[int]bool{}
	var acks queue.Acks
	for i, e := range first.Items {
		must.Eq(t, queue.ShardFor(&batch.Items[i], 4, 0), e.ID.Shard)
		shards[e.ID.Shard] = true
		it := decode[queue.ItemStatus](t, all[1].do(t, "GET", "/v1/queues/a/items/"+e.ID.String(), ""))
		must.StrContains(t, string(it.Item), fmt.Sprintf(`"input":"%d"`, i))
		acks.Acks = append(acks.Acks, queue.Ack{ID: e.ID, Claim: 99})
	}
	must.MapLen(t, 4, shards)
	again := decode[queue.EnqueuedBatch](t, all[1].do(t, "POST", "/v1/queues/a/items", string(body)))
	for i, e := range again.Items {
		must.Eq(t, queue.Enqueued{ID: first.Items[i].ID, Duplicate: true}, e)
	}

	body, err = json.Marshal(acks)
	must.NoError(t, err)
	results := decode[queue.AckResults](t, all[1].do(t, "POST", "/v1/queues/a/ack", string(body)))
	for i, r := range results.Results {
		must.Eq(t, first.Items[i].ID, r.ID)
		must.Eq(t, queue.Stale, r.Verdict)
	}

	// A bad item in one shard keeps those of all others out.
	before := decode[queue.Overview](t, all[0].do(t, "GET", "/v1/queues/a", ""))
	batch.Items[49].Key, batch.Items[49].Priority = "new", 10
	batch.Items[0].Key = "also new"
	body, err = json.Marshal(batch)
	must.NoError(t, err)
	r := all[0].do(t, "POST", "/v1/queues/a/items", string(body))
	must.Eq(t, 400, r.code)
	must.StrContains(t, r.body, `"field":"items[49].priority"`)
	after := decode[queue.Overview](t, all[0].do(t, "GET", "/v1/queues/a", ""))
	must.Eq(t, before.Enqueued, after.Enqueued)
	must.Eq(t, 58, after.Enqueued)
	must.Eq(t, []queue.ShardStatus{
		{Shard: 0, Leader: all[0].url}, {Shard: 1, Leader: all[1].url}, {Shard: 2, Leader: all[0].url}, {Shard: 3, Leader: all[1].url},
	}, after.Shards)
}

// Any broker answers, whoever leads.
func TestForwarding(t *testing.T) {
	all := nodes(t, 2)
	makeQueue(t, "a", 1, all[1])
	n := all[0]
	must.StrContains(t, n.do(t, "POST", "/v1/queues/a/items", `{"items":[{"input":"/x"},{"input":"/y"}]}`).body, `"id":"0-1"`)
	r := n.do(t, "POST", "/v1/queues/a/items", "{}\n{", "Content-Type", ndjson)
	must.Eq(t, 400, r.code)
	must.StrContains(t, r.body, `"field":"line 2"`)
	res := decode[queue.ClaimResponse](t, n.do(t, "POST", "/v1/queues/a/claim", `{"worker":"w","max":9}`))
	must.SliceLen(t, 2, res.Items)
	must.StrContains(t, n.do(t, "POST", "/v1/queues/a/nack", `{"acks":[{"id":"0-0","claim":1,"action":"reject"},{"id":"0-1","claim":2}]}`).body, "accepted")
	must.StrContains(t, n.do(t, "GET", "/v1/queues/a/dead", "").body, `"id":"0-0"`)
	must.StrContains(t, n.do(t, "GET", "/v1/queues/a", "").body, `"dead":1`)
	must.StrContains(t, n.do(t, "GET", "/v1/queues", "").body, `"dead":1`)
	must.StrContains(t, n.do(t, "GET", "/queues/a", "").body, all[1].url)
	must.Eq(t, `{"items":1}`, n.do(t, "POST", "/v1/queues/a/dead/redrive", ``).body)
	must.Eq(t, `{"items":2}`, n.do(t, "POST", "/v1/queues/a/purge", ``).body)
	must.Eq(t, `{}`, n.do(t, "POST", "/v1/queues/a/extend", `{"worker":"w","claims":[],"shard":0}`).body)
	must.Eq(t, 404, n.do(t, "GET", "/v1/queues/a/items/0-9", "").code)
	must.Eq(t, `{}`, n.do(t, "POST", "/v1/queues/a/seal", ``).body)
	must.Eq(t, `{"reached":true}`, n.do(t, "GET", "/v1/queues/a/wait", ``).body)
	must.Eq(t, `{"items":[],"finished":true}`, n.do(t, "POST", "/v1/queues/a/claim", `{"worker":"w","wait":"30s"}`).body)

	// What was passed on is not passed on again.
	for _, path := range []string{"/claim", "/items", "/pause"} {
		body := map[string]string{"/claim": `{"worker":"w"}`, "/items": `{"items":[{}]}`}[path]
		r := n.do(t, "POST", "/v1/queues/a"+path, body, forwardedHeader, "1")
		must.Eq(t, http.StatusMisdirectedRequest, r.code, must.Sprint(path))
		must.StrContains(t, r.body, `"leader":"`+all[1].url+`"`)
	}
}

// A request waits for a shard that has no leader for a moment, or whose leader has gone.
func TestTakeover(t *testing.T) {
	for name, leader := range map[string]string{"nobody": "", "one that has gone": "127.0.0.1:1"} {
		for what, c := range map[string]struct{ method, path, body string }{
			"put":    {"POST", "/items", `{"items":[{"input":"/x"}]}`},
			"claim":  {"POST", "/claim", `{"worker":"w","wait":"1ms"}`},
			"ack":    {"POST", "/ack", `{"acks":[{"id":"0-0","claim":1}]}`},
			"pause":  {"POST", "/pause", ""},
			"status": {"GET", "/items/0-0", ""},
		} {
			t.Run(what+", led by "+name, func(t *testing.T) {
				t.Parallel()
				n := nodes(t, 1)[0]
				makeQueue(t, "a", 1, n)
				n.do(t, "POST", "/v1/queues/a/items", `{"items":[{"input":"/x"}]}`)
				n.Lead("a", 0, leader)
				type result struct {
					r   reply
					err error
				}
				done := make(chan result, 1)
				go func() {
					r, err := n.try(t.Context(), c.method, "/v1/queues/a"+c.path, c.body)
					done <- result{r, err}
				}()
				select {
				case r := <-done:
					t.Fatalf("did not wait for a leader: %v %v", r.r, r.err)
				case <-time.After(3 * leaderPause):
				}
				n.Lead("a", 0, n.url)
				got := <-done
				must.NoError(t, got.err)
				must.Eq(t, 200, got.r.code, must.Sprint(got.r.body))
			})
		}
	}
}

// A claim looks at all brokers that lead shards of the queue, and knows when all is done.
func TestClaimAnywhere(t *testing.T) {
	all := nodes(t, 3)
	makeQueue(t, "a", 2, all[1], all[2])
	for i, n := range all {
		for k := range 2 {
			must.Eq(t, 200, all[0].do(t, "POST", fmt.Sprintf("/v1/queues/a/items?shard=%d", k), `{"items":[{"input":"/x"}]}`).code)
			res := decode[queue.ClaimResponse](t, n.do(t, "POST", "/v1/queues/a/claim", `{"worker":"w","wait":"30s"}`))
			must.SliceLen(t, 1, res.Items, must.Sprint(i))
			must.Eq(t, k, res.Items[0].ID.Shard)
		}
	}
	must.StrContains(t, all[0].do(t, "POST", "/v1/queues/a/claim", `{"worker":"w"}`).body, `{"items":[]}`)
	must.Eq(t, 200, all[0].do(t, "POST", "/v1/queues/a/seal", "").code)
	st := decode[queue.Overview](t, all[0].do(t, "GET", "/v1/queues/a", ""))
	must.False(t, st.Finished)
	must.Eq(t, []queue.WorkerState{{Name: "w", Stage: "work", Items: 6, LeaseMS: 15000}}, st.Workers)
	for k := range 2 {
		for seq := range 3 {
			id := queue.ID{Shard: k, Seq: uint64(seq)}
			must.StrContains(t, all[0].do(t, "POST", "/v1/queues/a/ack", fmt.Sprintf(`{"acks":[{"id":%q,"claim":%d}]}`, id, seq+1)).body, "accepted")
		}
	}
	must.Eq(t, `{"items":[],"finished":true}`, all[1].do(t, "POST", "/v1/queues/a/claim", `{"worker":"w","wait":"1ms"}`).body)
	must.Eq(t, `{"reached":true}`, all[2].do(t, "GET", "/v1/queues/a/wait", "").body)
}

// What was claimed for a client that has gone goes to others at once.
func TestClientGone(t *testing.T) {
	for _, far := range []bool{false, true} {
		t.Run(fmt.Sprintf("leader elsewhere: %t", far), func(t *testing.T) {
			all := nodes(t, 2)
			leader := all[0]
			if far {
				leader = all[1]
			}
			makeQueue(t, "a", 1, leader)
			must.Eq(t, 200, all[0].do(t, "POST", "/v1/queues/a/items", `{"items":[{"input":"/x"}]}`).code)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := all[0].try(ctx, "POST", "/v1/queues/a/claim", `{"worker":"gone"}`)
				done <- err
			}()
			<-leader.gate.entered
			cancel()
			must.ErrorIs(t, <-done, context.Canceled)
			close(leader.gate.leave)
			res := decode[queue.ClaimResponse](t, all[0].do(t, "POST", "/v1/queues/a/claim", `{"worker":"w","wait":"30s"}`))
			must.SliceLen(t, 1, res.Items)
			must.Eq(t, 2, res.Items[0].Claim)
		})
	}
}

func TestDrain(t *testing.T) {
	n := nodes(t, 1)[0]
	makeQueue(t, "a", 1, n)
	must.NoError(t, n.Ready())
	n.Drain()
	must.Error(t, n.Ready())
	r := n.do(t, "POST", "/v1/queues/a/claim", `{"worker":"w"}`)
	must.Eq(t, 503, r.code)
	must.Eq(t, "1", r.head.Get("Retry-After"))
}

// The catalog follows what the broker leads.
func TestRegister(t *testing.T) {
	n := nodes(t, 1)[0]
	makeQueue(t, "a", 2, n)
	must.Eq(t, "a [0,1]", <-n.catalog)
	n.Lead("a", 1, "")
	must.Eq(t, "a [0]", <-n.catalog)
	n.Lead("a", 0, "")
	must.Eq(t, "a null", <-n.catalog)
	n.Lead("a", 1, n.url)
	must.Eq(t, "a [1]", <-n.catalog)
	must.NoError(t, n.Delete(t.Context(), "a"))
	must.Eq(t, "a null", <-n.catalog)
}

func TestMetrics(t *testing.T) {
	n := nodes(t, 1)[0]
	makeQueue(t, "a", 1, n)
	n.do(t, "POST", "/v1/queues/a/items", `{"items":[{"input":"/x"},{"input":"/y"}]}`)
	n.do(t, "POST", "/v1/queues/a/claim", `{"worker":"w"}`)
	n.do(t, "POST", "/v1/queues/a/nack", `{"acks":[{"id":"0-0","claim":1,"action":"reject"}]}`)
	reg := prometheus.NewPedanticRegistry()
	for _, c := range n.Collectors() {
		must.NoError(t, reg.Register(c))
	}
	families, err := reg.Gather()
	must.NoError(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"queue_items a work ready": 1, "queue_items a work in_flight": 0, "queue_dead_letters a": 1, "queue_oldest_seconds a": 1.5,
		"queue_enqueued_total a": 2, "queue_finished_total dead a work": 1, "queue_shards_led a": 1, "queue_catalog_errors_total": 3,
		"queue_broker_enqueued_total": 2, "queue_broker_claimed_total": 1, "queue_broker_acks_total reject accepted": 1,
	} {
		v, there := got[name]
		must.True(t, there, must.Sprintf("%s of %v", name, got))
		must.Eq(t, want, v, must.Sprint(name))
	}
}
