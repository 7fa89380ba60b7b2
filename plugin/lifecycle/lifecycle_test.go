package lifecycle

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

var rewrite = flag.Bool("rewrite", false, "write the golden traces anew")

// TestMachine_Traces plays each testdata/*.txt: a line is a step and, after
// "#", what came of it. A step is a state to change to, "announce REASON", or
// "wait DURATION"; a reason may follow a state.
func TestMachine_Traces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	must.NoError(t, err)
	must.Positive(t, len(files))
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			golden, err := os.ReadFile(file)
			must.NoError(t, err)
			got := play(t, string(golden))
			if *rewrite {
				must.NoError(t, os.WriteFile(file, []byte(got), 0o644))
				return
			}
			must.Eq(t, string(golden), got)
		})
	}
}

func play(t *testing.T, trace string) string {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	var seen *Transition
	var m *Machine
	for line := range strings.Lines(trace) {
		step, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "#")
		step = strings.TrimSpace(step)
		if step == "" {
			fmt.Fprint(&out, line)
			continue
		}
		words := strings.Fields(step)
		var result string
		switch words[0] {
		case "new":
			var s State
			must.NoError(t, s.UnmarshalText([]byte(words[1])))
			m = New(s, func() time.Time { return now }, func(tr Transition) { seen = &tr })
			result = "ok"
		case "wait":
			d, err := time.ParseDuration(words[1])
			must.NoError(t, err)
			now = now.Add(d)
			result = "ok"
		case "announce":
			result = fmt.Sprint(m.Announce(Stop{Reason: words[1]}))
		default:
			var s State
			must.NoError(t, s.UnmarshalText([]byte(words[0])))
			var stop *Stop
			if len(words) > 1 {
				stop = &Stop{Reason: words[1]}
			}
			seen = nil
			result = "refused"
			if m.To(s, stop) {
				result = fmt.Sprintf("%s -> %s after %s", seen.From, seen.To, seen.Spent)
			}
			must.Eq(t, result != "refused", seen != nil)
		}
		st, _ := m.Status()
		if st.Soon() {
			result += ", soon"
		}
		if st.Stop != nil {
			result += ", " + st.Stop.Reason
		}
		fmt.Fprintf(&out, "%-20s # %s\n", step, result)
	}
	return out.String()
}

// A machine never goes back, whatever is asked of it.
func TestMachine_OnlyForward(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := New(Created, time.Now, nil)
		for _, s := range rapid.SliceOf(rapid.IntRange(-1, len(names))).Draw(r, "steps") {
			before := m.State()
			changed := m.To(State(s), nil)
			if changed && (m.State() <= before || m.State() != State(s)) {
				r.Fatalf("asked for %s, went from %s to %s", State(s), before, m.State())
			}
			if !changed && m.State() != before {
				r.Fatalf("refused, but changed from %s to %s", before, m.State())
			}
		}
	})
}

// Of many who ask for the same change at once, one gets it, and the observer
// hears of it once.
func TestMachine_OneWinner(t *testing.T) {
	var mu sync.Mutex
	told := 0
	m := New(Running, time.Now, func(Transition) {
		mu.Lock()
		defer mu.Unlock()
		told++
	})
	var wg sync.WaitGroup
	wins := 0
	for range 32 {
		wg.Go(func() {
			if m.To(Stopping, nil) {
				mu.Lock()
				wins++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	must.Eq(t, 1, wins)
	must.Eq(t, 1, told)
}

// Changes are told in order, also when they come from many goroutines.
func TestMachine_ToldInOrder(t *testing.T) {
	var told []State
	m := New(Created, time.Now, func(tr Transition) { told = append(told, tr.To) })
	var wg sync.WaitGroup
	for _, s := range States() {
		wg.Go(func() { m.To(s, nil) })
	}
	wg.Wait()
	for i := 1; i < len(told); i++ {
		must.Greater(t, told[i-1], told[i])
	}
	must.Eq(t, m.State(), told[len(told)-1])
}

// A watcher sees the last status, however many it has missed.
func TestMachine_Status(t *testing.T) {
	m := New(Running, time.Now, nil)
	st, changed := m.Status()
	must.Eq(t, Running, st.State)
	must.True(t, m.Announce(Stop{Reason: "drained"}))
	<-changed
	st, changed = m.Status()
	must.True(t, st.Soon())
	must.Eq(t, "drained", st.Stop.Reason)
	must.False(t, m.Announce(Stop{Reason: "drained"}))

	reason := &Stop{Reason: "preempted", Deadline: time.Now().Add(time.Second)}
	must.True(t, m.To(Stopping, reason))
	reason.Reason = "changed by the caller"
	<-changed
	st, _ = m.Status()
	must.False(t, st.Soon())
	must.Eq(t, "preempted", st.Stop.Reason)
	must.False(t, m.Announce(Stop{Reason: "stopped"}))
}

func TestState_Text(t *testing.T) {
	must.Eq(t, "stopping", Stopping.String())
	must.Eq(t, "state(42)", State(42).String())
	for _, s := range States() {
		text, err := json.Marshal(s)
		must.NoError(t, err)
		var back State
		must.NoError(t, json.Unmarshal(text, &back))
		must.Eq(t, s, back)
	}
	var s State
	must.ErrorContains(t, s.UnmarshalText([]byte("asleep")), `"asleep"`)
}
