package queue

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// op is a write.
type op struct {
	key   string // below that of the shard
	value []byte // nil: delete
	tree  bool   // delete all keys that begin with key
}

const headKey = "head"

// segmentKey is the folder of a segment. Folders of 4,096 numbers keep lists short.
func segmentKey(first uint64) string { return fmt.Sprintf("segment/%08d/%012d/", first>>12, first) }

func deadKey(seq uint64) string { return fmt.Sprintf("dead/%012d", seq) }

func recurKey(name string) string { return "recurring/" + name }

// flush returns what has to be written since the last one, the head first; nothing if
// nothing has changed.
func (s *shardState) flush() []op {
	if !s.changed {
		return nil
	}
	s.head.Flush++
	ops := []op{{key: headKey, value: encode(s.head)}}
	for _, g := range s.dirty {
		if g.slots != nil {
			key := segmentKey(g.first)
			if g.itemsDirty {
				g.sent, g.stored = true, true
				ops = append(ops, op{key: key + "items", value: g.value})
			}
			if g.stateDirty {
				g.hasState = true
				ops = append(ops, op{key: key + "state", value: g.encodeState(s.head.Flush, s.worker)})
			}
		}
		g.itemsDirty, g.stateDirty = false, false
	}
	for _, g := range s.gone {
		ops = append(ops, op{key: segmentKey(g.first), tree: true})
	}
	for seq := range s.deadDirty {
		o := op{key: deadKey(seq)}
		if d := s.dead[seq]; d != nil {
			o.value = encode(d)
		}
		ops = append(ops, o)
	}
	for name := range s.recursDirty {
		o := op{key: recurKey(name)}
		if r := s.recurs[name]; r != nil {
			o.value = encode(r)
		}
		ops = append(ops, o)
	}
	s.changed, s.ops, s.bytes = false, 0, 0
	s.dirty, s.gone = s.dirty[:0], s.gone[:0]
	clear(s.deadDirty)
	clear(s.recursDirty)
	return ops
}

// worker names who has a claim.
func (s *shardState) worker(claim uint64) string {
	if l := s.leases[claim]; l != nil {
		return l.worker
	}
	return ""
}

func encode(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("queue: " + err.Error()) // all of it was read from JSON or checked
	}
	return raw
}

// loader builds a shard from what is stored.
type loader struct {
	s       *shardState
	workers map[uint64]string
}

// load begins with the head; nil if there is none yet.
func (s *shardState) load(value []byte) (*loader, error) {
	if value != nil {
		if err := json.Unmarshal(value, &s.head); err != nil {
			return nil, fmt.Errorf("%s: %w", headKey, err)
		}
		if s.head.Stages == nil {
			s.head.Stages = map[string]*Counters{}
		}
	}
	s.configure(s.cfg) // the counters are others now
	return &loader{s, map[uint64]string{}}, nil
}

// segment adds a segment. They come in the order of their numbers; state is nil if
// there is none.
func (l *loader) segment(items, state []byte) error {
	s := l.s
	g, err := decodeSegment(items)
	if err != nil {
		return err
	}
	if n := len(s.segs); n > 0 && s.segs[n-1].end() > g.first {
		return fmt.Errorf("it overlaps the segment before")
	}
	if g.end() > s.head.Next {
		return fmt.Errorf("it has items after %d, the last that was given a number", s.head.Next)
	}
	if state != nil {
		if err := g.decodeState(state, func(claim uint64, name string) { l.workers[claim] = name }); err != nil {
			return err
		}
	}
	s.segs = append(s.segs, g)
	return l.place(g)
}

// place lets the items of a segment take part as they did.
func (l *loader) place(g *segment) error {
	s := l.s
	g.left = 0
	for i := range g.slots {
		sl := &g.slots[i]
		seq := g.first + uint64(i)
		var p itemPlace
		if err := json.Unmarshal(g.raw(i), &p); err != nil {
			return fmt.Errorf("item %d: %w", seq, err)
		}
		stage, err := s.stage(p.Stage)
		if err != nil {
			return fmt.Errorf("item %d: %w", seq, err)
		}
		if p.Priority < 0 || p.Priority > MaxPriority {
			return fmt.Errorf("item %d: priority %d", seq, p.Priority)
		}
		sl.stage, sl.priority, sl.grouped = uint8(stage), uint8(p.Priority), p.Group != "" //nolint:gosec // both are below 17
		if p.Key != "" {
			s.keys[p.Key] = seq
		}
		st := &s.stages[stage]
		if sl.state == stateHeld {
			if st.next < 0 {
				return fmt.Errorf("item %d is held for a merge, but stage %q has none", seq, st.cfg.Name)
			}
			s.stages[st.next].held = append(s.stages[st.next].held, seq)
			g.left++
			continue
		}
		if sl.state.finished() {
			continue
		}
		g.left++
		st.live++
		key := groupKey{stage, p.Group}
		if sl.grouped && s.groups[key] != nil {
			s.groups[key].waiting = append(s.groups[key].waiting, seq)
			st.waiting++
			continue
		}
		if sl.grouped {
			s.groups[key] = &group{}
		}
		switch sl.state {
		case stateDelayed:
			st.delayed++
			s.delays.add(g.notes[i].notBefore, seq)
		case stateClaimed:
			l.reclaim(sl, seq)
		default:
			s.ready(g, i)
		}
	}
	if g.left == 0 {
		s.retain(g)
	}
	return nil
}

// reclaim gives a claim that was found a whole new lease.
func (l *loader) reclaim(sl *slot, seq uint64) {
	s := l.s
	st := &s.stages[sl.stage]
	ls := s.leases[sl.claim]
	if ls == nil {
		ls = &lease{worker: l.workers[sl.claim], stage: int(sl.stage), until: s.now + time.Duration(st.cfg.Lease).Milliseconds()}
		s.leases[sl.claim] = ls
		s.expiry.add(ls.until, sl.claim)
	}
	ls.items = append(ls.items, seq)
	ls.left++
	st.inFlight++
}

// other adds a key that is neither head nor segment.
func (l *loader) other(key string, value []byte) error {
	switch {
	case strings.HasPrefix(key, "dead/"):
		d := &DeadLetter{}
		if err := json.Unmarshal(value, d); err != nil {
			return err
		}
		l.s.dead[d.ID.Seq] = d
	case strings.HasPrefix(key, "recurring/"):
		var in recurring
		if err := json.Unmarshal(value, &in); err != nil {
			return err
		}
		r, err := newRecurring(in.Recurring, in.Next)
		if err != nil {
			return err
		}
		l.s.recurs[r.Name] = r
	}
	return nil
}
