package merge

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// PartsType is the Content-Type of framed parts.
const PartsType = "application/vnd.scatter.parts"

// Limits of a [Reader], unless it is configured.
const (
	DefaultMaxHead = 64 << 10
	DefaultMaxPart = 64 << 20
)

// Part is a partial answer as a merge container gets it.
type Part struct {
	Shard  string
	Status int
	Type   string // Content-Type; may be empty
	Body   []byte
}

// head is the line before the body of a part.
type head struct {
	Shard  string `json:"shard"`
	Status int    `json:"status"`
	Type   string `json:"type"`
	Bytes  *int64 `json:"bytes"`
}

// WriteFrame writes a part so that a [Reader] can read it. Shard and Type have to be
// UTF-8.
func WriteFrame(w io.Writer, p Part) error {
	if !utf8.ValidString(p.Shard) || !utf8.ValidString(p.Type) {
		return fmt.Errorf("write part of shard %q: shard and type %q have to be UTF-8", p.Shard, p.Type)
	}
	size := int64(len(p.Body))
	line, err := json.Marshal(head{Shard: p.Shard, Status: p.Status, Type: p.Type, Bytes: &size})
	if err != nil {
		return fmt.Errorf("write part of shard %q: %w", p.Shard, err)
	}
	for _, b := range [][]byte{line, []byte("\n"), p.Body, []byte("\n")} {
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("write part of shard %q: %w", p.Shard, err)
		}
	}
	return nil
}

// ReaderConfig has the limits of a [Reader].
type ReaderConfig struct {
	// MaxHead is the longest line before a part. Default: DefaultMaxHead.
	MaxHead int
	// MaxPart is the longest body of a part. Default: DefaultMaxPart.
	MaxPart int64
}

// Reader reads framed parts, for merge containers that are written in Go. It trusts no
// length: memory is allocated as bytes come in.
type Reader struct {
	r    *bufio.Reader
	cfg  ReaderConfig
	read int // parts
}

// NewReader returns an error that names the field that is wrong, if any.
func NewReader(r io.Reader, cfg ReaderConfig) (*Reader, error) {
	var err error
	if cfg.MaxHead, err = orDefault("MaxHead", cfg.MaxHead, DefaultMaxHead); err != nil {
		return nil, err
	}
	if cfg.MaxPart, err = orDefault("MaxPart", cfg.MaxPart, DefaultMaxPart); err != nil {
		return nil, err
	}
	return &Reader{r: bufio.NewReader(r), cfg: cfg}, nil
}

// Next reads a part. The error is [io.EOF] after the last one, and wraps
// [io.ErrUnexpectedEOF] if the input ends within a part.
func (r *Reader) Next() (Part, error) {
	p, err := r.next()
	switch {
	case errors.Is(err, io.EOF): // which no other error wraps
		return Part{}, io.EOF
	case err != nil:
		return Part{}, fmt.Errorf("read part %d: %w", r.read, err)
	}
	r.read++
	return p, nil
}

func (r *Reader) next() (Part, error) {
	line, err := r.line()
	if err != nil {
		return Part{}, err
	}
	var h head
	if err := json.Unmarshal(line, &h); err != nil {
		return Part{}, fmt.Errorf("its line is not JSON as it should be: %w", err)
	}
	switch {
	case h.Bytes == nil:
		return Part{}, errors.New("bytes: it is missing")
	case *h.Bytes < 0:
		return Part{}, fmt.Errorf("bytes: %d is negative", *h.Bytes)
	case *h.Bytes > r.cfg.MaxPart:
		return Part{}, fmt.Errorf("bytes: %d is more than the limit of %d", *h.Bytes, r.cfg.MaxPart)
	}
	var body bytes.Buffer // it grows as it is filled
	if _, err := io.CopyN(&body, r.r, *h.Bytes); err != nil {
		return Part{}, fmt.Errorf("its body has %d bytes of %d: %w", body.Len(), *h.Bytes, unexpected(err))
	}
	end, err := r.r.ReadByte()
	if err != nil {
		return Part{}, fmt.Errorf("the line end after its body: %w", unexpected(err))
	}
	if end != '\n' {
		return Part{}, fmt.Errorf("after its %d bytes there is %q instead of a line end", *h.Bytes, end)
	}
	return Part{Shard: h.Shard, Status: h.Status, Type: h.Type, Body: body.Bytes()}, nil
}

// line reads a line without its end. The error is [io.EOF] if there is nothing.
func (r *Reader) line() ([]byte, error) {
	var line []byte
	for {
		piece, err := r.r.ReadSlice('\n')
		if len(line)+len(piece) > r.cfg.MaxHead {
			return nil, fmt.Errorf("its line is longer than the limit of %d bytes", r.cfg.MaxHead)
		}
		line = append(line, piece...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case len(line) == 0 && errors.Is(err, io.EOF):
			return nil, io.EOF
		default:
			return nil, fmt.Errorf("its line: %w", unexpected(err))
		}
	}
}

// unexpected is for an end within a part.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// frameType is the type of a leaf's answer as it is sent, with what is not UTF-8 replaced.
func frameType(contentType string) string { return strings.ToValidUTF8(contentType, "\uFFFD") }
