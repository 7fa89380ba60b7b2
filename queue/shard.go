package queue

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"
)

// shardState is the state of one shard of a queue: a reducer without clock, network or
// goroutines. Commands change it and say what to answer; flush says what has to be
// written before anybody may be answered. All of it is in Consul, except leases, progress
// and what the rates have left: after a takeover each claim gets a whole new lease.
//
// Invariants, which check in the tests looks at:
//
//   - stages[k].live is the number of unfinished items of stage k, and the sum of its
//     ready, delayed, waiting and in-flight ones.
//   - An item is claimed if and only if its claim has a lease that counts it.
//   - Of a group, one item at most is ready, delayed or claimed; it is the first unfinished.
//   - An item that is finished never becomes anything else, but held, which becomes done.
type shardState struct {
	queue  string
	number int
	cfg    Config
	place  map[string]int // of stages in cfg
	rand   func() float64
	now    int64 // milliseconds; set before each command

	head    head
	segs    []*segment // by their numbers, rising
	stages  []stageState
	leases  map[uint64]*lease
	expiry  timers // of leases, by claim
	delays  timers // of delayed items, by number
	retire  timers // of finished segments, by their first number
	groups  map[groupKey]*group
	keys    map[string]uint64
	dead    map[uint64]*DeadLetter
	recurs  map[string]*recurring
	percent map[uint64]float64 // progress of items
	// retained is the number of items in segments that are finished.
	retained int

	// What has changed since the last flush.
	changed     bool
	dirty       []*segment
	gone        []*segment
	deadDirty   map[uint64]struct{}
	recursDirty map[string]struct{}
	ops, bytes  int // of the flush, never too low
}

// head is what is stored of a shard as a whole.
type head struct {
	Flush    uint64               `json:"flush"` // counts writes
	Next     uint64               `json:"next"`  // number of the next item
	Claim    uint64               `json:"claim"` // the last one
	Paused   bool                 `json:"paused"`
	Sealed   bool                 `json:"sealed"`
	Enqueued uint64               `json:"enqueued"`
	Stages   map[string]*Counters `json:"stages"`
}

type stageState struct {
	cfg      *Stage
	next     int // -1: none
	counters *Counters
	ready    [MaxPriority + 1]ready
	live     int
	nready   int
	delayed  int
	waiting  int
	inFlight int
	held     []uint64 // done items of the stage before, whose outputs wait for a merge
	tokens   float64  // of the rate
	filled   int64    // when tokens was true
}

// lease is a claim.
type lease struct {
	worker    string
	stage     int
	until     int64
	items     []uint64
	left      int // of the items
	cancelled []ID
}

type groupKey struct {
	stage int
	name  string
}

// group has an item in play, and others that wait for it.
type group struct{ waiting []uint64 }

// Bounds of a transaction: Consul takes 128 operations, two of which are the fence, and
// 512 KiB of JSON with values in base64.
const (
	maxOps   = 120
	maxBytes = 330 << 10
	// usualBytes bounds a transaction that gathers several commands: Consul's servers keep
	// the last 512 in memory and the last 10,240 on disk.
	usualBytes = 160 << 10
	// itemState is more than an item can add to the state of its segment, without
	// output and reason.
	itemState = 100 + maxWorker
	maxWorker = 64
	// maxRetained bounds the finished items of a shard that are kept, whatever the
	// retention: at full speed a minute of them would be millions.
	maxRetained = 100_000
)

func newShard(queue string, number int, cfg Config, rand func() float64) *shardState {
	s := &shardState{
		queue: queue, number: number, rand: rand,
		head:   head{Stages: map[string]*Counters{}},
		leases: map[uint64]*lease{}, groups: map[groupKey]*group{}, keys: map[string]uint64{},
		dead: map[uint64]*DeadLetter{}, recurs: map[string]*recurring{}, percent: map[uint64]float64{},
		deadDirty: map[uint64]struct{}{}, recursDirty: map[string]struct{}{},
	}
	s.configure(cfg)
	return s
}

// configure takes a configuration with defaults; a later one must be changeable from
// the one before.
func (s *shardState) configure(cfg Config) {
	s.cfg = cfg
	s.place = map[string]int{}
	for i := range cfg.Stages {
		s.place[cfg.Stages[i].Name] = i
	}
	for len(s.stages) < len(cfg.Stages) {
		s.stages = append(s.stages, stageState{filled: s.now})
	}
	for i := range s.stages {
		st := &s.stages[i]
		st.cfg = &s.cfg.Stages[i]
		st.next = -1
		if st.cfg.Next != "" {
			st.next = s.place[st.cfg.Next]
		}
		if s.head.Stages[st.cfg.Name] == nil {
			s.head.Stages[st.cfg.Name] = &Counters{}
		}
		st.counters = s.head.Stages[st.cfg.Name]
	}
}

// room says whether something of this size can still be part of the next flush. What is
// large gets one for itself.
func (s *shardState) room(ops, bytes int) bool {
	most := usualBytes
	if !s.changed {
		most = maxBytes
	}
	return s.ops+ops <= maxOps && s.bytes+bytes <= most
}

// change marks the shard as changed. The head is written with each flush.
func (s *shardState) change() {
	if !s.changed {
		s.changed = true
		s.ops, s.bytes = 1, 1024+256*len(s.stages)
	}
}

// dirtied adds a segment to what has to be written.
func (s *shardState) dirtied(g *segment) {
	s.change()
	if !g.itemsDirty && !g.stateDirty {
		s.dirty = append(s.dirty, g)
	}
}

// touchItems is called before items are added to a segment.
func (s *shardState) touchItems(g *segment, bytes int) {
	s.dirtied(g)
	if !g.itemsDirty {
		g.itemsDirty = true
		s.ops++
		s.bytes += len(g.value) + 64
	}
	s.bytes += bytes + len(segmentSep)
}

// touch is called when the state of an item changes; more is the size of its note.
func (s *shardState) touch(g *segment, more int) {
	s.dirtied(g)
	if !g.stateDirty {
		g.stateDirty = true
		s.ops++
		s.bytes += g.stateBytes + 64
	}
	s.bytes += itemState + more
}

// find returns the segment and the place of an item, or nil.
func (s *shardState) find(seq uint64) (*segment, int) {
	i, found := slices.BinarySearchFunc(s.segs, seq, func(g *segment, seq uint64) int {
		switch {
		case g.end() <= seq:
			return -1
		case g.first > seq:
			return 1
		}
		return 0
	})
	if !found {
		return nil, 0
	}
	return s.segs[i], int(seq - s.segs[i].first) //nolint:gosec // below maxSegmentItems
}

// id is the name of an item of this shard.
func (s *shardState) id(seq uint64) ID { return ID{s.number, seq} }

// stage returns the place of a stage by its name.
func (s *shardState) stage(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	k, ok := s.place[name]
	if !ok {
		names := make([]string, len(s.cfg.Stages))
		for i := range names {
			names[i] = s.cfg.Stages[i].Name
		}
		return 0, fieldErrorf("stage", "%q is not one of %q", name, names)
	}
	return k, nil
}

// prepared is an item that was checked.
type prepared struct {
	Item
	raw []byte
}

// prepare checks an item and writes it as it is stored.
func prepare(it Item) (prepared, error) {
	raw, err := it.check()
	return prepared{it, raw}, err
}

// enqueue adds items, all or none. It returns false if they have to wait for a flush.
func (s *shardState) enqueue(items []prepared) (out []Enqueued, ok bool, err error) {
	if s.head.Sealed {
		return nil, true, ErrSealed
	}
	bytes := 0
	for i := range items {
		if _, err := s.stage(items[i].Stage); err != nil {
			return nil, true, fmt.Errorf("item %d: %w", i, err)
		}
		bytes += len(items[i].raw) + len(segmentSep)
	}
	if len(items) > MaxBatch || bytes > MaxBatchBytes {
		return nil, true, fmt.Errorf("%w: %d items with %d bytes, more than %d items or %d bytes", ErrTooLarge, len(items), bytes, MaxBatch, MaxBatchBytes)
	}
	if s.items()+len(items) > s.cfg.MaxItems {
		return nil, true, fmt.Errorf("%w: %d items are not finished, and max_items is %d", ErrFull, s.items(), s.cfg.MaxItems)
	}
	if !s.roomFor(len(items), bytes) {
		return nil, false, nil
	}
	out = make([]Enqueued, len(items))
	for i := range items {
		it := &items[i]
		if it.Key != "" {
			if seq, twice := s.keys[it.Key]; twice {
				out[i] = Enqueued{s.id(seq), true}
				continue
			}
		}
		stage, _ := s.stage(it.Stage) // looked at above
		s.head.Enqueued++
		out[i] = Enqueued{ID: s.id(s.put(it, stage))}
	}
	return out, true, nil
}

// roomFor says whether so many items fit the next flush.
func (s *shardState) roomFor(items, bytes int) bool {
	// In the worst case all of them are delayed, or the last segment is rewritten.
	segments := 2 + items/maxSegmentItems + bytes/tailBytes
	return s.room(2*segments, bytes+tailBytes+items*60+segments*128)
}

// items is the number of items that are not finished.
func (s *shardState) items() int {
	n := 0
	for i := range s.stages {
		n += s.stages[i].live + len(s.stages[i].held)
	}
	return n
}

// put adds an item.
func (s *shardState) put(it *prepared, stage int) uint64 {
	seq := s.head.Next
	s.head.Next++
	var g *segment
	if n := len(s.segs); n > 0 && s.segs[n-1].end() == seq && s.segs[n-1].fits(len(it.raw)) {
		g = s.segs[n-1]
		if g.left == 0 {
			s.retained -= len(g.slots)
		}
	} else {
		if n > 0 {
			s.segs[n-1].compact()
		}
		g = newSegment(seq, s.now)
		s.segs = append(s.segs, g)
	}
	s.touchItems(g, len(it.raw))
	g.add(it.raw, slot{stage: uint8(stage), priority: uint8(it.Priority), grouped: it.Group != ""}) //nolint:gosec // both are below 17
	s.stages[stage].live++
	if it.Key != "" {
		s.keys[it.Key] = seq
	}
	s.begin(g, len(g.slots)-1, it.Group, it.NotBefore)
	return seq
}

// begin lets an item take part: at once, at its time, or after its group.
func (s *shardState) begin(g *segment, i int, name string, notBefore time.Time) {
	sl := &g.slots[i]
	if name != "" {
		key := groupKey{int(sl.stage), name}
		if busy := s.groups[key]; busy != nil {
			busy.waiting = append(busy.waiting, g.seq(i))
			s.stages[sl.stage].waiting++
			return
		}
		s.groups[key] = &group{}
	}
	if at := notBefore.UnixMilli(); !notBefore.IsZero() && at > s.now {
		s.delay(g, i, at, "")
		return
	}
	s.ready(g, i)
}

// ready lets an item be handed out.
func (s *shardState) ready(g *segment, i int) {
	sl := &g.slots[i]
	st := &s.stages[sl.stage]
	sl.state = stateReady
	st.nready++
	st.ready[sl.priority].add(g.seq(i))
}

// delay lets an item be handed out later.
func (s *shardState) delay(g *segment, i int, at int64, reason string) {
	sl := &g.slots[i]
	sl.state = stateDelayed
	s.stages[sl.stage].delayed++
	s.delays.add(at, g.seq(i))
	s.touch(g, len(reason)+60)
	g.note(i, note{reason: reason, notBefore: at})
}

// itemOf reads an item as it was given.
func (s *shardState) itemOf(g *segment, i int) Item {
	var it Item
	if err := json.Unmarshal(g.raw(i), &it); err != nil {
		panic(fmt.Sprintf("queue: item %d: %v", g.seq(i), err)) // it was read before
	}
	return it
}

// nextOfGroup lets the next one of a group take part, when the one in play is finished.
func (s *shardState) nextOfGroup(stage int, name string) {
	key := groupKey{stage, name}
	busy := s.groups[key]
	if busy == nil {
		return
	}
	for len(busy.waiting) > 0 {
		seq := busy.waiting[0]
		busy.waiting = busy.waiting[1:]
		g, i := s.find(seq)
		if g == nil || g.slots[i].state != stateReady {
			continue // cancelled
		}
		s.stages[stage].waiting--
		it := s.itemOf(g, i)
		if at := it.NotBefore.UnixMilli(); !it.NotBefore.IsZero() && at > s.now {
			s.delay(g, i, at, "")
		} else {
			s.ready(g, i)
		}
		return
	}
	delete(s.groups, key)
}

// finished says whether nothing can come any more.
func (s *shardState) finished() bool { return s.head.Sealed && s.items() == 0 }

// wake is when tick has to be called at the latest; false: never.
func (s *shardState) wake() (int64, bool) {
	at, due := int64(0), false
	sooner := func(t int64) {
		if !due || t < at {
			at, due = t, true
		}
	}
	for _, h := range []timers{s.expiry, s.delays, s.retire} {
		if len(h) > 0 {
			sooner(h[0].at)
		}
	}
	for _, r := range s.recurs {
		if !r.Next.IsZero() && !s.head.Sealed {
			sooner(r.Next.UnixMilli())
		}
	}
	for i := range s.stages {
		if st := &s.stages[i]; st.cfg.Rate > 0 && st.nready > 0 && st.tokens < 1 {
			sooner(st.filled + int64((1-st.tokens)/st.cfg.Rate*1000) + 1)
		}
	}
	return at, due
}

// tick does what is due, as far as there is room. It returns false if there was not.
func (s *shardState) tick() bool {
	for {
		if !s.room(2, 4096) {
			return false
		}
		claim, due := s.expiry.due(s.now)
		if !due {
			break
		}
		if !s.expire(claim) {
			s.expiry.add(s.now, claim)
			return false
		}
	}
	for {
		if !s.room(2, 4096) {
			return false
		}
		seq, due := s.delays.due(s.now)
		if !due {
			break
		}
		if g, i := s.find(seq); g != nil && g.slots[i].state == stateDelayed && g.notes[i].notBefore <= s.now {
			s.stages[g.slots[i].stage].delayed--
			n := g.notes[i]
			n.notBefore = 0
			g.note(i, n)
			s.touch(g, 0)
			s.ready(g, i)
		}
	}
	for {
		if !s.room(2, 4096) {
			return false
		}
		now := s.now
		if s.retained > maxRetained {
			now = math.MaxInt64 // the oldest ones have to go
		}
		first, due := s.retire.due(now)
		if !due {
			break
		}
		if g, _ := s.find(first); g != nil && g.left == 0 && g.retireAt <= now {
			s.forget(g)
		}
	}
	for i := range s.stages {
		if st := &s.stages[i]; st.cfg.Rate > 0 {
			s.refill(st)
		}
	}
	s.merge()
	return s.recur()
}

// settle looks after an item was finished: is the segment finished, can a merge begin?
func (s *shardState) settle(g *segment) {
	g.left--
	if g.left == 0 {
		s.retain(g)
	}
}

// retain keeps a finished segment for its time.
func (s *shardState) retain(g *segment) {
	s.retained += len(g.slots)
	g.retireAt = s.now + time.Duration(s.cfg.Retention).Milliseconds()
	s.retire.add(g.retireAt, g.first)
}

// forget removes a segment whose items are all finished.
func (s *shardState) forget(g *segment) {
	s.change()
	for i := range g.slots {
		var p itemPlace
		// Most items have no key, and then there is nothing to look for.
		if len(s.keys) > 0 && json.Unmarshal(g.raw(i), &p) == nil && p.Key != "" && s.keys[p.Key] == g.seq(i) {
			delete(s.keys, p.Key)
		}
	}
	if g.stored {
		s.ops++
		s.gone = append(s.gone, g)
	}
	at, _ := slices.BinarySearchFunc(s.segs, g.first, func(g *segment, seq uint64) int {
		switch {
		case g.first < seq:
			return -1
		case g.first > seq:
			return 1
		}
		return 0
	})
	s.segs = slices.Delete(s.segs, at, at+1)
	s.retained -= len(g.slots)
	g.slots = nil // flush does not write it
}
