package merge

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func TestJSONMerge(t *testing.T) {
	runCases(t, must1(NewJSONMerge(JSONMergeConfig{})), "application/json", map[string]mergeCase{
		"nothing":       {want: "{}"},
		"one":           {in: []Partial{in("1", ` {"b":1.0, "a":[ 1, 2 ],"c":{}} `)}, want: `{"a":[1, 2],"b":1.0,"c":{}}`},
		"names":         {in: []Partial{in("2", `{"b":{"y":1}}`), in("1", `{"a":1,"b":{"x":2}}`)}, want: `{"a":1,"b":{"x":2,"y":1}}`},
		"arrays":        {in: []Partial{in("2", `{"a":[1]}`), in("1", `{"a":[]}`), in("3", `{"a":[2,3]}`)}, want: `{"a":[1,2,3]}`},
		"lowest scalar": {in: []Partial{in("10", `{"a":"x"}`), in("9", `{"a":12345678901234567890}`), in("b", `{"a":null}`)}, want: `{"a":12345678901234567890}`},
		"roots":         {in: []Partial{in("2", `2`), in("1", `"one"`)}, want: `"one"`},
		"root arrays":   {in: []Partial{in("2", `[2]`), in("1", `[1]`)}, want: `[2,1]`},
		"other kinds": {
			in:   []Partial{in("2", `{"a":5}`), in("1", `{"a":{"x":1}}`), in("3", `{"a":{"y":1}}`), in("4", `{"a":[1]}`)},
			want: `{"a":{"x":1,"y":1}}`,
		},
		"last of the same name": {in: []Partial{in("1", `{"a":1,"\u0061":{"b":1,"b":2},"c":[1],"c":[2]}`)}, want: `{"a":{"b":2},"c":[2]}`},
		"names to escape":       {in: []Partial{in("1", `{"\u0022\n<ä":1,"":2}`)}, want: `{"":2,"\"\n<ä":1}`},
		"garbage":               {in: []Partial{in("1", `{"a":1,`), in("2", `{"b":2}`)}, want: `{"b":2}`, garbage: []string{"1"}},
	})
}

func TestSum(t *testing.T) {
	runCases(t, must1(NewSum(SumConfig{})), "application/json", map[string]mergeCase{
		"nothing": {want: "{}"},
		"one":     {in: []Partial{in("1", `{"a":1.50,"b":12345678901234567890,"c":[1.0]}`)}, want: `{"a":1.50,"b":12345678901234567890,"c":[1.0]}`},
		"numbers": {in: []Partial{in("1", `{"a":1,"b":{"c":2}}`), in("2", `{"a":10,"b":{"c":20,"d":5}}`), in("3", `{"a":100}`)}, want: `{"a":111,"b":{"c":22,"d":5}}`},
		"roots":   {in: []Partial{in("1", `1`), in("2", `-3`)}, want: `-2`},
		"fractions": {
			in: []Partial{in("1", `{"a":1,"b":0.5,"c":1e2}`), in("2", `{"a":2.5,"b":0.25,"c":1}`)}, want: `{"a":3.5,"b":0.75,"c":101}`,
		},
		"exact":           {in: []Partial{in("1", `9007199254740993`), in("2", `2`)}, want: `9007199254740995`},
		"largest":         {in: []Partial{in("1", `9223372036854775806`), in("2", `1`)}, want: `9223372036854775807`},
		"overflow":        {in: []Partial{in("1", `9223372036854775807`), in("2", `1`)}, want: `9223372036854776000`},
		"underflow":       {in: []Partial{in("1", `-9223372036854775808`), in("2", `-1`), in("3", `0`)}, want: `-9223372036854776000`},
		"beyond an int64": {in: []Partial{in("1", `100000000000000000000`), in("2", `1e22`)}, want: `1.01e+22`},
		"arrays":          {in: []Partial{in("1", `{"h":[1,2,3.5]}`), in("2", `{"h":[10,20,30]}`)}, want: `{"h":[11,22,33.5]}`},
		"empty arrays":    {in: []Partial{in("1", `[]`), in("2", `[]`)}, want: `[]`},
		"others":          {in: []Partial{in("2", `{"a":"x","b":true}`), in("1", `{"a":"y","b":null}`)}, want: `{"a":"y","b":null}`},
		"other kinds":     {in: []Partial{in("2", `{"a":"x"}`), in("1", `{"a":1}`), in("3", `{"a":5}`)}, want: `{"a":6}`},
		"same names":      {in: []Partial{in("1", `{"a":1,"a":2}`), in("2", `{"a":3}`)}, want: `{"a":5}`},
		"garbage": {
			in: []Partial{
				in("0", `{"n":1,"h":[1,2]}`), in("1", `{"n":1,"h":[1]}`), in("2", `{"n":1,"x":["a"]}`), in("3", `{"n":1,"x":[[1]]}`),
				in("4", `{"n":1e400}`), in("5", `{"n":1,"h":[1e308,1e309]}`), in("6", `{"n":1,"h":[]}`), in("7", `{"n":1`), in("8", `{"n":1,"h":[3,4]}`),
			},
			want: `{"h":[4,6],"n":2}`, garbage: []string{"1", "2", "3", "4", "5", "6", "7"},
		},
		"sum out of range": {
			in:   []Partial{in("1", `{"a":1,"b":1e308,"c":[1e308]}`), in("2", `{"a":1,"b":1e308}`), in("3", `{"a":1,"c":[1e308]}`), in("4", `{"a":1}`)},
			want: `{"a":2,"b":1e308,"c":[1e308]}`, garbage: []string{"2", "3"},
		},
	})
}

func TestTreeConfig(t *testing.T) {
	_, err := NewJSONMerge(JSONMergeConfig{MaxBytes: -1})
	must.ErrorContains(t, err, "MaxBytes: -1 is negative; leave it out")
	_, err = NewSum(SumConfig{MaxBytes: -1})
	must.ErrorContains(t, err, "MaxBytes: -1 is negative; leave it out")
}

func TestTreeMaxBytes(t *testing.T) {
	many := func(from, n int, value string) string {
		var members []string
		for i := range n {
			members = append(members, fmt.Sprintf(`"name%d":%s`, from+i, value))
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	merged, summed := must1(NewJSONMerge(JSONMergeConfig{MaxBytes: 20_000})), must1(NewSum(SumConfig{MaxBytes: 20_000}))
	for name, c := range map[string]struct {
		m    Merger
		in   []Partial
		fits bool
	}{
		"same names":       {merged, []Partial{in("1", many(0, 100, "1")), in("2", many(0, 100, "1")), in("3", many(0, 100, "1"))}, true},
		"more names":       {merged, []Partial{in("1", many(0, 100, "1")), in("2", many(100, 100, "1"))}, false},
		"names at once":    {merged, []Partial{in("1", many(0, 200, "1"))}, false},
		"arrays":           {merged, []Partial{in("1", `["`+strings.Repeat("x", 15_000)+`"]`), in("2", `["`+strings.Repeat("x", 15_000)+`"]`)}, false},
		"shorter value":    {merged, []Partial{in("2", `"`+strings.Repeat("x", 15_000)+`"`), in("1", `"`+strings.Repeat("x", 15_000)+`"`)}, true},
		"same sums":        {summed, []Partial{in("1", many(0, 80, "1")), in("2", many(0, 80, "1")), in("3", many(0, 80, "1"))}, true},
		"more sums":        {summed, []Partial{in("1", many(0, 80, "1")), in("2", many(100, 80, "1"))}, false},
		"numbers at once":  {summed, []Partial{in("1", "[1"+strings.Repeat(",1", 1000)+"]")}, false},
		"many empty ones":  {merged, []Partial{in("1", many(0, 1000, "{}"))}, false},
		"names, then sums": {summed, []Partial{in("1", many(0, 80, `[1,2]`)), in("2", many(0, 80, "[2,3]"))}, false},
	} {
		t.Run(name, func(t *testing.T) {
			merge, err := c.m.Begin(t.Context(), requestFor("/"), newAnswer())
			must.NoError(t, err)
			for _, p := range c.in {
				if err = merge.Add(p); err != nil {
					break
				}
			}
			if c.fits {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, "more than MaxBytes, which is 20000")
			must.False(t, errors.Is(err, ErrGarbage))
		})
	}

	// What is garbage is garbage, however large.
	merge, err := merged.Begin(t.Context(), requestFor("/"), newAnswer())
	must.NoError(t, err)
	must.ErrorIs(t, merge.Add(in("1", many(0, 200, "1")+"x")), ErrGarbage)
}

// withoutArrays draws JSON in which order has no meaning.
func withoutArrays(depth int, integers bool) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		if depth > 0 && rapid.IntRange(0, 2).Draw(t, "object") > 0 {
			var members []string
			for _, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "\\u0061", "ä"}), 0, 3).Draw(t, "names") {
				members = append(members, `"`+name+`":`+withoutArrays(depth-1, integers).Draw(t, "member"))
			}
			return "{" + strings.Join(members, ",") + "}"
		}
		if integers && rapid.Bool().Draw(t, "number") {
			return fmt.Sprint(rapid.Int32().Draw(t, "value"))
		}
		return rapid.SampledFrom([]string{"1", "2.0", `"x"`, "true", "null", `"\u0061"`}).Draw(t, "value")
	})
}

func TestJSONMergeInAnyOrder(t *testing.T) {
	m := must1(NewJSONMerge(JSONMergeConfig{}))
	rapid.Check(t, func(t *rapid.T) { sameInAnyOrder(t, m, partialsOf(withoutArrays(3, false)).Draw(t, "partials")) })
}

func TestSumInAnyOrder(t *testing.T) {
	m := must1(NewSum(SumConfig{}))
	rapid.Check(t, func(t *rapid.T) { sameInAnyOrder(t, m, partialsOf(withoutArrays(3, true)).Draw(t, "partials")) })
}

// One partial comes out as encoding/json understands it.
func TestJSONMergeOfOne(t *testing.T) {
	m := must1(NewJSONMerge(JSONMergeConfig{}))
	rapid.Check(t, func(t *rapid.T) {
		body := jsonText(4).Draw(t, "body")
		w := newAnswer()
		must.SliceEmpty(t, mergeAll(t, m, w, in("1", body)))
		must.Eq(t, must1(normal([]byte(body))), must1(normal(w.body.Bytes())))
	})
}

// normal is JSON in the one form that encoding/json gives it.
func normal(b []byte) (string, error) {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return "", err
	}
	text, err := json.Marshal(v)
	return string(text), err
}

func FuzzTree(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[1,2],"c":"x"}`), []byte(`{"a":2.5,"b":[3,4],"c":null,"c":{}}`))
	f.Add([]byte(`{"a":{"b":{"c":9223372036854775807}}}`), []byte(`{"a":{"b":{"c":1}},"\u0061":1}`))
	f.Add([]byte(`[1,2]`), []byte(`[1e308,-1]`))
	f.Add([]byte(`1e400`), []byte(`"\ud800"`))
	mergers := []Merger{must1(NewJSONMerge(JSONMergeConfig{})), must1(NewSum(SumConfig{}))}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, m := range mergers {
			w := newAnswer()
			mergeAll(t, m, w, Partial{Shard: "1", Body: a}, Partial{Shard: "2", Body: b})
			must.True(t, json.Valid(w.body.Bytes()), must.Sprint(w.body.String()))
		}
	})
}

// Pieces come out in order whatever their sizes are beside that of the output's buffer.
func TestJSONMergeLarge(t *testing.T) {
	m := must1(NewJSONMerge(JSONMergeConfig{}))
	var members []string
	for i := range 2000 {
		members = append(members, fmt.Sprintf(`"name%04d":"%s"`, i, strings.Repeat("x", i%100)))
	}
	members = append(members, `"x":"`+strings.Repeat("y", writeSize)+`"`, `"z":[1]`)
	body := "{" + strings.Join(members, ",") + "}"
	w := newAnswer()
	must.SliceEmpty(t, mergeAll(t, m, w, in("1", body)))
	must.True(t, body == w.body.String())
	must.Greater(t, 4, w.writes)
}
