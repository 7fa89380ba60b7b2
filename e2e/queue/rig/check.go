package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/queue/history"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// maxProblems is how many problems of a kind are told.
const maxProblems = 10

// Leads says whether a broker leads a shard of a queue.
func Leads(ctx context.Context, b *Broker, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.Direct()+"/v1/queues/"+name, nil)
	if err != nil {
		return false
	}
	req.Header.Set("Queue-Forwarded", "1") // it is to tell of its own shards only
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	var st queue.Overview
	return json.NewDecoder(resp.Body).Decode(&st) == nil && len(st.Shards) > 0
}

// check looks at what came of the items.
func (c *chaos) check(r *Report) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	wrong := &problems{r: r}
	records := c.log.All()
	r.count(records)
	if len(c.added) != c.cfg.Items {
		wrong.say("enqueued", "%d items were enqueued, not %d", len(c.added), c.cfg.Items)
	}
	c.checkCounters(r, wrong)
	ids := map[queue.ID]bool{}
	var seen []history.Seen
	for i, a := range c.added {
		if ids[a.ID] {
			wrong.say("id", "two items have the ID %s", a.ID)
		}
		ids[a.ID] = true
		call := election.Now()
		st, err := c.client.Item(ctx, chaosQueue, a.ID)
		if err != nil {
			wrong.say("lost", "item %s is not known any more: %v", a.ID, err)
			continue
		}
		seen = append(seen, history.Seen{ID: a.ID, State: st.State, Claim: st.Claim, Call: call, Return: election.Now()})
		if st.State != "done" {
			wrong.say("state", "item %s is %s", a.ID, st.State)
			continue
		}
		// The output that was accepted is that of the attempt that was, and right.
		if want := filepath.Join(c.cfg.Dir, "out", fmt.Sprintf("%s.%d", a.ID, st.Claim)); st.Output != want {
			wrong.say("output", "item %s: the output is %q and not %q", a.ID, st.Output, want)
			continue
		}
		got, err := os.ReadFile(st.Output)
		_, text := c.input(i)
		if err != nil || !bytes.Equal(got, history.Transform(text)) {
			wrong.say("content", "item %s: the output %s is wrong: %v", a.ID, st.Output, err)
		}
	}
	for _, problem := range history.Check(c.added, records, seen) {
		wrong.say("history", "%s", problem)
	}
}

// count counts what workers have seen.
func (r *Report) count(records []history.Record) {
	processes := map[string]bool{}
	for _, rec := range records {
		processes[rec.Process] = true
		if rec.Kind == history.Claim {
			r.Attempts += len(rec.Attempts)
		}
		for _, v := range rec.Verdicts {
			r.Verdicts[v]++
		}
	}
	r.Processes = len(processes)
}

// checkCounters compares the queue's counters with what has to be.
func (c *chaos) checkCounters(r *Report, wrong *problems) {
	st := r.Status
	if len(st.Stages) != 1 {
		wrong.say("status", "the queue has %d stages", len(st.Stages))
		return
	}
	stage := st.Stages[0]
	for _, n := range []struct {
		name      string
		got, want uint64
	}{
		{"enqueued", st.Enqueued, uint64(c.cfg.Items)},
		{"done", stage.Done, uint64(c.cfg.Items)},
		{"dead", stage.Dead, 0}, {"cancelled", stage.Cancelled, 0},
		{"items", uint64(st.Items), 0}, {"ready", uint64(stage.Ready), 0}, {"delayed", uint64(stage.Delayed), 0},
		{"in flight", uint64(stage.InFlight), 0}, {"workers", uint64(len(st.Workers)), 0},
	} {
		if n.got != n.want {
			wrong.say("counter "+n.name, "the counter %q is %d and not %d", n.name, n.got, n.want)
		}
	}
}

// problems bounds how many of a kind are told.
type problems struct {
	r    *Report
	seen map[string]int
}

func (p *problems) say(kind, format string, args ...any) {
	if p.seen == nil {
		p.seen = map[string]int{}
	}
	if p.seen[kind]++; p.seen[kind] <= maxProblems {
		p.r.Problems = append(p.r.Problems, fmt.Sprintf(format, args...))
	}
}
