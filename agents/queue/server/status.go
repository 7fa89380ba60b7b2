package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// list tells about all queues.
func (s *Server) list(w http.ResponseWriter, hr *http.Request) {
	r := &request{Request: hr, w: w, forwarded: hr.Header.Get(forwardedHeader) != ""}
	if err := r.known().Err(); err != nil {
		s.fail(w, err, r.forwarded)
		return
	}
	out := queue.Overviews{Queues: s.view(r.Context(), s.broker.Queues(), r.forwarded)}
	_ = r.answer(out) // it never fails
}

// status tells about a queue.
func (s *Server) status(r *request) error {
	if err := r.known().Err(); err != nil {
		return err
	}
	if _, err := s.broker.Config(r.queue); err != nil {
		return err
	}
	all := s.view(r.Context(), []string{r.queue}, r.forwarded)
	if len(all) == 0 {
		return fmt.Errorf("queue %q: %w", r.queue, queue.ErrUnknownQueue)
	}
	return r.answer(all[0])
}

// view tells about queues. For another broker only the shards that this one leads are
// told of.
func (s *Server) view(ctx context.Context, names []string, forwarded bool) []queue.Overview {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	all := make([]queue.Overview, 0, len(names))
	var places []string // of other brokers
	for _, name := range names {
		cfg, err := s.broker.Config(name)
		if err != nil {
			continue // it was deleted just now
		}
		st := queue.Overview{Status: blank(name, cfg), Config: cfg, Shards: []queue.ShardStatus{}}
		led := s.broker.Led(name)
		for _, k := range led {
			one, err := s.broker.Status(ctx, name, k)
			if err != nil {
				continue // it is led by another one by now
			}
			add(&st.Status, &one)
			st.Shards = append(st.Shards, queue.ShardStatus{Shard: k, Leader: s.address})
		}
		if !forwarded && len(led) < cfg.Shards {
			others, _ := s.places(name, cfg.Shards, led)
			for _, p := range others {
				if p != "" && !slices.Contains(places, p) {
					places = append(places, p)
				}
			}
		}
		all = append(all, st)
	}
	if forwarded {
		return all
	}
	answers, _ := onShards(len(places), func(i int) (seen, error) { return s.look(ctx, places[i], names), nil })
	for i := range all {
		s.complete(&all[i], places, answers)
	}
	return all
}

// seen is what another broker tells.
type seen struct {
	queues map[string]*queue.Overview
	err    error
}

// Total tells about all shards of a queue added up. The error says what is missing.
func (s *Server) Total(ctx context.Context, name string) (queue.Status, error) {
	if _, err := s.broker.Config(name); err != nil {
		return queue.Status{}, err
	}
	all := s.view(ctx, []string{name}, false)
	if len(all) == 0 {
		return queue.Status{}, fmt.Errorf("queue %q: %w", name, queue.ErrUnknownQueue)
	}
	for _, sh := range all[0].Shards {
		if sh.Error != "" {
			return all[0].Status, fmt.Errorf("queue %q: shard %d: %s", name, sh.Shard, sh.Error)
		}
	}
	return all[0].Status, nil
}

// look asks another broker about the shards that it leads.
func (s *Server) look(ctx context.Context, address string, names []string) seen {
	one := ""
	if len(names) == 1 {
		one = names[0]
	}
	body, err := s.pass(ctx, address, one, errand{method: http.MethodGet})
	var list queue.Overviews
	if err == nil && one != "" {
		list.Queues = make([]queue.Overview, 1)
		err = json.Unmarshal(body, &list.Queues[0])
	} else if err == nil {
		err = json.Unmarshal(body, &list)
	}
	out := seen{queues: map[string]*queue.Overview{}, err: err}
	for i := range list.Queues {
		out.queues[list.Queues[i].Queue] = &list.Queues[i]
	}
	return out
}

// complete adds what other brokers have told about a queue, and what nobody has told.
func (s *Server) complete(st *queue.Overview, places []string, answers []seen) {
	counted := map[int]bool{}
	for _, sh := range st.Shards {
		counted[sh.Shard] = true
	}
	failed := map[string]error{}
	for i, a := range answers {
		failed[places[i]] = a.err
		theirs := a.queues[st.Queue]
		if theirs == nil || len(theirs.Shards) == 0 {
			continue
		}
		// While a leader changes two may tell of a shard; nothing is counted twice.
		if slices.ContainsFunc(theirs.Shards, func(sh queue.ShardStatus) bool { return counted[sh.Shard] }) {
			continue
		}
		add(&st.Status, &theirs.Status)
		for _, sh := range theirs.Shards {
			counted[sh.Shard] = true
			st.Shards = append(st.Shards, sh)
		}
	}
	for k := range st.Config.Shards {
		if counted[k] {
			continue
		}
		sh := queue.ShardStatus{Shard: k, Leader: s.broker.Leader(st.Queue, k)}
		switch err := failed[sh.Leader]; {
		case sh.Leader == "":
			sh.Error = "it has no leader at the moment"
		case err != nil:
			sh.Error = err.Error()
		default:
			sh.Error = "its leader has not read it yet"
		}
		st.Shards = append(st.Shards, sh)
		st.Finished = false
	}
	slices.SortFunc(st.Shards, func(a, b queue.ShardStatus) int { return cmp.Compare(a.Shard, b.Shard) })
}

// blank is a status to which those of shards can be added.
func blank(name string, cfg queue.Config) queue.Status {
	st := queue.Status{Queue: name, Sealed: true, Finished: true, Workers: []queue.WorkerState{}}
	for _, stage := range cfg.Stages {
		st.Stages = append(st.Stages, queue.StageStatus{Name: stage.Name})
	}
	return st
}

// add adds a shard, or several that were added up.
func add(to, one *queue.Status) {
	to.Paused = to.Paused || one.Paused
	to.Sealed = to.Sealed && one.Sealed
	to.Finished = to.Finished && one.Finished
	to.Enqueued += one.Enqueued
	to.Items += one.Items
	to.Dead += one.Dead
	to.OldestMS = max(to.OldestMS, one.OldestMS)
	for _, st := range one.Stages {
		i := slices.IndexFunc(to.Stages, func(is queue.StageStatus) bool { return is.Name == st.Name })
		if i < 0 {
			to.Stages = append(to.Stages, st)
			continue
		}
		is := &to.Stages[i]
		is.Ready += st.Ready
		is.Delayed += st.Delayed
		is.Waiting += st.Waiting
		is.InFlight += st.InFlight
		is.Held += st.Held
		is.Done += st.Done
		is.Failed += st.Failed
		is.Lost += st.Lost
		is.Dead += st.Dead
		is.Cancelled += st.Cancelled
	}
	for _, w := range one.Workers {
		i := slices.IndexFunc(to.Workers, func(is queue.WorkerState) bool { return is.Name == w.Name && is.Stage == w.Stage })
		if i < 0 {
			to.Workers = append(to.Workers, w)
			continue
		}
		to.Workers[i].Items += w.Items
		to.Workers[i].LeaseMS = min(to.Workers[i].LeaseMS, w.LeaseMS)
	}
}

// whole says whether all shards were told of.
func whole(st *queue.Overview) bool {
	return !slices.ContainsFunc(st.Shards, func(sh queue.ShardStatus) bool { return sh.Error != "" })
}

// finished says whether a queue is sealed with nothing left, as far as can be told.
func (s *Server) finished(r *request) bool {
	all := s.view(r.Context(), []string{r.queue}, false)
	return len(all) == 1 && whole(&all[0]) && all[0].Finished
}

const defaultWait = 30 * time.Second

// wait waits until nothing is left.
func (s *Server) wait(r *request) error {
	q := r.known("state", "timeout")
	sealed := true
	switch state := q.Get("state"); state {
	case "", "done":
	case "empty":
		sealed = false
	default:
		q.Failf("state", `%q is not "done" or "empty"`, state)
	}
	timeout := defaultWait
	if d := q.Duration("timeout", 0, queue.MaxWait); d != nil {
		timeout = *d
	}
	if q.Err() != nil {
		return q.Err()
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	reached, err := s.awaitAll(ctx, r, sealed)
	if err != nil {
		return err
	}
	return r.answer(struct {
		Reached bool `json:"reached"`
	}{reached})
}

// awaitAll waits at all places until none has anything left. False: the time is over.
func (s *Server) awaitAll(ctx context.Context, r *request, sealed bool) (bool, error) {
	for {
		cfg, err := s.broker.Config(r.queue)
		if err != nil {
			return false, err
		}
		led := s.broker.Led(r.queue)
		if r.forwarded {
			if len(led) == 0 {
				return false, &queue.NotLeaderError{Queue: r.queue, Leader: s.broker.Leader(r.queue, 0)}
			}
			return s.awaitAt(ctx, r, "", sealed), nil
		}
		places, complete := s.places(r.queue, cfg.Shards, led)
		reached, _ := onShards(len(places), func(i int) (bool, error) { return s.awaitAt(ctx, r, places[i], sealed), nil })
		if complete && !slices.Contains(reached, false) {
			// Each was empty at a moment of its own. Were they all at one?
			all := s.view(ctx, []string{r.queue}, false)
			if len(all) == 1 && whole(&all[0]) && all[0].Items == 0 && (all[0].Sealed || !sealed) {
				return true, nil
			}
		}
		if s.draining.Load() {
			return false, errDraining
		}
		if ctx.Err() != nil {
			return false, nil
		}
		pause(ctx, 5*leaderPause)
	}
}

// awaitAt waits until the shards that a broker leads have nothing left. False: the time is
// over, or it could not be told.
func (s *Server) awaitAt(ctx context.Context, r *request, place string, sealed bool) bool {
	if place == "" {
		for _, k := range s.broker.Led(r.queue) {
			if s.broker.Wait(ctx, r.queue, k, sealed) != nil {
				return false
			}
		}
		return true
	}
	state := "empty"
	if sealed {
		state = "done"
	}
	until, _ := ctx.Deadline() // there is one
	left := max(0, time.Until(until))
	path := "/wait?state=" + state + "&timeout=" + strconv.FormatInt(left.Milliseconds(), 10) + "ms"
	body, err := s.pass(ctx, place, r.queue, errand{method: http.MethodGet, path: path})
	var out struct {
		Reached bool `json:"reached"`
	}
	return err == nil && json.Unmarshal(body, &out) == nil && out.Reached
}
