package manage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

const (
	peerLimit  = 2 * time.Second // for a process of the node to answer
	maxListing = 16 << 20        // bytes of its answer
	maxPeers   = 64              // processes of a node; there are as many as drivers
)

// peers are the plugin processes of the node, this one included, by their
// sockets in the endpoint's directory.
type peers struct {
	dir   *os.File
	log   hclog.Logger
	limit time.Duration // for each to answer
}

// drivers names those that have a socket.
func (p *peers) drivers() ([]string, error) {
	// A descriptor of its own, because others read the directory as well.
	dir, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", p.dir.Fd()))
	if err != nil {
		return nil, fmt.Errorf("list the processes of the node: %w", err)
	}
	defer func() { _ = dir.Close() }() // it was only read
	names, err := dir.Readdirnames(0)
	if err != nil {
		return nil, fmt.Errorf("list the processes of the node: %w", err)
	}
	var drivers []string
	for _, name := range names {
		if d, ok := strings.CutSuffix(name, ".sock"); ok && name != nodeSocket {
			drivers = append(drivers, d)
		}
	}
	slices.Sort(drivers)
	if len(drivers) > maxPeers {
		return nil, fmt.Errorf("list the processes of the node: %d sockets; at most %d", len(drivers), maxPeers)
	}
	return drivers, nil
}

// dial connects to a process.
func (p *peers) dial(ctx context.Context, driver string) (net.Conn, error) {
	d := net.Dialer{Timeout: p.limit}
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", p.dir.Fd(), socketName(driver)))
}

// transport is for requests to one process.
func (p *peers) transport(driver string) *http.Transport {
	return &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx, driver) },
		DisableKeepAlives: true,
		// What it passes on has its own limit, but a process that hangs has none.
		ResponseHeaderTimeout:  max(saveLimit, passLimit+maxProfile*time.Second) + ioTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// get asks a process and reads its whole answer.
func (p *peers) get(ctx context.Context, driver, path, accept string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	t := p.transport(driver)
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req)
	if err == nil {
		defer func() { _ = resp.Body.Close() }() // it was only read
		var body []byte
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxListing+1))
		switch {
		case err != nil:
		case len(body) > maxListing:
			err = fmt.Errorf("its answer is larger than %d bytes", maxListing)
		case resp.StatusCode != http.StatusOK:
			err = fmt.Errorf("it answers with status %d", resp.StatusCode)
		default:
			return body, nil
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s", p.limit)
	}
	return nil, err
}

// peerAnswer is what one process has answered.
type peerAnswer struct {
	driver string
	body   []byte
	err    error
}

// ask asks all processes at once, by their names. Sockets that no process has
// are left out, and removed.
func (p *peers) ask(ctx context.Context, path, accept string) ([]peerAnswer, error) {
	drivers, err := p.drivers()
	if err != nil {
		return nil, err
	}
	answers := make([]peerAnswer, len(drivers))
	var wg sync.WaitGroup
	for i, d := range drivers {
		wg.Go(func() {
			body, err := p.get(ctx, d, path, accept)
			answers[i] = peerAnswer{d, body, err}
		})
	}
	wg.Wait()
	return slices.DeleteFunc(answers, func(a peerAnswer) bool { return p.gone(a.driver, a.err) }), nil
}

// gone reports whether err, from connecting to a process, says that there is
// none, and removes its socket.
func (p *peers) gone(driver string, err error) bool {
	if errors.Is(err, unix.ENOENT) {
		return true // it has ended since
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return false
	}
	// A process has its lock before its socket and until after it.
	f, err := tryLock(p.dir, lockName(driver))
	if err != nil {
		p.log.Warn("socket without a process not removed", "driver", driver, "error", err)
		return true
	}
	if f == nil { // it is just starting or ending
		return true
	}
	defer func() { _ = f.Close() }() // which frees the lock
	if err := removeSocket(int(p.dir.Fd()), socketName(driver)); err != nil {
		p.log.Warn("socket without a process not removed", "driver", driver, "error", err)
		return true
	}
	p.log.Info("removed the socket of a process that has ended", "driver", driver)
	return true
}

// removeStale removes the sockets of processes that have ended.
func (p *peers) removeStale(ctx context.Context) {
	drivers, err := p.drivers()
	if err != nil {
		p.log.Warn("sockets without a process not looked for", "error", err)
		return
	}
	for _, d := range drivers {
		conn, err := p.dial(ctx, d)
		if err == nil {
			_ = conn.Close() // nothing was sent
			continue
		}
		p.gone(d, err)
	}
}

// tasks lists all tasks of the node, and what came of asking each process.
func (p *peers) tasks(ctx context.Context) (listing, *httpapi.Error) {
	out := listing{Tasks: []status{}, Drivers: []reply{}}
	answers, err := p.ask(ctx, "/v1/tasks", "")
	if err != nil {
		return out, httpapi.Errorf(http.StatusInternalServerError, "", "%w", err)
	}
	for _, a := range answers {
		r := reply{Driver: a.driver}
		var l listing
		if a.err == nil {
			a.err = json.Unmarshal(a.body, &l)
		}
		if a.err != nil {
			r.Error = a.err.Error()
		}
		out.Drivers = append(out.Drivers, r)
		out.Tasks = append(out.Tasks, l.Tasks...)
	}
	slices.SortStableFunc(out.Tasks, func(a, b status) int { return compareInfo(a.Info, b.Info) })
	return out, nil
}
