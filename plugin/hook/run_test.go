package hook

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

func dialer() Target { return Target{Dial: &Dialer{}} }

func TestRun_TriesAndOutcome(t *testing.T) {
	cases := map[string]struct {
		kind    Kind
		retries int
		codes   []int
		tries   int
		detail  string
		err     string
	}{
		"success at once":                {Prestop, 3, []int{204}, 1, "204", ""},
		"no retries unless asked for":    {Prestop, 0, []int{500, 200}, 1, "", "status 500"},
		"success at the third try":       {Prestop, 5, []int{500, 503, 200}, 3, "200", ""},
		"retries used up":                {Poststart, 2, []int{500, 500, 418, 200}, 3, "", "status 418"},
		"ready polls without a count":    {Ready, 0, []int{503, 503, 503, 503, 503, 200}, 6, "200", ""},
		"poststart retries like prestop": {Poststart, 1, []int{404, 202}, 2, "202", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := &recorder{codes: tc.codes}
			s := web(func(c *HTTPSpec) { c.URL = serve(t, r).URL })
			s.Retries, s.Interval, s.Timeout = tc.retries, "10ms", "20s"
			h := mustNew(t, tc.kind, s)
			o := run(t, t.Context(), h, Event{}, dialer())
			must.Eq(t, tc.tries, o.Tries)
			must.Len(t, tc.tries, r.requests())
			must.Eq(t, tc.detail, o.Detail)
			must.Positive(t, o.Duration)
			must.True(t, o.Hook == h)
			if tc.err == "" {
				must.NoError(t, o.Err)
			} else {
				must.ErrorContains(t, o.Err, tc.err)
			}
		})
	}
}

// What each try is told: the kind, its number, and when the hook will be cut.
func TestRun_Event(t *testing.T) {
	var seen []Event
	exec := func(ctx context.Context, _ []string, ev Event) (int, string, error) {
		seen = append(seen, ev)
		return 3 - len(seen), "", nil
	}
	h := mustNew(t, Prestop, Spec{Exec: &ExecSpec{[]string{"save"}}, Retries: 4, Interval: "10ms", Timeout: "20s"})
	before := time.Now()
	o := run(t, t.Context(), h, Event{Job: "shop", Task: "web", AllocID: "a1"}, Target{Exec: exec})
	must.NoError(t, o.Err)
	must.Eq(t, "exit 0", o.Detail)
	must.Len(t, 3, seen)
	for i, ev := range seen {
		must.Eq(t, Prestop, ev.Event)
		must.Eq(t, i+1, ev.Attempt)
		must.Eq(t, "shop", ev.Job)
		must.False(t, ev.Deadline.Before(before.Add(20*time.Second)))
		must.Eq(t, seen[0].Deadline, ev.Deadline)
	}
}

func TestRun_Sleep(t *testing.T) {
	h := mustNew(t, Prestop, Spec{Sleep: "20ms"})
	o := run(t, t.Context(), h, Event{}, Target{})
	must.NoError(t, o.Err)
	must.Eq(t, "20ms", o.Detail)
	must.GreaterEq(t, 20*time.Millisecond, o.Duration)
}

func TestRun_Exec(t *testing.T) {
	cases := map[string]struct {
		code   int
		output string
		err    error
		want   string
	}{
		"exit code":            {3, "", nil, `"save" ended with exit code 3`},
		"output of a failure":  {1, "disk\nfull\x00\n", nil, `"save" ended with exit code 1: disk full`},
		"long output, its end": {1, longText() + "the end", nil, "the end"},
		"no way to run it":     {0, "", errors.New("no such file"), `run "save": no such file`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			exec := func(_ context.Context, command []string, _ Event) (int, string, error) {
				must.Eq(t, []string{"save", "-all"}, command)
				return tc.code, tc.output, tc.err
			}
			h := mustNew(t, Prestop, Spec{Exec: &ExecSpec{[]string{"save", "-all"}}})
			o := run(t, t.Context(), h, Event{}, Target{Exec: exec})
			must.ErrorContains(t, o.Err, tc.want)
			must.Less(t, 400, len(o.Err.Error()))
		})
	}
}

func longText() string {
	b := make([]byte, 10_000)
	for i := range b {
		b[i] = 'x'
	}
	return string(b)
}

// A hook that hangs returns by its own timeout: the server answers nobody who
// waits.
func TestRun_HangIsCut(t *testing.T) {
	cases := map[string]struct {
		kind              Kind
		timeout, interval string
		retries           int
		want              string
	}{
		"one try":      {Prestop, "200ms", "10ms", 0, "cut at its timeout of 200ms"},
		"with retries": {Prestop, "200ms", "10ms", 1, "cut at its timeout of 200ms"},
		"ready":        {Ready, "200ms", "10ms", 0, "cut at its timeout of 200ms"},
		// The pause after the first try is longer than what is left.
		"ready, between polls": {Ready, "1500ms", "1s", 0, "cut at its timeout of 1.5s; last try: no answer within 1s"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := web(func(c *HTTPSpec) { c.URL = serve(t, hang()).URL })
			s.Timeout, s.Interval, s.Retries = tc.timeout, tc.interval, tc.retries
			o := run(t, t.Context(), mustNew(t, tc.kind, s), Event{}, dialer())
			must.Eq(t, tc.want, o.Err.Error())
		})
	}
}

// A try that hangs gives way to the next one: the first request is never
// answered, the second at once.
func TestRun_HangLeavesTimeForTheNextTry(t *testing.T) {
	cases := map[string]struct {
		kind    Kind
		timeout string
		retries int
	}{
		"ready polls":  {Ready, "60s", 0},
		"retries have": {Prestop, "2s", 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var count atomic.Int32
			s := web(func(c *HTTPSpec) {
				c.URL = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if count.Add(1) == 1 {
						hang().ServeHTTP(w, r)
					}
				})).URL
			})
			s.Timeout, s.Interval, s.Retries = tc.timeout, "10ms", tc.retries
			o := run(t, t.Context(), mustNew(t, tc.kind, s), Event{}, dialer())
			must.NoError(t, o.Err)
			must.Eq(t, 2, o.Tries)
		})
	}
}

// The process's end ends whatever hook waits for it.
func TestRun_Gone(t *testing.T) {
	refused := web(func(c *HTTPSpec) { c.URL = serve(t, &recorder{codes: []int{503}}).URL })
	refused.Timeout, refused.Interval = "1h", "1h"
	hanging := web(func(c *HTTPSpec) { c.URL = serve(t, hang()).URL })
	hanging.Timeout = "1h"
	cases := map[string]Spec{
		"during a request":  hanging,
		"between two tries": refused,
		"during a sleep":    {Sleep: "1h"},
		"during a command":  {Exec: &ExecSpec{[]string{"a"}}, Timeout: "1h"},
	}
	for name, spec := range cases {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			target := Target{Dial: &Dialer{}, Gone: gone, Exec: func(ctx context.Context, _ []string, _ Event) (int, string, error) {
				<-ctx.Done()
				return 0, "", context.Cause(ctx)
			}}
			timer := time.AfterFunc(50*time.Millisecond, func() { close(gone) })
			defer timer.Stop()
			o := run(t, t.Context(), mustNew(t, Ready, spec), Event{}, target)
			must.ErrorIs(t, o.Err, ErrGone)
		})
	}
}

// The last try's error is kept beside the reason for giving up.
func TestRun_GoneKeepsLastError(t *testing.T) {
	gone := make(chan struct{})
	var once atomic.Bool
	s := web(func(c *HTTPSpec) {
		c.URL = serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			if once.CompareAndSwap(false, true) {
				time.AfterFunc(50*time.Millisecond, func() { close(gone) })
			}
		})).URL
	})
	s.Timeout, s.Interval = "1h", "1h"
	o := run(t, t.Context(), mustNew(t, Ready, s), Event{}, Target{Dial: &Dialer{}, Gone: gone})
	must.ErrorIs(t, o.Err, ErrGone)
	must.ErrorContains(t, o.Err, "last try: GET ")
	must.ErrorContains(t, o.Err, "status 418")
}

// The caller's limit ends a hook with the caller's words.
func TestRun_ParentDeadline(t *testing.T) {
	cause := errors.New("cut by the task's kill_timeout of 50ms")
	for name, spec := range map[string]Spec{
		"sleep": {Sleep: "1h"},
		"http":  with(web(func(c *HTTPSpec) { c.URL = serve(t, hang()).URL }), func(s *Spec) { s.Timeout = "1h" }),
	} {
		t.Run(name, func(t *testing.T) {
			deadline := time.Now().Add(50 * time.Millisecond)
			ctx, cancel := context.WithDeadlineCause(t.Context(), deadline, cause)
			defer cancel()
			o := run(t, ctx, mustNew(t, Prestop, spec), Event{}, dialer())
			must.ErrorIs(t, o.Err, cause)
			must.Eq(t, cause.Error(), o.Err.Error())
		})
	}
}

// An event's deadline is the earlier one of the hook's and the caller's.
func TestRun_DeadlineIsTheEarlierOne(t *testing.T) {
	deadline := time.Now().Add(time.Minute)
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()
	var got time.Time
	exec := func(_ context.Context, _ []string, ev Event) (int, string, error) {
		got = ev.Deadline
		return 0, "", nil
	}
	h := mustNew(t, Prestop, Spec{Exec: &ExecSpec{[]string{"a"}}, Timeout: "1h"})
	must.NoError(t, run(t, ctx, h, Event{}, Target{Exec: exec}).Err)
	must.True(t, got.Equal(deadline))
}

func TestRun_Cancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := run(t, ctx, mustNew(t, Prestop, Spec{Sleep: "1h"}), Event{}, Target{})
	must.ErrorIs(t, o.Err, context.Canceled)
}

// A sleep is longer than a try of a poll may take.
func TestRun_ReadySleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := New(Ready, 0, Spec{Sleep: "5s"})
		must.NoError(t, err)
		o := Run(t.Context(), h, Event{}, Target{})
		must.NoError(t, o.Err)
		must.Eq(t, 1, o.Tries)
		must.Eq(t, 5*time.Second, o.Duration)
	})
}
