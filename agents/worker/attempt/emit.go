package attempt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// ReadEmit reads the items for the next stage that the program has written to a file, one
// a line. given is false if there is no file. The error says which line is wrong.
func ReadEmit(path string) (items []queue.Item, given bool, err error) {
	if path == "" {
		return nil, false, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = f.Close() }() // it is read only
	items, err = parseEmit(f)
	return items, true, err
}

func parseEmit(r io.Reader) ([]queue.Item, error) {
	items := []queue.Item{}
	lines := bufio.NewScanner(io.LimitReader(r, queue.MaxEmitBytes+1))
	lines.Buffer(nil, queue.MaxEmitBytes+2)
	size := 0
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if size += len(lines.Bytes()) + 1; size > queue.MaxEmitBytes+1 {
			return nil, fmt.Errorf("line %d of $WQ_EMIT: more than %d bytes in all; emit fewer items or shorter ones", n, queue.MaxEmitBytes)
		}
		if len(line) == 0 {
			continue
		}
		if len(items) == queue.MaxEmit {
			return nil, fmt.Errorf("line %d of $WQ_EMIT: more than %d items", n, queue.MaxEmit)
		}
		var it queue.Item
		if err := agent.ReadJSON(bytes.NewReader(line), &it); err != nil {
			return nil, fmt.Errorf("line %d of $WQ_EMIT: %w", n, err)
		}
		items = append(items, it)
	}
	return items, lines.Err()
}
