package merge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func topKOf(cfg TopKConfig) *TopK { return must1(NewTopK(cfg)) }

func TestTopK(t *testing.T) {
	runCases(t, topKOf(TopKConfig{K: 3, Field: "s"}), "application/json", map[string]mergeCase{
		"nothing":     {want: "[]"},
		"only empty":  {in: []Partial{in("1", "[]")}, want: "[]"},
		"fewer":       {in: []Partial{in("1", `[{"s":1}, {"s":2}]`)}, want: `[{"s":2},{"s":1}]`},
		"highest":     {in: []Partial{in("1", `[{"s":1},{"s":9}]`), in("2", `[{"s":3},{"s":2},{"s":-4}]`)}, want: `[{"s":9},{"s":3},{"s":2}]`},
		"raw":         {in: []Partial{in("1", `[ {"x":12345678901234567890, "s" : 1.0} ]`)}, want: `[{"x":12345678901234567890, "s" : 1.0}]`},
		"mixed sizes": {in: []Partial{in("1", `[{"s":1e3},{"s":-1e300},{"s":999.5}]`)}, want: `[{"s":1e3},{"s":999.5},{"s":-1e300}]`},
		"ties": {
			in:   []Partial{in("b", `[{"s":1,"i":5}]`), in("10", `[{"s":1,"i":3},{"s":1,"i":4}]`), in("9", `[{"s":1,"i":1},{"s":1,"i":2}]`)},
			want: `[{"s":1,"i":1},{"s":1,"i":2},{"s":1,"i":3}]`,
		},
		"texts": {in: []Partial{in("1", `[{"s":"a"},{"s":"\u0063"}]`), in("2", `[{"s":""},{"s":"b"}]`)}, want: `[{"s":"\u0063"},{"s":"b"},{"s":"a"}]`},
		"nanoseconds": {
			in:   []Partial{in("1", `[{"s":1700000000000000001},{"s":1700000000000000003}]`), in("2", `[{"s":1700000000000000002}]`)},
			want: `[{"s":1700000000000000003},{"s":1700000000000000002},{"s":1700000000000000001}]`,
		},
		"last of the same name": {in: []Partial{in("1", `[{"s":9,"s":1},{"s":2}]`)}, want: `[{"s":2},{"s":9,"s":1}]`},
		"escaped name":          {in: []Partial{in("1", `[{"\u0073":1}]`)}, want: `[{"\u0073":1}]`},
		"garbage": {
			in: []Partial{
				in("0", `[{"s":9},{"x":1}]`), in("1", `[{"s":9},{"s":"x"}]`), in("2", `[{"s":9},{"s":null}]`), in("3", `{"s":9}`),
				in("4", `[{"s":9},9]`), in("5", `[{"s":9},{"s":{"s":1}}]`), in("6", `[{"s":1e999}]`), in("7", `[{"s":9},{"s":1,"s":{}}]`),
				in("8", `[{"s":9},`), in("9", `[{"s":9}]x`), in("ok", `[{"s":1}]`), in("text", `[{"s":"x"}]`),
			},
			want: `[{"s":1}]`, garbage: []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "text"},
		},
	})
}

func TestTopKPaths(t *testing.T) {
	nested := topKOf(TopKConfig{K: 2, Field: "m.s", Items: "r.hits", Ascending: true})
	runCases(t, nested, "application/json", map[string]mergeCase{
		"nothing": {want: `{"r":{"hits":[]}}`},
		"lowest": {
			in:   []Partial{in("1", `{"n":[1],"r":{"a":{},"hits":[{"m":{"s":3}},{"m":{"t":0,"s":1}}],"b":1}}`), in("2", `{"r":{"hits":[{"m":{"s":2}}]}}`)},
			want: `{"r":{"hits":[{"m":{"t":0,"s":1}},{"m":{"s":2}}]}}`,
		},
		"last of the same name": {
			in:   []Partial{in("1", `{"r":{"hits":[{"m":{"s":0}}]},"r":{"hits":[{"m":{"s":0}}],"hits":[{"m":{"s":7},"m":{"s":5}}]}}`)},
			want: `{"r":{"hits":[{"m":{"s":7},"m":{"s":5}}]}}`,
		},
		"garbage": {
			in: []Partial{
				in("1", `{}`), in("2", `{"r":[]}`), in("3", `{"r":{"hits":{}}}`), in("4", `{"r":{"hits":[{"m":{"s":1}}]},"r":1}`),
				in("5", `[]`), in("6", `{"r":{"hits":[{"m":{"s":1},"m":{}}]}}`), in("7", `{"r":{"hits":[{"m.s":1}]}}`), in("8", `7`),
			},
			want: `{"r":{"hits":[]}}`, garbage: []string{"1", "2", "3", "4", "5", "6", "7", "8"},
		},
	})
}

func TestTopKUnique(t *testing.T) {
	runCases(t, topKOf(TopKConfig{K: 3, Field: "s", Unique: "u.id"}), "application/json", map[string]mergeCase{
		"best stays": {
			in:   []Partial{in("1", `[{"s":5,"u":{"id":1}},{"s":7,"u":{"id":1}},{"s":6,"u":{"id":1}}]`), in("2", `[{"s":8,"u":{"id":1}},{"s":1,"u":{"id":2}}]`)},
			want: `[{"s":8,"u":{"id":1}},{"s":1,"u":{"id":2}}]`,
		},
		"comes back": {
			in: []Partial{
				in("1", `[{"s":1,"u":{"id":"a"}}]`), in("2", `[{"s":3,"u":{"id":"b"}},{"s":4,"u":{"id":"c"}},{"s":5,"u":{"id":"d"}}]`),
				in("3", `[{"s":6,"u":{"id":"\u0061"}}]`), in("4", `[{"s":2,"u":{"id":"a"}}]`),
			},
			want: `[{"s":6,"u":{"id":"\u0061"}},{"s":5,"u":{"id":"d"}},{"s":4,"u":{"id":"c"}}]`,
		},
		"of different kinds": {
			in:   []Partial{in("1", `[{"s":3,"u":{"id":1}},{"s":2,"u":{"id":"1"}},{"s":1,"u":{"id":true}}]`)},
			want: `[{"s":3,"u":{"id":1}},{"s":2,"u":{"id":"1"}},{"s":1,"u":{"id":true}}]`,
		},
		"missing equals none": {
			in:   []Partial{in("1", `[{"s":3},{"s":2,"u":{"id":null}},{"s":1,"u":7}]`)},
			want: `[{"s":3},{"s":2,"u":{"id":null}},{"s":1,"u":7}]`,
		},
		"garbage": {in: []Partial{in("1", `[{"s":3,"u":{"id":[]}}]`)}, want: "[]", garbage: []string{"1"}},
	})
	same := topKOf(TopKConfig{K: 2, Field: "s", Unique: "s"})
	w := newAnswer()
	mergeAll(t, same, w, in("2", `[{"s":1,"of":2}]`), in("1", `[{"s":1,"of":1},{"s":0}]`))
	must.Eq(t, `[{"s":1,"of":1},{"s":0}]`, w.body.String())
}

func TestTopKParameter(t *testing.T) {
	m := topKOf(TopKConfig{K: 2, KParam: "k", MaxK: 3, Field: "s"})
	for query, want := range map[string]int{
		"": 2, "?k=": 2, "?k=1": 1, "?k=3": 3, "?other=1": 2, "?k=1&k=2": 1, "?k=4": 0, "?k=0": 0, "?k=-1": 0, "?k=x": 0,
		"?k=99999999999999999999": 0,
	} {
		merge, err := m.Begin(t.Context(), requestFor("/"+query), newAnswer())
		if want == 0 {
			must.ErrorIs(t, err, ErrRequest, must.Sprint(query))
			must.ErrorContains(t, err, "k: ")
			continue
		}
		must.NoError(t, err)
		must.Eq(t, want, merge.(*topK).all.k, must.Sprint(query))
	}
}

func TestTopKConfig(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  TopKConfig
		want string
	}{
		"no K":         {TopKConfig{Field: "s"}, "K: 0 is less than 1"},
		"negative K":   {TopKConfig{K: -1, Field: "s"}, "K: -1"},
		"MaxK below K": {TopKConfig{K: 5, MaxK: 4, Field: "s"}, "MaxK: 4 is less than K"},
		"no field":     {TopKConfig{K: 1}, "Field: it is missing"},
		"empty name":   {TopKConfig{K: 1, Field: "a..b"}, `Field: "a..b" has an empty name`},
		"items":        {TopKConfig{K: 1, Field: "a", Items: ".a"}, "Items: "},
		"unique":       {TopKConfig{K: 1, Field: "a", Unique: "a."}, "Unique: "},
		"long path":    {TopKConfig{K: 1, Field: "a", Items: strings.Repeat("a.", 1000) + "a"}, "Items: it has 1001 names"},
		"bytes":        {TopKConfig{K: 1, Field: "a", MaxBytes: -1}, "MaxBytes: -1"},
	} {
		_, err := NewTopK(c.cfg)
		must.ErrorContains(t, err, c.want, must.Sprint(name))
	}
	must.Eq(t, 5000, topKOf(TopKConfig{K: 5000, Field: "a"}).cfg.MaxK)
}

func TestTopKMaxBytes(t *testing.T) {
	m := topKOf(TopKConfig{K: 2, Field: "s", MaxBytes: 50})
	long := func(s int) string { return fmt.Sprintf(`[{"s":%d,"t":"%s"}]`, s, strings.Repeat("x", 20)) }
	w := newAnswer()
	merge, err := m.Begin(t.Context(), requestFor("/"), w)
	must.NoError(t, err)
	must.NoError(t, merge.Add(in("1", long(3))))
	must.NoError(t, merge.Add(in("2", `[{"s":1}]`)))
	must.NoError(t, merge.Add(in("3", long(0)))) // not kept
	err = merge.Add(in("4", long(4)))
	must.ErrorContains(t, err, "MaxBytes")
	must.False(t, errors.Is(err, ErrGarbage))
}

// TopK is what sorting all elements gives, in any order of arrival.
func TestTopKSorts(t *testing.T) {
	type item struct {
		S     int    `json:"s"`
		U     int    `json:"u"`
		Shard string `json:"shard"`
		Pos   int    `json:"pos"`
	}
	rapid.Check(t, func(t *rapid.T) {
		cfg := TopKConfig{K: rapid.IntRange(1, 6).Draw(t, "k"), Field: "s", Ascending: rapid.Bool().Draw(t, "ascending")}
		if rapid.Bool().Draw(t, "unique") {
			cfg.Unique = "u"
		}
		var all []item
		var partials []Partial
		for _, shard := range rapid.SliceOfNDistinct(shardName(), 0, 5, rapid.ID[string]).Draw(t, "shards") {
			items := []item{}
			for pos := range rapid.IntRange(0, 6).Draw(t, "items") {
				items = append(items, item{rapid.IntRange(0, 4).Draw(t, "s"), rapid.IntRange(0, 4).Draw(t, "u"), shard, pos})
			}
			all = append(all, items...)
			partials = append(partials, in(shard, string(must1(json.Marshal(items)))))
		}
		slices.SortFunc(all, func(a, b item) int {
			by := a.S - b.S
			if !cfg.Ascending {
				by = -by
			}
			if by != 0 {
				return by
			}
			if c := compareShards(a.Shard, b.Shard); c != 0 {
				return c
			}
			return a.Pos - b.Pos
		})
		want, seen := []item{}, map[int]bool{}
		for _, i := range all {
			if len(want) < cfg.K && (cfg.Unique == "" || !seen[i.U]) {
				want = append(want, i)
				seen[i.U] = true
			}
		}
		must.Eq(t, string(must1(json.Marshal(want))), sameInAnyOrder(t, topKOf(cfg), partials))
	})
}

// Numbers are ordered by their exact values where they are int64 or float64.
func TestRankOrder(t *testing.T) {
	sorted := []string{
		"-1e300", "-9223372036854775809", "-9223372036854775807", "-9223372036854775806", "-1", "-0.5", "0", "1e-300", "0.5", "1",
		"9007199254740992", "9007199254740993", "9007199254740994", "9223372036854775806", "9223372036854775807", "9223372036854779999", "1e300",
	}
	for i, a := range sorted {
		for j, b := range sorted {
			var x, y rank
			_, errX := rankOf([]byte(a), &x)
			_, errY := rankOf([]byte(b), &y)
			must.NoError(t, errX)
			must.NoError(t, errY)
			must.Eq(t, i < j, x.compare(y) < 0, must.Sprint(a, " ", b))
		}
	}
}

func FuzzTopK(f *testing.F) {
	f.Add([]byte(`{"r":{"i":[{"m":{"s":1},"u":"a"},{"u":1,"m":{"s":2.5}}]}}`), []byte(`{"r":{"i":[{"m":{"s":3},"u":"\u0061"}]}}`))
	f.Add([]byte(`{"r":{"i":[]},"r":{}}`), []byte(`{"r":{"i":[{"m":{"s":"x"}}]}}`))
	f.Add([]byte(`{"r":{"i":[{"m":{"s":9223372036854775807}}]}}`), []byte(`[1]`))
	m := topKOf(TopKConfig{K: 2, Field: "m.s", Items: "r.i", Unique: "u"})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		w := newAnswer()
		mergeAll(t, m, w, Partial{Shard: "1", Body: a}, Partial{Shard: "2", Body: b})
		var got struct {
			R struct {
				I []struct {
					M struct{ S any }
				}
			}
		}
		must.True(t, json.Valid(w.body.Bytes()), must.Sprint(w.body.String()))
		if json.Unmarshal(w.body.Bytes(), &got) == nil {
			must.LessEq(t, 2, len(got.R.I))
		}
	})
}

// benchPartials makes partials with elements of about 100 bytes.
func benchPartials(shards, elements int) []Partial {
	random := rand.New(rand.NewPCG(1, 2))
	partials := make([]Partial, shards)
	for i := range partials {
		var b strings.Builder
		for j := range elements {
			b.WriteString(map[bool]string{true: "[", false: ","}[j == 0])
			fmt.Fprintf(&b, `{"id":"doc-%04d-%04d","title":"a title that somebody gave it","score":%.6f,"tags":["a","b"],"n":%d}`,
				i, j, random.Float64()*100, random.IntN(1e6))
		}
		partials[i] = Partial{Shard: fmt.Sprint(i), Body: []byte(b.String() + "]")}
	}
	return partials
}

// discard is a Writer to nowhere.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }

func mergeBench(b *testing.B, m Merger, partials []Partial) {
	merge, err := m.Begin(context.Background(), Request{ID: "r1"}, discard{http.Header{}})
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range partials {
		if err := merge.Add(p); err != nil {
			b.Fatal(err)
		}
	}
	if err := merge.Finish(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkTopK(b *testing.B) {
	partials := benchPartials(100, 100)
	size := 0
	for _, p := range partials {
		size += len(p.Body)
	}
	for name, cfg := range map[string]TopKConfig{
		"plain":  {K: 10, Field: "score"},
		"unique": {K: 10, Field: "score", Unique: "id"},
	} {
		b.Run(name, func(b *testing.B) {
			m := topKOf(cfg)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				mergeBench(b, m, partials)
			}
		})
	}
}
