package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Span is a time in which a process trusted to lead an election: certainly at
// First, at Last, and at each moment between them.
type Span struct {
	Election    int // index
	Token       uint64
	First, Last time.Duration
}

const (
	maxSpans  = 1 << 16
	spanWords = 4 // election + 1, token, first, last
	spanBytes = spanWords * 8
)

// Spans is a file of spans that a process writes while it lives. It is mapped
// into memory, so that an entry costs no system call and what is written
// survives the process.
type Spans struct {
	mem   []byte
	words []uint64
	used  int
	open  map[int]int // election to the entry of its last token
}

// CreateSpans makes an empty file.
func CreateSpans(path string) (*Spans, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create spans: %w", err)
	}
	err = f.Truncate(maxSpans * spanBytes)
	var mem []byte
	if err == nil {
		mem, err = unix.Mmap(int(f.Fd()), 0, maxSpans*spanBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("create spans %s: %w", path, err)
	}
	return &Spans{
		mem: mem, words: unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), maxSpans*spanWords), open: map[int]int{},
	}, nil
}

// Trusted notes that the process trusted to lead at a moment. Moments rise. It
// is for one goroutine.
func (s *Spans) Trusted(election int, token uint64, at time.Duration) error {
	i, ok := s.open[election]
	if ok && s.words[i+1] == token {
		atomic.StoreUint64(&s.words[i+3], uint64(at))
		return nil
	}
	if s.used == maxSpans {
		return fmt.Errorf("more than %d spans", maxSpans)
	}
	i = s.used * spanWords
	s.used++
	s.open[election] = i
	for k, v := range []uint64{1: token, 2: uint64(at), 3: uint64(at)} {
		atomic.StoreUint64(&s.words[i+k], v)
	}
	// Last, because it makes the entry count.
	atomic.StoreUint64(&s.words[i], uint64(election)+1)
	return nil
}

// Close unmaps the file.
func (s *Spans) Close() error {
	s.words = nil
	if err := unix.Munmap(s.mem); err != nil {
		return fmt.Errorf("close spans: %w", err)
	}
	return nil
}

// ReadSpans reads the file of a process, whether it lives or not.
func ReadSpans(path string) ([]Span, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read spans: %w", err)
	}
	var all []Span
	for ; len(b) >= spanBytes; b = b[spanBytes:] {
		word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[i*8:]) }
		if word(0) == 0 {
			break
		}
		all = append(all, Span{
			Election: int(word(0)) - 1, Token: word(1), First: time.Duration(word(2)), Last: time.Duration(word(3)),
		})
	}
	return all, nil
}
