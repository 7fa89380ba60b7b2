package group

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

// What a stop finds at successive looks, and what it makes of it.
func TestQueue(t *testing.T) {
	first, second := time.Unix(100, 0), time.Unix(200, 0)
	web := func(s State) Member { return Member{Task: "web", State: s, Started: first} }
	again := func(s State) Member { return Member{Task: "web", State: s, Started: second} }
	whole := func(m Member) Member { m.Whole = true; return m }
	lost := func(m Member) Member { m.Lost = true; return m }
	plan := Plan{"web": {Hook: "prestart", Sidecar: true}, "self": {}}
	type look struct {
		at   time.Duration
		web  Member // none if it has no task
		next time.Duration
	}
	cases := map[string]struct {
		facts Facts
		looks []look
		want  string // ending and duration
	}{
		"not there":             {looks: []look{{}}, want: "not seen 0s"},
		"has stopped before":    {looks: []look{{web: web(Stopped)}}, want: "stopped 0s"},
		"whole, not there":      {facts: Facts{Whole: true}, looks: []look{{}}, want: "not seen 0s"},
		"runs on":               {looks: []look{{0, web(Running), 100}, {100, web(Running), 100}, {200, web(Running), 50}, {250, web(Running), 0}}, want: "not stopping 250ms"},
		"starts":                {looks: []look{{0, web(Starting), 100}, {250, web(Starting), 0}}, want: "not stopping 250ms"},
		"stops":                 {looks: []look{{0, web(Stopping), 100}, {5000, web(Stopping), 100}, {5100, web(Stopped), 0}}, want: "stopped 5.1s"},
		"stops a bit later":     {looks: []look{{0, web(Running), 100}, {200, web(Stopping), 100}, {300, web(Stopped), 0}}, want: "stopped 300ms"},
		"restarted unseen":      {looks: []look{{0, web(Running), 100}, {100, again(Starting), 0}}, want: "stopped 100ms"},
		"stopped, then again":   {looks: []look{{0, web(Stopping), 100}, {100, web(Stopped), 0}, {200, again(Stopping), 0}}, want: "stopped 100ms"},
		"restarted, then whole": {looks: []look{{0, web(Running), 100}, {100, again(Running), 0}, {200, whole(again(Stopping)), 100}, {300, whole(again(Stopped)), 0}, {400, whole(again(Stopped)), 0}}, want: "stopped 300ms"},
		"stopped, then whole":   {looks: []look{{0, web(Stopping), 100}, {100, web(Stopped), 0}, {200, whole(web(Stopped)), 0}}, want: "stopped 100ms"},
		"its plugin dies and recovers it": {
			looks: []look{{0, web(Stopping), 100}, {1000, lost(web(Stopping)), 100}, {1100, web(Running), 100}, {1200, web(Running), 100}, {1349, web(Running), 1}, {1349, web(Stopping), 100}, {1400, web(Stopped), 0}},
			want:  "stopped 1.4s",
		},
		"its restart is forgotten": {looks: []look{{0, web(Stopping), 100}, {1000, web(Running), 100}, {1250, web(Running), 0}}, want: "not stopping 1.25s"},
		"leaves":                   {looks: []look{{0, web(Stopping), 100}, {1000, Member{}, 0}}, want: "not seen 1s"},
		"comes late":               {looks: []look{{}, {100, web(Stopping), 100}, {200, web(Stopped), 0}}, want: "stopped 200ms"},
		"whole, will stop":         {facts: Facts{Whole: true}, looks: []look{{0, web(Running), 100}, {9000, web(Running), 100}, {9100, web(Stopping), 100}, {9200, web(Stopped), 0}}, want: "stopped 9.2s"},
		"another knows of it":      {looks: []look{{0, whole(web(Stopping)), 100}, {9000, whole(web(Running)), 100}, {9100, web(Stopped), 0}}, want: "stopped 9.1s"},
		"whole becomes known late": {looks: []look{{0, web(Running), 100}, {250, web(Running), 0}, {300, whole(web(Running)), 100}}, want: "given up 1m0s"},
		"whole, starts":            {facts: Facts{Whole: true}, looks: []look{{0, web(Starting), 100}, {9000, web(Starting), 100}}, want: "given up 1m0s"},
		"whole, start was cut":     {facts: Facts{Whole: true}, looks: []look{{0, lost(web(Starting)), 100}, {250, lost(web(Starting)), 0}}, want: "not stopping 250ms"},
		"whole, lost":              {facts: Facts{Whole: true}, looks: []look{{0, lost(web(Running)), 100}, {9000, lost(web(Running)), 100}}, want: "given up 1m0s"},
		"whole, but later":         {facts: Facts{Whole: true, Plan: plan}, looks: []look{{0, web(Running), 0}}, want: "stops later 0s"},
		"later, but stops now":     {facts: Facts{Whole: true, Plan: plan}, looks: []look{{0, web(Stopping), 100}}, want: "given up 1m0s"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var q *queue
			begin := time.Unix(1000, 0)
			for i, l := range tc.looks {
				var members []Member
				if l.web.Task != "" {
					members = append(members, l.web)
				}
				now := begin.Add(l.at * time.Millisecond)
				if q == nil {
					q = newQueue(Member{Task: "self", StopAfter: []string{"web"}}, tc.facts, members, now)
				}
				must.Eq(t, l.next*time.Millisecond, q.look(now, members), must.Sprintf("look %d", i))
			}
			r := q.report(begin.Add(time.Minute), context.DeadlineExceeded)
			must.Len(t, 1, r.Waits)
			must.Eq(t, tc.want, fmt.Sprint(r.Waits[0].End, " ", r.Waits[0].For))
			must.Eq(t, r.Waits[0].End == GivenUp, r.Cause != nil)
		})
	}
}

func TestReport_String(t *testing.T) {
	up := errors.New("kill_timeout of 5s")
	cases := map[string]struct {
		report Report
		want   string
	}{
		"nobody":     {},
		"no wait":    {report: Report{Waits: []Wait{{"a", HasStopped, 0}, {"b", NotSeen, time.Second}, {"c", NotStopping, settle}, {"d", StopsLater, 0}}}},
		"waited":     {report: Report{Waits: []Wait{{"a", HasStopped, 1234567 * time.Microsecond}, {"b", HasStopped, time.Second}}}, want: `waited for "a" (1.235s), "b" (1s)`},
		"gave up":    {report: Report{Waits: []Wait{{"a", GivenUp, 3 * time.Second}}, Cause: up}, want: `went on after 3s without "a", which has not stopped: kill_timeout of 5s`},
		"gave up 2":  {report: Report{Waits: []Wait{{"a", GivenUp, 3 * time.Second}, {"b", GivenUp, 3 * time.Second}}, Cause: up}, want: `went on after 3s without "a", "b", which have not stopped: kill_timeout of 5s`},
		"both kinds": {report: Report{Waits: []Wait{{"a", HasStopped, time.Second}, {"b", GivenUp, 3 * time.Second}}, Cause: up}, want: `waited for "a" (1s); went on after 3s without "b", which has not stopped: kill_timeout of 5s`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { must.Eq(t, tc.want, tc.report.String()) })
	}
}

// The wait is over when the predecessor is, at its deadline, or when the caller
// takes it back.
func TestAwaitPredecessors(t *testing.T) {
	taken := errors.New("the process has ended")
	cases := map[string]struct {
		after  time.Duration // when web stops; never if 0
		cancel time.Duration // when the caller takes it back
		want   string
		took   time.Duration
	}{
		"stops":      {after: 1050 * time.Millisecond, want: `waited for "web" (1.1s)`, took: 1100 * time.Millisecond},
		"deadline":   {want: `went on after 5s without "web", which has not stopped: context deadline exceeded`, took: 5 * time.Second},
		"taken back": {cancel: 2 * time.Second, want: `went on after 2s without "web", which has not stopped: the process has ended`, took: 2 * time.Second},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				web := join(t, dir, Member{Task: "web"})
				proxy := join(t, dir, Member{Task: "proxy", StopAfter: []string{"web"}})
				must.NoError(t, web.Stopping("restarted", false))
				must.NoError(t, proxy.Stopping("restarted", false))
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				ctx, take := context.WithCancelCause(ctx)
				defer take(nil)
				if tc.cancel > 0 {
					time.AfterFunc(tc.cancel, func() { take(taken) })
				}
				if tc.after > 0 {
					time.AfterFunc(tc.after, func() { must.NoError(t, web.Stopped()) })
				}
				begin := time.Now()
				r, err := proxy.AwaitPredecessors(ctx, Facts{})
				must.NoError(t, err)
				must.Eq(t, tc.want, r.String())
				must.Eq(t, tc.took, time.Since(begin))
			})
		})
	}
}

// Who has nobody before it does not even look; who has somebody must have a
// deadline.
func TestAwaitPredecessors_Bounds(t *testing.T) {
	dir := t.TempDir()
	g := join(t, dir, Member{Task: "web"})
	must.NoError(t, os.RemoveAll(dir))
	must.NoError(t, os.WriteFile(dir, nil, 0o600)) // a look would fail
	r, err := g.AwaitPredecessors(context.Background(), Facts{Whole: true, Plan: Plan{"web": {}}})
	must.NoError(t, err)
	must.Eq(t, "", r.String())

	sidecar := Facts{Plan: Plan{"web": {Hook: "prestart", Sidecar: true}}}
	_, err = g.AwaitPredecessors(context.Background(), sidecar)
	must.ErrorIs(t, err, errUnbounded)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = g.AwaitPredecessors(ctx, sidecar)
	must.ErrorContains(t, err, "read members")
}

// A torn file does not stop a stop.
func TestAwaitPredecessors_Torn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var log listener
		web := join(t, dir, Member{Task: "web"})
		g, err := Join(dir, Member{Task: "proxy", State: Starting, StopAfter: []string{"web", "api"}}, time.Now, log.logger())
		must.NoError(t, err)
		must.NoError(t, web.Stopping("restarted", false))
		must.NoError(t, os.WriteFile(filepath.Join(dir, "api.json"), []byte("{"), 0o600))
		time.AfterFunc(950*time.Millisecond, func() { must.NoError(t, web.Stopped()) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r, err := g.AwaitPredecessors(ctx, Facts{})
		must.NoError(t, err)
		must.Eq(t, []Wait{{"api", NotSeen, time.Second}, {"web", HasStopped, time.Second}}, r.Waits)
		must.Eq(t, 1, strings.Count(log.String(), "unreadable"))
	})
}
