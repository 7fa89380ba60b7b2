package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/rig"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// electorPatience bounds what an elector is waited for.
const electorPatience = time.Minute

// sidecar is an "elector agent" at one Consul agent, with a stream of events for
// each of its elections, which go into the log.
type sidecar struct {
	bench  *electionBench
	consul *cluster.Consul
	log    *rig.Log
	name   string
	agent  int // Consul client agent
	watch  []string
	args   []string
	client *http.Client

	cmd  *exec.Cmd
	done chan struct{}
	wg   sync.WaitGroup // of the streams
	stop context.CancelFunc
}

// newSidecar makes an elector. It is not started.
func (b *electionBench) newSidecar(c *cluster.Consul, log *rig.Log, i int, watch []string, args ...string) *sidecar {
	s := &sidecar{bench: b, consul: c, log: log, name: fmt.Sprintf("e%d", i), agent: i % c.Clients(), watch: watch, args: args}
	s.client = &http.Client{Transport: s.transport()}
	return s
}

// socket is where it listens.
func (s *sidecar) socket() string { return filepath.Join(s.bench.dir, s.name+".sock") }

// transport connects to the socket.
func (s *sidecar) transport() *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", s.socket())
	}}
}

// start starts the process and waits until it takes part in its elections.
func (s *sidecar) start(ctx context.Context) error {
	args := append([]string{"agent", "-id", s.name, "-listen", "unix://" + s.socket(), "-log-level", "warn"}, s.args...)
	s.cmd = exec.Command(s.bench.elector, args...)
	s.cmd.Env = append(os.Environ(), s.consul.Env(s.consul.ClientAddr(s.agent))...)
	s.cmd.Env = append(s.cmd.Env, s.consul.Mark("elector"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.OpenFile(filepath.Join(s.consul.LogDir(), s.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start elector %s: %w", s.name, err)
	}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := errors.Join(s.cmd.Start(), log.Close()); err != nil {
		return fmt.Errorf("start elector %s: %w", s.name, err)
	}
	s.done = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // killed, or stopped: its log says more
		close(s.done)
	}()
	if err := s.ready(ctx); err != nil {
		return fmt.Errorf("start elector %s: %w", s.name, err)
	}
	streams, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	for _, name := range s.watch {
		opened := make(chan error, 1)
		s.wg.Go(func() { s.follow(streams, name, opened) })
		if err := <-opened; err != nil {
			return fmt.Errorf("start elector %s: %w", s.name, err)
		}
	}
	return nil
}

// ready waits until the elector is well.
func (s *sidecar) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, electorPatience)
	defer cancel()
	return until(ctx, func() error { return s.call(ctx, http.MethodGet, "/v1/health", nil) })
}

// until repeats try until it succeeds.
func until(ctx context.Context, try func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}

// call makes a request; result may be nil.
func (s *sidecar) call(ctx context.Context, method, path string, result any) error {
	ctx, cancel := context.WithTimeout(ctx, electorPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://elector"+path, nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, body)
	}
	if result != nil {
		return json.Unmarshal(body, result)
	}
	return nil
}

// status reads the status of an election.
func (s *sidecar) status(ctx context.Context, name string) (st election.Status, err error) {
	err = s.call(ctx, http.MethodGet, "/v1/elections/"+name, &st)
	return st, err
}

// follow notes in the log when the elector says on its stream that it leads, and
// when that it does no more.
func (s *sidecar) follow(ctx context.Context, name string, opened chan<- error) {
	leads := uint64(0)
	_ = s.events(ctx, "/v1/elections/"+name+"/watch", opened, func(_ string, data []byte) {
		at := election.Now()
		var st election.Status
		if json.Unmarshal(data, &st) != nil {
			return
		}
		r := rig.Record{Process: s.name, Candidate: s.name, Event: journal.Event{At: at, Election: name, Token: st.Token}}
		switch {
		case st.Self && st.Token != leads:
			leads, r.Kind = st.Token, journal.Gained
			s.log.Add(r)
		case !st.Self && leads != 0:
			leads, r.Kind = 0, journal.Lost
			s.log.Add(r)
		}
	})
	// A stream ends with its elector.
	s.log.Add(rig.Record{Process: s.name, Candidate: s.name, Event: journal.Event{Kind: rig.Ended, Election: name, At: election.Now()}})
}

// events reads a stream of events on a connection of its own until it ends.
func (s *sidecar) events(ctx context.Context, path string, opened chan<- error, take func(event string, data []byte)) error {
	t := s.transport()
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://elector"+path, nil)
	if err != nil {
		opened <- err
		return err
	}
	resp, err := t.RoundTrip(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.Join(fmt.Errorf("GET %s: %s", path, resp.Status), resp.Body.Close())
	}
	opened <- err
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // reading has told of any error
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	event := ""
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = v
		}
		if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			take(event, []byte(v))
		}
	}
	return lines.Err()
}

// kill ends the process with SIGKILL and returns when kill(2) had returned.
func (s *sidecar) kill() (time.Duration, error) {
	if err := s.cmd.Process.Kill(); err != nil {
		return 0, fmt.Errorf("kill elector %s: %w", s.name, err)
	}
	at := election.Now()
	<-s.done
	s.closeStreams()
	return at, nil
}

func (s *sidecar) closeStreams() {
	if s.stop != nil {
		s.stop()
	}
	s.wg.Wait()
	s.client.CloseIdleConnections()
}

// end stops the process, if it runs.
func (s *sidecar) end() error {
	if s.cmd == nil {
		return nil
	}
	var err error
	select {
	case <-s.done:
	default:
		err = s.cmd.Process.Signal(syscall.SIGTERM)
		timer := time.NewTimer(15 * time.Second)
		defer timer.Stop()
		select {
		case <-s.done:
		case <-timer.C:
			err = errors.Join(err, fmt.Errorf("elector %s does not end", s.name), s.cmd.Process.Kill())
			<-s.done
		}
	}
	s.closeStreams()
	return err
}

// footprint is what a process uses now.
type footprint struct {
	rss   float64       // MiB
	cpu   time.Duration // since its start
	conns int           // TCP connections to a port
}

// footprint reads /proc.
func (s *sidecar) footprint(port string) (footprint, error) {
	return footprintOf(s.cmd.Process.Pid, port)
}

// footprintOf reads /proc of a process.
func footprintOf(pid int, port string) (f footprint, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return f, fmt.Errorf("read footprint: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(v)[0])
			if err != nil {
				return f, fmt.Errorf("read footprint: %w", err)
			}
			f.rss = float64(kb) / 1024
		}
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return f, fmt.Errorf("read footprint: %w", err)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, i := range []int{11, 12} { // utime, stime
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return f, fmt.Errorf("read footprint: %w", err)
		}
		f.cpu += time.Duration(n) * tick
	}
	f.conns, err = connections(dir, port)
	return f, err
}

// connections counts the TCP connections of a process to a port of loopback.
func connections(dir, port string) (int, error) {
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0, fmt.Errorf("count connections: %w", err)
	}
	table, err := os.ReadFile(filepath.Join(dir, "net", "tcp"))
	if err != nil {
		return 0, fmt.Errorf("count connections: %w", err)
	}
	inodes := map[string]bool{}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		const established = "01"
		if len(f) > 9 && f[3] == established && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", n)) {
			inodes["socket:["+f[9]+"]"] = true
		}
	}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return 0, fmt.Errorf("count connections: %w", err)
	}
	count := 0
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); err == nil && inodes[target] {
			count++
		}
	}
	return count, nil
}
