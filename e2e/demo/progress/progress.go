// Package progress writes what a demo does, with times.
package progress

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress writes whole lines, each with the time since the demo began.
type Progress struct {
	begin time.Time

	mu   sync.Mutex
	out  io.Writer
	rest []byte // of a line that is not complete yet
}

// New begins now.
func New(out io.Writer) *Progress { return &Progress{begin: time.Now(), out: out} }

// Say writes a line.
func (p *Progress) Say(format string, args ...any) {
	fmt.Fprintf(p, format+"\n", args...)
}

// Write makes lines out of what the parts of the cluster report.
func (p *Progress) Write(b []byte) (int, error) {
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
