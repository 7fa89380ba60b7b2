package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/processes"
)

// inbox is the guard's end of the pipe with orders. All that has arrived is read at
// once: after a while without being scheduled, the guard must not act on an order that
// is out of date while the next one waits. It lives as long as the process.
type inbox struct {
	wake  chan struct{} // something has arrived; to be answered by listen
	taken chan struct{} // it has been read
	part  []byte        // of a line
}

func newInbox() (*inbox, error) {
	if err := unix.SetNonblock(ordersFD, true); err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	b := &inbox{wake: make(chan struct{}), taken: make(chan struct{})}
	go func() {
		for {
			err := processes.Retry(func() error {
				_, err := unix.Poll([]unix.PollFd{{Fd: ordersFD, Events: unix.POLLIN}}, -1)
				return err
			})
			if err != nil {
				panic("runner: wait for orders: " + err.Error()) // better dead than deaf
			}
			b.wake <- struct{}{}
			<-b.taken
		}
	}()
	return b, nil
}

// listen lets wake tell again. It follows each value from wake, after a read.
func (b *inbox) listen() { b.taken <- struct{}{} }

// read returns what has arrived. The error is io.EOF when the other end is closed; the
// orders count all the same.
func (b *inbox) read() ([]order, error) {
	var orders []order
	for {
		var chunk [4096]byte
		n, err := unix.Read(ordersFD, chunk[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return orders, nil
		case err != nil:
			return orders, fmt.Errorf("read orders: %w", err)
		case n == 0:
			return orders, io.EOF
		}
		b.part = append(b.part, chunk[:n]...)
		for {
			line, rest, found := bytes.Cut(b.part, []byte{'\n'})
			if !found {
				break
			}
			b.part = rest
			var o order
			if err := json.Unmarshal(line, &o); err != nil {
				return orders, fmt.Errorf("read orders: %w", err)
			}
			orders = append(orders, o)
		}
	}
}
