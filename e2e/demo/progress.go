package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// progress writes whole lines, each with the time since the demo began.
type progress struct {
	begin time.Time

	mu   sync.Mutex
	out  io.Writer
	rest []byte // of a line that is not complete yet
}

func newProgress(out io.Writer) *progress { return &progress{begin: time.Now(), out: out} }

// say writes a line.
func (p *progress) say(format string, args ...any) {
	fmt.Fprintf(p, format+"\n", args...)
}

// Write makes lines out of what the parts of the cluster report.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest = append(p.rest, b...)
	for {
		line, rest, complete := bytes.Cut(p.rest, []byte("\n"))
		if !complete {
			return len(b), nil
		}
		if _, err := fmt.Fprintf(p.out, "%6.1fs  %s\n", time.Since(p.begin).Seconds(), line); err != nil {
			return 0, err
		}
		p.rest = append([]byte(nil), rest...)
	}
}
