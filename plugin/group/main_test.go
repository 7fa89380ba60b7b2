package group

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

// patience is how long a test waits for something that happens at once unless
// the code is broken. No test measures it.
const patience = 30 * time.Second

// The test binary is also the other plugin processes, see process_test.go.
func TestMain(m *testing.M) {
	if mode := os.Getenv(modeKey); mode != "" {
		if err := otherProcess(mode, os.Args[1:], bufio.NewScanner(os.Stdin)); err != nil {
			fmt.Fprintln(os.Stderr, mode+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// join makes a member with a null logger and the clock that is there, which is
// the bubble's in a bubble of synctest.
func join(t *testing.T, dir string, m Member) *Group {
	t.Helper()
	if m.State == "" {
		m.State = Starting
	}
	g, err := Join(dir, m, time.Now, hclog.NewNullLogger())
	must.NoError(t, err)
	return g
}

func tryJoin(dir string, m Member) (*Group, error) {
	m.State = Starting
	return Join(dir, m, time.Now, hclog.NewNullLogger())
}

func hooks(events ...Event) map[Event]json.RawMessage {
	h := make(map[Event]json.RawMessage)
	for _, e := range events {
		h[e] = json.RawMessage(`{"sleep":"1s"}`)
	}
	return h
}

// listener keeps what is logged.
type listener struct {
	mu   sync.Mutex // guards text
	text []byte
}

func (l *listener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

func (l *listener) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

func (l *listener) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: l, Level: hclog.Debug})
}
