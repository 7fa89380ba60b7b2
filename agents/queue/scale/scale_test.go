package scale

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

func TestMissing(t *testing.T) {
	scale := queue.Scale{Job: "j", Min: 1, Max: 8, ItemsPerWorker: 10}
	for name, c := range map[string]struct {
		status queue.StageStatus
		change func(*queue.Status, *queue.Stage)
		have   int
		want   int
	}{
		"nothing to do":        {want: 1},
		"nothing and enough":   {have: 1},
		"one item":             {status: queue.StageStatus{Ready: 1}, want: 1},
		"those that are on it": {status: queue.StageStatus{Ready: 15, InFlight: 16}, have: 2, want: 2},
		"not yet":              {status: queue.StageStatus{Delayed: 100, Waiting: 100, Held: 100}, want: 1},
		"pending ones count":   {status: queue.StageStatus{Ready: 30}, have: 3},
		"most":                 {status: queue.StageStatus{Ready: 1e6}, have: 5, want: 3},
		"too many already":     {status: queue.StageStatus{Ready: 10}, have: 7},
		"capped":               {status: queue.StageStatus{Ready: 1e6}, change: func(_ *queue.Status, st *queue.Stage) { st.MaxInFlight = 15 }, want: 2},
		"paused":               {status: queue.StageStatus{Ready: 1e6}, change: func(s *queue.Status, _ *queue.Stage) { s.Paused = true }, want: 1},
		"finished":             {change: func(s *queue.Status, _ *queue.Stage) { s.Finished = true }},
		"burst":                {status: queue.StageStatus{Ready: 1e6}, change: func(_ *queue.Status, st *queue.Stage) { st.Scale.Max = 1000 }, want: 50},
	} {
		t.Run(name, func(t *testing.T) {
			sc := scale
			st := queue.Stage{Name: "work", Scale: &sc}
			c.status.Name = "work"
			total := queue.Status{Stages: []queue.StageStatus{{Name: "other", Ready: 999}, c.status}}
			if c.change != nil {
				c.change(&total, &st)
			}
			must.Eq(t, c.want, Missing(total, st, c.have))
		})
	}
}

// Workers that end without having worked are started ever more rarely, until one works.
func TestIdle(t *testing.T) {
	var i idle
	now := time.Unix(1000, 0)
	must.True(t, i.allow(5, now))
	for _, wait := range []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second} {
		i.started(5, now)
		must.False(t, i.allow(5, now.Add(wait-1)))
		now = now.Add(wait)
		must.True(t, i.allow(5, now))
	}
	for range 20 {
		i.started(5, now)
	}
	must.Eq(t, mostIdle, i.wait)
	must.False(t, i.allow(5, now))
	must.True(t, i.allow(6, now))
	i.started(6, now)
	must.Eq(t, firstIdle, i.wait)
}
