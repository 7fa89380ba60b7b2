package hook

import (
	"bytes"

	"github.com/hashicorp/go-hclog"
)

// Bounds of what is logged of one command.
const (
	maxLine  = 4 << 10
	maxBytes = 256 << 10
)

// lineLog writes what it is given to a log, line by line. It is for one goroutine at
// a time.
type lineLog struct {
	log     hclog.Logger
	partial []byte // the last line so far; len(partial) < maxLine
	seen    int    // bytes logged
}

// Write never fails: a command must not be stopped by the state of the log.
func (l *lineLog) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, found := bytes.Cut(p, []byte{'\n'})
		if room := maxLine - len(l.partial); len(line) > room {
			line, rest, found = p[:room], p[room:], true // a long line becomes several
		}
		l.partial = append(l.partial, line...)
		if p = rest; found {
			l.flush()
		}
	}
	return n, nil
}

// flush logs what has been written of a line.
func (l *lineLog) flush() {
	line := string(bytes.TrimRight(l.partial, "\r"))
	l.partial = l.partial[:0]
	if line == "" || l.seen > maxBytes {
		return
	}
	if l.seen += len(line); l.seen > maxBytes {
		l.log.Warn("the rest of the hook's output is left out", "limit_bytes", maxBytes)
		return
	}
	l.log.Info("hook output", "line", line)
}
