package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/proxy"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// closePatience bounds the end of a candidate that was asked to close.
const closePatience = 15 * time.Second

// Election is one election of a run.
type Election struct {
	Name string
	Mode election.Mode
}

// CandidateConfig says how a candidate is run.
type CandidateConfig struct {
	Consul    *cluster.Consul
	Log       *Log
	Binary    string // see Build
	ID        string
	Prefix    string // default "election"
	Elections []Election
	// Agent is the Consul agent's address, host:port or with a scheme.
	Agent string
	Env   []string // on top of what finds Consul, for example a token
	// Zero: the defaults of package election.
	TTL, SessionTTL, Grace time.Duration
	// Register is where fenced writes go besides Consul; empty: nowhere. Every is
	// the time between two of them; zero: none at all.
	Register string
	Every    time.Duration
}

// Candidate is a candidate with a proxy between it and its Consul agent. Kill
// and Start may be repeated; other methods need it to run.
type Candidate struct {
	cfg   CandidateConfig
	proxy *proxy.Proxy

	mu    sync.Mutex
	now   *run
	spans []processSpans // of all runs
}

// run is one process.
type run struct {
	process string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	done    chan struct{} // closed when the process is gone and its events are in the log
	err     error         // of the process, valid after done
}

// processSpans is where the spans of a process are.
type processSpans struct{ process, path string }

// Build compiles the candidate into a directory and returns the program.
func Build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "candidate")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/nomad-patterns/nomad-patterns/e2e/election/candidate")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build candidate: %w: %s", err, out)
	}
	return path, nil
}

// NewCandidate starts the proxy of a candidate, not the candidate.
func NewCandidate(cfg CandidateConfig) (*Candidate, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = "election"
	}
	p, err := proxy.Start(strings.TrimPrefix(cfg.Agent, "http://"))
	if err != nil {
		return nil, fmt.Errorf("candidate %s: %w", cfg.ID, err)
	}
	return &Candidate{cfg: cfg, proxy: p}, nil
}

// ID of the candidate.
func (c *Candidate) ID() string { return c.cfg.ID }

// Proxy between the candidate and its Consul agent.
func (c *Candidate) Proxy() *proxy.Proxy { return c.proxy }

// PID of the process, 0 while none runs.
func (c *Candidate) PID() int {
	if r := c.running(); r != nil {
		return r.cmd.Process.Pid
	}
	return 0
}

// running is the present process, or nil.
func (c *Candidate) running() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		return nil
	}
	select {
	case <-c.now.done:
		return nil
	default:
		return c.now
	}
}

// Start starts the process and waits until it takes commands.
func (c *Candidate) Start(ctx context.Context) error {
	from := c.cfg.Log.Len()
	r, err := c.spawn()
	if err != nil {
		return fmt.Errorf("start candidate %s: %w", c.cfg.ID, err)
	}
	e, err := c.cfg.Log.Await(ctx, from, r.process, func(e Record) bool {
		return e.Process == r.process && (e.Kind == journal.Ready || e.Kind == Ended)
	})
	if err == nil && e.Kind == Ended {
		err = errors.New(e.Error)
	}
	if err != nil {
		return fmt.Errorf("start candidate %s: %w", c.cfg.ID, err)
	}
	return nil
}

// spawn starts the process.
func (c *Candidate) spawn() (*run, error) {
	if c.running() != nil {
		return nil, errors.New("it runs already")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	log, err := os.CreateTemp(c.cfg.Consul.LogDir(), "candidate-"+c.cfg.Prefix+"-"+c.cfg.ID+"-*.log")
	if err != nil {
		return nil, err
	}
	var elections []string
	for _, e := range c.cfg.Elections {
		elections = append(elections, e.Name+"="+string(e.Mode))
	}
	spans := strings.TrimSuffix(log.Name(), ".log") + ".spans"
	cmd := exec.Command(c.cfg.Binary, "-id", c.cfg.ID, "-prefix", c.cfg.Prefix, "-elections", strings.Join(elections, ","),
		"-ttl", c.cfg.TTL.String(), "-session-ttl", c.cfg.SessionTTL.String(), "-grace", c.cfg.Grace.String(),
		"-spans", spans, "-register", c.cfg.Register, "-every", c.cfg.Every.String())
	cmd.Env = append(os.Environ(), c.cfg.Consul.Env("http://"+c.proxy.Addr())...)
	cmd.Env = append(append(cmd.Env, c.cfg.Consul.Mark("candidate")), c.cfg.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the test
	cmd.Stderr = log
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err = errors.Join(err1, err2); err == nil {
		err = cmd.Start()
	}
	if err = errors.Join(err, log.Close()); err != nil {
		return nil, err
	}
	r := &run{process: fmt.Sprintf("%s#%d", c.cfg.ID, cmd.Process.Pid), cmd: cmd, stdin: stdin, done: make(chan struct{})}
	c.now = r
	c.spans = append(c.spans, processSpans{process: r.process, path: spans})
	go c.follow(r, stdout)
	return r, nil
}

// follow puts the events of a process into the log until it is gone.
func (c *Candidate) follow(r *run, stdout io.Reader) {
	defer close(r.done)
	lines := bufio.NewScanner(stdout)
	var bad error
	for lines.Scan() {
		var e journal.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			bad = errors.Join(bad, fmt.Errorf("line %q: %w", lines.Text(), err))
			continue
		}
		c.cfg.Log.Add(Record{Process: r.process, Candidate: c.cfg.ID, Event: e})
	}
	r.err = errors.Join(bad, lines.Err(), r.cmd.Wait())
	e := journal.Event{Kind: Ended, At: election.Now()}
	if r.err != nil {
		e.Error = r.err.Error()
	}
	c.cfg.Log.Add(Record{Process: r.process, Candidate: c.cfg.ID, Event: e})
}

// Kill ends the process with SIGKILL and returns when the signal was sent: at
// that time on the clock of election.Now. Wait waits for its end.
func (c *Candidate) Kill() (time.Duration, error) {
	r := c.running()
	if r == nil {
		return 0, fmt.Errorf("kill candidate %s: it does not run", c.cfg.ID)
	}
	if err := r.cmd.Process.Kill(); err != nil {
		return 0, fmt.Errorf("kill candidate %s: %w", c.cfg.ID, err)
	}
	return election.Now(), nil
}

// Wait waits until the process is gone and all its events are in the log, and
// returns its error, which there is after Kill.
func (c *Candidate) Wait(ctx context.Context) error {
	c.mu.Lock()
	r := c.now
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s: %w", r.process, ctx.Err())
	}
}

// Pause stops the process with SIGSTOP.
func (c *Candidate) Pause() error { return c.signal(syscall.SIGSTOP) }

// Resume lets a stopped process go on.
func (c *Candidate) Resume() error { return c.signal(syscall.SIGCONT) }

// signal sends a signal to the process. One that is gone is no error.
func (c *Candidate) signal(s syscall.Signal) error {
	r := c.running()
	if r == nil {
		return nil
	}
	if err := r.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to candidate %s: %w", s, c.cfg.ID, err)
	}
	return nil
}

// Send sends a command and returns the time at which it was sent.
func (c *Candidate) Send(command string) (time.Duration, error) {
	r := c.running()
	if r == nil {
		return 0, fmt.Errorf("send %q to candidate %s: it does not run", command, c.cfg.ID)
	}
	at := election.Now()
	if _, err := io.WriteString(r.stdin, command+"\n"); err != nil {
		return 0, fmt.Errorf("send %q to candidate %s: %w", command, c.cfg.ID, err)
	}
	return at, nil
}

// Do sends a command and waits for its outcome.
func (c *Candidate) Do(ctx context.Context, command string) error {
	_, err := c.ask(ctx, command)
	return err
}

// Status asks the candidate for the status of an election.
func (c *Candidate) Status(ctx context.Context, name string) (election.Status, error) {
	var s election.Status
	text, err := c.ask(ctx, "status "+name)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("candidate %s: status: %w", c.cfg.ID, err)
	}
	return s, nil
}

// ask sends a command and waits for the answer.
func (c *Candidate) ask(ctx context.Context, command string) (string, error) {
	from := c.cfg.Log.Len()
	if _, err := c.Send(command); err != nil {
		return "", err
	}
	e, err := c.cfg.Log.Await(ctx, from, command+" of "+c.cfg.ID, func(r Record) bool {
		return r.Candidate == c.cfg.ID && (r.Kind == journal.Did && r.Command == command || r.Kind == Ended)
	})
	if err == nil && (e.Error != "" || e.Kind == Ended) {
		err = fmt.Errorf("%s %s", e.Kind, e.Error)
	}
	if err != nil {
		return "", fmt.Errorf("candidate %s: %s: %w", c.cfg.ID, command, err)
	}
	return e.Value, nil
}

// Close ends the process, by itself if it can, and the proxy.
func (c *Candidate) Close() error {
	var err error
	if r := c.running(); r != nil {
		c.proxy.Pass()
		err = errors.Join(c.signal(syscall.SIGCONT), r.stdin.Close())
		timer := time.NewTimer(closePatience)
		defer timer.Stop()
		select {
		case <-r.done:
			if r.err != nil {
				err = errors.Join(err, fmt.Errorf("candidate %s: %w", r.process, r.err))
			}
		case <-timer.C:
			err = errors.Join(err, fmt.Errorf("candidate %s does not end", r.process), r.cmd.Process.Kill())
			<-r.done
		}
	}
	return errors.Join(err, c.proxy.Close())
}

// Spans are the spans of trust of all processes that the candidate has been.
func (c *Candidate) Spans() ([]Span, error) {
	c.mu.Lock()
	files := c.spans
	c.mu.Unlock()
	var all []Span
	for _, f := range files {
		list, err := journal.ReadSpans(f.path)
		if errors.Is(err, os.ErrNotExist) {
			continue // ended before it made one
		}
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			all = append(all, Span{
				Process: f.process, Election: c.cfg.Elections[s.Election], Token: s.Token, First: s.First, Last: s.Last,
			})
		}
	}
	return all, nil
}
