// Package scale starts workers of a queue as Nomad jobs, as many as there is work for.
//
// It only ever starts some. A worker that finds nothing to do ends by itself, so scaling
// in never stops one that works; and since those that Nomad has not placed yet count as
// much as those that run, none is started twice for the same work.
package scale

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	// every is the time between two looks.
	every = 2 * time.Second
	// callTimeout bounds a call of Nomad.
	callTimeout = 5 * time.Second
	// burst bounds the workers that are started after one look.
	burst = 50
)

// Queues is what is needed of a broker.
type Queues interface {
	Queues() []string
	Config(queue string) (queue.Config, error)
	// Leads says whether this broker leads a shard.
	Leads(queue string, shard int) bool
	// Total tells about all shards of a queue.
	Total(ctx context.Context, queue string) (queue.Status, error)
}

// Config of a Scaler.
type Config struct {
	Queues Queues
	Nomad  *api.Client
	Logger hclog.Logger
}

// Scaler starts workers for the queues whose first shard its broker leads.
type Scaler struct {
	cfg Config
	// last is the last trouble of each queue and stage, so that it is logged once.
	last map[string]string
	// idle are the stages whose workers have ended without having done anything.
	idle map[string]*idle
}

// idle is how long to wait before more workers are started that may do nothing either: a
// job that cannot work must not be dispatched every two seconds for ever.
type idle struct {
	done  uint64 // of the stage, when workers were last started
	wait  time.Duration
	until time.Time
}

const (
	firstIdle = 4 * time.Second
	mostIdle  = 5 * time.Minute
)

// allow says whether workers may be started, when so many items are done and nobody
// works.
func (i *idle) allow(done uint64, now time.Time) bool {
	if done != i.done {
		i.done, i.wait = done, 0
	}
	return !now.Before(i.until) || i.wait == 0
}

// started notes that workers were started.
func (i *idle) started(done uint64, now time.Time) {
	i.done = done
	i.wait = min(mostIdle, max(firstIdle, 2*i.wait))
	i.until = now.Add(i.wait)
}

// New makes a Scaler.
func New(cfg Config) *Scaler {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	return &Scaler{cfg: cfg, last: map[string]string{}, idle: map[string]*idle{}}
}

// Run works until the context ends.
func (s *Scaler) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look does what is to be done now.
func (s *Scaler) look(ctx context.Context) {
	for _, name := range s.cfg.Queues.Queues() {
		cfg, err := s.cfg.Queues.Config(name)
		if err != nil {
			continue // it was deleted just now
		}
		if !s.cfg.Queues.Leads(name, 0) {
			continue
		}
		for _, st := range cfg.Stages {
			if st.Scale == nil || ctx.Err() != nil {
				continue
			}
			s.note(ctx, name+"/"+st.Name, s.stage(ctx, name, st))
		}
	}
}

// note logs a trouble when it is new.
func (s *Scaler) note(ctx context.Context, what string, err error) {
	switch {
	case ctx.Err() != nil:
	case err == nil:
		delete(s.last, what)
	case s.last[what] != err.Error():
		s.last[what] = err.Error()
		s.cfg.Logger.Warn("cannot start workers", "for", what, "error", err)
	}
}

// stage starts workers for a stage where they are missing.
func (s *Scaler) stage(ctx context.Context, name string, st queue.Stage) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	total, err := s.cfg.Queues.Total(ctx, name)
	if err != nil {
		return err
	}
	have, err := s.workers(ctx, name, st)
	if err != nil {
		return err
	}
	n := Missing(total, st, have)
	if n == 0 {
		return nil
	}
	key, done := name+"/"+st.Name, uint64(0)
	for _, c := range total.Stages {
		if c.Name == st.Name {
			done = c.Done + c.Failed
		}
	}
	if s.idle[key] == nil {
		s.idle[key] = &idle{}
	}
	if have == 0 && !s.idle[key].allow(done, time.Now()) {
		return fmt.Errorf("workers of job %q have ended without having worked; the next ones are started at %s", st.Scale.Job, s.idle[key].until.Format(time.TimeOnly))
	}
	for i := range n {
		if err := s.start(ctx, name, st); err != nil {
			return fmt.Errorf("%w (%d of %d were started)", err, i, n)
		}
	}
	s.idle[key].started(done, time.Now())
	s.cfg.Logger.Info("workers started", "queue", name, "stage", st.Name, "job", st.Scale.Job, "started", n, "had", have)
	return nil
}

// Missing is how many workers a stage should have more than it has. Items that wait for
// their time or their group need none yet.
func Missing(total queue.Status, st queue.Stage, have int) int {
	work := 0
	for _, c := range total.Stages {
		if c.Name == st.Name {
			work = c.Ready + c.InFlight
		}
	}
	if st.MaxInFlight > 0 {
		work = min(work, st.MaxInFlight)
	}
	per := st.Scale.ItemsPerWorker
	want := (work + per - 1) / per
	if total.Paused {
		want = 0
	}
	want = min(max(want, st.Scale.Min), st.Scale.Max)
	if total.Finished {
		want = 0
	}
	return min(max(0, want-have), burst)
}

// workers counts the dispatched jobs of a stage that have not ended.
func (s *Scaler) workers(ctx context.Context, name string, st queue.Stage) (int, error) {
	opts := (&api.QueryOptions{Namespace: st.Scale.Namespace, Prefix: st.Scale.Job + "/dispatch-"}).WithContext(ctx)
	jobs, _, err := s.cfg.Nomad.Jobs().ListOptions(&api.JobListOptions{Fields: &api.JobListFields{Meta: true}}, opts)
	if err != nil {
		return 0, fmt.Errorf("list jobs dispatched from %q: %w", st.Scale.Job, err)
	}
	have := 0
	for _, j := range jobs {
		if j.ParentID == st.Scale.Job && j.Meta["queue"] == name && j.Meta["stage"] == st.Name && j.Status != "dead" && !j.Stop {
			have++
		}
	}
	return have, nil
}

// start dispatches one. If its answer is lost, the next look counts it all the same; the
// token is for a request that is made again below us.
func (s *Scaler) start(ctx context.Context, name string, st queue.Stage) error {
	opts := (&api.WriteOptions{Namespace: st.Scale.Namespace, IdempotencyToken: rand.Text()}).WithContext(ctx)
	_, _, err := s.cfg.Nomad.Jobs().Dispatch(st.Scale.Job, map[string]string{"queue": name, "stage": st.Name}, nil, "", opts)
	if err != nil {
		if strings.Contains(err.Error(), "job not found") {
			err = errors.New("there is no such job; register it first")
		}
		return fmt.Errorf("dispatch job %q: %w", st.Scale.Job, err)
	}
	return nil
}
