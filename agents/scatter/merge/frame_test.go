package merge

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/shoenig/test/must"
)

func frames(t must.T, parts ...Part) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		must.NoError(t, WriteFrame(&b, p))
	}
	return b.Bytes()
}

// readParts reads all parts, and returns the error of what is no part.
func readParts(b []byte, cfg ReaderConfig) ([]Part, error) {
	r, err := NewReader(iotest.HalfReader(bytes.NewReader(b)), cfg)
	if err != nil {
		return nil, err
	}
	var parts []Part
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return parts, nil
		}
		if err != nil {
			return parts, err
		}
		parts = append(parts, p)
	}
}

func TestFrame(t *testing.T) {
	parts := []Part{
		{Shard: "3", Status: 200, Type: "application/json", Body: []byte(`{"hits":42}`)},
		{Shard: "a\nb\"<", Status: 206},
		{Shard: "ü", Status: 200, Body: bytes.Repeat([]byte("\n{\x00\xff"), 10_000)},
	}
	b := frames(t, parts...)
	first := "{\"shard\":\"3\",\"status\":200,\"type\":\"application/json\",\"bytes\":11}\n{\"hits\":42}\n"
	must.Eq(t, first, string(b[:len(first)])) // as it is documented
	got, err := readParts(b, ReaderConfig{})
	must.NoError(t, err)
	must.Len(t, len(parts), got)
	for i, p := range parts {
		must.Eq(t, p.Shard, got[i].Shard)
		must.Eq(t, p.Status, got[i].Status)
		must.Eq(t, p.Type, got[i].Type)
		must.Eq(t, string(p.Body), string(got[i].Body))
	}
	for end := 1; end < len(first); end++ {
		_, err := readParts(b[:end], ReaderConfig{})
		must.ErrorIs(t, err, io.ErrUnexpectedEOF)
		must.ErrorContains(t, err, "read part 0")
	}
}

func TestWriteFrameErrors(t *testing.T) {
	must.ErrorContains(t, WriteFrame(io.Discard, Part{Shard: "\xff"}), "have to be UTF-8")
	must.ErrorContains(t, WriteFrame(io.Discard, Part{Type: "\xff"}), "have to be UTF-8")
	_, w := io.Pipe()
	must.NoError(t, w.CloseWithError(errors.New("x")))
	must.ErrorContains(t, WriteFrame(w, Part{Shard: "7"}), `write part of shard "7"`)
}

func TestReaderErrors(t *testing.T) {
	cfg := ReaderConfig{MaxHead: 100, MaxPart: 20}
	for name, c := range map[string]struct{ in, want string }{
		"no JSON":       {"x\n", "not JSON"},
		"no object":     {"[]\n", "not JSON"},
		"empty line":    {"\n", "not JSON"},
		"no length":     {`{"shard":"1"}` + "\n", "bytes: it is missing"},
		"negative":      {`{"bytes":-1}` + "\n", "bytes: -1 is negative"},
		"fraction":      {`{"bytes":1.5}` + "\n", "not JSON"},
		"text":          {`{"bytes":"1"}` + "\n", "not JSON"},
		"out of range":  {`{"bytes":99999999999999999999}` + "\n", "not JSON"},
		"too long":      {`{"bytes":21}` + "\n", "more than the limit of 20"},
		"long line":     {`{"shard":"` + strings.Repeat("x", 200) + `"}` + "\n", "longer than the limit of 100"},
		"endless line":  {strings.Repeat("x", 100_000), "longer than the limit of 100"},
		"no line end":   {`{"bytes":1}`, "unexpected EOF"},
		"short body":    {`{"bytes":3}` + "\nab", "its body has 2 bytes of 3: unexpected EOF"},
		"body too long": {`{"bytes":1}` + "\nab\n", "'b' instead of a line end"},
	} {
		t.Run(name, func(t *testing.T) {
			parts, err := readParts([]byte(c.in), cfg)
			must.ErrorContains(t, err, c.want)
			must.SliceEmpty(t, parts)
		})
	}
	_, err := NewReader(nil, ReaderConfig{MaxHead: -1})
	must.ErrorContains(t, err, "MaxHead: -1 is negative")
	_, err = NewReader(nil, ReaderConfig{MaxPart: -1})
	must.ErrorContains(t, err, "MaxPart: -1 is negative")
}

// A length alone takes no memory.
func TestReaderAllocates(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readParts([]byte(`{"bytes":1099511627776}`+"\nabc"), ReaderConfig{MaxPart: 1 << 50})
	runtime.ReadMemStats(&after)
	must.ErrorIs(t, err, io.ErrUnexpectedEOF)
	must.Less(t, 1<<20, after.TotalAlloc-before.TotalAlloc)
}

func FuzzReader(f *testing.F) {
	f.Add(frames(f, Part{Shard: "1", Status: 200, Type: "a/b", Body: []byte("x\n")}, Part{Shard: "2"}))
	f.Add([]byte(`{"bytes":99999999}` + "\nx"))
	f.Add([]byte("{\"bytes\":0}\n\n{\"SHARD\":\"\\ud800\",\"bytes\":1,\"bytes\":0}\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := readParts(b, ReaderConfig{MaxHead: 1000})
		again, errAgain := readParts(frames(t, parts...), ReaderConfig{MaxHead: 10_000})
		must.NoError(t, errAgain)
		must.Eq(t, parts, again)
		total := 0
		for _, p := range parts {
			total += len(p.Body)
		}
		must.LessEq(t, len(b), total)
		_ = err // whatever it is
	})
}

func FuzzFrame(f *testing.F) {
	f.Add("1", 200, "application/json", []byte("{}"))
	f.Add("\xff\n", -1, "", []byte("\n"))
	f.Fuzz(func(t *testing.T, shard string, status int, contentType string, body []byte) {
		p := Part{shard, status, contentType, body}
		var b bytes.Buffer
		if err := WriteFrame(&b, p); err != nil {
			must.False(t, utf8.ValidString(shard) && utf8.ValidString(contentType))
			return
		}
		parts, err := readParts(b.Bytes(), ReaderConfig{MaxHead: 1 << 30, MaxPart: 1 << 30})
		must.NoError(t, err)
		must.Len(t, 1, parts)
		must.True(t, bytes.Equal(body, parts[0].Body))
		parts[0].Body = body
		must.Eq(t, p, parts[0])
	})
}
