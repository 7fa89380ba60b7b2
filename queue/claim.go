package queue

import (
	"slices"
	"time"
)

// claim hands out up to so many items of a stage, as many as there are and fit.
func (s *shardState) claim(stage int, worker string, most int) []Claimed {
	st := &s.stages[stage]
	if s.head.Paused || len(s.dead) >= s.cfg.MaxDead {
		return nil
	}
	most = min(most, st.nready)
	if st.cfg.MaxInFlight > 0 {
		most = min(most, st.cfg.MaxInFlight-st.inFlight)
	}
	if st.cfg.Rate > 0 {
		s.refill(st)
		most = min(most, int(st.tokens))
	}
	var out []Claimed
	var l *lease
	for p := MaxPriority; p >= 0; p-- {
		r := &st.ready[p]
		for len(out) < most && !r.empty() && s.room(1, s.costOf(r.min())) {
			seq := r.pop()
			g, i := s.find(seq)
			if g == nil || g.slots[i].state != stateReady || int(g.slots[i].stage) != stage {
				continue // finished since
			}
			if l == nil {
				s.head.Claim++
				l = &lease{worker: worker, stage: stage, until: s.now + time.Duration(st.cfg.Lease).Milliseconds()}
				s.leases[s.head.Claim] = l
				s.expiry.add(l.until, s.head.Claim)
			}
			sl := &g.slots[i]
			sl.state, sl.claim = stateClaimed, s.head.Claim
			st.nready--
			st.inFlight++
			s.touch(g, 0)
			l.items = append(l.items, seq)
			l.left++
			out = append(out, Claimed{
				ID: s.id(seq), Claim: s.head.Claim, Failed: int(sl.failed), Lost: int(sl.lost), Item: slices.Clone(g.raw(i)),
			})
		}
	}
	if st.cfg.Rate > 0 {
		st.tokens -= float64(len(out))
	}
	return out
}

// costOf is what touching an item adds to a flush, in bytes.
func (s *shardState) costOf(seq uint64) int {
	g, _ := s.find(seq)
	if g == nil || g.stateDirty {
		return itemState
	}
	return itemState + g.stateBytes + 64
}

// refill adds what the rate allows since the last time, up to a second's worth.
func (s *shardState) refill(st *stageState) {
	most := max(1, st.cfg.Rate)
	st.tokens = min(most, st.tokens+float64(s.now-st.filled)/1000*st.cfg.Rate)
	st.filled = s.now
}

// extend renews leases. It changes nothing that is stored.
func (s *shardState) extend(e Extend) Extended {
	var out Extended
	for _, claim := range e.Claims {
		l := s.leases[claim]
		if l == nil || l.worker != e.Worker {
			out.Lost = append(out.Lost, claim)
			continue
		}
		l.until = s.now + time.Duration(s.stages[l.stage].cfg.Lease).Milliseconds()
		out.Cancelled = append(out.Cancelled, l.cancelled...)
	}
	for name, p := range e.Progress {
		id, err := ParseID(name)
		if err != nil {
			continue
		}
		if g, i := s.find(id.Seq); g != nil && g.slots[i].state == stateClaimed && slices.Contains(e.Claims, g.slots[i].claim) {
			s.percent[id.Seq] = min(1, max(0, p))
		}
	}
	return out
}

// expire ends a lease that has run out: its items are lost. It returns false if there was
// not enough room for all of them.
func (s *shardState) expire(claim uint64) bool {
	l := s.leases[claim]
	if l == nil {
		return true
	}
	if l.until > s.now {
		s.expiry.add(l.until, claim) // it was extended
		return true
	}
	for len(l.items) > 0 {
		seq := l.items[0]
		g, i := s.find(seq)
		if g == nil || g.slots[i].state != stateClaimed || g.slots[i].claim != claim {
			l.items = l.items[1:]
			continue
		}
		if !s.room(2, s.costOf(seq)+len(g.raw(i))+1024) {
			return false
		}
		l.items = l.items[1:]
		s.lose(g, i, l)
	}
	delete(s.leases, claim)
	return true
}

// lose takes an item from a worker that has vanished.
func (s *shardState) lose(g *segment, i int, l *lease) {
	sl := &g.slots[i]
	st := &s.stages[sl.stage]
	s.touch(g, 0)
	st.inFlight--
	l.left--
	delete(s.percent, g.seq(i))
	sl.lost++
	st.counters.Lost++
	if int(sl.lost) >= st.cfg.MaxLost {
		s.bury(g, i, l.worker, "workers vanished over it, the last time "+l.worker)
		return
	}
	s.ready(g, i)
}

// unclaim takes an item out of its lease.
func (s *shardState) unclaim(g *segment, i int) (worker string) {
	sl := &g.slots[i]
	l := s.leases[sl.claim]
	s.stages[sl.stage].inFlight--
	delete(s.percent, g.seq(i))
	l.left--
	if l.left == 0 && len(l.cancelled) == 0 {
		delete(s.leases, sl.claim)
	}
	return l.worker
}
