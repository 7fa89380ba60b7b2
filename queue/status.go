package queue

import (
	"cmp"
	"slices"
	"time"
)

// itemStatus tells about an item.
func (s *shardState) itemStatus(id ID) (ItemStatus, bool) {
	g, i := s.find(id.Seq)
	if g == nil {
		d := s.dead[id.Seq]
		if d == nil {
			return ItemStatus{}, false
		}
		return ItemStatus{
			ID: id, State: stateDead.String(), Stage: d.Stage, Worker: d.Worker, Failed: d.Failed, Lost: d.Lost,
			Reason: d.Reason, Item: d.Item,
		}, true
	}
	sl, n := g.slots[i], g.notes[i]
	out := ItemStatus{
		ID: id, State: sl.state.String(), Stage: s.stages[sl.stage].cfg.Name, Claim: sl.claim,
		Failed: int(sl.failed), Lost: int(sl.lost), Output: n.output, Reason: n.reason, Item: slices.Clone(g.raw(i)),
	}
	switch sl.state {
	case stateClaimed:
		out.Worker, out.Progress = s.worker(sl.claim), s.percent[id.Seq]
	case stateDelayed:
		out.NotBefore = time.UnixMilli(n.notBefore).UTC()
	}
	return out, true
}

// status tells about the shard.
func (s *shardState) status() Status {
	out := Status{
		Queue: s.queue, Paused: s.head.Paused, Sealed: s.head.Sealed, Finished: s.finished(), Enqueued: s.head.Enqueued,
		Items: s.items(), Dead: len(s.dead), Stages: []StageStatus{}, Workers: []WorkerState{},
	}
	for i := range s.stages {
		st := &s.stages[i]
		out.Stages = append(out.Stages, StageStatus{
			Name: st.cfg.Name, Ready: st.nready, Delayed: st.delayed, Waiting: st.waiting, InFlight: st.inFlight,
			Held: len(st.held), Counters: *st.counters,
		})
	}
	for _, g := range s.segs {
		if g.left > 0 {
			out.OldestMS = max(0, s.now-g.born)
			break
		}
	}
	type key struct {
		name  string
		stage int
	}
	workers := map[key]*WorkerState{}
	for _, l := range s.leases {
		if l.left == 0 {
			continue
		}
		k := key{l.worker, l.stage}
		w := workers[k]
		if w == nil {
			w = &WorkerState{Name: l.worker, Stage: s.stages[l.stage].cfg.Name, LeaseMS: l.until - s.now}
			workers[k] = w
		}
		w.Items += l.left
		w.LeaseMS = min(w.LeaseMS, l.until-s.now)
	}
	for _, w := range workers {
		out.Workers = append(out.Workers, *w)
	}
	slices.SortFunc(out.Workers, func(a, b WorkerState) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Stage, b.Stage))
	})
	return out
}
