package merge

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func TestConcat(t *testing.T) {
	runCases(t, Concat{}, "", map[string]mergeCase{"nothing": {}})
	runCases(t, Concat{}, "text/x-2", map[string]mergeCase{
		"in order of arrival": {in: []Partial{in("2", "two\n"), in("1", "one"), in("3", "\xff{")}, want: "two\none\xff{"},
		"first is empty":      {in: []Partial{in("2", ""), in("1", "one")}, want: "one"},
		"only an empty one":   {in: []Partial{in("2", "")}},
	})
	runCases(t, Concat{}, "application/octet-stream", map[string]mergeCase{
		"no type": {in: []Partial{{Shard: "1", Body: []byte("<html>")}}, want: "<html>"},
	})
}

func TestJSONArray(t *testing.T) {
	runCases(t, JSONArray{}, "application/json", map[string]mergeCase{
		"nothing":         {want: "[]"},
		"arrays":          {in: []Partial{in("2", "[1,2]"), in("1", " [ 3 ] \n")}, want: "[1,2,3]"},
		"empty arrays":    {in: []Partial{in("1", "[]"), in("2", "[ \n]"), in("3", "[1]"), in("4", "[]"), in("5", "[2]")}, want: "[1,2]"},
		"only empty ones": {in: []Partial{in("1", "[]"), in("2", "[]")}, want: "[]"},
		"other values":    {in: []Partial{in("1", `{"a":[1]}`), in("2", `"x"`), in("3", "null"), in("4", "[[5]]")}, want: `[{"a":[1]},"x",null,[5]]`},
		"numbers stay": {
			in:   []Partial{in("1", "[1.0,12345678901234567890]"), in("2", "1e999999"), in("3", "-0.00")},
			want: "[1.0,12345678901234567890,1e999999,-0.00]",
		},
		"same names": {in: []Partial{in("1", `{"a":1,"a":2}`)}, want: `[{"a":1,"a":2}]`},
		"garbage among others": {
			in:   []Partial{in("1", "[1"), in("2", "[2]"), in("3", "[3],4"), in("4", "4")},
			want: "[2,4]", garbage: []string{"1", "3"},
		},
		"as deep as may be": {
			in:   []Partial{in("1", strings.Repeat("[", maxDepth)+strings.Repeat("]", maxDepth))},
			want: strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth),
		},
	})
}

func TestJSONArrayStreams(t *testing.T) {
	w := newAnswer()
	merge, err := JSONArray{}.Begin(t.Context(), requestFor("/"), w)
	must.NoError(t, err)
	must.NoError(t, merge.Add(in("1", "[1]")))
	must.Eq(t, "[1", w.body.String())
	must.NoError(t, merge.Add(in("2", "2")))
	must.Eq(t, "[1,2", w.body.String())
}

func TestNDJSON(t *testing.T) {
	runCases(t, NDJSON{}, "application/x-ndjson", map[string]mergeCase{
		"nothing":         {},
		"lines":           {in: []Partial{in("2", "{\"a\":1}\n[2]\n"), in("1", "3\n")}, want: "{\"a\":1}\n[2]\n3\n"},
		"no last end":     {in: []Partial{in("1", "1\n2"), in("2", "3")}, want: "1\n2\n3\n"},
		"blank lines":     {in: []Partial{in("1", "\n\n1\n \t\r\n2\n\n"), in("2", ""), in("3", "\n")}, want: "1\n2\n"},
		"white space":     {in: []Partial{in("1", " {\"a\": 1} \r\n")}, want: "{\"a\": 1}\n"},
		"numbers stay":    {in: []Partial{in("1", "1.0\n12345678901234567890")}, want: "1.0\n12345678901234567890\n"},
		"one line is bad": {in: []Partial{in("1", "1\n2\n{"), in("2", "3")}, want: "3\n", garbage: []string{"1"}},
		"two in a line":   {in: []Partial{in("1", "1 2")}, garbage: []string{"1"}},
		"across lines":    {in: []Partial{in("1", "[1,\n2]")}, garbage: []string{"1"}},
	})
	merge, err := NDJSON{}.Begin(t.Context(), requestFor("/"), newAnswer())
	must.NoError(t, err)
	err = merge.Add(in("1", "1\n\n[2,"))
	must.ErrorIs(t, err, ErrGarbage)
	must.ErrorContains(t, err, "line 3")
	must.ErrorContains(t, err, "byte 3")
}

// What comes out of JSONArray are the elements that went in.
func TestJSONArrayKeepsElements(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		partials := partialsOf(jsonText(3)).Draw(t, "partials")
		var want []any
		for _, p := range partials {
			var v any
			must.NoError(t, json.Unmarshal(p.Body, &v))
			if list, is := v.([]any); is {
				want = append(want, list...)
			} else {
				want = append(want, v)
			}
		}
		w := newAnswer()
		must.SliceEmpty(t, mergeAll(t, JSONArray{}, w, partials...))
		var got []any
		must.NoError(t, json.Unmarshal(w.body.Bytes(), &got))
		must.Eq(t, len(want), len(got))
		for i := range want {
			must.Eq(t, want[i], got[i])
		}
	})
}

// jsonText draws JSON of a limited depth, in which names occur often.
func jsonText(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		kinds := 5
		if depth == 0 {
			kinds = 3
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return rapid.SampledFrom([]string{"null", "true", "false", `""`, `"x"`, `"ä\n"`}).Draw(t, "word")
		case 1:
			return fmt.Sprint(rapid.Int32().Draw(t, "number"))
		case 2:
			return fmt.Sprintf("%.2f", rapid.Float64Range(-1e6, 1e6).Draw(t, "number"))
		case 3:
			return "[" + strings.Join(rapid.SliceOfN(jsonText(depth-1), 0, 3).Draw(t, "elements"), " ,") + "]"
		}
		var members []string
		for _, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "\\u0061", "ä"}), 0, 3).Draw(t, "names") {
			members = append(members, `"`+name+`": `+jsonText(depth-1).Draw(t, "member"))
		}
		return "{" + strings.Join(members, ",") + "}"
	})
}

func BenchmarkJSONArray(b *testing.B) {
	partials := benchPartials(100, 100)
	size := 0
	for _, p := range partials {
		size += len(p.Body)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		mergeBench(b, JSONArray{}, partials)
	}
}
