package run

import (
	"io"
	"strings"
	"unicode/utf8"
)

// maxReason is how much of a reason the broker keeps, in bytes.
const maxReason = 200

// tail passes on what is written, and remembers the end.
type tail struct {
	to   io.Writer
	last []byte
}

// Write implements io.Writer. What cannot be passed on is nobody's fault.
func (t *tail) Write(b []byte) (int, error) {
	_, _ = t.to.Write(b) // to the worker's own standard error
	const keep = 2 * maxReason
	t.last = append(t.last, b[max(0, len(b)-keep):]...)
	if len(t.last) > keep {
		t.last = append(t.last[:0], t.last[len(t.last)-keep:]...)
	}
	return len(b), nil
}

// reason is a text with the last lines, as many as fit.
func (t *tail) reason(text string) string {
	room := maxReason - len(text) - len(": ")
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(t.last), "?")), "\n")
	out := ""
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if out == "" {
			// Of a long line the beginning is worth more, unless it is lost already.
			out = firstBytes(line, room)
			continue
		}
		if len(line)+len(" | ")+len(out) > room {
			break
		}
		if line != "" {
			out = line + " | " + out
		}
	}
	if out == "" {
		return text
	}
	return text + ": " + out
}

// firstBytes shortens a text to so many bytes, at the beginning of a character.
func firstBytes(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:max(0, most)]
}
