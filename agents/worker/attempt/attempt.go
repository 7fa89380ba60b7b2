// Package attempt is what the parts of a worker have in common: one attempt at one item,
// what it is told, and how it ended.
package attempt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

// Attempt is one attempt at an item.
type Attempt struct {
	Queue  string
	Stage  string
	ID     queue.ID
	Claim  uint64
	Failed int
	Lost   int
	Item   queue.Item

	// Input is the path of the input, or of the directory with the inputs of a merge; for
	// a dispatched job it can also be a URL. Empty: the item has none.
	Input string
	// Output is the path where the output is to be written, for a dispatched job possibly
	// a URL. Empty: none is wanted.
	Output string
	// Progress and Emit are paths of files that may be written. Empty: not possible.
	Progress string
	Emit     string
}

// Way is one of the ways to do an item.
type Way interface {
	// Ready returns when items can be done. The error is why that will not be.
	Ready(ctx context.Context) error
	// Do does an item. When ctx ends it stops, and returns when nothing of the attempt
	// is going on any more.
	Do(ctx context.Context, a *Attempt) Result
}

// Result is how an attempt ended.
type Result struct {
	Action queue.Action
	Reason string // of a failure
}

// Failedf is a result that means: try it again.
func Failedf(format string, args ...any) Result {
	return Result{queue.Retry, fmt.Sprintf(format, args...)}
}

// Vars are what the program is told, by name. Names of attributes are those of the item in
// capitals, with an underscore for all that is no letter or digit.
func (a *Attempt) Vars() map[string]string {
	vars := map[string]string{
		"WQ_QUEUE": a.Queue, "WQ_STAGE": a.Stage, "WQ_ITEM": a.ID.String(), "WQ_CLAIM": strconv.FormatUint(a.Claim, 10),
		"WQ_INPUT": a.Input, "WQ_OUTPUT": a.Output, "WQ_PROGRESS": a.Progress, "WQ_EMIT": a.Emit,
	}
	for _, name := range slices.Sorted(maps.Keys(a.Item.Attrs)) {
		vars["WQ_ATTR_"+envName(name)] = strings.ReplaceAll(a.Item.Attrs[name], "\x00", "")
	}
	return vars
}

// envName is a name as variables can have it.
func envName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, s)
}

// Expand puts values in the place of $WQ_NAME and ${WQ_NAME}. Other dollar signs stay,
// as do names of variables that there are not.
func Expand(arg string, vars map[string]string) string {
	if !strings.Contains(arg, "$") {
		return arg
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(arg, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		name, rest := after, ""
		if inner, is := strings.CutPrefix(after, "{"); is {
			name, rest, _ = strings.Cut(inner, "}")
		} else {
			end := strings.IndexFunc(after, func(r rune) bool {
				return r != '_' && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
			})
			if end >= 0 {
				name, rest = after[:end], after[end:]
			}
		}
		value, known := vars[name]
		if !known {
			out.WriteString("$")
			arg = after
			continue
		}
		out.WriteString(value)
		arg = rest
	}
}

// maxProgress is what is read of a file with the progress, in bytes.
const maxProgress = 64

// ReadProgress reads what the program says of its progress: a number from 0 to 1 as the
// last word of the file. False: it has said nothing yet, or nonsense.
func (a *Attempt) ReadProgress() (float64, bool) {
	if a.Progress == "" {
		return 0, false
	}
	f, size, err := openFile(a.Progress)
	if err != nil {
		return 0, false
	}
	defer func() { _ = f.Close() }() // it is read only
	b := make([]byte, maxProgress)
	n, _ := f.ReadAt(b, max(0, size-maxProgress)) // less is read at the end
	return parseProgress(b[:n])
}

// openFile opens what a program has written. What is no file could block for ever.
func openFile(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("is no regular file")}
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func parseProgress(b []byte) (float64, bool) {
	words := strings.Fields(string(b))
	if len(words) == 0 {
		return 0, false
	}
	p, err := strconv.ParseFloat(words[len(words)-1], 64)
	return p, err == nil && p >= 0 && p <= 1
}

// Why the context of an attempt ends before the attempt.
var (
	// ErrLost: the lease ran out, and others may work on the item.
	ErrLost = errors.New("the lease is lost")
	// ErrCancelled: nobody wants the item any more.
	ErrCancelled = errors.New("the item was cancelled")
	// ErrMaxRuntime: it took longer than the stage allows.
	ErrMaxRuntime = errors.New("max_runtime")
	// ErrDrained: the worker has to end.
	ErrDrained = errors.New("the worker has to end")
)
