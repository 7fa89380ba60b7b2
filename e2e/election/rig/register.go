package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Register stands for the database that a leader writes to: it accepts a write
// only if no write with a higher token came before. There is one value per
// election.
type Register struct {
	listener net.Listener
	server   *http.Server
	done     chan struct{}

	mu       sync.Mutex
	cells    map[string]cell
	accepted int
	refused  int
}

// cell is the register of one election.
type cell struct {
	token uint64 // the highest that was seen
	value string
}

// StartRegister serves a register on loopback.
func StartRegister() (*Register, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start register: %w", err)
	}
	r := &Register{listener: l, cells: map[string]cell{}, done: make(chan struct{})}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(l) // ends with Close
	}()
	return r, nil
}

// URL is where candidates write: URL/<election>.
func (r *Register) URL() string { return "http://" + r.listener.Addr().String() }

// ServeHTTP takes a write.
func (r *Register) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	token, err := strconv.ParseUint(req.FormValue("token"), 10, 64)
	if req.Method != http.MethodPost || err != nil {
		http.Error(w, "not a write", http.StatusBadRequest)
		return
	}
	if !r.write(strings.Trim(req.URL.Path, "/"), token, req.FormValue("value")) {
		http.Error(w, "a newer leader has written", http.StatusConflict)
	}
}

// write is the fence.
func (r *Register) write(election string, token uint64, value string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if token < r.cells[election].token {
		r.refused++
		return false
	}
	r.cells[election] = cell{token: token, value: value}
	r.accepted++
	return true
}

// Read returns the value of an election's register.
func (r *Register) Read(election string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cells[election].value
}

// Counts tells how many writes were accepted, and how many refused because they
// were stale.
func (r *Register) Counts() (accepted, refused int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted, r.refused
}

// Close stops serving.
func (r *Register) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := r.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, r.server.Close())
	}
	<-r.done
	if err != nil {
		return fmt.Errorf("close register: %w", err)
	}
	return nil
}
