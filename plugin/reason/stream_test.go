package reason

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestFrames(t *testing.T) {
	type result struct {
		frames []string // "long" for one that was skipped
		err    error
	}
	read := func(r io.Reader) (res result) {
		f := newFrames(r)
		for {
			frame, err := f.next()
			switch {
			case err == nil && len(frame) > 20:
				frame = frame[:20]
				fallthrough
			case err == nil:
				res.frames = append(res.frames, string(frame))
			case errors.Is(err, errLong):
				res.frames = append(res.frames, "long")
			default:
				res.err = err
				return res
			}
		}
	}
	full := strings.Repeat("x", maxFrame-1)
	cases := map[string]struct {
		in   io.Reader
		want []string
		err  string
	}{
		"nothing":          {strings.NewReader(""), nil, "EOF"},
		"two":              {strings.NewReader("a\nb\n"), []string{"a\n", "b\n"}, "EOF"},
		"cut":              {strings.NewReader("a\nb"), []string{"a\n"}, "unexpected EOF"},
		"just fits":        {strings.NewReader(full + "\nb\n"), []string{full[:20], "b\n"}, "EOF"},
		"one too long":     {strings.NewReader(full + "x\nb\n"), []string{"long", "b\n"}, "EOF"},
		"much too long":    {strings.NewReader(strings.Repeat("x", 5*maxFrame) + "\nb\n"), []string{"long", "b\n"}, "EOF"},
		"too long and cut": {strings.NewReader(full + "xx"), nil, "unexpected EOF"},
		"without end":      {endless{}, nil, "more than 67108864 bytes"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := read(tc.in)
			must.Eq(t, tc.want, got.frames)
			must.ErrorContains(t, got.err, tc.err)
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("{}\n{\"Index\":7}\n"), 3)
	f.Add([]byte("{}"), 1)
	f.Add([]byte("\n\n"), 1)
	f.Fuzz(func(t *testing.T, text []byte, step int) {
		// However it arrives, the lines are the same.
		var got []byte
		fr := newFrames(&slow{text: text, step: max(1, step%100)})
		for {
			line, err := fr.next()
			if err != nil {
				whole := bytes.LastIndexByte(text, '\n') + 1
				must.Eq(t, string(text[:whole]), string(got))
				if whole < len(text) {
					must.ErrorIs(t, err, io.ErrUnexpectedEOF)
				} else {
					must.ErrorIs(t, err, io.EOF)
				}
				return
			}
			must.Eq(t, len(line)-1, bytes.IndexByte(line, '\n'))
			got = append(got, line...)
		}
	})
}

// slow gives a few bytes with each read.
type slow struct {
	text []byte
	step int
}

func (s *slow) Read(p []byte) (int, error) {
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.text[:min(s.step, len(s.text))])
	s.text = s.text[n:]
	return n, nil
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"Index":7,"Events":[{"Topic":"Allocation","Payload":{"Allocation":{"ID":"a","ModifyIndex":7,"CreateTime":1764091234567890123}}}]}`))
	f.Add([]byte(`{"Events":[null,{"Topic":"Allocation","Payload":null}]}`))
	recorded, err := os.ReadFile("testdata/stream.ndjson")
	must.NoError(f, err)
	for line := range bytes.Lines(recorded) {
		f.Add(line)
	}
	for _, g := range goldens(f) {
		f.Add([]byte(`{"Index":1,"Events":[{"Topic":"Allocation","Payload":{"Allocation":` + string(g.Alloc) + `}}]}`))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, allocs, err := decodeFrame(text)
		if err != nil {
			must.SliceEmpty(t, allocs)
			return
		}
		for _, a := range allocs {
			must.NotNil(t, a)
			Classify(Observation{Alloc: a, Task: "app"})
		}
	})
}

// The frames that a server of Nomad 1.11.3 has sent while an allocation was
// started, restarted and stopped.
func TestDecodeFrame_Recorded(t *testing.T) {
	file, err := os.Open("testdata/stream.ndjson")
	must.NoError(t, err)
	defer func() { must.NoError(t, file.Close()) }()
	fr := newFrames(file)
	var told []string
	for {
		frame, err := fr.next()
		if errors.Is(err, io.EOF) {
			break
		}
		must.NoError(t, err)
		index, allocs, err := decodeFrame(frame)
		must.NoError(t, err)
		if string(bytes.TrimSpace(frame)) == "{}" {
			must.Eq(t, 0, index)
			continue
		}
		must.Len(t, 1, allocs)
		must.Eq(t, index, allocs[0].ModifyIndex)
		told = append(told, string(Classify(Observation{Alloc: allocs[0], Task: "app"}).Reason))
	}
	must.Eq(t, []string{
		"unknown", "unknown", "unknown", // placed, received, running
		"restarted", "restarted", "unknown", // asked to, waits for it, running
		"stopped", "stopped", "stopped", // marked, stopped by the scheduler, killed
	}, told)
}

// Times of an allocation are nanoseconds, which a float64 cannot hold.
func TestDecodeFrame_Exact(t *testing.T) {
	index, allocs, err := decodeFrame([]byte(`{"Index":18446744073709551615,"Events":[{"Topic":"Allocation","Payload":{"Allocation":{"ID":"a","CreateTime":1764091234567890123}}}]}`))
	must.NoError(t, err)
	must.Eq(t, uint64(18446744073709551615), index)
	must.Eq(t, int64(1764091234567890123), allocs[0].CreateTime)
}
