package rig

import (
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/history"
)

// Log has what all workers have written down.
type Log struct {
	mu      sync.Mutex
	records []history.Record
}

func (l *Log) add(process string, line []byte) {
	var e history.Event
	if json.Unmarshal(line, &e) != nil {
		return // the last line of a worker that was killed; what it tells of was not begun
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, history.Record{Process: process, Event: e})
}

// All returns what was written down.
func (l *Log) All() []history.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]history.Record(nil), l.records...)
}

// WorkerConfig says how a worker is run.
type WorkerConfig struct {
	Consul  *cluster.Consul
	Log     *Log
	Binary  string
	Name    string
	Queue   string
	Brokers []string
	Out     string
	Max     int
	Pace    time.Duration
}

// Worker is a worker in a process.
type Worker struct{ process }

// NewWorker makes a worker. It is not started.
func NewWorker(cfg WorkerConfig) *Worker {
	return &Worker{process{name: cfg.Name, logDir: cfg.Consul.LogDir(), line: cfg.Log.add, start: func() *exec.Cmd {
		cmd := exec.Command(cfg.Binary, "-brokers", strings.Join(cfg.Brokers, ","), "-queue", cfg.Queue, "-name", cfg.Name,
			"-out", cfg.Out, "-max", strconv.Itoa(cfg.Max), "-pace", cfg.Pace.String())
		cmd.Env = append(os.Environ(), cfg.Consul.Mark("worker"))
		return cmd
	}}}
}

// NewProgram makes a worker of any program, which is asked to end by SIGTERM. It is not
// started.
func NewProgram(c *cluster.Consul, name string, command func() *exec.Cmd) *Worker {
	return &Worker{process{name: name, logDir: c.LogDir(), start: func() *exec.Cmd {
		cmd := command()
		cmd.Env = append(cmd.Environ(), c.Mark("worker"))
		return cmd
	}}}
}
