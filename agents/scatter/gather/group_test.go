package gather

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

// Leaves may come and go while a request is under way, and none at all is not believed.
func TestUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, map[string]leafFunc{"1": say(100*time.Millisecond, 200, "x"), "2": say(0, 200, "y")})
		defer r.Close()
		time.AfterFunc(50*time.Millisecond, func() {
			r.Update([]Leaf{{ID: "3", Address: "3", Shard: "3"}, {ID: "3", Address: "other", Shard: "3"}})
		})
		c, m, err := r.get(t.Context())
		must.NoError(t, err)
		must.Eq(t, 2, c.Total)
		must.Eq(t, []string{"1=x", "2=y"}, m.parts)
		// Shards that have no leaf any more are asked for a while, and then given up.
		c, m, err = r.get(t.Context())
		must.Error(t, err)
		must.Eq(t, "3:refused", reasons(c))
		must.Eq(t, 3, c.Total)
		must.Eq(t, []string{"1=x", "2=y"}, m.parts)
		time.Sleep(keepVanished + time.Second)
		c, _, err = r.get(t.Context())
		must.Error(t, err)
		must.Eq(t, 1, c.Total)
		r.Update(nil)
		c, _, _ = r.get(t.Context())
		must.Eq(t, 1, c.Total)
		must.NoError(t, r.Await(t.Context()))
	})
}

// A shard that there has to be is missing as long as it has no leaf, from the first request
// on, and counts for as much as it had.
func TestShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{Shards: []string{"1", "2", "3"}}, map[string]leafFunc{
			"1": say(0, 200, "x"), "2": say(0, 200, "y", CoverageHeader, "ok=5, total=5"), "extra": say(0, 200, "z"),
		})
		defer r.Close()
		c, m, err := r.get(t.Context())
		var short *ShortError
		must.True(t, errors.As(err, &short))
		must.Eq(t, "3:absent", reasons(c))
		must.StrContains(t, err.Error(), "3: absent (no instance in the catalog)")
		must.Eq(t, 7, c.OK)
		must.Eq(t, 8, c.Total)
		must.Eq(t, []string{"1=x", "2=y", "extra=z"}, slices.Sorted(slices.Values(m.parts)))
		must.Eq(t, 3, r.Status().Counters.Asked)
		must.Len(t, 4, r.Status().Shards)
		must.Eq(t, ShardStatus{Name: "3", Leaves: []LeafStatus{}}, r.Status().Shards[2])

		// In part it is to be had, and nobody waits for what is not there.
		began := time.Now()
		c, _, err = r.get(t.Context(), func(req *Request) { req.MinCoverage = 0.5 })
		must.NoError(t, err)
		must.Eq(t, "3:absent", reasons(c))
		must.Eq(t, 0, time.Since(began))

		delete(r.fleet.leaves, "2")
		r.fleet.leaves["3"] = say(0, 200, "w")
		r.update()
		c, _, err = r.get(t.Context())
		must.Error(t, err)
		must.Eq(t, "2:refused", reasons(c)) // it may come back
		time.Sleep(keepVanished + time.Second)
		c, _, err = r.get(t.Context())
		must.Error(t, err)
		must.Eq(t, "2:absent", reasons(c))
		must.Eq(t, 3, c.OK)
		must.Eq(t, 8, c.Total)
		r.update()
		c, _, _ = r.get(t.Context())
		must.Eq(t, 8, c.Total)

		r.fleet.leaves["2"] = say(0, 200, "y")
		r.update()
		c, _, err = r.get(t.Context())
		must.NoError(t, err)
		must.True(t, c.Whole())
	})
	// Without any leaf nobody can be asked.
	r := newRig(t, Config{Shards: []string{"1"}}, nil)
	_, _, err := r.get(t.Context())
	must.ErrorIs(t, err, ErrNoLeaves)
}

func TestConfig(t *testing.T) {
	for want, cfg := range map[string]Config{
		"timeout":        {Timeout: time.Hour, MaxTimeout: time.Minute},
		"reserve":        {Reserve: 0.6},
		"min_coverage":   {MinCoverage: 1.1},
		"wait":           {Wait: 2},
		"hedge quantile": {HedgeQuantile: 1},
		"hedge budget":   {HedgeBudget: 2},
		"memory":         {Memory: 1 << 20},
		"retry budget":   {RetryBudget: 2},
		"max_in_flight":  {MaxInFlight: -1},
	} {
		_, err := New(cfg)
		must.ErrorContains(t, err, want)
	}
}
