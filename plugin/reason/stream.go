package reason

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
)

const (
	// settle is how long a feed waits for more to be added before it opens a
	// stream for it: the tasks of an allocation start together.
	settle = 200 * time.Millisecond

	// openLimit is how long a server may take for the first frame of a stream. It
	// is a heartbeat, sent at once.
	openLimit = 15 * time.Second

	// silenceLimit is how long a stream may be silent. The servers send a
	// heartbeat every 30 s.
	silenceLimit = 75 * time.Second

	// refusedPause bounds the pause after a refusal: trying again does not help
	// until someone has repaired it.
	refusedPause = time.Minute

	// steady is how long a feed must have been without a failure for the next to
	// be no failure that follows others.
	steady = time.Minute

	// maxFrame bounds a frame. It holds the allocations of the node that one plan
	// of the scheduler has changed, each of some 10 KiB. A longer one is skipped.
	maxFrame = 4 << 20
	// maxSkip is where skipping ends: such a server sends no frames.
	maxSkip = 64 << 20

	// quiet is how long the same trouble is not logged again.
	quiet = 10 * time.Minute
)

var (
	errGrown  = errors.New("more allocations are watched")
	errSilent = errors.New("the event stream is silent; a heartbeat was due")
	// Nomad 1.11 answers a stream that it refuses with 200, and then sends
	// nothing, or ends it.
	errNothing = errors.New("the event stream has no first frame: the token may lack read-job in the namespace, or the servers' event broker is off")
	errLong    = errors.New("a frame of the event stream is too long")
)

// feed follows the allocations of one namespace.
type feed struct {
	w         *Watcher
	namespace string
	end       context.CancelFunc
	grown     chan struct{}       // of capacity 1: allocs has grown
	allocs    map[string]*watched // by ID; guarded by w.mu

	mu      sync.Mutex // guards what is below
	trouble bool       // trouble was logged, and not yet that it is over
	logged  time.Time  // when trouble was logged last
}

// run keeps a stream open until ctx ends. A stream cannot be told to follow
// more, so for every allocation that is added a new one takes its place.
func (f *feed) run(ctx context.Context) {
	s := &stream{feed: f}
	tries := 0
	if !sleep(ctx, settle) {
		return
	}
	failed := time.Now() // or began
	for {
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errGrown) {
			continue // follow has waited
		}
		f.report(err)
		s.followed = nil // what happens from now on is not heard
		if time.Since(failed) >= steady {
			tries = 0
		}
		failed = time.Now()
		wait := pause(tries)
		var refused *answerError
		if errors.As(err, &refused) && refused.code/100 == 4 {
			wait = refusedPause/2 + rand.N(refusedPause/2) //nolint:gosec // spreads load
		}
		tries++
		if !f.rest(ctx, wait) {
			return
		}
	}
}

// rest waits for d, or until more is watched, but not less than after a first
// failure: Nomad's agent has just had a task started, so it is back, and that
// task would hear nothing for all of d. It reports false if ctx ends before.
func (f *feed) rest(ctx context.Context, d time.Duration) bool {
	least := min(d, pause(0))
	if !sleep(ctx, least) {
		return false
	}
	t := time.NewTimer(d - least)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-f.grown:
		return true // follow looks what is watched
	case <-ctx.Done():
		return false
	}
}

// stream is a feed's connection to the event stream, one after the other.
type stream struct {
	*feed
	index    uint64          // of the last frame, to go on from there
	followed map[string]bool // the allocations that the last stream followed to its end
}

// follow opens a stream for all that is watched and hears it until it ends, or
// until more is watched.
func (s *stream) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)

	ids := s.watching()
	wg.Go(func() {
		select {
		case <-s.grown:
			if sleep(ctx, settle) {
				cancel(errGrown)
			}
		case <-ctx.Done():
		}
	})
	var opened atomic.Bool
	silence := time.AfterFunc(openLimit, func() {
		if opened.Load() {
			cancel(errSilent)
		} else {
			cancel(errNothing)
		}
	})
	defer silence.Stop()

	err := s.hear(ctx, ids, func() {
		opened.Store(true)
		silence.Reset(silenceLimit)
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// watching returns the IDs that are watched.
func (s *stream) watching() []string {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	select {
	case <-s.grown: // by what is seen here
	default:
	}
	return slices.Sorted(maps.Keys(s.allocs))
}

// hear opens a stream and takes note of all that it tells. It calls alive for
// each frame, and always returns an error.
func (s *stream) hear(ctx context.Context, ids []string, alive func()) (err error) {
	params := url.Values{"index": {strconv.FormatUint(s.index, 10)}}
	for _, id := range ids {
		params.Add("topic", string(api.TopicAllocation)+":"+id)
	}
	body, err := s.w.client.api.Raw().Response(streamPath+"?"+params.Encode(), query(ctx, s.namespace))
	if err != nil {
		return fmt.Errorf("open the event stream: %w", explain(err))
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	frames := newFrames(body)
	for first := true; ; first = false {
		frame, err := frames.next()
		if first && errors.Is(err, io.EOF) {
			return errNothing
		}
		if err != nil && !errors.Is(err, errLong) {
			return fmt.Errorf("read the event stream: %w", err)
		}
		alive()
		if first {
			s.opened(ids)
		}
		if err != nil {
			s.report(err)
			s.reread(nil) // whatever it told
			continue
		}
		if err := s.take(frame); err != nil {
			return err
		}
	}
}

// opened makes all be read that the stream before did not follow.
func (s *stream) opened(ids []string) {
	s.well()
	s.reread(s.followed)
	s.followed = make(map[string]bool, len(ids))
	for _, id := range ids {
		s.followed[id] = true
	}
}

// reread makes all allocations be read, except those whose state is known and
// was followed without a gap.
func (s *stream) reread(except map[string]bool) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for id, a := range s.allocs {
		if !except[id] || a.known == nil {
			a.stale = true
			poke(a.wake)
		}
	}
}

// take hands the allocations of a frame to those who listen to them.
func (s *stream) take(frame []byte) error {
	index, allocs, err := decodeFrame(frame)
	if err != nil {
		return fmt.Errorf("decode a frame of the event stream: %w", err)
	}
	if index > 0 { // a heartbeat has none
		s.index = index
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for _, got := range allocs {
		if a := s.allocs[got.ID]; a != nil {
			a.learn(got)
			poke(a.wake)
		}
	}
	return nil
}

// decodeFrame reads a frame of the event stream. A heartbeat, "{}", has no index.
// It is not done by package api, whose stream keeps heartbeats to itself, has no
// bound, and takes numbers through float64.
func decodeFrame(frame []byte) (index uint64, allocs []*api.Allocation, err error) {
	var f struct {
		Index  uint64
		Events []struct {
			Topic   api.Topic
			Payload struct{ Allocation *api.Allocation }
		}
	}
	if err := json.Unmarshal(frame, &f); err != nil {
		return 0, nil, err
	}
	for _, e := range f.Events {
		if e.Topic == api.TopicAllocation && e.Payload.Allocation != nil {
			allocs = append(allocs, e.Payload.Allocation)
		}
	}
	return f.Index, allocs, nil
}

// frames splits a stream into lines of at most maxFrame bytes.
type frames struct {
	r   *bufio.Reader
	buf []byte
}

func newFrames(r io.Reader) *frames { return &frames{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next line, which is valid until the next call. A line that is
// too long is skipped to its end, and errLong returned: the stream can go on.
func (f *frames) next() ([]byte, error) {
	if cap(f.buf) > maxFrame/4 {
		f.buf = nil // large ones are rare
	}
	f.buf = f.buf[:0]
	skipped := 0
	for {
		part, err := f.r.ReadSlice('\n')
		if skipped == 0 && len(f.buf)+len(part) <= maxFrame {
			f.buf = append(f.buf, part...)
		} else {
			skipped += len(part)
		}
		switch {
		case skipped > maxSkip:
			return nil, fmt.Errorf("a line has more than %d bytes", maxSkip)
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil && len(f.buf) > 0: // a server ends each line
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case skipped > 0:
			return nil, errLong
		default:
			return f.buf, nil
		}
	}
}

// report logs trouble, but not more than once in a while.
func (f *feed) report(err error) {
	if errors.Is(err, context.Canceled) {
		return // nobody listens any more
	}
	now := time.Now()
	f.mu.Lock()
	news := f.logged.IsZero() || now.Sub(f.logged) >= quiet
	if news {
		f.trouble, f.logged = true, now
	}
	f.mu.Unlock()
	level := hclog.Debug
	if news {
		level = hclog.Warn
	}
	f.w.logger.Log(level, "no early notice of stops for now", "namespace", f.namespace, "error", clean(err.Error()))
}

// well logs that the trouble is over, if it was logged.
func (f *feed) well() {
	f.mu.Lock()
	had := f.trouble
	f.trouble = false
	f.mu.Unlock()
	if had {
		f.w.logger.Info("early notice of stops works again", "namespace", f.namespace)
	}
}
