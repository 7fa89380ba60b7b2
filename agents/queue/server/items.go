package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const ndjson = "application/x-ndjson"

// batch is what is enqueued at once.
type batch struct {
	items []queue.Item
	lines []int // of the items in NDJSON; nil: it was JSON
}

// readBatch reads the body. The error names the item or the line.
func readBatch(body []byte, ctype string) (batch, error) {
	var b batch
	media, _, err := mime.ParseMediaType(ctype)
	switch {
	case ctype != "" && err != nil:
		return b, httpapi.Errorf(http.StatusBadRequest, "", "the Content-Type is malformed: %v", err)
	case media == ndjson:
		b.lines = []int{}
		line := 0
		for text := range bytes.Lines(body) {
			line++
			if len(bytes.TrimSpace(text)) == 0 {
				continue
			}
			if len(b.items) == queue.MaxBatch {
				return b, tooMany(queue.MaxBatch + 1)
			}
			var it queue.Item
			if err := httpapi.ReadJSON(bytes.NewReader(text), &it); err != nil {
				return b, inLine(line, err)
			}
			b.items, b.lines = append(b.items, it), append(b.lines, line)
		}
	default:
		var in queue.Batch
		if err := httpapi.ReadJSON(bytes.NewReader(body), &in); err != nil {
			return b, err
		}
		b.items = in.Items
	}
	switch n := len(b.items); {
	case n == 0:
		return b, httpapi.Errorf(http.StatusBadRequest, "items", "there are none")
	case n > queue.MaxBatch:
		return b, tooMany(n)
	}
	return b, nil
}

func tooMany(n int) error {
	return fmt.Errorf("%w: %d items, more than %d; send them in several batches", queue.ErrTooLarge, n, queue.MaxBatch)
}

// inLine says in which line of NDJSON a mistake is.
func inLine(line int, err error) error {
	return httpapi.Errorf(http.StatusBadRequest, "line "+strconv.Itoa(line), "%v", err)
}

// blame says in which item a mistake is that the broker has found.
func (b *batch) blame(i int, err error) error {
	var field *queue.FieldError
	switch {
	case !errors.As(err, &field) || i < 0 || i >= len(b.items):
		return err
	case b.lines != nil:
		return inLine(b.lines[i], field)
	default:
		return httpapi.Errorf(http.StatusBadRequest, "items["+strconv.Itoa(i)+"]."+field.Field, "%s", field.Problem)
	}
}

// explain is blame for the error of Broker.Enqueue, which begins with the item's number.
func (b *batch) explain(err error) error {
	var i int
	if err == nil {
		return nil
	}
	if _, serr := fmt.Sscanf(err.Error(), "item %d:", &i); serr != nil {
		return err
	}
	return b.blame(i, err)
}

// enqueue adds items.
func (s *Server) enqueue(r *request) error {
	q := r.known("shard")
	shard := shardOf(q)
	if q.Err() != nil {
		return q.Err()
	}
	cfg, err := s.broker.Config(r.queue)
	if err != nil {
		return err
	}
	if err := r.read(); err != nil {
		return err
	}
	if shard < 0 && cfg.Shards == 1 {
		shard = 0
	}
	if shard >= 0 && !r.forwarded && len(s.broker.Led(r.queue)) == 0 {
		// Whoever leads it will read it.
		return s.enqueueAt(r, shard, nil)
	}
	b, err := readBatch(r.body, r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	if shard >= 0 {
		return s.enqueueAt(r, shard, &b)
	}
	turn := s.turn.Add(1)
	places := make([]int, len(b.items))
	whole := true
	for i := range b.items {
		places[i] = queue.ShardFor(&b.items[i], cfg.Shards, turn)
		whole = whole && places[i] == places[0]
	}
	if whole {
		return s.enqueueAt(r, places[0], &b)
	}
	// Nothing of it may be accepted if something of it cannot be.
	for i := range b.items {
		if err := cfg.Check(&b.items[i]); err != nil {
			return b.blame(i, err)
		}
	}
	return s.enqueueParts(r, &b, places, cfg.Shards)
}

// enqueueAt adds all items to a shard. The batch is nil if it has not been read yet.
func (s *Server) enqueueAt(r *request, shard int, b *batch) error {
	again := b != nil && allKeyed(b.items)
	return s.route(r, func(ctx context.Context) error {
		if b == nil {
			if leader := s.broker.Leader(r.queue, shard); leader != "" {
				return &queue.NotLeaderError{Queue: r.queue, Shard: shard, Leader: leader}
			}
			read, err := readBatch(r.body, r.Header.Get("Content-Type"))
			if err != nil {
				return err
			}
			b = &read
		}
		out, err := s.broker.Enqueue(ctx, r.queue, shard, b.items)
		if err != nil {
			return b.explain(err)
		}
		s.counts.enqueued.Add(float64(len(out)))
		return r.send(encodeEnqueued(out))
	}, func(ctx context.Context, leader string) error {
		out, err := s.pass(ctx, leader, r.queue, errand{
			method: http.MethodPost, path: "/items?shard=" + strconv.Itoa(shard),
			ctype: r.Header.Get("Content-Type"), body: r.body,
		})
		if err != nil {
			return err
		}
		return r.send(out)
	}, again)
}

func allKeyed(items []queue.Item) bool {
	for i := range items {
		if items[i].Key == "" {
			return false
		}
	}
	return true
}

// enqueueParts adds items to several shards, which is atomic for each of them only.
func (s *Server) enqueueParts(r *request, b *batch, places []int, shards int) error {
	parts := make([]queue.Batch, shards)
	index := make([][]int, shards) // in the batch
	for i, k := range places {
		parts[k].Items = append(parts[k].Items, b.items[i])
		index[k] = append(index[k], i)
	}
	all := make([]queue.Enqueued, len(b.items))
	stored, err := onShards(shards, func(k int) (int, error) {
		if len(parts[k].Items) == 0 {
			return 0, nil
		}
		e, err := errandFor(http.MethodPost, "/items?shard="+strconv.Itoa(k), parts[k])
		if err != nil {
			return 0, err
		}
		e.again = allKeyed(parts[k].Items)
		out, err := onShard(s, r, e, func(ctx context.Context) (queue.EnqueuedBatch, error) {
			out, err := s.broker.Enqueue(ctx, r.queue, k, parts[k].Items)
			if err == nil {
				s.counts.enqueued.Add(float64(len(out)))
			}
			return queue.EnqueuedBatch{Items: out}, err
		})
		if err == nil && len(out.Items) != len(index[k]) {
			err = fmt.Errorf("%w for each item", errUnsure)
		}
		if err != nil {
			return 0, fmt.Errorf("shard %d: %w", k, err)
		}
		for i, at := range index[k] {
			all[at] = out.Items[i]
		}
		return len(out.Items), nil
	})
	if err == nil {
		return r.send(encodeEnqueued(all))
	}
	n := 0
	for _, part := range stored {
		n += part
	}
	if n > 0 {
		// It must not be sent again as if nothing had been done.
		return httpapi.Errorf(http.StatusServiceUnavailable, "", "%d of %d items were added, and the others perhaps not: %v", n, len(all), err)
	}
	return err
}

// item tells about an item.
func (s *Server) item(r *request) error {
	if err := r.known().Err(); err != nil {
		return err
	}
	id, err := queue.ParseID(r.PathValue("id"))
	if err != nil {
		return err
	}
	out, err := onShard(s, r, errand{method: http.MethodGet, path: "/items/" + id.String(), again: true}, func(ctx context.Context) (json.RawMessage, error) {
		st, err := s.broker.Item(ctx, r.queue, id)
		if err != nil {
			return nil, err
		}
		return json.Marshal(st)
	})
	if err != nil {
		return err
	}
	return r.send(out)
}
