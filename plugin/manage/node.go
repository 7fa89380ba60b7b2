package manage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

const (
	nodeSocket = "node.sock"
	nodeLock   = "node.lock"

	lockPoll = 500 * time.Millisecond // between tries to get a lock that another process has
	again    = 2 * time.Second        // after what should not fail has failed
)

// NodeOptions are what the endpoint of a node needs.
type NodeOptions struct {
	Options
	Config   Config
	Driver   string              // name of the task driver that this process is; no other process of the node has it for long
	Registry *Registry           // its tasks
	Metrics  prometheus.Gatherer // its metrics
}

// Node is this process's part of the node's endpoint.
type Node struct {
	cfg    Config
	driver string
	log    hclog.Logger
	local  *upward
	access *access       // nil: no TCP
	cert   *certificate  // nil: no TLS
	poll   time.Duration // lockPoll
	limit  time.Duration // peerLimit
}

var driverPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// NewNode checks the configuration; see [Config.Validate]. It touches nothing
// yet.
func NewNode(o NodeOptions) (*Node, error) {
	o.Options = o.withDefaults()
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	if !driverPattern.MatchString(o.Driver) || o.Driver == "node" {
		return nil, fmt.Errorf("driver %q: a name of letters, digits and ._- is needed", o.Driver)
	}
	if o.Config.Dir == "" {
		o.Config.Dir = DefaultDir
	}
	n := &Node{cfg: o.Config, driver: o.Driver, log: o.Logger, poll: lockPoll, limit: peerLimit}
	n.local = newUpward(newServer(o.Logger), o.Driver, o.Registry, o.Metrics, o.Now)
	var err error
	if n.cfg.Listen != "" {
		if n.access, err = newAccess(n.cfg.TokenFile); err != nil {
			return nil, fmt.Errorf("endpoint.token_file: %w", err)
		}
	}
	if n.cfg.CertFile != "" {
		if n.cert, err = newCertificate(n.cfg.CertFile, n.cfg.KeyFile); err != nil {
			return nil, fmt.Errorf("endpoint.cert_file: %w", err)
		}
	}
	return n, nil
}

// Run serves this process's tasks, and all tasks of the node while it holds the
// lock, until ctx ends. The error is about the directory; what fails later is
// logged and tried again.
func (n *Node) Run(ctx context.Context) error {
	dir, err := openEndpointDir(n.cfg.Dir)
	if err != nil {
		return fmt.Errorf("endpoint.dir: %w", err)
	}
	defer func() { _ = dir.Close() }() // only a directory
	var wg sync.WaitGroup
	// The lock keeps two processes of one driver apart, the old and the new one of
	// an update, and tells that a socket without a process is stale.
	wg.Go(func() {
		n.hold(ctx, dir, lockName(n.driver), func(ctx context.Context) error {
			return n.serveSocket(ctx, dir, socketName(n.driver), n.local.server)
		})
	})
	wg.Go(func() {
		n.hold(ctx, dir, nodeLock, func(ctx context.Context) error { return n.serveNode(ctx, dir) })
	})
	wg.Wait()
	return nil
}

func socketName(driver string) string { return driver + ".sock" }
func lockName(driver string) string   { return driver + ".lock" }

// openEndpointDir creates the directory for this user alone, or checks that it
// is so.
func openEndpointDir(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // the parent is no secret
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(&os.PathError{Op: "stat", Path: path, Err: err}, dir.Close())
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return nil, errors.Join(fmt.Errorf("%s belongs to user %d with mode %o, but has to be this user's alone; remove it or set its mode to 0700", path, st.Uid, st.Mode&0o777), dir.Close())
	}
	return dir, nil
}

// hold runs fn each time that this process has the lock, until ctx ends.
func (n *Node) hold(ctx context.Context, dir *os.File, lock string, fn func(context.Context) error) {
	log := n.log.With("lock", filepath.Join(n.cfg.Dir, lock))
	for ctx.Err() == nil {
		err := n.holdOnce(ctx, dir, lock, fn)
		if err == nil || ctx.Err() != nil {
			continue
		}
		log.Error("management endpoint failed, trying again", "error", err)
		pause(ctx, again)
	}
}

func (n *Node) holdOnce(ctx context.Context, dir *os.File, lock string, fn func(context.Context) error) error {
	waited := false
	for {
		f, err := tryLock(dir, lock)
		if err != nil {
			return err
		}
		if f != nil {
			defer func() { _ = f.Close() }() // which frees the lock, as the death of the process does
			if waited {
				n.log.Info("taking over the management endpoint of another process", "lock", filepath.Join(n.cfg.Dir, lock))
			}
			return fn(ctx)
		}
		waited = true
		// Waiting in the kernel could not be ended.
		if !pause(ctx, n.poll) {
			return nil
		}
	}
}

// tryLock returns the locked file, or nil if another process has the lock.
func tryLock(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close() // it is not locked
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	return nil, &os.PathError{Op: "lock", Path: name, Err: err}
}

// serveSocket answers at a socket in the endpoint's directory until ctx ends.
func (n *Node) serveSocket(ctx context.Context, dir *os.File, name string, s *server) error {
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("listen at %s: %w", name, err)
	}
	ln, err := listenAt(fd, name, OwnedBy(os.Geteuid(), -1))
	if err != nil {
		_ = unix.Close(fd) // only a file descriptor
		return fmt.Errorf("listen at %s: %w", name, err)
	}
	return s.serve(ctx, ln)
}

// serveNode answers for all processes of the node until ctx ends. If the socket
// fails it ends; TCP, where others may have the port, is tried again.
func (n *Node) serveNode(ctx context.Context, dir *os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &peers{dir: dir, log: n.log, limit: n.limit}
	p.removeStale(ctx)
	var wg sync.WaitGroup
	defer wg.Wait() // before the lock is free
	if n.access != nil {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := n.serveTCP(ctx, p); err != nil {
					n.log.Error("management endpoint not on TCP, trying again", "error", err)
					pause(ctx, again)
				}
			}
		})
	}
	err := n.serveSocket(ctx, dir, nodeSocket, newMerged(newServer(n.log), p))
	cancel()
	return err
}

func (n *Node) serveTCP(ctx context.Context, p *peers) error {
	s := newMerged(newServer(n.log), p)
	s.access = n.access
	if n.cert != nil {
		s.tls = n.cert.config(n.log)
	}
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp", n.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen at %s: %w", n.cfg.Listen, err)
	}
	n.log.Info("management endpoint", "address", ln.Addr().String())
	return s.serve(ctx, ln)
}

// pause waits. It reports false if ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
