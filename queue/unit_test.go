package queue

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func TestConfig_WithDefaults(t *testing.T) {
	cfg, err := Config{}.WithDefaults()
	must.NoError(t, err)
	raw, err := json.Marshal(cfg)
	must.NoError(t, err)
	must.Eq(t, `{"shards":1,"stages":[{"name":"work","lease":"15s","max_failed":5,"max_lost":3,"backoff":"1s","max_backoff":"5m0s"}],`+
		`"retention":"1m0s","max_items":2000000,"max_dead":10000}`, string(raw))
	var again Config
	must.NoError(t, json.Unmarshal(raw, &again))
	must.Eq(t, cfg, again)
}

func TestConfig_Refused(t *testing.T) {
	cases := map[string]struct {
		cfg   Config
		field string
		says  string
	}{
		"shards":          {Config{Shards: 65}, "shards", "65 is not between 1 and 64"},
		"retention":       {Config{Retention: -1}, "retention", "not between"},
		"rate of nothing": {Config{Stages: []Stage{{Name: "a", Rate: math.NaN()}}}, "stages[0].rate", "NaN is not between"},
		"stage name":      {Config{Stages: []Stage{{Name: "A b"}}}, "stages[0].name", `"A b" is not 1 to 63`},
		"no stage name":   {Config{Stages: []Stage{{}}}, "stages[0].name", `"" is not`},
		"two of a name":   {Config{Stages: []Stage{{Name: "a"}, {Name: "a"}}}, "stages[1].name", `two stages "a"`},
		"lease":           {Config{Stages: []Stage{{Name: "a", Lease: 1}}}, "stages[0].lease", "1ns is not between 1s and 1h0m0s"},
		"circle":          {Config{Stages: []Stage{{Name: "a", Next: "b"}, {Name: "b", Next: "a"}}}, "stages[1].next", `"a" is not a later stage`},
		"itself":          {Config{Stages: []Stage{{Name: "a", Next: "a"}}}, "stages[0].next", "not a later stage"},
		"nowhere":         {Config{Stages: []Stage{{Name: "a", Next: "z"}}}, "stages[0].next", "not a later stage"},
		"merge of shards": {Config{Shards: 2, Stages: []Stage{{Name: "a", Next: "b"}, {Name: "b", Collect: 2}}}, "stages[1].collect", "one shard, this one has 2"},
		"backoff":         {Config{Stages: []Stage{{Name: "a", Backoff: Duration(time.Hour), MaxBackoff: Duration(time.Minute)}}}, "stages[0].max_backoff", "not between"},
		"too many stages": {Config{Stages: make([]Stage, 17)}, "stages", "17 is not between 1 and 16"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := c.cfg.WithDefaults()
			var bad *FieldError
			must.True(t, errors.As(err, &bad), must.Sprint(err))
			must.Eq(t, c.field, bad.Field)
			must.StrContains(t, bad.Problem, c.says)
		})
	}
}

func TestConfig_Changeable(t *testing.T) {
	two, err := Config{Stages: []Stage{{Name: "a"}, {Name: "b"}}}.WithDefaults()
	must.NoError(t, err)
	three, err := Config{Stages: []Stage{{Name: "a", MaxFailed: 9}, {Name: "b"}, {Name: "c"}}}.WithDefaults()
	must.NoError(t, err)
	must.NoError(t, two.changeable(three))
	must.ErrorContains(t, three.changeable(two), `stage 2 is "c", which cannot be removed`)
	other := two
	other.Shards = 3
	must.ErrorContains(t, two.changeable(other), "the queue has 1, which cannot be changed")
}

func TestDuration_Refused(t *testing.T) {
	var cfg Config
	err := json.Unmarshal([]byte(`{"retention":"5"}`), &cfg)
	must.ErrorContains(t, err, `"5" is not a duration`)
	must.Error(t, json.Unmarshal([]byte(`{"retention":5}`), &cfg))
}

func TestItem_Check(t *testing.T) {
	long := strings.Repeat("x", 513)
	cases := map[string]struct {
		item  Item
		field string
	}{
		"input":        {Item{Input: long}, "input"},
		"not UTF-8":    {Item{Input: "\xff"}, "input"},
		"key":          {Item{Key: long}, "key"},
		"group":        {Item{Group: long}, "group"},
		"inputs":       {Item{Inputs: []string{"a", long}}, "inputs[1]"},
		"attrs":        {Item{Attrs: map[string]string{"a": long}}, "attrs"},
		"priority":     {Item{Priority: 10}, "priority"},
		"all together": {Item{Inputs: slices.Repeat([]string{strings.Repeat("x", 500)}, 200)}, "inputs"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := prepare(c.item)
			var bad *FieldError
			must.True(t, errors.As(err, &bad), must.Sprint(err))
			must.Eq(t, c.field, bad.Field)
		})
	}
	p, err := prepare(Item{Input: "in/a", Attrs: map[string]string{"w": "1"}, Stage: "x", NotBefore: time.Unix(5, 0).UTC()})
	must.NoError(t, err)
	must.Eq(t, `{"input":"in/a","attrs":{"w":"1"},"not_before":"1970-01-01T00:00:05Z","stage":"x"}`, string(p.raw))
}

func TestParseID(t *testing.T) {
	id, err := ParseID("3-17")
	must.NoError(t, err)
	must.Eq(t, ID{3, 17}, id)
	must.Eq(t, "3-17", id.String())
	for _, bad := range []string{"", "3", "-", "a-1", "1-a", "64-1", "-1-1", "1-18446744073709551616"} {
		_, err := ParseID(bad)
		must.ErrorContains(t, err, "is not the ID of an item", must.Sprint(bad))
	}
}

// ready gives back what was put in, the lowest first.
func TestReady(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var r ready
		in := map[uint64]bool{}
		next := uint64(0)
		var out []uint64
		rt.Repeat(map[string]func(*rapid.T){
			"new": func(rt *rapid.T) {
				next += rapid.Uint64Range(0, 2).Draw(rt, "gap")
				for range rapid.IntRange(1, 100).Draw(rt, "n") {
					r.add(next)
					in[next] = true
					next++
				}
			},
			"back": func(rt *rapid.T) {
				if len(out) > 0 {
					i := rapid.IntRange(0, len(out)-1).Draw(rt, "i")
					r.add(out[i])
					in[out[i]] = true
					out = slices.Delete(out, i, i+1)
				}
			},
			"pop": func(rt *rapid.T) {
				for range rapid.IntRange(1, 150).Draw(rt, "n") {
					must.Eq(rt, len(in) == 0, r.empty())
					if r.empty() {
						return
					}
					lowest := r.min()
					for seq := range in {
						must.LessEq(rt, seq, lowest)
					}
					must.Eq(rt, lowest, r.pop())
					delete(in, lowest)
					out = append(out, lowest)
				}
			},
		})
	})
}

// A worker whose lease has run out can still deliver, as long as nobody else has begun.
func TestShard_LateAck(t *testing.T) {
	s := oneItem(t, Stage{Name: "work", Lease: Duration(time.Second), MaxLost: 5})
	first := s.claim(0, "slow", 1)[0]
	s.now += 1500
	must.True(t, s.tick())
	must.Eq(t, Stale, ackOne(t, s, Ack{ID: first.ID, Claim: first.Claim, Action: Retry}).Verdict)
	must.Eq(t, Accepted, ackOne(t, s, Ack{ID: first.ID, Claim: first.Claim, Output: "out"}).Verdict)
	must.SliceEmpty(t, s.claim(0, "other", 1))

	s = oneItem(t, Stage{Name: "work", Lease: Duration(time.Second), MaxLost: 5})
	first = s.claim(0, "slow", 1)[0]
	s.now += 1500
	must.True(t, s.tick())
	second := s.claim(0, "other", 1)[0]
	must.Greater(t, first.Claim, second.Claim)
	must.Eq(t, 1, second.Lost)
	r := ackOne(t, s, Ack{ID: first.ID, Claim: first.Claim})
	must.Eq(t, Stale, r.Verdict)
	must.StrContains(t, r.Error, "the item has had attempt 2 since")
	must.Eq(t, Accepted, ackOne(t, s, Ack{ID: second.ID, Claim: second.Claim}).Verdict)
	must.Eq(t, Duplicate, ackOne(t, s, Ack{ID: second.ID, Claim: second.Claim}).Verdict)
}

// An item that kills every worker becomes a dead letter, and its failures are not
// mistaken for that.
func TestShard_Poison(t *testing.T) {
	s := oneItem(t, Stage{Name: "work", Lease: Duration(time.Second), MaxLost: 3, MaxFailed: 5})
	for i := range 3 {
		c := s.claim(0, fmt.Sprint("w", i), 1)
		must.Len(t, 1, c)
		must.Eq(t, i, c[0].Lost)
		s.now += 2000
		must.True(t, s.tick())
	}
	must.SliceEmpty(t, s.claim(0, "w", 1))
	d := s.dead[0]
	must.NotNil(t, d)
	must.Eq(t, "workers vanished over it, the last time w2", d.Reason)
	must.Eq(t, 3, d.Lost)
	must.Eq(t, 0, d.Failed)

	e, ok, err := s.redrive(0)
	must.NoError(t, err)
	must.True(t, ok)
	c := s.claim(0, "w", 1)
	must.Eq(t, e.ID, c[0].ID)
	must.Eq(t, 0, c[0].Lost)
}

// The wait after failures doubles, half of it at random, up to its bound.
func TestShard_Backoff(t *testing.T) {
	s := oneItem(t, Stage{Name: "work", MaxFailed: 100, Backoff: Duration(time.Second), MaxBackoff: Duration(10 * time.Second)})
	for i, want := range []int64{750, 1500, 3000, 6000, 7500, 7500} { // the random half is 0.5
		c := s.claim(0, "w", 1)
		must.Len(t, 1, c)
		must.Eq(t, i, c[0].Failed)
		must.Eq(t, Accepted, ackOne(t, s, Ack{ID: c[0].ID, Claim: c[0].Claim, Action: Retry, Reason: "no"}).Verdict)
		must.Len(t, 1, s.delays)
		must.Eq(t, want, s.delays[0].at-s.now)
		s.now = s.delays[0].at - 1
		must.True(t, s.tick())
		must.SliceEmpty(t, s.claim(0, "w", 1))
		s.now++
		must.True(t, s.tick())
	}
}

func TestShard_RateAndCap(t *testing.T) {
	s := items(t, 100, Stage{Name: "work", Rate: 10, MaxInFlight: 15})
	must.SliceEmpty(t, s.claim(0, "w", 100))
	total := 0
	for range 30 {
		s.now += 100
		total += len(s.claim(0, "w", 100))
	}
	must.Eq(t, 15, total) // by then the rate would have allowed 30
	s.now += 60_000       // the rate does not save up more than a second
	for _, c := range s.leases[1].items {
		must.Eq(t, Accepted, ackOne(t, s, Ack{ID: s.id(c), Claim: 1}).Verdict)
	}
	must.Len(t, 1, s.claim(0, "w", 100))
}

func TestShard_Priority(t *testing.T) {
	s := items(t, 0, Stage{Name: "work"})
	for i, p := range []int{0, 9, 3, 9, 0} {
		it, err := prepare(Item{Input: fmt.Sprint(i), Priority: p})
		must.NoError(t, err)
		_, ok, err := s.enqueue([]prepared{it})
		must.NoError(t, err)
		must.True(t, ok)
	}
	var order []uint64
	for _, c := range s.claim(0, "w", 10) {
		order = append(order, c.ID.Seq)
	}
	must.Eq(t, []uint64{1, 3, 2, 0, 4}, order)
}

func TestShard_Keys(t *testing.T) {
	s := items(t, 0, Stage{Name: "work"})
	put := func() Enqueued {
		it, err := prepare(Item{Key: "k"})
		must.NoError(t, err)
		out, ok, err := s.enqueue([]prepared{it})
		must.NoError(t, err)
		must.True(t, ok)
		return out[0]
	}
	first := put()
	must.False(t, first.Duplicate)
	must.Eq(t, Enqueued{first.ID, true}, put())
	c := s.claim(0, "w", 1)[0]
	must.Eq(t, Accepted, ackOne(t, s, Ack{ID: c.ID, Claim: c.Claim}).Verdict)
	must.True(t, put().Duplicate) // still retained
	s.now += time.Duration(s.cfg.Retention).Milliseconds()
	must.True(t, s.tick())
	must.False(t, put().Duplicate)
}

func TestShard_Limits(t *testing.T) {
	s := items(t, 3, Stage{Name: "work"})
	s.cfg.MaxItems = 3
	it, err := prepare(Item{})
	must.NoError(t, err)
	_, _, err = s.enqueue([]prepared{it})
	must.ErrorIs(t, err, ErrFull)
	s.cfg.MaxItems = 4
	s.head.Sealed = true
	_, _, err = s.enqueue([]prepared{it})
	must.ErrorIs(t, err, ErrSealed)
	s.head.Sealed = false
	it.Stage = "none"
	_, _, err = s.enqueue([]prepared{it})
	must.ErrorContains(t, err, `item 0: stage: "none" is not one of ["work"]`)
	s.cfg.MaxDead = 1
	c := s.claim(0, "w", 1)[0]
	must.Eq(t, Accepted, ackOne(t, s, Ack{ID: c.ID, Claim: c.Claim, Action: Reject}).Verdict)
	must.SliceEmpty(t, s.claim(0, "w", 1)) // until somebody has looked at the dead one
}

// What is missed while nobody leads is made up for once.
func TestShard_Recurring(t *testing.T) {
	s := items(t, 0, Stage{Name: "work"})
	r, err := newRecurring(Recurring{Name: "hourly", Cron: "30 * * * *", Item: Item{Input: "x"}}, time.Time{})
	must.NoError(t, err)
	s.now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).UnixMilli()
	must.NoError(t, s.setRecurring("hourly", r))
	at, _ := s.wake()
	must.Eq(t, "12:30", time.UnixMilli(at).UTC().Format("15:04"))
	s.now = at + (5 * time.Hour).Milliseconds()
	must.True(t, s.tick())
	must.Eq(t, 1, s.items())
	at, _ = s.wake()
	must.Eq(t, "18:30", time.UnixMilli(at).UTC().Format("15:04"))
	must.True(t, s.tick())
	must.Eq(t, 1, s.items())

	for name, bad := range map[string]Recurring{
		"both":    {Name: "a", Cron: "* * * * *", Every: Duration(time.Second)},
		"neither": {Name: "a"},
		"cron":    {Name: "a", Cron: "61 * * * *"},
		"every":   {Name: "a", Every: Duration(time.Millisecond)},
		"name":    {Name: "A b", Every: Duration(time.Second)},
		"key":     {Name: "a", Every: Duration(time.Second), Item: Item{Key: "k"}},
	} {
		_, err := newRecurring(bad, time.Time{})
		var field *FieldError
		must.True(t, errors.As(err, &field), must.Sprint(name, err))
	}
}

func TestPrepareAck(t *testing.T) {
	for name, c := range map[string]struct {
		ack   Ack
		field string
	}{
		"action":       {Ack{Action: "ok"}, "action"},
		"output":       {Ack{Output: strings.Repeat("x", 513)}, "output"},
		"emit of skip": {Ack{Action: Skip, Emit: []Item{{}}}, "emit"},
		"emit":         {Ack{Emit: []Item{{}, {Priority: 11}}}, "emit[1]"},
		"many":         {Ack{Emit: make([]Item, 257)}, "emit"},
	} {
		_, err := prepareAck(c.ack)
		var bad *FieldError
		must.True(t, errors.As(err, &bad), must.Sprint(name, err))
		must.Eq(t, c.field, bad.Field)
	}
	a, err := prepareAck(Ack{Reason: strings.Repeat("ä", 150) + "\xff"})
	must.NoError(t, err)
	must.Eq(t, Done, a.Action)
	must.Eq(t, strings.Repeat("ä", 100), a.Reason)
}

// oneItem is a shard with an item in its only stage.
func oneItem(t *testing.T, st Stage) *shardState { return items(t, 1, st) }

func items(t *testing.T, n int, st Stage) *shardState {
	t.Helper()
	cfg, err := Config{Stages: []Stage{st}}.WithDefaults()
	must.NoError(t, err)
	s := newShard("q", 0, cfg, func() float64 { return 0.5 })
	s.now = 1_000_000
	_, err = s.load(nil)
	must.NoError(t, err)
	for i := range s.stages {
		s.stages[i].filled = s.now
	}
	for i := range n {
		p, err := prepare(Item{Input: fmt.Sprint("in/", i)})
		must.NoError(t, err)
		_, ok, err := s.enqueue([]prepared{p})
		must.NoError(t, err)
		must.True(t, ok)
	}
	return s
}

func ackOne(t *testing.T, s *shardState, a Ack) AckResult {
	t.Helper()
	ready, err := prepareAck(a)
	must.NoError(t, err)
	r, ok := s.ack(&ready)
	must.True(t, ok)
	return r
}

// What is stored can have been written by anybody. Whatever it is, reading it ends with
// an error or with a shard whose invariants hold.
func FuzzLoad(f *testing.F) {
	s := newShard("q", 0, must2(Config{}.WithDefaults()), func() float64 { return 0.5 })
	p, _ := prepare(Item{Input: "a", Key: "k", Group: "g"})
	_, _, _ = s.enqueue([]prepared{p, p})
	s.claim(0, "w", 1)
	disk := store{}
	disk.apply(f, s.flush())
	f.Add(disk["head"], disk["segment/00000000/000000000000/items"], disk["segment/00000000/000000000000/state"])
	f.Add([]byte(`{"next":9}`), []byte(`{"first":3,"items":[{},{"priority":99}]}`), []byte(`{"items":[{"items":"0-1","state":"held"}]}`))
	f.Add([]byte(`{"next":9}`), []byte(`{"first":3,"items":[{}]}`), []byte(`{"items":[{"items":"0,0","state":"claimed","claim":1}],"notes":{"0":{"not_before_ms":5}}}`))
	f.Fuzz(func(t *testing.T, head, items, state []byte) {
		s := newShard("q", 0, must2(Config{}.WithDefaults()), func() float64 { return 0.5 })
		s.now = 1_000_000
		l, err := s.load(head)
		if err != nil {
			return
		}
		if len(state) == 0 {
			state = nil
		}
		if l.segment(items, state) != nil {
			return
		}
		s.check(t)
		s.claim(0, "w", 10)
		s.now += 1_000_000
		for !s.tick() {
			s.flush()
		}
		s.flush()
		s.check(t)
	})
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
