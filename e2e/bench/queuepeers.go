package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

// peerItems is how many items a run of a peer has.
func (b *queueBench) peerItems() int { return b.Items / 6 }

// peers measures what people use today, each with the settings under which it keeps its
// items over a crash.
func (b *queueBench) peers(ctx context.Context) error {
	if err := cluster.Require(ctx, b.Progress, cluster.Redis(), cluster.Beanstalkd()); err != nil {
		return err
	}
	for _, p := range []struct {
		name    string
		command func(dir, port string) *exec.Cmd
		round   func(ctx context.Context, addr string, size int) (float64, error)
		sizes   []int
		how     string
	}{
		{"asynq.everysec", redis("everysec"), b.asynqRound, asynqServers(), asynqHow},
		{"asynq.always", redis("always"), b.asynqRound, asynqServers(), asynqHow},
		{"beanstalkd.f0", beanstalkd("0"), b.beanstalkRound, beanstalkBatches(), beanstalkHow},
		{"beanstalkd.f50", beanstalkd("50"), b.beanstalkRound, beanstalkBatches(), beanstalkHow},
	} {
		// Each peer runs in the size in which it is fastest here.
		size, best := 0, 0.0
		var tried []string
		for _, n := range p.sizes {
			rate, err := b.peer(ctx, p.command, func(ctx context.Context, addr string) (float64, error) { return p.round(ctx, addr, n) })
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			b.say("queue.peer.%s: with %d, %.0f items/s", p.name, n, rate)
			tried = append(tried, fmt.Sprintf("%d: %.0f", n, rate))
			if rate > best {
				size, best = n, rate
			}
		}
		var rates []float64
		for i := range b.Rounds {
			rate, err := b.peer(ctx, p.command, func(ctx context.Context, addr string) (float64, error) { return p.round(ctx, addr, size) })
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			b.say("queue.peer.%s: round %d of %d: %.0f items/s", p.name, i+1, b.Rounds, rate)
			rates = append(rates, rate)
		}
		err := b.print("# queue.peer.%s: %d items of %d B, %s; tried %s; rounds with %d: %.0f items/s\nbench queue.peer.%s %.0f /s",
			p.name, b.peerItems(), queuePayload, p.how, strings.Join(tried, ", "), size, rates, p.name, middle(rates))
		if err != nil {
			return err
		}
	}
	return nil
}

func redis(fsync string) func(dir, port string) *exec.Cmd {
	return func(dir, port string) *exec.Cmd {
		return exec.Command(cluster.Redis().Probe, "--port", port, "--bind", "127.0.0.1", "--dir", dir,
			"--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--daemonize", "no")
	}
}

func beanstalkd(fsync string) func(dir, port string) *exec.Cmd {
	return func(dir, port string) *exec.Cmd {
		return exec.Command(cluster.Beanstalkd().Probe, "-l", "127.0.0.1", "-p", port, "-b", dir, "-f", fsync)
	}
}

// peer starts a server in a fresh directory on a free port, and runs a round on it.
func (b *queueBench) peer(ctx context.Context, command func(dir, port string) *exec.Cmd, round func(context.Context, string) (float64, error)) (rate float64, err error) {
	dir, err := os.MkdirTemp(b.dir, "peer")
	if err != nil {
		return 0, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return 0, err
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return 0, errors.Join(err, log.Close())
	}
	cmd := command(data, port)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill() // nobody needs its data any more
		_ = cmd.Wait()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	ready, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = until(ready, func() error {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	ctx, end := context.WithTimeout(ctx, itemsLimit)
	defer end()
	return round(ctx, addr)
}

const (
	// asynqConcurrency is the number of goroutines of one server.
	asynqConcurrency = 64
	asynqHow         = "its own client with 64 connections, servers with 64 goroutines each"
)

// asynqServers are the numbers of servers that are tried: a server takes one task after
// the other from Redis.
func asynqServers() []int { return []int{4, 16, 48, 96} }

// asynqRound puts items through asynq with so many servers.
func (b *queueBench) asynqRound(ctx context.Context, addr string, servers int) (float64, error) {
	opt := asynq.RedisClientOpt{Addr: addr, PoolSize: queueConns}
	client := asynq.NewClient(opt)
	defer func() { _ = client.Close() }() // the server is killed next
	var next, done atomic.Int64
	total := int64(b.peerItems())
	finished := make(chan struct{})
	handler := asynq.HandlerFunc(func(context.Context, *asynq.Task) error {
		if done.Add(1) == total {
			close(finished)
		}
		return nil
	})
	begun := time.Now()
	for range servers {
		// Ready tasks are taken at once; the interval is for an empty queue.
		srv := asynq.NewServer(opt, asynq.Config{
			Concurrency: asynqConcurrency, LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond,
		})
		if err := srv.Start(handler); err != nil {
			return 0, err
		}
		defer srv.Shutdown()
	}
	err := eachConn(ctx, queueConns, func(ctx context.Context, _ int) error {
		for {
			i := next.Add(1) - 1
			if i >= total {
				return nil
			}
			if _, err := client.EnqueueContext(ctx, asynq.NewTask("noop", []byte(payload(int(i), queuePayload)))); err != nil {
				return err
			}
		}
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return 0, err
	}
	select {
	case <-finished:
	case <-ctx.Done():
	}
	return float64(done.Load()) / time.Since(begun).Seconds(), nil
}

const beanstalkHow = "64 connections, as many commands sent at once on each before the answers are read"

// beanstalkBatches are the numbers of commands that are tried.
func beanstalkBatches() []int { return []int{1, 20, 100, 250} }

// beanstalkRound puts items through beanstalkd. No client of it in Go sends many
// commands at once, so this one is written here.
func (b *queueBench) beanstalkRound(ctx context.Context, addr string, batch int) (float64, error) {
	var next, done atomic.Int64
	total := int64(b.peerItems())
	begun := time.Now()
	err := eachConn(ctx, queueConns, func(ctx context.Context, i int) error {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // lets reads and writes fail
		defer stop()
		defer func() { _ = conn.Close() }() // it has no more to say
		c := &beanstalk{batch: batch, w: bufio.NewWriterSize(conn, 64<<10), r: bufio.NewReaderSize(conn, 64<<10)}
		if i < itemsProducers {
			return c.put(&next, total)
		}
		return c.work(&done, total)
	})
	if err != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return 0, err
	}
	return float64(done.Load()) / time.Since(begun).Seconds(), nil
}

// beanstalk is a connection to beanstalkd.
type beanstalk struct {
	batch int // commands sent at once
	w     *bufio.Writer
	r     *bufio.Reader
}

// answer reads a line, which has to begin like this.
func (c *beanstalk) answer(want string) ([]string, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	f := strings.Fields(line)
	if len(f) == 0 || f[0] != want {
		return f, fmt.Errorf("beanstalkd answered %q and not %s", line, want)
	}
	return f, nil
}

// put enqueues items until there are enough.
func (c *beanstalk) put(next *atomic.Int64, total int64) error {
	for {
		last := next.Add(int64(c.batch))
		first := last - int64(c.batch)
		if first >= total {
			return nil
		}
		n := min(last, total) - first
		for i := range n {
			// A lease of a minute, no delay. Errors show when the writer is flushed.
			_, _ = fmt.Fprintf(c.w, "put 100 0 60 %d\r\n%s\r\n", queuePayload, payload(int(first+i), queuePayload))
		}
		if err := c.w.Flush(); err != nil {
			return err
		}
		for range n {
			if _, err := c.answer("INSERTED"); err != nil {
				return err
			}
		}
	}
}

// work takes and deletes items until all are done.
func (c *beanstalk) work(done *atomic.Int64, total int64) error {
	var ids []string
	for done.Load() < total {
		// The first one waits for an item, the others take what there is.
		_, _ = c.w.WriteString("reserve-with-timeout 1\r\n") // errors show below
		for range c.batch - 1 {
			_, _ = c.w.WriteString("reserve-with-timeout 0\r\n")
		}
		if err := c.w.Flush(); err != nil {
			return err
		}
		ids = ids[:0]
		for range c.batch {
			id, err := c.reserved()
			if err != nil {
				return err
			}
			if id != "" {
				ids = append(ids, id)
			}
		}
		for _, id := range ids {
			_, _ = fmt.Fprintf(c.w, "delete %s\r\n", id) // errors show below
		}
		if err := c.w.Flush(); err != nil {
			return err
		}
		for range ids {
			if _, err := c.answer("DELETED"); err != nil {
				return err
			}
		}
		done.Add(int64(len(ids)))
	}
	return nil
}

// reserved reads the answer to a reserve command; "" if there was nothing.
func (c *beanstalk) reserved() (id string, err error) {
	f, err := c.answer("RESERVED")
	if len(f) == 1 && f[0] == "TIMED_OUT" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if len(f) != 3 {
		return "", fmt.Errorf("beanstalkd answered %q", f)
	}
	size, err := strconv.Atoi(f[2])
	if err == nil {
		_, err = io.CopyN(io.Discard, c.r, int64(size)+2)
	}
	return f[1], err
}
