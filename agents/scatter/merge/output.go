package merge

import (
	"bytes"
	"encoding/json"
	"fmt"
)

const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
	typeBytes  = "application/octet-stream"
)

// writeSize is how much is gathered before it is written.
const writeSize = 32 << 10

// output gathers small pieces of the merged answer. The first error ends it, and flush
// returns it.
type output struct {
	w   Writer
	buf []byte
	err error
}

// begin is for an answer of this type.
func begin(w Writer, contentType string) *output {
	w.Header().Set("Content-Type", contentType)
	return &output{w: w}
}

func (o *output) text(s string) {
	o.buf = append(o.buf, s...)
	if len(o.buf) >= writeSize {
		o.write()
	}
}

func (o *output) bytes(b []byte) {
	if len(b) >= writeSize { // not worth a copy
		o.write()
		o.writeNow(b)
		return
	}
	o.buf = append(o.buf, b...)
	if len(o.buf) >= writeSize {
		o.write()
	}
}

// quoted writes a string as JSON, with nothing escaped that need not be.
func (o *output) quoted(s string) {
	if isPlain(s) {
		o.text(`"`)
		o.text(s)
		o.text(`"`)
		return
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil && o.err == nil {
		o.err = fmt.Errorf("encode %q: %w", s, err)
	}
	o.bytes(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// isPlain says whether a string needs no more than quotes.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (o *output) write() {
	o.writeNow(o.buf)
	o.buf = o.buf[:0]
}

func (o *output) writeNow(b []byte) {
	if o.err == nil && len(b) > 0 {
		o.err = write(o.w, b)
	}
}

// flush writes what has been gathered.
func (o *output) flush() error {
	o.write()
	return o.err
}

// write writes and says what failed.
func write(w Writer, b []byte) error {
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write merged answer: %w", err)
	}
	return nil
}
