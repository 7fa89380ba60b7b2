package reason

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// answersOf serves a golden case.
func answersOf(t *testing.T, g golden) *fakeNomad {
	t.Helper()
	o := g.observation(t)
	n := newFake()
	n.answers["/v1/allocation/"+o.Alloc.ID] = g.Alloc
	if g.Job != nil {
		n.answers["/v1/job/"+o.Alloc.JobID] = g.Job
	}
	if g.Node != nil {
		n.answers["/v1/node/"+o.Alloc.NodeID] = g.Node
	}
	return n
}

// Why gives the verdict of every golden case, at once if there is one, and asks
// only for what it takes.
func TestWhy_Golden(t *testing.T) {
	for name, g := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := answersOf(t, g)
				o, want := g.observation(t), g.verdict(t)
				silent := !want.Decided
				if silent { // nothing is seen of a cause, and a stop has one
					o.Stopping = true
					want = o.restart()
				}
				c := connect(t, n)
				if g.AllocGone {
					_, err := c.Allocation(t.Context(), o.Alloc.Namespace, o.Alloc.ID)
					must.NoError(t, err)
					n.look(func() { delete(n.answers, "/v1/allocation/"+o.Alloc.ID) })
				}
				start := time.Now()
				got, err := c.Why(t.Context(), o.Alloc.Namespace, o.Alloc.ID, g.Task)
				must.NoError(t, err)
				must.Eq(t, want, got)
				took := time.Duration(0)
				switch {
				case silent && !o.alone():
					took = WhyLimit
				case g.Stopping:
					took = askSiblings * askAgain
				}
				must.Eq(t, took, time.Since(start))
				n.look(func() {
					for path, times := range n.asked {
						if _, ok := n.answers[path]; !ok {
							must.True(t, strings.HasPrefix(path, "/v1/job/") && g.JobGone && times == 1 || g.AllocGone, must.Sprint(path))
						}
					}
				})
			})
		})
	}
}

// running is an allocation that the servers want to run.
func running(texts ...string) *api.Allocation {
	return &api.Allocation{
		ID: "a", DesiredStatus: api.AllocDesiredStatusRun,
		TaskStates: map[string]*api.TaskState{"app": {Events: events(texts...)}},
	}
}

// What nobody explains is a restart: at once if no other task could be the cause,
// and else when the time is over.
func TestWhy_Restart(t *testing.T) {
	tasks := func(names ...string) *api.Job {
		g := &api.TaskGroup{Name: ptr("g")}
		for _, n := range names {
			g.Tasks = append(g.Tasks, &api.Task{Name: n})
		}
		return &api.Job{TaskGroups: []*api.TaskGroup{g}}
	}
	cases := map[string]struct {
		job    *api.Job
		status string
		want   Reason
		took   time.Duration
	}{
		"alone":            {tasks("app"), api.AllocClientStatusRunning, Restarted, 0},
		"beside another":   {tasks("app", "proxy"), api.AllocClientStatusRunning, Restarted, WhyLimit},
		"node is away":     {tasks("app"), api.AllocClientStatusUnknown, Unknown, WhyLimit},
		"job is not known": {nil, api.AllocClientStatusRunning, Unknown, WhyLimit},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newFake()
				a := running("Started")
				a.TaskGroup, a.Job, a.ClientStatus = "g", tc.job, tc.status
				n.answers["/v1/allocation/a"] = a
				c := connect(t, n)
				start := time.Now()
				v, err := c.Why(t.Context(), "ns", "a", "app")
				must.NoError(t, err)
				must.Eq(t, tc.want, v.Reason)
				must.Eq(t, tc.want == Restarted, v.Decided)
				must.False(t, v.Final || v.Whole)
				must.Eq(t, tc.took, time.Since(start))
			})
		})
	}
}

// A cause on the node reaches the servers late.
func TestWhy_AsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.answers["/v1/allocation/a"] = running("Started")
		c := connect(t, n)
		start := time.Now()
		time.AfterFunc(400*time.Millisecond, func() {
			n.look(func() { n.answers["/v1/allocation/a"] = running("Started", "Restart Signaled: why") })
		})
		v, err := c.Why(t.Context(), "ns", "a", "app")
		must.NoError(t, err)
		must.Eq(t, Verdict{Reason: Restarted, Decided: true, Detail: "why"}, v)
		must.Eq(t, 2*askAgain, time.Since(start))
		must.Eq(t, 3, n.count("/v1/allocation/a"))
	})
}

func TestWhy_NoCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.answers["/v1/allocation/a"] = running("Started", "Killing")
		c := connect(t, n)
		start := time.Now()
		v, err := c.Why(t.Context(), "ns", "a", "app")
		must.NoError(t, err)
		must.Eq(t, Verdict{Reason: Unknown}, v)
		must.Eq(t, WhyLimit, time.Since(start))
		must.Between(t, 8, n.count("/v1/allocation/a"), 9)
	})
}

// The servers saw no cause at first, and then gave no answer.
func TestWhy_NoCauseThenSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.answers["/v1/allocation/a"] = running("Started")
		c := connect(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.count(r.URL.Path) > 1 {
				<-r.Context().Done()
				return
			}
			n.ServeHTTP(w, r)
		}))
		start := time.Now()
		v, err := c.Why(t.Context(), "ns", "a", "app")
		must.NoError(t, err)
		must.Eq(t, Verdict{Reason: Unknown}, v)
		must.Eq(t, WhyLimit, time.Since(start))
	})
}

// A verdict stands without what could not be read, as far as it can.
func TestWhy_PartOfTheAnswer(t *testing.T) {
	migrating := stopped(descMigrating)
	migrating.NodeID = "n"
	migrating.DesiredTransition = api.DesiredTransition{Migrate: ptr(true)}
	cases := map[string]struct {
		alloc *api.Allocation
		path  string
		want  Reason
	}{
		"node refused": {migrating, "/v1/node/n", Drained},
		"job refused":  {stopped(descNotNeeded), "/v1/job/shop", Unknown},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newFake()
				n.answers["/v1/allocation/a"] = tc.alloc
				n.answers[tc.path] = http.StatusForbidden
				v, err := connect(t, n).Why(t.Context(), "ns", "a", "app")
				must.ErrorContains(t, err, "HTTP 403: no; the token needs read-job")
				must.Eq(t, Verdict{Reason: tc.want, Decided: true, Whole: true, Detail: tc.alloc.DesiredDescription}, v)
			})
		})
	}
}

// Whatever a server does, Why is back in time, and does not know.
func TestWhy_Faults(t *testing.T) {
	body := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	forever := func(part string, every time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := io.WriteString(w, part); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				if !sleep(r.Context(), every) {
					return
				}
			}
		}
	}
	answer := func(code int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, code) }
	}
	cases := map[string]struct {
		handler http.Handler
		err     string
		at      time.Duration
	}{
		"hangs":                 {http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), "deadline exceeded", answerLimit},
		"trickles":              {forever(" ", 100*time.Millisecond), "deadline exceeded", answerLimit},
		"sends without end":     {forever(strings.Repeat(" ", 1<<20), 0), "more than 8388608 bytes", 0},
		"sends one long string": {body(`{"ID":"a","DesiredDescription":"` + strings.Repeat("x", maxBody) + `"}`), "more than 8388608 bytes", 0},
		"sends half":            {body(`{"ID":"a","DesiredStatus":"st`), "unexpected EOF", 0},
		"sends nothing":         {body(""), "0 byte", 0},
		"is something else":     {body("<html>"), "invalid character", 0},
		"answers for another":   {body(`{"ID":"b","DesiredStatus":"stop"}`), `the answer is about "b"`, 0},
		"answers null":          {body("null"), `the answer is about ""`, 0},
		"does not know it":      {http.NotFoundHandler(), `HTTP 404: 404 page not found; or the token lacks read-job in namespace "ns"`, 0},
		"refuses":               {answer(403, "Permission denied"), "HTTP 403: Permission denied; the token needs read-job", 0},
		"has no leader":         {answer(500, "No cluster leader\nat all"), "HTTP 500: No cluster leader at all", 0},
		"says much":             {answer(500, strings.Repeat("x", maxBody)), "xxx…", 0},
		"redirects":             {http.RedirectHandler("http://evil.test/", http.StatusTemporaryRedirect), "HTTP 307", 0},
		"drops the connection":  {http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "EOF", 0},
		"sends gzip": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
		}), `encoded as "gzip"`, 0},
		"sends long headers": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
		}), "headers exceeded", 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := connect(t, tc.handler)
				start := time.Now()
				v, err := c.Why(t.Context(), "ns", "a", "app")
				must.Eq(t, tc.at, time.Since(start))
				must.Eq(t, Verdict{Reason: Unknown}, v)
				must.ErrorContains(t, err, tc.err)
				must.Less(t, 2*MaxDetail, len(err.Error()))
			})
		})
	}
}

func TestWhy_NotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, newFake())
		_, err := c.Why(t.Context(), "ns", "a", "app")
		must.ErrorIs(t, err, ErrNotFound)
		_, err = c.Job(t.Context(), "ns", "odd/job")
		must.ErrorIs(t, err, ErrNotFound)
	})
}

// Only an allocation that the servers knew was purged: the address may be that of
// another cluster, and the token one that may not know.
func TestWhy_Purged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		c := connect(t, n)
		a := stopped("")
		a.DesiredStatus = api.AllocDesiredStatusRun
		n.answers["/v1/allocation/a"] = a
		_, err := c.Why(t.Context(), "ns", "a", "app")
		must.NoError(t, err)
		n.look(func() { delete(n.answers, "/v1/allocation/a") })
		v, err := c.Why(t.Context(), "ns", "a", "app")
		must.NoError(t, err)
		must.Eq(t, Stopped, v.Reason)
		must.True(t, v.Final)

		n.look(func() { n.answers["/v1/job/shop"] = http.StatusForbidden })
		v, err = c.Why(t.Context(), "ns", "a", "app")
		must.ErrorContains(t, err, "read job shop: HTTP 403")
		must.Eq(t, Unknown, v.Reason)
		must.False(t, v.Final)
	})
}

// What is remembered is bounded.
func TestClient_Remembers(t *testing.T) {
	c, err := New(Config{Address: "http://127.0.0.1:1"})
	must.NoError(t, err)
	for i := range maxSeen + 10 {
		a := stopped("")
		a.ID = fmt.Sprint(i)
		c.remember(a)
		must.NotNil(t, c.recall(a.ID))
		c.remember(a)
	}
	must.Eq(t, maxSeen, len(c.seen))
	c.remember(&api.Allocation{ID: "from the stream"})
	must.Nil(t, c.recall("from the stream"))
}

// The caller's context ends it sooner.
func TestWhy_CallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.answers["/v1/allocation/a"] = running("Started")
		c := connect(t, n)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		v, err := c.Why(ctx, "ns", "a", "app")
		must.NoError(t, err)
		must.Eq(t, Verdict{Reason: Unknown}, v)
		must.Eq(t, 300*time.Millisecond, time.Since(start))

		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = c.Why(gone, "ns", "a", "app")
		must.True(t, errors.Is(err, context.Canceled))
	})
}

// A request of its own is bounded too.
func TestAllocation_Hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		for _, ask := range []func() error{
			func() error { _, err := c.Allocation(t.Context(), "ns", "a"); return err },
			func() error { _, err := c.Job(t.Context(), "ns", "j"); return err },
			func() error { _, err := c.node(t.Context(), "n"); return err },
		} {
			start := time.Now()
			must.ErrorIs(t, ask(), context.DeadlineExceeded)
			must.Eq(t, requestTimeout, time.Since(start))
		}
	})
}

// What is asked names its namespace and region, and odd names stay names.
func TestClient_Asks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var uri string
		w := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { uri = r.RequestURI })
		c := connect(t, w)
		c.api.SetRegion("eu")
		_, err := c.Allocation(t.Context(), "team a", "../job/x")
		must.Error(t, err)
		must.Eq(t, "/v1/allocation/..%2Fjob%2Fx?namespace=team+a&region=eu", uri)
		_, err = c.Job(t.Context(), "*", "periodic/1?x")
		must.Error(t, err)
		must.Eq(t, "/v1/job/periodic%2F1%3Fx?namespace=%2A&region=eu", uri)
	})
}
