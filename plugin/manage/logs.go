package manage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

const (
	defaultTail = 100
	maxTail     = 10_000  // lines
	maxTailSize = 8 << 20 // bytes that are searched for the beginning of the tail
	maxLogNames = 1 << 16 // names in a log directory that are looked at
	logPoll     = 250 * time.Millisecond
)

// logQuery is what is asked of a log.
type logQuery struct {
	tail   int  // lines from the end
	follow bool // go on with what is written from then on
}

func parseLogQuery(raw string) (logQuery, *httpapi.Error) {
	q := logQuery{tail: defaultTail}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, httpapi.Errorf(http.StatusBadRequest, "", "the query is unreadable: %w", err)
	}
	for name, v := range values {
		switch name {
		case "tail":
			q.tail, err = strconv.Atoi(v[0])
			if err != nil || q.tail < 0 || q.tail > maxTail {
				return q, httpapi.Errorf(http.StatusBadRequest, "tail", "%q is not a number of lines within 0 and %d", v[0], maxTail)
			}
		case "follow":
			if q.follow, err = strconv.ParseBool(cmp.Or(v[0], "true")); err != nil {
				return q, httpapi.Errorf(http.StatusBadRequest, "follow", "%q is neither true nor false", v[0])
			}
		default:
			return q, httpapi.Errorf(http.StatusBadRequest, name, "unknown parameter; there are tail and follow")
		}
	}
	return q, nil
}

func (u *upward) logs(w http.ResponseWriter, r *http.Request, t *Task) {
	stream := r.PathValue("stream")
	if stream != "stdout" && stream != "stderr" {
		httpapi.WriteError(w, httpapi.Errorf(http.StatusNotFound, "", "there is no log %q, but stdout and stderr", stream))
		return
	}
	q, refusal := parseLogQuery(r.URL.RawQuery)
	if refusal != nil {
		httpapi.WriteError(w, refusal)
		return
	}
	if q.follow {
		done, refusal := u.stream()
		if refusal != nil {
			httpapi.WriteError(w, refusal)
			return
		}
		defer done()
	}
	l, err := openLog(t.AllocDir, t.Info().Task+"."+stream+".")
	if err != nil {
		code := http.StatusBadGateway
		if errors.Is(err, fs.ErrNotExist) {
			code = http.StatusNotFound
		}
		httpapi.WriteError(w, httpapi.Errorf(code, "", "read the %s of task %q: %w", stream, t.Info().Task, err))
		return
	}
	defer l.close()
	at, err := l.tail(q.tail)
	if err != nil {
		httpapi.WriteError(w, httpapi.Errorf(http.StatusBadGateway, "", "read the %s of task %q: %w", stream, t.Info().Task, err))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff") // it is the task's own words
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	c := &logCopy{log: l, w: w, ctrl: http.NewResponseController(w), at: at, app: t}
	if q.follow {
		err = c.follow(r.Context())
	} else {
		err = c.rest(r.Context())
	}
	if err != nil && r.Context().Err() == nil {
		u.Log.Debug("log not sent to its end", "alloc_id", t.Info().AllocID, "task", t.Info().Task, "error", err)
		panic(http.ErrAbortHandler) // the client must not take it for complete
	}
}

// logFiles are the files that Nomad writes a task's output to: a name, a dot
// and a number that grows. Old ones are removed.
type logFiles struct {
	dir    *os.File
	prefix string
}

// openLog opens the logs in an allocation's directory whose names begin with
// prefix. The error contains fs.ErrNotExist if there are none.
//
// Tasks can write to the directory: no symbolic link in it is followed.
func openLog(allocDir, prefix string) (*logFiles, error) {
	if allocDir == "" {
		return nil, fmt.Errorf("no logs are known of: %w", fs.ErrNotExist)
	}
	root, err := unix.Open(allocDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the allocation's directory: %w", err)
	}
	defer func() { _ = unix.Close(root) }() // only a file descriptor
	dir, err := openBeneath(root, "alloc/logs", unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	l := &logFiles{dir: dir, prefix: prefix}
	numbers, err := l.numbers()
	if err == nil && len(numbers) == 0 {
		err = fmt.Errorf("there are none; is log collection turned off, or does the driver log elsewhere? %w", fs.ErrNotExist)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func openBeneath(dir int, name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		// Without O_NONBLOCK a pipe in the place of a log would block.
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return nil, fmt.Errorf("%s is or passes a symbolic link, which is not followed", name)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (l *logFiles) close() { _ = l.dir.Close() } // only a directory

// numbers returns the numbers of the files that there are, in their order.
func (l *logFiles) numbers() ([]int, error) {
	if _, err := l.dir.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("list logs: %w", err)
	}
	var numbers []int
	for seen := 0; seen < maxLogNames; {
		names, err := l.dir.Readdirnames(1024)
		seen += len(names)
		for _, name := range names {
			digits, ok := strings.CutPrefix(name, l.prefix)
			if n, err := strconv.ParseUint(digits, 10, 31); ok && err == nil && strconv.FormatUint(n, 10) == digits {
				numbers = append(numbers, int(n))
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("list logs: %w", err)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// open opens a file for reading, and returns its size.
func (l *logFiles) open(number int) (*os.File, int64, error) {
	f, err := openBeneath(int(l.dir.Fd()), l.prefix+strconv.Itoa(number), 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		_ = f.Close() // nothing was read
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// position is a place in the files.
type position struct {
	number int
	offset int64
}

// tail returns where the last lines begin. Of a log without line ends that is
// maxTailSize from its end.
func (l *logFiles) tail(lines int) (position, error) {
	numbers, err := l.numbers()
	if err != nil || len(numbers) == 0 {
		return position{}, err
	}
	s := tailSearch{lines: lines, budget: maxTailSize}
	at := position{number: numbers[len(numbers)-1]}
	for i, n := range slices.Backward(numbers) {
		f, size, err := l.open(n)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile, as all before it
			break
		}
		if err != nil {
			return position{}, err
		}
		offset, done, err := s.search(f, size)
		_ = f.Close() // it was only read
		if err != nil {
			return position{}, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		at = position{n, offset}
		if done || i == 0 {
			break
		}
	}
	return at, nil
}

// tailSearch goes backward through files, the newest first.
type tailSearch struct {
	lines  int // still to find
	budget int // bytes
	begun  bool
}

// search returns how far back in f the tail reaches, and whether that is far
// enough.
func (s *tailSearch) search(f io.ReaderAt, size int64) (offset int64, done bool, err error) {
	if s.lines == 0 {
		return size, true, nil
	}
	var buf [32 << 10]byte
	for end := size; end > 0; {
		n := min(end, int64(len(buf)), int64(s.budget))
		if n == 0 {
			return end, true, nil
		}
		end -= n
		s.budget -= int(n)
		got, err := f.ReadAt(buf[:n], end)
		if err != nil && !errors.Is(err, io.EOF) { // it may have been cut meanwhile
			return 0, false, err
		}
		for i := got - 1; i >= 0; i-- {
			// The end of the last line does not begin one.
			if buf[i] == '\n' && s.begun {
				if s.lines--; s.lines == 0 {
					return end + int64(i) + 1, true, nil
				}
			}
			s.begun = true
		}
	}
	return 0, false, nil
}

// logCopy writes a log from a position on.
type logCopy struct {
	log  *logFiles
	w    io.Writer
	ctrl *http.ResponseController
	at   position
	app  App
}

// rest writes what is there now.
func (c *logCopy) rest(ctx context.Context) error {
	numbers, err := c.log.numbers()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n < c.at.number {
			continue
		}
		f, size, err := c.log.open(n)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return err
		}
		err = c.drain(ctx, f, n, size)
		_ = f.Close() // it was only read
		if err != nil {
			return err
		}
	}
	return nil
}

// drain writes file number n up to size and moves the position.
func (c *logCopy) drain(ctx context.Context, f *os.File, n int, size int64) error {
	if n != c.at.number || size < c.at.offset { // the next one, or the task has cut its log
		c.at = position{number: n}
	}
	var buf [32 << 10]byte
	for c.at.offset < size && ctx.Err() == nil {
		got, err := f.ReadAt(buf[:min(int64(len(buf)), size-c.at.offset)], c.at.offset)
		if got > 0 {
			if _, err := c.w.Write(buf[:got]); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			c.at.offset += int64(got)
		}
		if errors.Is(err, io.EOF) { // cut meanwhile
			break
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
	}
	if err := c.ctrl.Flush(); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return ctx.Err()
}

// follow writes what is there and what comes, until the task is destroyed or
// ctx ends. A file is left only if the next one was there before it was read:
// nothing is written to it then.
func (c *logCopy) follow(ctx context.Context) error {
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	var f *os.File // number c.at.number; nil if it could not be opened yet
	defer func() {
		if f != nil {
			_ = f.Close() // it was only read
		}
	}()
	for sinceEnd := 0; ; {
		numbers, err := c.log.numbers()
		if err != nil {
			return err
		}
		if f == nil {
			if f, _, err = c.log.open(c.at.number); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if f != nil {
			st, err := f.Stat()
			if err != nil {
				return fmt.Errorf("look at %s: %w", f.Name(), err)
			}
			if err := c.drain(ctx, f, c.at.number, st.Size()); err != nil {
				return err
			}
		}
		if i, _ := slices.BinarySearch(numbers, c.at.number+1); i < len(numbers) {
			if f != nil {
				_ = f.Close() // it was only read
			}
			f, c.at = nil, position{number: numbers[i]}
			continue
		}
		if sinceEnd > 1 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		// Nomad writes what the task has said last a little after its end.
		if st, _ := c.app.Status(); st.State == lifecycle.Destroyed {
			sinceEnd++
		}
	}
}
