package queue

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// answer is an Ack whose items were checked.
type answer struct {
	Ack
	emit []prepared
}

// prepareAck checks what a worker says. The error is a *FieldError.
func prepareAck(a Ack) (answer, error) {
	if a.Action == "" {
		a.Action = Done
	}
	switch a.Action {
	case Done, Retry, Reject, Release, Skip:
	default:
		return answer{}, fieldErrorf("action", "%q is not one of %q", a.Action, []Action{Done, Retry, Reject, Release, Skip})
	}
	if err := checkText("output", a.Output, maxInput); err != nil {
		return answer{}, err
	}
	if len(a.Emit) > 0 && a.Action != Done {
		return answer{}, fieldErrorf("emit", "only goes with action %q", Done)
	}
	if len(a.Emit) > MaxEmit {
		return answer{}, fieldErrorf("emit", "%d items are more than %d", len(a.Emit), MaxEmit)
	}
	a.Reason = cut(strings.ToValidUTF8(a.Reason, "?"), maxReason)
	out := answer{Ack: a}
	bytes := 0
	for i := range a.Emit {
		p, err := prepare(a.Emit[i])
		if err != nil {
			return answer{}, fieldErrorf(fmt.Sprintf("emit[%d]", i), "%v", err)
		}
		bytes += len(p.raw)
		out.emit = append(out.emit, p)
	}
	if bytes > MaxEmitBytes {
		return answer{}, fieldErrorf("emit", "%d bytes are more than %d", bytes, MaxEmitBytes)
	}
	return out, nil
}

// cut shortens a text to so many bytes, at the beginning of a character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// ack ends an attempt. It returns false if that has to wait for a flush.
func (s *shardState) ack(a *answer) (AckResult, bool) {
	refuse := func(v Verdict, format string, args ...any) (AckResult, bool) {
		return AckResult{a.ID, v, fmt.Sprintf(format, args...)}, true
	}
	g, i := s.find(a.ID.Seq)
	if g == nil {
		return refuse(Unknown, "there is no such item, or it was finished long ago")
	}
	sl := &g.slots[i]
	late := sl.state == stateReady && sl.lost > 0 // lost, and nobody has it yet
	switch {
	case sl.claim != a.Claim || a.Claim == 0:
		return refuse(Stale, "attempt %d is over; the item has had attempt %d since", a.Claim, sl.claim)
	case sl.state == stateDone || sl.state == stateHeld:
		return refuse(Duplicate, "")
	case sl.state == stateDead:
		return refuse(Stale, "the item is a dead letter")
	case sl.state == stateCancelled:
		return refuse(Stale, "the item was cancelled")
	case sl.state != stateClaimed && (!late || a.Action != Done && a.Action != Skip):
		return refuse(Stale, "attempt %d is over", a.Claim)
	}
	st := &s.stages[sl.stage]
	if len(a.emit) > 0 && (st.next < 0 || s.stages[st.next].cfg.Collect > 0) {
		return refuse(Stale, "stage %q has no next stage that takes emitted items", st.cfg.Name)
	}
	emits := 1
	bytes := len(g.raw(i)) + 2*len(a.Output) + len(a.Reason) + 256
	for k := range a.emit {
		bytes += len(a.emit[k].raw) + len(a.ID.String()) + 64
		emits = len(a.emit)
	}
	if !s.room(2, s.costOf(a.ID.Seq)+bytes) || !s.roomFor(emits, bytes) {
		return AckResult{}, false
	}
	s.touch(g, len(a.Output)+len(a.Reason)+60)
	worker := ""
	if late {
		st.nready--
	} else {
		worker = s.unclaim(g, i)
	}
	switch a.Action {
	case Retry:
		s.retry(g, i, worker, a.Reason)
	case Reject:
		sl.failed++
		st.counters.Failed++
		s.bury(g, i, worker, a.Reason)
	case Release:
		sl.claim = 0
		s.ready(g, i)
	case Done, Skip:
		s.complete(g, i, a)
	}
	return AckResult{ID: a.ID, Verdict: Accepted}, true
}

// retry lets a failed item wait, or gives it up.
func (s *shardState) retry(g *segment, i int, worker, reason string) {
	sl := &g.slots[i]
	st := &s.stages[sl.stage]
	sl.failed++
	st.counters.Failed++
	if int(sl.failed) >= st.cfg.MaxFailed {
		s.bury(g, i, worker, reason)
		return
	}
	sl.claim = 0 // nothing more is taken from this attempt
	s.delay(g, i, s.now+s.backoff(st.cfg, int(sl.failed)).Milliseconds(), reason)
}

// backoff is the wait after so many failures; half of it is random.
func (s *shardState) backoff(c *Stage, failed int) time.Duration {
	d := time.Duration(c.MaxBackoff)
	if n := failed - 1; n < 30 {
		d = min(d, time.Duration(c.Backoff)<<n)
	}
	return max(time.Millisecond, d/2+time.Duration(s.rand()*float64(d/2)))
}

// complete finishes an item, and hands it on to the next stage.
func (s *shardState) complete(g *segment, i int, a *answer) {
	sl := &g.slots[i]
	st := &s.stages[sl.stage]
	st.live--
	st.counters.Done++
	g.note(i, note{output: a.Output})
	var it Item
	if st.next >= 0 || sl.grouped {
		it = s.itemOf(g, i)
	}
	switch {
	case st.next < 0 || a.Action == Skip:
		sl.state = stateDone
		s.settle(g)
	case s.stages[st.next].cfg.Collect > 0:
		sl.state = stateHeld
		s.stages[st.next].held = append(s.stages[st.next].held, g.seq(i))
	default:
		sl.state = stateDone
		s.settle(g)
		s.emit(&it, a, st.next)
	}
	if sl.grouped {
		s.nextOfGroup(int(sl.stage), it.Group)
	}
	s.merge()
}

// emit puts what comes of an item into the next stage.
func (s *shardState) emit(it *Item, a *answer, stage int) {
	emit := a.emit
	if len(emit) == 0 {
		input := a.Output
		if input == "" {
			input = it.Input
		}
		emit = []prepared{{Item: Item{Input: input, Attrs: it.Attrs, Group: it.Group, Priority: it.Priority}}}
	}
	for k := range emit {
		next := emit[k].Item
		next.Parent, next.Stage = a.ID.String(), s.stages[stage].cfg.Name
		if p, err := prepare(next); err == nil { // it was checked, and parent and stage are short
			s.put(&p, stage)
		}
	}
}

// maxMerged bounds what a merge adds to a flush, in bytes: more inputs make another one.
const maxMerged = maxBytes / 2

// merge makes the items of stages that collect, as far as there is room and enough to
// collect. What is left at the end is collected when nothing more can come.
func (s *shardState) merge() {
	for k := range s.stages {
		st := &s.stages[k]
		for len(st.held) > 0 && (len(st.held) >= st.cfg.Collect || s.head.Sealed && s.dry(k)) {
			if !s.mergeOne(k) {
				return // tick tries again
			}
		}
	}
}

// dry says whether nothing can come into a stage any more.
func (s *shardState) dry(stage int) bool {
	for k := range stage {
		if s.stages[k].live > 0 || len(s.stages[k].held) > 0 {
			return false
		}
	}
	return true
}

// mergeOne makes one item of outputs that are held.
func (s *shardState) mergeOne(stage int) bool {
	st := &s.stages[stage]
	var it Item
	size, segments := 256, map[uint64]bool{}
	n, cost := 0, 0
	for ; n < min(len(st.held), max(1, st.cfg.Collect)); n++ {
		g, i := s.find(st.held[n])
		output := g.notes[i].output
		if output == "" {
			output = s.itemOf(g, i).Input
		}
		if size += len(output) + 8; n > 0 && (size > maxItem-1024 || cost > maxMerged || len(segments) == maxOps/2) {
			break
		}
		if !segments[g.first] {
			segments[g.first] = true
			cost += g.stateBytes + 64
		}
		cost += itemState
		it.Inputs = append(it.Inputs, output)
	}
	it.Stage = st.cfg.Name
	p, err := prepare(it)
	if err != nil { // more escapes than allowed for: half of them will do
		it.Inputs, n = it.Inputs[:(n+1)/2], (n+1)/2
		p, err = prepare(it)
	}
	if err != nil || !s.room(len(segments), cost) || !s.roomFor(1, len(p.raw)+cost) {
		return false
	}
	for _, seq := range st.held[:n] {
		g, i := s.find(seq)
		s.touch(g, 0)
		g.slots[i].state = stateDone
		s.settle(g)
	}
	st.held = slices.Clone(st.held[n:])
	s.put(&p, stage)
	return true
}

// bury makes a dead letter of an item.
func (s *shardState) bury(g *segment, i int, worker, reason string) {
	sl := &g.slots[i]
	seq := g.seq(i)
	st := &s.stages[sl.stage]
	sl.state = stateDead
	st.live--
	st.counters.Dead++
	g.note(i, note{reason: cut(reason, maxReason)})
	raw := slices.Clone(g.raw(i))
	s.dead[seq] = &DeadLetter{
		ID: s.id(seq), Stage: st.cfg.Name, Reason: reason, Failed: int(sl.failed), Lost: int(sl.lost),
		Worker: worker, At: time.UnixMilli(s.now).UTC(), Item: raw,
	}
	s.markDead(seq, len(raw)+len(reason)+512)
	s.leave(g, i)
}

// markDead says that a dead letter has to be written or removed.
func (s *shardState) markDead(seq uint64, bytes int) {
	s.change()
	if _, ok := s.deadDirty[seq]; !ok {
		s.deadDirty[seq] = struct{}{}
		s.ops++
	}
	s.bytes += bytes
}

// leave is for items that end without being done.
func (s *shardState) leave(g *segment, i int) {
	sl := &g.slots[i]
	s.settle(g)
	if sl.grouped {
		s.nextOfGroup(int(sl.stage), s.itemOf(g, i).Group)
	}
	s.merge()
}

// cancel ends an item that is not finished. It returns false if that has to wait for a
// flush.
func (s *shardState) cancel(seq uint64) (AckResult, bool) {
	id := s.id(seq)
	g, i := s.find(seq)
	if g == nil {
		return AckResult{id, Unknown, "there is no such item, or it was finished long ago"}, true
	}
	sl := &g.slots[i]
	if sl.state.finished() {
		return AckResult{id, Duplicate, "the item is " + sl.state.String()}, true
	}
	if !s.room(2, s.costOf(seq)+64) {
		return AckResult{}, false
	}
	st := &s.stages[sl.stage]
	s.touch(g, 0)
	switch sl.state {
	case stateClaimed:
		l := s.leases[sl.claim]
		l.cancelled = append(l.cancelled, id) // its worker hears of it
		s.unclaim(g, i)
	case stateDelayed:
		st.delayed--
	default:
		if sl.grouped && s.isWaiting(g, i) {
			// It never was in play, so nothing follows from its end.
			st.waiting--
			st.live--
			st.counters.Cancelled++
			sl.state = stateCancelled
			s.settle(g)
			return AckResult{ID: id, Verdict: Accepted}, true
		}
		st.nready--
	}
	st.live--
	st.counters.Cancelled++
	sl.state = stateCancelled
	g.note(i, note{})
	s.leave(g, i)
	return AckResult{ID: id, Verdict: Accepted}, true
}

// isWaiting says whether an item waits for another one of its group.
func (s *shardState) isWaiting(g *segment, i int) bool {
	busy := s.groups[groupKey{int(g.slots[i].stage), s.itemOf(g, i).Group}]
	return busy != nil && slices.Contains(busy.waiting, g.seq(i))
}

// redrive enqueues a dead letter again. It returns false if that has to wait.
func (s *shardState) redrive(seq uint64) (Enqueued, bool, error) {
	d := s.dead[seq]
	if d == nil {
		return Enqueued{}, true, fmt.Errorf("item %s: %w among the dead letters", s.id(seq), ErrUnknownItem)
	}
	if !s.room(2, 128) || !s.roomFor(1, len(d.Item)) {
		return Enqueued{}, false, nil
	}
	stage, err := s.stage(d.Stage)
	if err != nil {
		return Enqueued{}, true, err
	}
	p, err := decodePrepared(d.Item)
	if err != nil {
		return Enqueued{}, true, fmt.Errorf("item %s: %w", s.id(seq), err)
	}
	p.NotBefore = time.Time{} // that was for the first time
	delete(s.dead, seq)
	s.markDead(seq, 128)
	return Enqueued{ID: s.id(s.put(&p, stage))}, true, nil
}
