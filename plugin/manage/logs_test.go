package manage

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

// logDir makes an allocation's directory with log files.
func logDir(t *testing.T, files map[string]string) (alloc, logs string) {
	t.Helper()
	alloc = t.TempDir()
	logs = filepath.Join(alloc, "alloc", "logs")
	must.NoError(t, os.MkdirAll(logs, 0o755))
	for name, text := range files {
		must.NoError(t, os.WriteFile(filepath.Join(logs, name), []byte(text), 0o644))
	}
	return alloc, logs
}

func TestLogs_Tail(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	for name, c := range map[string]struct {
		files map[string]string
		query string
		code  int
		want  string
	}{
		"all":                    {map[string]string{"app.stdout.0": "a\nb\n"}, "", 200, "a\nb\n"},
		"last line":              {map[string]string{"app.stdout.0": "a\nb\n"}, "?tail=1", 200, "b\n"},
		"none":                   {map[string]string{"app.stdout.0": "a\nb\n"}, "?tail=0", 200, ""},
		"unfinished line":        {map[string]string{"app.stdout.0": "a\nb"}, "?tail=1", 200, "b"},
		"empty lines":            {map[string]string{"app.stdout.0": "a\n\n\n"}, "?tail=2", 200, "\n\n"},
		"empty file":             {map[string]string{"app.stdout.0": ""}, "", 200, ""},
		"several files":          {map[string]string{"app.stdout.0": "a\nb\n", "app.stdout.1": "c\n", "app.stdout.2": "d\n"}, "?tail=3", 200, "b\nc\nd\n"},
		"exactly one file":       {map[string]string{"app.stdout.0": "a\nb\n", "app.stdout.1": "c\nd\n"}, "?tail=2", 200, "c\nd\n"},
		"within the newest file": {map[string]string{"app.stdout.0": "a\n", "app.stdout.1": "b\nc\n"}, "?tail=1", 200, "c\n"},
		"empty newest file":      {map[string]string{"app.stdout.0": "a\nb\n", "app.stdout.1": ""}, "?tail=1", 200, "b\n"},
		"by number, not by name": {map[string]string{"app.stdout.9": "a\n", "app.stdout.10": "b\n"}, "?tail=2", 200, "a\nb\n"},
		"a line over two files":  {map[string]string{"app.stdout.0": "a\nb", "app.stdout.1": "c\n"}, "?tail=1", 200, "bc\n"},
		"long lines":             {map[string]string{"app.stdout.0": "a\n" + long + "\n" + long + "\n"}, "?tail=2", 200, long + "\n" + long + "\n"},
		"others' files": {map[string]string{
			"app.stdout.0": "a\n", "app.stderr.0": "e\n", "app.stdout.x": "x\n", "app.stdout.01": "x\n", "app.stdout.-1": "x\n",
			"app2.stdout.0": "x\n", "app.stdout.fifo": "x\n", "app.stdout.99999999999": "x\n",
		}, "", 200, "a\n"},
		"more than wanted": {map[string]string{"app.stdout.0": strings.Repeat("l\n", 300)}, "", 200, strings.Repeat("l\n", 100)},

		"no files":       {nil, "", 404, `{"error":"read the stdout of task \"app\": there are none; is log collection turned off, or does the driver log elsewhere? file does not exist"}` + "\n"},
		"too many lines": {nil, "?tail=10001", 400, `{"error":"\"10001\" is not a number of lines within 0 and 10000","field":"tail"}` + "\n"},
		"negative":       {nil, "?tail=-1", 400, `{"error":"\"-1\" is not a number of lines within 0 and 10000","field":"tail"}` + "\n"},
		"no boolean":     {nil, "?follow=maybe", 400, `{"error":"\"maybe\" is neither true nor false","field":"follow"}` + "\n"},
		"unknown":        {nil, "?lines=3", 400, `{"error":"unknown parameter; there are tail and follow","field":"lines"}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := logDir(t, c.files)
			cl := serveTasks(t, &Task{App: newApp(allocA, "app"), AllocDir: dir})
			resp, err := cl.Get("http://localhost" + pathA + "/logs/stdout" + c.query)
			must.NoError(t, err)
			defer func() { _ = resp.Body.Close() }()
			text, err := io.ReadAll(resp.Body)
			must.NoError(t, err)
			must.Eq(t, c.want, string(text))
			must.Eq(t, c.code, resp.StatusCode)
		})
	}
}

func TestLogs_Streams(t *testing.T) {
	dir, _ := logDir(t, map[string]string{"app.stdout.0": "out\n", "app.stderr.0": "err\n"})
	c := serveTasks(t, &Task{App: newApp(allocA, "app"), AllocDir: dir}, &Task{App: newApp(allocB, "app")})
	code, body := get(t, c, pathA+"/logs/stderr")
	must.Eq(t, "err", body)
	must.Eq(t, 200, code)
	code, _ = get(t, c, pathA+"/logs/secrets")
	must.Eq(t, 404, code)
	code, body = get(t, c, "/v1/tasks/bbbbbbbb/app/logs/stdout") // no directory is known
	must.Eq(t, `{"error":"read the stdout of task \"app\": no logs are known of: file does not exist"}`, body)
	must.Eq(t, 404, code)
}

// What a task puts among its logs leads to nothing else, and blocks nobody.
func TestLogs_Traps(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	must.NoError(t, os.WriteFile(secret, []byte("s3cret\n"), 0o600))
	for name, put := range map[string]func(t *testing.T, alloc, logs string){
		"a symbolic link": func(t *testing.T, _, logs string) {
			must.NoError(t, os.Symlink(secret, filepath.Join(logs, "app.stdout.1")))
		},
		"a symbolic link within the allocation": func(t *testing.T, _, logs string) {
			must.NoError(t, os.Symlink("app.stdout.0", filepath.Join(logs, "app.stdout.1")))
		},
		"a pipe": func(t *testing.T, _, logs string) {
			must.NoError(t, unix.Mkfifo(filepath.Join(logs, "app.stdout.1"), 0o600))
		},
		"a directory": func(t *testing.T, _, logs string) {
			must.NoError(t, os.Mkdir(filepath.Join(logs, "app.stdout.1"), 0o700))
		},
		"the directory is a symbolic link": func(t *testing.T, alloc, logs string) {
			must.NoError(t, os.RemoveAll(logs))
			must.NoError(t, os.Rename(secret, filepath.Join(filepath.Dir(secret), "app.stdout.0")))
			t.Cleanup(func() { must.NoError(t, os.Rename(filepath.Join(filepath.Dir(secret), "app.stdout.0"), secret)) })
			must.NoError(t, os.Symlink(filepath.Dir(secret), logs))
		},
	} {
		for _, query := range []string{"", "?follow=true"} {
			t.Run(name+query, func(t *testing.T) {
				dir, logs := logDir(t, map[string]string{"app.stdout.0": "a\n"})
				put(t, dir, logs)
				cl := serveTasks(t, &Task{App: newApp(allocA, "app"), AllocDir: dir})
				code, body := get(t, cl, pathA+"/logs/stdout"+query)
				must.Eq(t, 502, code)
				must.StrNotContains(t, body, "s3cret")
			})
		}
	}
}

// Every line comes once and in order, however often Nomad goes on to the next
// file, and the stream ends with the task.
func TestLogs_Follow(t *testing.T) {
	dir, logs := logDir(t, map[string]string{"app.stdout.0": "before\nlast\n"})
	app := newApp(allocA, "app")
	c := serveTasks(t, &Task{App: app, AllocDir: dir})
	resp, err := c.Get("http://localhost" + pathA + "/logs/stdout?follow=true&tail=1")
	must.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	must.Eq(t, 200, resp.StatusCode)
	lines := bufio.NewScanner(resp.Body)
	next := func(want string) {
		t.Helper()
		must.True(t, lines.Scan())
		must.Eq(t, want, lines.Text())
	}
	add := func(number int, text string) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(logs, fmt.Sprintf("app.stdout.%d", number)), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		must.NoError(t, err)
		_, err = f.WriteString(text)
		must.NoError(t, err)
		must.NoError(t, f.Close())
	}
	next("last")
	add(0, "zero\nhal")
	next("zero")
	add(0, "f\n")
	next("half")
	add(0, "end of 0\n") // and on, before anybody has read it
	add(1, "one\n")
	next("end of 0")
	next("one")
	add(1, "more\n")
	add(3, "three\n") // Nomad leaves out numbers that are taken
	add(4, "four\n")
	next("more")
	next("three")
	next("four")
	must.NoError(t, os.Remove(filepath.Join(logs, "app.stdout.4"))) // purged while it is read
	add(5, "five\n")
	next("five")
	must.NoError(t, os.Truncate(filepath.Join(logs, "app.stdout.5"), 0)) // the task can do that
	add(6, "six\n")
	next("six")
	add(6, "bye\n")
	must.True(t, app.machine.To(lifecycle.Destroyed, nil))
	next("bye")
	must.False(t, lines.Scan())
	must.NoError(t, lines.Err())
}

// Lines that a real rotation splits over many files arrive whole.
func TestLogs_FollowMany(t *testing.T) {
	dir, logs := logDir(t, map[string]string{"app.stdout.0": ""})
	app := newApp(allocA, "app")
	c := serveTasks(t, &Task{App: app, AllocDir: dir})
	resp, err := c.Get("http://localhost" + pathA + "/logs/stdout?follow=true")
	must.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	const count = 5000
	go func() {
		var f *os.File
		for i := range count {
			if i%100 == 0 {
				_ = f.Close()
				f, _ = os.OpenFile(filepath.Join(logs, fmt.Sprintf("app.stdout.%d", i/100)), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
			}
			_, _ = fmt.Fprintf(f, "line %d\n", i)
		}
		_ = f.Close()
		app.machine.To(lifecycle.Destroyed, nil)
	}()
	lines := bufio.NewScanner(resp.Body)
	for i := range count {
		must.True(t, lines.Scan())
		must.Eq(t, fmt.Sprintf("line %d", i), lines.Text())
	}
	must.False(t, lines.Scan())
	must.NoError(t, lines.Err())
}

// A reader that leaves ends the following.
func TestLogs_FollowerLeaves(t *testing.T) {
	dir, _ := logDir(t, map[string]string{"app.stdout.0": "a\n"})
	c := serveTasks(t, &Task{App: newApp(allocA, "app"), AllocDir: dir})
	for range 2 * maxStreams { // each would keep one of the places
		eventually(t, func() error {
			resp, err := c.Get("http://localhost" + pathA + "/logs/stdout?follow")
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("status %d", resp.StatusCode)
			}
			return nil
		})
	}
}

// The search for the tail ends in a log without line ends.
func TestTailSearch_Budget(t *testing.T) {
	dir, _ := logDir(t, map[string]string{"app.stdout.0": strings.Repeat("x", 3<<20), "app.stdout.1": strings.Repeat("y", maxTailSize-1<<20)})
	l, err := openLog(dir, "app.stdout.")
	must.NoError(t, err)
	defer l.close()
	at, err := l.tail(10)
	must.NoError(t, err)
	must.Eq(t, position{0, 2 << 20}, at)
}
