package server

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// create makes a queue or changes it. Any broker can.
func (s *Server) create(r *request) error {
	if err := r.known().Err(); err != nil {
		return err
	}
	var cfg queue.Config
	if err := r.decode(&cfg, true); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), commitTimeout)
	defer cancel()
	cfg, err := s.broker.Create(ctx, r.queue, cfg)
	if err != nil {
		return err
	}
	return r.answer(cfg)
}

// delete removes a queue. Any broker can.
func (s *Server) delete(r *request) error {
	if err := r.known().Err(); err != nil {
		return err
	}
	// Once begun it goes on, even if the client leaves.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), commitTimeout)
	defer cancel()
	if err := s.broker.Delete(ctx, r.queue); err != nil {
		return err
	}
	return r.answer(struct{}{})
}

// shards are those that a request without the parameter shard is about: all.
func (s *Server) shards(r *request) ([]int, error) {
	q := r.known("shard")
	one := shardOf(q)
	if q.Err() != nil {
		return nil, q.Err()
	}
	cfg, err := s.broker.Config(r.queue)
	if err != nil {
		return nil, err
	}
	if one >= 0 {
		return []int{one}, nil
	}
	all := make([]int, cfg.Shards)
	for k := range all {
		all[k] = k
	}
	return all, nil
}

func withShard(path string, k int) string { return path + "?shard=" + strconv.Itoa(k) }

// setting turns a switch of all shards.
func (s *Server) setting(f queue.Flag) func(r *request) error {
	return func(r *request) error {
		ks, err := s.shards(r)
		if err != nil {
			return err
		}
		_, err = onShards(len(ks), func(i int) (struct{}, error) {
			e := errand{method: http.MethodPost, path: withShard("/"+string(f), ks[i]), again: true}
			return onShard(s, r, e, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, s.broker.Set(ctx, r.queue, ks[i], f)
			})
		})
		if err != nil {
			return err
		}
		return r.answer(struct{}{})
	}
}

// purge cancels what nobody works on.
func (s *Server) purge(r *request) error {
	ks, err := s.shards(r)
	if err != nil {
		return err
	}
	counts, err := onShards(len(ks), func(i int) (queue.Count, error) {
		e := errand{method: http.MethodPost, path: withShard("/purge", ks[i]), again: true}
		return onShard(s, r, e, func(ctx context.Context) (queue.Count, error) {
			n, err := s.broker.Purge(ctx, r.queue, ks[i])
			return queue.Count{Items: n}, err
		})
	})
	if err != nil {
		return err
	}
	return r.answer(sum(counts))
}

func sum(counts []queue.Count) (total queue.Count) {
	for _, c := range counts {
		total.Items += c.Items
	}
	return total
}

// Limits of a list of dead letters.
const (
	defaultDead = 100
	maxDead     = 1000
)

// dead lists dead letters, in the order of their IDs.
func (s *Server) dead(r *request) error {
	q := r.known("from", "limit", "shard")
	limit := defaultDead
	if n := q.Int("limit", 1, maxDead); n != nil {
		limit = *n
	}
	var from queue.ID
	if text := q.Get("from"); text != "" {
		id, err := queue.ParseID(text)
		if err != nil {
			q.Failf("from", "%q is not the ID of an item, such as 0-17", text)
		}
		from = id
	}
	if q.Err() != nil {
		return q.Err()
	}
	cfg, err := s.broker.Config(r.queue)
	if err != nil {
		return err
	}
	if only := shardOf(q); only >= 0 {
		if only != from.Shard {
			from = queue.ID{Shard: only}
		}
		cfg.Shards = only + 1
	}
	out, err := s.deadLetters(r, cfg.Shards, from, limit)
	if err != nil {
		return err
	}
	return r.answer(out)
}

// deadLetters reads up to limit of them, shard after shard.
func (s *Server) deadLetters(r *request, shards int, from queue.ID, limit int) (queue.DeadLetters, error) {
	all := queue.DeadLetters{Dead: []queue.DeadLetter{}}
	for at := from; at.Shard < shards; at = (queue.ID{Shard: at.Shard + 1}) {
		if len(all.Dead) == limit {
			all.Next = at.String() // perhaps there are none
			return all, nil
		}
		room := limit - len(all.Dead)
		path := "/dead?shard=" + strconv.Itoa(at.Shard) + "&from=" + url.QueryEscape(at.String()) + "&limit=" + strconv.Itoa(room)
		out, err := onShard(s, r, errand{method: http.MethodGet, path: path, again: true}, func(ctx context.Context) (out queue.DeadLetters, err error) {
			out.Dead, err = s.broker.Dead(ctx, r.queue, at.Shard, at.Seq, room+1)
			if len(out.Dead) > room {
				out.Next = out.Dead[room].ID.String()
				out.Dead = out.Dead[:room]
			}
			return out, err
		})
		if err != nil {
			return all, err
		}
		all.Dead = append(all.Dead, out.Dead...)
		if out.Next != "" {
			all.Next = out.Next
			return all, nil
		}
	}
	return all, nil
}

// redriven is a queue.Count that also says what was not found.
type redriven struct {
	queue.Count
	Error string `json:"error,omitempty"`
}

// redrive enqueues dead letters again.
func (s *Server) redrive(r *request) error {
	ks, err := s.shards(r)
	if err != nil {
		return err
	}
	var in queue.IDs
	if err := r.decode(&in, true); err != nil {
		return err
	}
	parts := map[int][]queue.ID{}
	if in.IDs != nil {
		if len(in.IDs) > queue.MaxBatch {
			return httpapi.Errorf(http.StatusBadRequest, "ids", "%d of them are more than %d", len(in.IDs), queue.MaxBatch)
		}
		ks = ks[:0]
		for _, id := range in.IDs {
			if parts[id.Shard] == nil {
				ks = append(ks, id.Shard)
			}
			parts[id.Shard] = append(parts[id.Shard], id)
		}
	}
	counts, err := onShards(len(ks), func(i int) (redriven, error) {
		var body any = struct{}{}
		if in.IDs != nil {
			body = queue.IDs{IDs: parts[ks[i]]}
		}
		e, err := errandFor(http.MethodPost, withShard("/dead/redrive", ks[i]), body)
		if err != nil {
			return redriven{}, err
		}
		return onShard(s, r, e, func(ctx context.Context) (out redriven, err error) {
			out.Items, err = s.broker.Redrive(ctx, r.queue, ks[i], parts[ks[i]])
			if errors.Is(err, queue.ErrUnknownItem) && out.Items > 0 {
				out.Error, err = err.Error(), nil
			}
			return out, err
		})
	})
	var total redriven
	for _, c := range counts {
		total.Items += c.Items
		if total.Error == "" {
			total.Error = c.Error
		}
	}
	if err != nil && total.Items == 0 {
		return err
	}
	if err != nil {
		total.Error = err.Error()
	}
	return r.answer(total)
}

// recurring lists what is enqueued again and again.
func (s *Server) recurring(r *request) error {
	ks, err := s.shards(r)
	if err != nil {
		return err
	}
	all, err := s.schedules(r, ks)
	if err != nil {
		return err
	}
	return r.answer(all)
}

// schedules reads those of shards, in the order of the names.
func (s *Server) schedules(r *request, ks []int) (queue.Schedules, error) {
	parts, err := onShards(len(ks), func(i int) (queue.Schedules, error) {
		e := errand{method: http.MethodGet, path: withShard("/recurring", ks[i]), again: true}
		return onShard(s, r, e, func(ctx context.Context) (out queue.Schedules, err error) {
			out.Recurring, err = s.broker.Recurring(ctx, r.queue, ks[i])
			return out, err
		})
	})
	all := queue.Schedules{Recurring: []queue.Schedule{}}
	for _, p := range parts {
		all.Recurring = append(all.Recurring, p.Recurring...)
	}
	slices.SortFunc(all.Recurring, func(a, b queue.Schedule) int { return cmp.Compare(a.Name, b.Name) })
	return all, err
}

// setRecurring adds or changes an item that is enqueued again and again. It lies where its
// items belong.
func (s *Server) setRecurring(r *request) error {
	ks, err := s.shards(r)
	if err != nil {
		return err
	}
	var in queue.Recurring
	if err := r.decode(&in, false); err != nil {
		return err
	}
	name := r.PathValue("name")
	if in.Name != "" && in.Name != name {
		return httpapi.Errorf(http.StatusBadRequest, "name", "%q is not the name in the URL, %q", in.Name, name)
	}
	in.Name = name
	home := ks[0]
	if len(ks) > 1 {
		home = queue.ShardFor(&queue.Item{Group: in.Item.Group, Key: name}, len(ks), 0)
	}
	e, err := errandFor(http.MethodPut, withShard("/recurring/"+url.PathEscape(name), home), in)
	if err != nil {
		return err
	}
	e.again = true
	_, err = onShard(s, r, e, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.broker.SetRecurring(ctx, r.queue, home, in)
	})
	if err != nil {
		return err
	}
	// With another group it may have been elsewhere before.
	for _, k := range ks {
		if k == home {
			continue
		}
		if _, err := s.dropRecurring(r, name, k); err != nil {
			return err
		}
	}
	return r.answer(struct{}{})
}

// deleteRecurring ends one.
func (s *Server) deleteRecurring(r *request) error {
	ks, err := s.shards(r)
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	found := false
	for _, k := range ks {
		had, err := s.dropRecurring(r, name, k)
		if err != nil {
			return err
		}
		found = found || had
	}
	if !found {
		return httpapi.Errorf(http.StatusNotFound, "name", "there is no recurring item %q", name)
	}
	return r.answer(struct{}{})
}

// dropRecurring ends one in a shard, if it is there.
func (s *Server) dropRecurring(r *request, name string, k int) (found bool, err error) {
	e := errand{method: http.MethodDelete, path: withShard("/recurring/"+url.PathEscape(name), k), again: true}
	_, err = onShard(s, r, e, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.broker.DeleteRecurring(ctx, r.queue, k, name)
	})
	var none *queue.FieldError
	var passed *passedError
	if errors.As(err, &none) && none.Field == "name" || errors.As(err, &passed) && passed.status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}
