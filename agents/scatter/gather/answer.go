package gather

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// answer is that of a leaf. It is freed when it was merged.
type answer struct {
	leaf   *leaf
	header http.Header
	body   []byte

	group *Group
	buf   *bytes.Buffer // of a small answer
	block *[]byte       // of a large one
	small int64         // places that are taken
	large int64         // bytes that are taken
}

// buffers hold answers of up to small bytes, and blocks larger ones. What they hold is
// bounded by what may be taken at a time.
var (
	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	blocks  = sync.Pool{New: func() any { return new([]byte) }}
)

// errTooLarge says that an answer has more bytes than it may.
var errTooLarge = errors.New("the answer is too large")

// free gives back what the answer has taken.
func (a *answer) free() {
	if a.buf != nil {
		buffers.Put(a.buf)
	}
	if a.block != nil {
		blocks.Put(a.block)
	}
	a.group.smalls.Release(a.small)
	a.group.larges.Release(a.large)
	a.buf, a.block, a.body, a.small, a.large = nil, nil, nil, 0, 0
}

// readLarge reads an answer whose size is known. It returns how long it has waited for
// memory.
func (a *answer) readLarge(ctx context.Context, from io.Reader, size int64) (waited time.Duration, err error) {
	if waited, err = a.take(ctx, size); err != nil {
		return waited, err
	}
	a.grow(size)
	_, err = io.ReadFull(from, a.body)
	if err == nil {
		_, err = io.Copy(io.Discard, from) // its end has to be seen, so that the connection is kept
	}
	return waited, err
}

// readSmall reads an answer that is small, or that may be.
func (a *answer) readSmall(ctx context.Context, from io.Reader, most int64) (waited time.Duration, err error) {
	began := time.Now()
	if err := a.group.smalls.Acquire(ctx, 1); err != nil {
		return time.Since(began), err
	}
	waited = time.Since(began)
	a.small = 1
	a.buf = buffers.Get().(*bytes.Buffer)
	a.buf.Reset()
	n, err := io.Copy(a.buf, io.LimitReader(from, small+1))
	a.body = a.buf.Bytes()
	if err != nil || n <= small {
		return waited, err
	}
	// It is large, and nobody knows how large.
	more, err := a.take(ctx, most)
	waited += more
	if err != nil {
		return waited, err
	}
	rest := bytes.NewBuffer(bytes.Clone(a.body))
	_, err = io.Copy(rest, io.LimitReader(from, most-n+1))
	a.body = rest.Bytes()
	if err == nil && int64(len(a.body)) > most {
		err = errTooLarge
	}
	return waited, err
}

// take takes bytes of those that large answers may have.
func (a *answer) take(ctx context.Context, n int64) (waited time.Duration, err error) {
	began := time.Now()
	if err := a.group.larges.Acquire(ctx, n); err != nil {
		return time.Since(began), err
	}
	a.large = n
	return time.Since(began), nil
}

// grow makes the body so long, out of a block.
func (a *answer) grow(n int64) {
	a.block = blocks.Get().(*[]byte)
	if int64(cap(*a.block)) < n {
		*a.block = make([]byte, n)
	}
	a.body = (*a.block)[:n]
}
