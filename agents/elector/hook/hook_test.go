package hook

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what happens at once unless the code is broken.
const patience = 30 * time.Second

func shell(script string, timeout time.Duration) Command {
	return Command{Args: []string{"/bin/sh", "-c", script}, Timeout: timeout}
}

// logTo makes a logger whose lines are in the buffer once Run has returned.
func logTo() (hclog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return hclog.New(&hclog.LoggerOptions{Output: &b, Level: hclog.Debug}), &b
}

func TestRun(t *testing.T) {
	ev := Event{Kind: Loss, Election: "publisher", Token: 123, Term: 4, Reason: "resigned"}
	cases := map[string]struct {
		command Command
		cancel  bool // ctx has ended before
		logged  []string
		errors  []string // parts of the error; none: success
	}{
		"environment": {
			command: shell(`echo "$ELECTION_EVENT $ELECTION $ELECTION_TOKEN $ELECTION_TERM $ELECTION_REASON"`, 0),
			logged:  []string{`line="loss publisher 123 4 resigned"`, "hook succeeded"},
		},
		"output of both streams, and a line without an end": {
			command: shell(`echo out; echo err >&2; printf end`, 0),
			logged:  []string{"line=out", "line=err", "line=end"},
		},
		"exit code": {
			command: shell(`echo trouble; exit 3`, 0),
			logged:  []string{"line=trouble"},
			errors:  []string{`run loss hook "/bin/sh": exit status 3`},
		},
		"no such program": {
			command: Command{Args: []string{"/no/such/program"}},
			errors:  []string{`run loss hook "/no/such/program"`, "no such file"},
		},
		"no program": {
			errors: []string{"command: the program is missing"},
		},
		"timeout too short": {
			command: shell("true", time.Millisecond),
			errors:  []string{"timeout: 1ms is not between 100ms and 10m0s"},
		},
		"timeout": {
			command: shell(`sleep 600 & sleep 600`, 200*time.Millisecond),
			errors:  []string{"killed: its timeout of 200ms is over"},
		},
		"leadership is over": {
			command: shell(`sleep 600`, 0), cancel: true,
			errors: []string{"killed: context canceled"},
		},
		"somebody else holds the output": {
			command: shell(`setsid sleep 3 & exit 0`, 0),
			logged:  []string{"hook succeeded"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if tc.cancel {
				cancel()
			}
			log, out := logTo()
			err := Run(ctx, log, tc.command, ev)
			if tc.errors == nil {
				must.NoError(t, err)
			}
			for _, part := range tc.errors {
				must.ErrorContains(t, err, part)
			}
			for _, part := range tc.logged {
				must.StrContains(t, out.String(), part)
			}
		})
	}
}

// Nothing that a hook has left in its process group lives on, whether the hook ended
// by itself or not.
func TestRun_Group(t *testing.T) {
	for name, end := range map[string]string{"succeeds": "exit 0", "fails": "exit 1", "hangs": "sleep 600"} {
		t.Run(name, func(t *testing.T) {
			pidFile := filepath.Join(t.TempDir(), "pid")
			log, _ := logTo()
			err := Run(t.Context(), log, shell(`sleep 600 & echo $! >`+pidFile+`; `+end, 500*time.Millisecond), Event{Kind: Gain})
			must.Eq(t, name == "succeeds", err == nil)
			b, err := os.ReadFile(pidFile)
			must.NoError(t, err)
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			must.NoError(t, err)
			gone(t, pid)
		})
	}
}

// gone waits until a process that was killed has ended: init reaps it.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") || strings.Contains(string(stat), ") X ") {
			return
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d lives", pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestOutputBounds(t *testing.T) {
	log, out := logTo()
	l := &lineLog{log: log}
	n, err := l.Write([]byte(strings.Repeat("x", maxLine+10) + "\r\n\nnext\n"))
	must.NoError(t, err)
	must.Eq(t, maxLine+10+len("\r\n\nnext\n"), n)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	must.Len(t, 3, lines)
	must.StrContains(t, lines[1], "line="+strings.Repeat("x", 10))
	must.StrNotContains(t, lines[1], `\r`)
	must.StrContains(t, lines[2], "line=next")

	for range 2 * maxBytes / maxLine {
		_, err := l.Write([]byte(strings.Repeat("y", maxLine-1) + "\n"))
		must.NoError(t, err)
	}
	must.Eq(t, 1, strings.Count(out.String(), "is left out"))
	must.Less(t, 2*maxBytes, out.Len())
}
