package attempt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// ReadEmit reads the items for the next stage that the program has written to a file, one
// a line. given is false if there is no file. The error is an *EmitError if what is in it
// is wrong.
func ReadEmit(path string) (items []queue.Item, given bool, err error) {
	if path == "" {
		return nil, false, nil
	}
	f, _, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, true, err
	}
	defer func() { _ = f.Close() }() // it is read only
	b, err := io.ReadAll(io.LimitReader(f, queue.MaxEmitBytes+1))
	if err != nil {
		return nil, true, err
	}
	items, err = parseEmit(b)
	return items, true, err
}

// EmitError says which line of $WQ_EMIT is wrong.
type EmitError struct {
	Line    int
	Problem error
}

func (e *EmitError) Error() string { return fmt.Sprintf("line %d of $WQ_EMIT: %v", e.Line, e.Problem) }
func (e *EmitError) Unwrap() error { return e.Problem }

func parseEmit(b []byte) ([]queue.Item, error) {
	items := []queue.Item{}
	lines := bytes.Split(b, []byte("\n"))
	if len(b) > queue.MaxEmitBytes {
		return nil, &EmitError{len(lines), fmt.Errorf("more than %d bytes in all; emit fewer items or shorter ones", queue.MaxEmitBytes)}
	}
	for n, line := range lines {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if len(items) == queue.MaxEmit {
			return nil, &EmitError{n + 1, fmt.Errorf("more than %d items", queue.MaxEmit)}
		}
		var it queue.Item
		if err := httpapi.ReadJSON(bytes.NewReader(line), &it); err != nil {
			return nil, &EmitError{n + 1, err}
		}
		items = append(items, it)
	}
	return items, nil
}
