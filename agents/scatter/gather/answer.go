package gather

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// answer is that of a leaf. It is freed when it was merged.
type answer struct {
	leaf   *leaf
	header http.Header
	body   []byte

	group *Group
	buf   *[]byte // of a small answer
	block []byte  // of a large one
	small int64   // places that are taken
	large int64   // bytes that are taken
}

// buffers hold answers of up to small bytes.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// blocks hold larger ones. Those that are free are kept up to the bytes that may be taken at
// a time: to collect and to clear them is most of the work with large answers.
type blocks struct {
	most int64

	mu   sync.Mutex
	free [][]byte
	kept int64
}

// get returns a block of so many bytes, or more.
func (b *blocks) get(n int64) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := len(b.free) - 1; i >= 0; i-- {
		if block := b.free[i]; int64(cap(block)) >= n {
			b.free = slices.Delete(b.free, i, i+1)
			b.kept -= int64(cap(block))
			return block[:n]
		}
	}
	return make([]byte, n)
}

func (b *blocks) put(block []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.free) > 0 && b.kept+int64(cap(block)) > b.most {
		b.kept -= int64(cap(b.free[0]))
		b.free = slices.Delete(b.free, 0, 1) // perhaps they have become too small
	}
	if b.kept+int64(cap(block)) <= b.most {
		b.free = append(b.free, block)
		b.kept += int64(cap(block))
	}
}

// firstRead is the size of a buffer for an answer of unknown size, at first.
const firstRead = 4 << 10

// errTooLarge says that an answer has more bytes than it may.
var errTooLarge = errors.New("the answer is too large")

// free gives back what the answer has taken.
func (a *answer) free() {
	if a.buf != nil {
		buffers.Put(a.buf)
	}
	if a.block != nil {
		a.group.blocks.put(a.block)
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
	a.block = a.group.blocks.get(size)
	a.body = a.block[:size]
	_, err = io.ReadFull(from, a.body)
	if err == nil {
		_, err = io.Copy(io.Discard, from) // its end has to be seen, so that the connection is kept
	}
	return waited, err
}

// readSmall reads an answer that is small, or that may be.
func (a *answer) readSmall(ctx context.Context, from io.Reader, size, most int64) (waited time.Duration, err error) {
	began := time.Now()
	if err := a.group.smalls.Acquire(ctx, 1); err != nil {
		return time.Since(began), err
	}
	waited = time.Since(began)
	a.small = 1
	a.buf = buffers.Get().(*[]byte)
	if int64(cap(*a.buf)) <= size {
		*a.buf = make([]byte, 0, size+1)
	}
	b := (*a.buf)[:0]
	for err == nil {
		if len(b) == cap(b) {
			if len(b) >= small {
				break
			}
			b = append(make([]byte, 0, min(max(2*cap(b), firstRead), small)), b...)
		}
		var n int
		n, err = from.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
	}
	*a.buf, a.body = b, b
	if errors.Is(err, io.EOF) {
		return waited, nil
	}
	if err != nil {
		return waited, err
	}
	// It is large, and nobody knows how large.
	more, err := a.take(ctx, most)
	waited += more
	if err != nil {
		return waited, err
	}
	a.block = a.group.blocks.get(most)
	first := copy(a.block, a.body)
	n, err := fill(from, a.block[first:])
	a.body = a.block[:first+n]
	if err == nil {
		var one [1]byte
		if n, err = fill(from, one[:]); n > 0 {
			return waited, errTooLarge
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return waited, err
}

// fill reads until there is no room (then there is no error), or an error, which may be
// io.EOF. Unlike that of io.ReadFull it is the reader's own.
func fill(from io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = from.Read(b[n:])
		n += k
	}
	return n, err
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
