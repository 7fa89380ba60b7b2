package gather

import (
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// A bucket holds the values that it should, and is at most a sixteenth of them wide.
func TestBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, 1<<62).Draw(t, "d"))
		i := bucketOf(d)
		must.Between(t, 0, i, buckets-1)
		must.GreaterEq(t, max(d, 1), upper(i))
		must.LessEq(t, float64(max(d, 1))*(1+1.0/(1<<subBits)), float64(upper(i)))
		must.Eq(t, i, bucketOf(upper(i)))
	})
}

func TestQuantile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLatencies(0.95)
		must.Eq(t, 0, l.quantile())
		add := func(n int, d time.Duration) {
			for range n {
				time.Sleep(time.Millisecond)
				l.add(d)
			}
		}
		add(1000, 10*time.Millisecond)
		add(200, time.Second) // more than a twentieth
		must.Between(t, time.Second, l.quantile(), 1100*time.Millisecond)
		// What was is forgotten after two windows.
		time.Sleep(2 * window)
		add(100, 20*time.Millisecond)
		must.Between(t, 20*time.Millisecond, l.quantile(), 22*time.Millisecond)
	})
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(0.1, 0)
		must.False(t, b.spend(true))
		b.earn(25)
		must.True(t, b.spend(true))
		must.True(t, b.spend(true))
		must.False(t, b.spend(true))
		b.earn(1 << 20)
		n := 0
		for b.spend(true) {
			n++
		}
		must.Eq(t, 100, n) // it is not saved for ever

		b.earn(1 << 20)
		for n = 0; b.spend(false); n++ {
			continue // all but the last ones
		}
		must.Eq(t, 80, n)
		must.True(t, b.spend(true))

		b = newBudget(0.1, 10)
		for range 10 {
			must.True(t, b.spend(true))
		}
		must.False(t, b.spend(true))
		time.Sleep(500 * time.Millisecond)
		for range 5 {
			must.True(t, b.spend(true))
		}
		must.False(t, b.spend(true))
	})
}

func TestHeaders(t *testing.T) {
	h := http.Header{}
	c := Coverage{OK: 3, Total: 6, Missing: []Missing{{Shard: "10", Reason: Timeout}, {Shard: "9", Reason: Refused}, {Shard: "a b\"", Reason: BadStatus}}}
	sortMissing(c.Missing)
	c.Set(h)
	must.Eq(t, "ok=3, total=6", h.Get(CoverageHeader))
	must.Eq(t, `9;reason=refused, 10;reason=timeout, "a b\"";reason=status`, h.Get(MissingHeader))
	Coverage{OK: 1, Total: 1}.Set(h)
	must.Eq(t, "", h.Get(MissingHeader))
	must.Eq(t, 1.0, Coverage{}.Share())
}

// What a leaf says of the leaves behind it is never nonsense.
func FuzzBelow(f *testing.F) {
	for _, seed := range []string{"", "ok=1, total=2", "total=3,ok=3", "ok=-1, total=1", "ok=2, total=1", "ok=99999999999, total=99999999999", "total=0, ok=0", "ok=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ok, total := below(http.Header{CoverageHeader: {text}})
		must.Between(t, 0, ok, total)
		must.Between(t, 1, total, maxBelow)
		h := http.Header{}
		Coverage{OK: ok, Total: total}.Set(h)
		again, of := below(h)
		must.True(t, slices.Equal([]int{ok, total}, []int{again, of}))
	})
}
