package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// claimSlice is how long a claim waits at one broker if several lead shards of the
	// queue, before it looks at the others again.
	claimSlice = 250 * time.Millisecond
	// answerTime is added to the wait that another broker is asked for.
	answerTime = 10 * time.Second
)

// claimed is an answer to a claim. Raw, if there, is what another broker has said.
type claimed struct {
	queue.ClaimResponse
	raw []byte
}

// claim hands out items.
func (s *Server) claim(r *request) error {
	if err := r.known().Err(); err != nil {
		return err
	}
	var req queue.ClaimRequest
	if err := r.decode(&req, false); err != nil {
		return err
	}
	if w := time.Duration(req.Wait); w < 0 || w > queue.MaxWait {
		return httpapi.Errorf(http.StatusBadRequest, "wait", "%v is not between 0s and %v", w, queue.MaxWait)
	}
	res, err := s.claimAnywhere(r, req)
	if err != nil {
		return err
	}
	if n := len(res.Items); n > 0 && res.raw == nil {
		s.counts.claimed.Add(float64(n))
	}
	err = r.Context().Err()
	if err == nil {
		if res.raw == nil {
			res.raw = encodeClaimed(&res.ClaimResponse)
		}
		err = r.send(res.raw)
	}
	if err != nil {
		s.release(r, &res)
		return errGone
	}
	return nil
}

// claimAnywhere claims at this broker, or at others that lead shards of the queue.
func (s *Server) claimAnywhere(r *request, req queue.ClaimRequest) (claimed, error) {
	cfg, err := s.broker.Config(r.queue)
	if err != nil {
		return claimed{}, err
	}
	led := s.broker.Led(r.queue)
	if r.forwarded || len(led) == cfg.Shards {
		ctx, cancel := context.WithTimeout(r.Context(), time.Duration(req.Wait)+commitTimeout)
		res, err := s.broker.Claim(ctx, r.queue, req)
		cancel()
		if r.forwarded || !errors.Is(err, queue.ErrNotLeader) {
			return claimed{ClaimResponse: res}, err
		}
	}
	until := time.Now().Add(time.Duration(req.Wait))
	patience := time.Now().Add(leaderWait)
	for turn := s.turn.Add(1); ; turn++ {
		var places []string
		var complete bool
		if cfg, err = s.broker.Config(r.queue); err == nil {
			places, complete = s.places(r.queue, cfg.Shards, s.broker.Led(r.queue))
			err = &queue.NotLeaderError{Queue: r.queue}
		}
		if len(places) > 0 {
			var res claimed
			res, err = s.claimRound(r, req, places, complete, turn, time.Until(until))
			if err == nil && (len(res.Items) > 0 || res.Finished) {
				return res, nil
			}
		}
		now := time.Now()
		switch {
		case r.Context().Err() != nil || s.draining.Load():
			return claimed{}, errors.Join(err, errDraining)
		case err == nil && !now.Before(until):
			finished := !complete || len(places) > 1
			if finished {
				finished = s.finished(r)
			}
			return claimed{ClaimResponse: queue.ClaimResponse{Items: []queue.Claimed{}, Finished: finished}}, nil
		case err == nil:
			patience = now.Add(leaderWait)
		case !errors.Is(err, queue.ErrNotLeader) && !errors.Is(err, errNotDone) && !errors.Is(err, errUnsure) || now.After(patience):
			return claimed{}, err
		default:
			// What a broker that has gone had handed out comes back when the lease ends.
			pause(r.Context(), leaderPause)
		}
	}
}

// claimRound asks all places for what they have now, and then waits for a while at one.
func (s *Server) claimRound(r *request, req queue.ClaimRequest, places []string, complete bool, turn uint64, left time.Duration) (res claimed, err error) {
	left = max(0, left)
	if len(places) == 1 {
		if !complete {
			left = min(left, claimSlice)
		}
		return s.claimAt(r, req, places[0], left)
	}
	for i := range places {
		place := places[(turn+uint64(i))%uint64(len(places))]
		if res, err = s.claimAt(r, req, place, 0); err != nil || len(res.Items) > 0 {
			return res, err
		}
	}
	if left > 0 {
		res, err = s.claimAt(r, req, places[0], min(left, claimSlice))
	}
	return res, err
}

// claimAt claims at a broker; "" is this one.
func (s *Server) claimAt(r *request, req queue.ClaimRequest, place string, wait time.Duration) (res claimed, err error) {
	req.Wait = queue.Duration(wait)
	ctx, cancel := context.WithTimeout(r.Context(), wait+answerTime)
	defer cancel()
	if place == "" {
		res.ClaimResponse, err = s.broker.Claim(ctx, r.queue, req)
		return res, err
	}
	e, err := errandFor(http.MethodPost, "/claim", req)
	if err != nil {
		return res, err
	}
	if res.raw, err = s.pass(ctx, place, r.queue, e); err != nil {
		var passed *passedError
		if errors.As(err, &passed) && passed.status == http.StatusServiceUnavailable {
			err = fmt.Errorf("%w: %w", errNotDone, err)
		}
		return res, err
	}
	if err := json.Unmarshal(res.raw, &res.ClaimResponse); err != nil {
		return res, fmt.Errorf("%w at %s as a broker does: %w", errUnsure, place, err)
	}
	return res, nil
}

// release gives back what was claimed for a client that has gone.
func (s *Server) release(r *request, res *claimed) {
	if len(res.Items) == 0 {
		return
	}
	acks := make([]queue.Ack, len(res.Items))
	for i := range acks {
		acks[i] = queue.Ack{ID: res.Items[i].ID, Claim: res.Items[i].Claim, Action: queue.Release}
	}
	// Not for the client any more; route and pass bound it.
	own := &request{Request: r.WithContext(context.WithoutCancel(r.Context())), queue: r.queue, forwarded: r.forwarded}
	if _, err := s.ackAll(own, acks); err != nil {
		s.log.Warn("release items of a client that has gone; they come back when the lease ends", "queue", r.queue, "items", len(acks), "error", err)
		return
	}
	s.counts.released.Add(float64(len(acks)))
}

// acking ends attempts. Those without an action get one.
func (s *Server) acking(without queue.Action) func(r *request) error {
	return func(r *request) error {
		if err := r.known().Err(); err != nil {
			return err
		}
		var in queue.Acks
		if err := r.read(); err != nil {
			return err
		}
		if err := httpapi.ReadJSON(bytes.NewReader(r.body), &in); err != nil {
			return err
		}
		if n := len(in.Acks); n < 1 || n > queue.MaxBatch {
			return httpapi.Errorf(http.StatusBadRequest, "acks", "%d of them; 1 to %d are possible", n, queue.MaxBatch)
		}
		for i := range in.Acks {
			if in.Acks[i].Action == "" {
				in.Acks[i].Action = without
			}
		}
		out, err := s.ackAll(r, in.Acks)
		if err != nil {
			return err
		}
		return r.send(encodeResults(out))
	}
}

// ackAll ends attempts at items of any shards.
func (s *Server) ackAll(r *request, acks []queue.Ack) ([]queue.AckResult, error) {
	return byShard(s, r, acks, func(a *queue.Ack) int { return a.ID.Shard }, func(part []queue.Ack) (errand, error) {
		e, err := errandFor(http.MethodPost, "/ack", queue.Acks{Acks: part})
		e.again = true
		return e, err
	}, func(ctx context.Context, k int, part []queue.Ack) ([]queue.AckResult, error) {
		out, err := s.broker.Ack(ctx, r.queue, k, part)
		for i := range out {
			s.counts.ack(part[i].Action, out[i].Verdict)
		}
		return out, err
	})
}

// byShard does something to items of any shards, shard by shard at the same time. The
// results are in the order of the items.
func byShard[T any](s *Server, r *request, items []T, shardOf func(*T) int, errandOf func(part []T) (errand, error),
	here func(ctx context.Context, k int, part []T) ([]queue.AckResult, error),
) ([]queue.AckResult, error) {
	parts := map[int][]T{}
	index := map[int][]int{}
	one := true
	for i := range items {
		one = one && shardOf(&items[i]) == shardOf(&items[0])
	}
	if one {
		parts[shardOf(&items[0])] = items
	} else {
		for i := range items {
			k := shardOf(&items[i])
			parts[k], index[k] = append(parts[k], items[i]), append(index[k], i)
		}
	}
	do := func(k int) ([]queue.AckResult, error) {
		var out queue.AckResults
		err := s.route(r, func(ctx context.Context) (err error) {
			out.Results, err = here(ctx, k, parts[k])
			return err
		}, func(ctx context.Context, leader string) error {
			e, err := errandOf(parts[k]) // only now: it is written as JSON once more
			if err != nil {
				return err
			}
			body, err := s.pass(ctx, leader, r.queue, e)
			if err != nil {
				return err
			}
			return json.Unmarshal(body, &out)
		}, true)
		if err == nil && len(out.Results) != len(parts[k]) {
			err = fmt.Errorf("%w for each item", errUnsure)
		}
		return out.Results, err
	}
	if one {
		return do(shardOf(&items[0]))
	}
	ks := make([]int, 0, len(parts))
	for k := range parts {
		ks = append(ks, k)
	}
	answers, err := onShards(len(ks), func(i int) ([]queue.AckResult, error) { return do(ks[i]) })
	if err != nil {
		return nil, err
	}
	all := make([]queue.AckResult, len(items))
	for i, k := range ks {
		for j, at := range index[k] {
			all[at] = answers[i][j]
		}
	}
	return all, nil
}

// extend renews leases.
func (s *Server) extend(r *request) error {
	if err := r.known().Err(); err != nil {
		return err
	}
	var in queue.Extend
	if err := r.decode(&in, false); err != nil {
		return err
	}
	out, err := onShard(s, r, errand{method: http.MethodPost, path: "/extend", body: r.body, again: true}, func(ctx context.Context) (queue.Extended, error) {
		return s.broker.Extend(ctx, r.queue, in)
	})
	if err != nil {
		return err
	}
	return r.answer(out)
}

// cancelItems ends items that are not finished.
func (s *Server) cancelItems(r *request) error {
	if err := r.known().Err(); err != nil {
		return err
	}
	var in queue.IDs
	if err := r.decode(&in, false); err != nil {
		return err
	}
	if n := len(in.IDs); n < 1 || n > queue.MaxBatch {
		return httpapi.Errorf(http.StatusBadRequest, "ids", "%d of them; 1 to %d are possible", n, queue.MaxBatch)
	}
	out, err := byShard(s, r, in.IDs, func(id *queue.ID) int { return id.Shard }, func(part []queue.ID) (errand, error) {
		e, err := errandFor(http.MethodPost, "/cancel", queue.IDs{IDs: part})
		e.again = true
		return e, err
	}, func(ctx context.Context, k int, part []queue.ID) ([]queue.AckResult, error) {
		return s.broker.Cancel(ctx, r.queue, k, part)
	})
	if err != nil {
		return err
	}
	return r.send(encodeResults(out))
}
