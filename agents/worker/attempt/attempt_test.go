package attempt

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/queue"
)

func TestExpand(t *testing.T) {
	vars := map[string]string{"WQ_INPUT": "/in", "WQ_ATTR_A": "$WQ_INPUT"}
	for arg, want := range map[string]string{
		"":                    "",
		"$WQ_INPUT":           "/in",
		"${WQ_INPUT}x":        "/inx",
		"--in=$WQ_INPUT.gz":   "--in=/in.gz",
		"$HOME $WQ_NONE $":    "$HOME $WQ_NONE $",
		"$WQ_ATTR_A":          "$WQ_INPUT", // values are not looked into
		"$$WQ_INPUT${WQ_INPU": "$/in${WQ_INPU",
	} {
		must.Eq(t, want, Expand(arg, vars))
	}
}

func TestProgress(t *testing.T) {
	for text, want := range map[string]float64{"0.5": 0.5, "0.1\n0.7\n": 0.7, "": -1, "x": -1, "2": -1, "NaN": -1, strings.Repeat("0.1\n", 99) + "1": 1} {
		got, ok := parseProgress([]byte(text[max(0, len(text)-maxProgress):]))
		if !ok {
			got = -1
		}
		must.Eq(t, want, got)
	}
	// What would block is not waited for.
	fifo := filepath.Join(t.TempDir(), "fifo")
	must.NoError(t, syscall.Mkfifo(fifo, 0o600))
	_, ok := (&Attempt{Progress: fifo}).ReadProgress()
	must.False(t, ok)
	_, _, err := ReadEmit(fifo)
	must.ErrorContains(t, err, "no regular file")
}

func TestEmit(t *testing.T) {
	for name, c := range map[string]struct {
		text, err string
		n         int
	}{
		"empty":           {"", "", 0},
		"two":             {"{\"input\":\"a\"}\n\n{\"input\":\"b\"}", "", 2},
		"bad line":        {"{}\n{", "line 2 of $WQ_EMIT", 0},
		"unknown field":   {`{"inptu":"a"}`, "unknown field", 0},
		"too many":        {strings.Repeat("{}\n", queue.MaxEmit+1), "line 257 of $WQ_EMIT: more than 256 items", 0},
		"too long":        {strings.Repeat("\n", queue.MaxEmitBytes) + "{}", "bytes in all", 0},
		"too long, whole": {strings.Repeat(" ", queue.MaxEmitBytes) + "\n{}", "bytes in all", 0},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "emit")
			must.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			items, given, err := ReadEmit(path)
			must.True(t, given)
			if c.err != "" {
				must.ErrorContains(t, err, c.err)
				return
			}
			must.NoError(t, err)
			must.Len(t, c.n, items)
		})
	}
}

func FuzzEmit(f *testing.F) {
	f.Add([]byte("{\"input\":\"a\"}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := parseEmit(b)
		must.True(t, err != nil || len(items) <= queue.MaxEmit)
	})
}

func FuzzProgress(f *testing.F) {
	f.Add([]byte("0.5"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseProgress(b)
		must.True(t, !ok || p >= 0 && p <= 1)
	})
}
