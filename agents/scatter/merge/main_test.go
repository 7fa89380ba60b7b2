package merge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// answer is a Writer that keeps what is written, and the header as it was at that time.
type answer struct {
	header, sent http.Header
	body         bytes.Buffer
	writes       int
	err          error // of Write
}

func newAnswer() *answer { return &answer{header: http.Header{}} }

func (a *answer) Header() http.Header { return a.header }

func (a *answer) Write(b []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	if a.writes == 0 {
		a.sent = a.header.Clone()
	}
	a.writes++
	return a.body.Write(b)
}

// contentType is that of the header that was sent.
func (a *answer) contentType() string {
	if a.writes == 0 {
		return a.header.Get("Content-Type")
	}
	return a.sent.Get("Content-Type")
}

// in is a partial answer.
func in(shard, body string) Partial {
	return Partial{Shard: shard, Body: []byte(body), Header: http.Header{"Content-Type": {"text/x-" + shard}}}
}

// requestFor is one for this target.
func requestFor(target string) Request {
	return Request{ID: "r1", Shards: 3, HTTP: httptest.NewRequest(http.MethodGet, target, nil)}
}

// mergeAll merges partials, and returns the shards of those that were garbage. After each
// Add the body is overwritten, so that a merger that keeps it is found out.
func mergeAll(t must.T, m Merger, w Writer, partials ...Partial) (garbage []string) {
	t.Helper()
	merge, err := m.Begin(context.Background(), requestFor("/search?q=x"), w)
	must.NoError(t, err)
	for _, p := range partials {
		p.Body = bytes.Clone(p.Body)
		err := merge.Add(p)
		if errors.Is(err, ErrGarbage) {
			garbage, err = append(garbage, p.Shard), nil
		}
		must.NoError(t, err)
		for i := range p.Body {
			p.Body[i] = '#'
		}
	}
	must.NoError(t, merge.Finish())
	return garbage
}

// mergeCase is a case of a table of a merger's.
type mergeCase struct {
	in      []Partial
	want    string
	garbage []string
}

func runCases(t *testing.T, m Merger, contentType string, cases map[string]mergeCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newAnswer()
			garbage := mergeAll(t, m, w, c.in...)
			must.Eq(t, c.want, w.body.String())
			must.Eq(t, c.garbage, garbage)
			must.Eq(t, contentType, w.contentType())
		})
	}
}

// must1 is for what cannot fail in a test.
func must1[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

// notJSON are bodies that no merger of JSON may take.
var notJSON = map[string]string{
	"empty":                 ``,
	"blank":                 " \n",
	"two values":            `1 2`,
	"open array":            `[1,2`,
	"open object":           `{"a":1`,
	"open string":           `"abc`,
	"closed by the other":   `[1}`,
	"trailing comma":        `[1,]`,
	"leading comma":         `[,1]`,
	"comma in object":       `{"a":1,}`,
	"no colon":              `{"a" 1}`,
	"no name":               `{1:1}`,
	"no value":              `{"a":}`,
	"leading zero":          `01`,
	"plus":                  `+1`,
	"only minus":            `-`,
	"minus word":            `-x`,
	"no fraction":           `1.`,
	"no integer":            `.5`,
	"no exponent":           `1e`,
	"no signed exponent":    `1e+`,
	"hexadecimal":           `0x10`,
	"NaN":                   `NaN`,
	"Infinity":              `-Infinity`,
	"half a word":           `tru`,
	"more than a word":      `nullx`,
	"wrong word":            `falsy`,
	"single quotes":         `'a'`,
	"wrong escape":          `"\x"`,
	"half an escape":        `"\`,
	"wrong unicode escape":  `"\u12g4"`,
	"short unicode escape":  `"\u12`,
	"control character":     "\"a\tb\"",
	"line end in a string":  "\"a\nb\"",
	"NUL":                   "\x00",
	"NUL after it":          "1\x00",
	"byte order mark":       "\ufeff1",
	"not UTF-8":             "\"\xff\"",
	"surrogate as UTF-8":    "\"\xed\xa0\x80\"",
	"not UTF-8, outside":    "[1,\xff]",
	"comment":               `1 // one`,
	"deep arrays":           strings.Repeat("[", 100_000),
	"deep objects":          strings.Repeat(`{"a":`, 100_000),
	"just too deep, closed": strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
}

func TestNotJSON(t *testing.T) {
	mergers := map[string]Merger{
		"JSONArray": JSONArray{},
		"NDJSON":    NDJSON{},
		"JSONMerge": must1(NewJSONMerge(JSONMergeConfig{})),
		"Sum":       must1(NewSum(SumConfig{})),
		"TopK":      must1(NewTopK(TopKConfig{K: 1, Field: "x", Items: "a"})),
	}
	for name, body := range notJSON {
		must.False(t, json.Valid([]byte(body)) && !strings.Contains(name, "deep") && !strings.Contains(name, "UTF-8"),
			must.Sprint(name))
		for of, m := range mergers {
			if of == "NDJSON" && strings.TrimSpace(body) == "" {
				continue // no lines
			}
			t.Run(name+" for "+of, func(t *testing.T) {
				empty, w := newAnswer(), newAnswer()
				mergeAll(t, m, empty)
				must.Eq(t, []string{"1"}, mergeAll(t, m, w, in("1", body)))
				must.Eq(t, empty.body.String(), w.body.String())
			})
		}
	}
}

// The scanner takes what encoding/json takes, but for depth and bytes that are not UTF-8.
func FuzzScanner(f *testing.F) {
	for _, body := range notJSON {
		if len(body) < 1000 {
			f.Add([]byte(body))
		}
	}
	f.Add([]byte(` {"a" : [1.5e-3, -0, "ä\u00e4\n", true, false, null, {}, []], "a":{"b":1E+2}} `))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := newScanner(body)
		var raw []byte
		if err == nil {
			if raw, err = s.value(0); err == nil {
				err = s.end()
			}
		}
		if err == nil {
			must.True(t, json.Valid(body))
			must.Eq(t, string(bytes.Trim(body, " \t\r\n")), string(raw))
			return
		}
		must.ErrorIs(t, err, ErrGarbage)
		if s.data != nil && bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) <= maxDepth {
			must.False(t, json.Valid(body), must.Sprint(err))
		}
	})
}

func TestUnquote(t *testing.T) {
	for quoted, want := range map[string]string{
		`""`: "", `"abc"`: "abc", `"ä"`: "ä", `"\u00e4\n\"\\"`: "ä\n\"\\", `"\ud800"`: "\ufffd", `"\ud83d\ude00"`: "😀",
	} {
		got, err := unquote([]byte(quoted))
		must.NoError(t, err)
		must.Eq(t, want, string(got))
	}
}

func TestCompareShards(t *testing.T) {
	sorted := []string{"0", "00", "01", "1", "2", "9", "10", "123456789012345678901234567890", "", "-1", "1a", "a", "b10", "b9"}
	for i, a := range sorted {
		for j, b := range sorted {
			got := compareShards(a, b)
			must.Eq(t, i < j, got < 0, must.Sprint(a, " ", b))
			must.Eq(t, i == j, got == 0, must.Sprint(a, " ", b))
		}
	}
}

// shardName draws names of all sorts.
func shardName() *rapid.Generator[string] {
	return rapid.StringMatching(`[0-9]{1,3}|[a-c]{1,2}|[0-9]?[a-c]`)
}

// partialsOf draws partials of different shards.
func partialsOf(body *rapid.Generator[string]) *rapid.Generator[[]Partial] {
	return rapid.Custom(func(t *rapid.T) []Partial {
		var partials []Partial
		for _, shard := range rapid.SliceOfNDistinct(shardName(), 0, 6, rapid.ID[string]).Draw(t, "shards") {
			partials = append(partials, in(shard, body.Draw(t, "body")))
		}
		return partials
	})
}

// sameInAnyOrder checks that the answer does not depend on the order of arrival.
func sameInAnyOrder(t *rapid.T, m Merger, partials []Partial) (merged string) {
	one, other := newAnswer(), newAnswer()
	must.SliceEmpty(t, mergeAll(t, m, one, partials...))
	must.SliceEmpty(t, mergeAll(t, m, other, rapid.Permutation(partials).Draw(t, "order")...))
	must.Eq(t, one.body.String(), other.body.String())
	must.True(t, json.Valid(one.body.Bytes()), must.Sprint(one.body.String()))
	return one.body.String()
}

// An answer that cannot be written is an error, and not the partial's fault.
func TestWriteFails(t *testing.T) {
	broken := errors.New("broken")
	for name, m := range map[string]Merger{
		"Concat":    Concat{},
		"JSONArray": JSONArray{},
		"NDJSON":    NDJSON{},
		"JSONMerge": must1(NewJSONMerge(JSONMergeConfig{})),
		"Sum":       must1(NewSum(SumConfig{})),
		"TopK":      must1(NewTopK(TopKConfig{K: 1, Field: "x"})),
	} {
		t.Run(name, func(t *testing.T) {
			w := newAnswer()
			w.err = broken
			merge, err := m.Begin(t.Context(), requestFor("/"), w)
			must.NoError(t, err)
			err = merge.Add(in("1", `[]`))
			if err == nil {
				err = merge.Add(in("1", `[{"x":1}]`))
			}
			if name == "Sum" {
				must.ErrorIs(t, err, ErrGarbage)
				err = nil
			}
			if err == nil {
				err = merge.Finish()
			}
			must.ErrorIs(t, err, broken)
			must.ErrorContains(t, err, "write merged answer")
			must.False(t, errors.Is(err, ErrGarbage))
			merge.Abort()
		})
	}
}
