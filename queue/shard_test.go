package queue

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is Consul as far as a shard sees it.
type store map[string][]byte

func (st store) apply(t must.T, ops []op) {
	size := 0
	for _, o := range ops {
		size += len(o.value)
		switch {
		case o.tree:
			maps.DeleteFunc(st, func(k string, _ []byte) bool { return strings.HasPrefix(k, o.key) })
		case o.value == nil:
			delete(st, o.key)
		default:
			st[o.key] = slices.Clone(o.value)
		}
	}
	must.LessEq(t, maxOps+2, len(ops))
	must.LessEq(t, 384<<10, size)
}

// load builds a shard from what is stored.
func (st store) load(t must.T, cfg Config, now int64) *shardState {
	s := newShard("q", 0, cfg, func() float64 { return 0.5 })
	s.now = now
	l, err := s.load(st[headKey])
	must.NoError(t, err)
	for _, key := range slices.Sorted(maps.Keys(st)) {
		switch folder, is := strings.CutSuffix(key, "/items"); {
		case is:
			must.NoError(t, l.segment(st[key], st[folder+"/state"]))
		case strings.HasPrefix(key, "segment/") || key == headKey:
		default:
			must.NoError(t, l.other(key, st[key]))
		}
	}
	return s
}

// check looks at the invariants.
func (s *shardState) check(t must.T) {
	type counts struct{ live, ready, delayed, waiting, inFlight int }
	got := make([]counts, len(s.stages))
	held := map[int]int{}
	claims := map[uint64]int{}
	inPlay := map[groupKey]uint64{}
	waiting := map[uint64]bool{}
	for _, gr := range s.groups {
		for _, seq := range gr.waiting {
			waiting[seq] = true
		}
	}
	last := uint64(0)
	for _, g := range s.segs {
		must.GreaterEq(t, last, g.first)
		must.Greater(t, g.first, g.end())
		last = g.end()
		left := 0
		for i, sl := range g.slots {
			seq := g.first + uint64(i)
			c := &got[sl.stage]
			if sl.state == stateHeld {
				held[s.stages[sl.stage].next]++
				left++
			}
			if sl.state.finished() {
				continue
			}
			left++
			c.live++
			if sl.grouped && !waiting[seq] {
				key := groupKey{int(sl.stage), s.itemOf(g, i).Group}
				must.MapNotContainsKey(t, inPlay, key)
				inPlay[key] = seq
			}
			switch {
			case waiting[seq]:
				c.waiting++
			case sl.state == stateReady:
				c.ready++
			case sl.state == stateDelayed:
				c.delayed++
			case sl.state == stateClaimed:
				c.inFlight++
				claims[sl.claim]++
			}
		}
		must.Eq(t, left, g.left)
	}
	must.LessEq(t, s.head.Next, last)
	for i := range s.stages {
		st := &s.stages[i]
		must.Eq(t, got[i], counts{st.live, st.nready, st.delayed, st.waiting, st.inFlight})
		must.Eq(t, held[i], len(st.held))
	}
	for claim, l := range s.leases {
		must.Eq(t, claims[claim], l.left)
	}
	for claim := range claims {
		must.MapContainsKey(t, s.leases, claim)
	}
}

// picture is what of a shard survives a takeover.
func (s *shardState) picture() map[string]string {
	out := map[string]string{"head": string(encode(s.head))}
	for _, g := range s.segs {
		for i := range g.slots {
			id := s.id(g.first + uint64(i))
			st, _ := s.itemStatus(id)
			st.Progress = 0
			out["item "+id.String()] = string(encode(st))
		}
	}
	for seq, d := range s.dead {
		out[fmt.Sprint("dead ", seq)] = string(encode(d))
	}
	for i := range s.stages {
		st := &s.stages[i]
		held := slices.Sorted(slices.Values(st.held)) // their order is that of their completion, which is not stored
		out["stage "+st.cfg.Name] = fmt.Sprint(st.live, st.nready, st.delayed, st.waiting, st.inFlight, held)
	}
	return out
}

// model is what a queue should do, without any of the machinery.
type model struct {
	claim map[ID]uint64 // of items that somebody holds
	done  map[ID]int    // how often an output was accepted
	begun map[ID]bool   // accepted items
	ended map[ID]string
}

func TestShard_Model(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg, err := Config{
			Retention: Duration(5 * time.Second),
			Stages: []Stage{
				{Name: "one", Lease: Duration(2 * time.Second), MaxFailed: 3, MaxLost: 2, Next: "two", Backoff: Duration(time.Second)},
				{Name: "two", Lease: Duration(2 * time.Second), MaxFailed: 2, MaxLost: 2, MaxInFlight: 5, Next: "all"},
				{Name: "all", Lease: Duration(2 * time.Second), Collect: 3},
			},
		}.WithDefaults()
		must.NoError(rt, err)
		now := int64(1_000_000)
		disk := store{}
		s := disk.load(rt, cfg, now)
		m := model{claim: map[ID]uint64{}, done: map[ID]int{}, begun: map[ID]bool{}, ended: map[ID]string{}}
		var old []Ack // attempts that are over
		flush := func() {
			disk.apply(rt, s.flush())
			s.check(rt)
		}
		heldBy := func(rt *rapid.T) (ID, bool) {
			ids := slices.SortedFunc(maps.Keys(m.claim), func(a, b ID) int { return int(a.Seq) - int(b.Seq) })
			if len(ids) == 0 {
				return ID{}, false
			}
			return rapid.SampledFrom(ids).Draw(rt, "item"), true
		}
		answer := func(rt *rapid.T, a Ack) Verdict {
			ready, err := prepareAck(a)
			must.NoError(rt, err)
			for {
				r, ok := s.ack(&ready)
				if ok {
					return r.Verdict
				}
				flush()
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"enqueue": func(rt *rapid.T) {
				if s.head.Sealed {
					return
				}
				n := rapid.IntRange(1, 40).Draw(rt, "n")
				var items []prepared
				for i := range n {
					it := Item{Input: fmt.Sprint("in/", i), Priority: rapid.IntRange(0, 2).Draw(rt, "priority")}
					it.Group = rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(rt, "group")
					if rapid.IntRange(0, 5).Draw(rt, "later") == 0 {
						it.NotBefore = time.UnixMilli(now + 3000)
					}
					p, err := prepare(it)
					must.NoError(rt, err)
					items = append(items, p)
				}
				out, ok, err := s.enqueue(items)
				must.NoError(rt, err)
				if !ok {
					flush()
					out, ok, err = s.enqueue(items)
					must.NoError(rt, err)
					must.True(rt, ok)
				}
				for _, e := range out {
					m.begun[e.ID] = true
				}
			},
			"claim": func(rt *rapid.T) {
				stage := rapid.IntRange(0, 2).Draw(rt, "stage")
				for _, c := range s.claim(stage, "w", rapid.IntRange(1, 30).Draw(rt, "max")) {
					must.MapNotContainsKey(rt, m.claim, c.ID) // nobody else has it
					must.MapNotContainsKey(rt, m.ended, c.ID)
					m.claim[c.ID] = c.Claim
				}
			},
			"ack": func(rt *rapid.T) {
				id, ok := heldBy(rt)
				if !ok {
					return
				}
				a := Ack{ID: id, Claim: m.claim[id], Output: "out/" + id.String()}
				a.Action = rapid.SampledFrom([]Action{Done, Done, Done, Skip, Retry, Reject, Release}).Draw(rt, "action")
				must.Eq(rt, Accepted, answer(rt, a))
				delete(m.claim, id)
				old = append(old, a)
				switch a.Action {
				case Done, Skip:
					m.done[id]++
					m.ended[id] = "done"
				case Reject:
					m.ended[id] = "dead"
				}
			},
			"ack again": func(rt *rapid.T) {
				if len(old) == 0 {
					return
				}
				a := rapid.SampledFrom(old).Draw(rt, "old")
				before := s.head.Next
				must.NotEq(rt, Accepted, answer(rt, a))
				must.Eq(rt, before, s.head.Next) // nothing is handed on twice
			},
			"fan out": func(rt *rapid.T) {
				id, ok := heldBy(rt)
				if !ok {
					return
				}
				st, _ := s.itemStatus(id)
				if st.Stage != "one" {
					return
				}
				before := s.head.Next
				must.Eq(rt, Accepted, answer(rt, Ack{ID: id, Claim: m.claim[id], Emit: []Item{{Input: "x"}, {Input: "y", Group: "a"}}}))
				must.Eq(rt, before+2, s.head.Next)
				delete(m.claim, id)
				m.done[id]++
				m.ended[id] = "done"
			},
			"cancel": func(rt *rapid.T) {
				if s.head.Next == 0 {
					return
				}
				id := s.id(rapid.Uint64Range(0, s.head.Next-1).Draw(rt, "seq"))
				if r, ok := s.cancel(id.Seq); ok && r.Verdict == Accepted {
					if claim, held := m.claim[id]; held {
						old = append(old, Ack{ID: id, Claim: claim})
					}
					delete(m.claim, id)
					must.MapNotContainsKey(rt, m.ended, id)
					m.ended[id] = "cancelled"
				}
			},
			"time": func(rt *rapid.T) {
				now += rapid.Int64Range(1, 2500).Draw(rt, "ms")
				s.now = now
				for !s.tick() {
					flush()
				}
				for id, claim := range m.claim {
					st, known := s.itemStatus(id)
					must.True(rt, known)
					if st.State == "claimed" {
						continue
					}
					must.Greater(rt, 0, st.Lost)
					delete(m.claim, id)
					if st.State == "dead" {
						m.ended[id] = "dead"
						old = append(old, Ack{ID: id, Claim: claim})
					}
				}
			},
			"extend": func(rt *rapid.T) {
				claims := slices.Sorted(maps.Values(m.claim))
				must.SliceEmpty(rt, s.extend(Extend{Worker: "w", Claims: slices.Compact(claims)}).Lost)
			},
			"redrive": func(rt *rapid.T) {
				for _, seq := range slices.Sorted(maps.Keys(s.dead)) {
					if _, ok, err := s.redrive(seq); ok {
						must.NoError(rt, err)
					}
				}
			},
			"flush": func(*rapid.T) { flush() },
			"take over": func(rt *rapid.T) {
				flush()
				was := s.picture()
				s = disk.load(rt, cfg, now)
				s.check(rt)
				must.Eq(rt, was, s.picture())
			},
			"": func(rt *rapid.T) {
				s.check(rt)
				for id, n := range m.done {
					must.Eq(rt, 1, n, must.Sprint(id))
				}
			},
		})
		drainAll(rt, s, &now, flush)
	})
}

// drainAll works off everything, and looks whether anything is left.
func drainAll(t must.T, s *shardState, now *int64, flush func()) {
	s.change()
	s.head.Sealed = true
	for round := 0; s.items() > 0; round++ {
		must.Less(t, 5000, round, must.Sprint("something is stuck: ", string(encode(s.status()))))
		*now += 10_000
		s.now = *now
		for !s.tick() {
			flush()
		}
		for stage := range s.stages {
			for _, c := range s.claim(stage, "w", 100) {
				ready, err := prepareAck(Ack{ID: c.ID, Claim: c.Claim})
				must.NoError(t, err)
				for {
					r, ok := s.ack(&ready)
					if ok {
						must.Eq(t, Accepted, r.Verdict)
						break
					}
					flush()
				}
			}
		}
		flush()
	}
	must.True(t, s.finished())
}
