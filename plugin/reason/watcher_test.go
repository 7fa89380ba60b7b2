package reason

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// heard keeps what a listener was told.
type heard struct {
	mu     sync.Mutex
	states []string // the desired status of each
}

func (h *heard) fn(a *api.Allocation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.states = append(h.states, a.ID+" "+a.DesiredStatus)
}

func (h *heard) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.states...)
}

func stop(a *api.Allocation) { a.DesiredStatus = api.AllocDesiredStatusStop }

// watch returns a watcher of the fake and its log, and waits for its end when
// the test ends.
func watch(t *testing.T, n *fakeNomad) (*Watcher, *safeBuffer) {
	t.Helper()
	log := &safeBuffer{}
	c := connect(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	w := NewWatcher(ctx, c, hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Info}))
	t.Cleanup(func() {
		cancel()
		w.Wait()
	})
	return w, log
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSuffix(b.b.String(), "\n"), "\n")
}

// pass lets time pass, and then everything that follows from it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestWatcher_Hears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", nil)
		n.set(t, false, "b", nil)
		w, log := watch(t, n)
		var a, a2, b heard
		w.Add("ns", "a", a.fn)
		w.Add("ns", "a", a2.fn)
		w.Add("ns", "b", b.fn)
		pass(settle)

		// One stream for all, and each is read once.
		must.Len(t, 1, n.streams())
		must.Eq(t, "Allocation:a Allocation:b", n.streams()[0].topics())
		must.Eq(t, "ns", n.streams()[0].query.Get("namespace"))
		must.Eq(t, "0", n.streams()[0].query.Get("index"))
		must.Eq(t, []string{"a run"}, a.list())
		must.Eq(t, []string{"a run"}, a2.list())
		must.Eq(t, []string{"b run"}, b.list())

		n.set(t, true, "a", stop)
		synctest.Wait()
		must.Eq(t, []string{"a run", "a stop"}, a.list())
		must.Eq(t, []string{"a run", "a stop"}, a2.list())
		must.Eq(t, []string{"b run"}, b.list())

		// What is known already, what is older, and what nobody asked for is no
		// news.
		old := &api.Allocation{ID: "a", ModifyIndex: 1, DesiredStatus: "old"}
		for _, text := range []string{
			frame(t, n.answers["/v1/allocation/a"].(*api.Allocation)), frame(t, old), frame(t, &api.Allocation{ID: "z", ModifyIndex: 999}),
			`{"Index":1000,"Events":[{"Topic":"Node","Payload":{"Node":{"ID":"n"}}},{"Topic":"Allocation","Payload":{"Allocation":null}},{"Topic":"Allocation"}]}`,
		} {
			n.streams()[0].send <- text
		}
		synctest.Wait()
		must.Len(t, 2, a.list())
		must.Eq(t, 1, n.count("/v1/allocation/a"))

		// One that comes later is told what is known.
		var late heard
		w.Add("ns", "a", late.fn)
		synctest.Wait()
		must.Eq(t, []string{"a stop"}, late.list())

		// Heartbeats keep it alive.
		pass(time.Hour)
		must.Len(t, 1, n.streams())
		must.Eq(t, []string{""}, log.lines())
	})
}

// A decision that was made before the stream was open is not missed.
func TestWatcher_DecidedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", stop)
		w, _ := watch(t, n)
		var h heard
		w.Add("ns", "a", h.fn)
		pass(settle)
		must.Eq(t, []string{"a stop"}, h.list())
	})
}

// A stream for more takes the place of the old one, goes on where that ended,
// and only what is new is read.
func TestWatcher_Grows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		for _, id := range []string{"a", "b", "c"} {
			n.set(t, false, id, nil)
		}
		w, _ := watch(t, n)
		var a, b, c heard
		w.Add("ns", "a", a.fn)
		pass(settle)
		n.set(t, true, "a", stop) // index 104
		synctest.Wait()
		w.Add("ns", "b", b.fn)
		pass(settle / 2)
		w.Add("ns", "c", c.fn) // comes with it
		pass(settle / 2)
		must.Len(t, 2, n.streams())
		must.Eq(t, "Allocation:a Allocation:b Allocation:c", n.streams()[1].topics())
		must.Eq(t, "104", n.streams()[1].query.Get("index"))
		<-n.streams()[0].gone
		must.Eq(t, []string{"b run"}, b.list())
		must.Eq(t, []string{"c run"}, c.list())
		must.Eq(t, 1, n.count("/v1/allocation/a"))
		pass(time.Hour)
		must.Len(t, 2, n.streams())
	})
}

// An allocation that is watched again is read again.
func TestWatcher_AddedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", nil)
		n.set(t, false, "b", nil)
		w, _ := watch(t, n)
		var a, b heard
		remove := w.Add("ns", "a", a.fn)
		w.Add("ns", "b", b.fn)
		pass(settle)
		remove()
		remove()
		n.set(t, true, "a", stop)
		pass(time.Second)
		must.Eq(t, []string{"a run"}, a.list())
		var again heard
		w.Add("ns", "a", again.fn)
		pass(settle)
		must.Eq(t, []string{"a stop"}, again.list())
		must.Eq(t, 2, n.count("/v1/allocation/a"))
		must.Eq(t, 1, n.count("/v1/allocation/b"))
	})
}

func TestWatcher_Namespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", nil)
		n.set(t, false, "b", nil)
		w, _ := watch(t, n)
		var h heard
		w.Add("one", "a", h.fn)
		removeB := w.Add("two", "b", h.fn)
		pass(settle)
		must.Len(t, 2, n.streams())
		must.SliceContainsAll(t, []string{"one Allocation:a", "two Allocation:b"}, []string{
			n.streams()[0].query.Get("namespace") + " " + n.streams()[0].topics(),
			n.streams()[1].query.Get("namespace") + " " + n.streams()[1].topics(),
		})
		removeB()
		synctest.Wait()
		must.MapLen(t, 1, w.feeds)
	})
}

// When the last has gone, nothing is left: the bubble would not end else.
func TestWatcher_Empty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", nil)
		c := connect(t, n)
		w := NewWatcher(context.Background(), c, hclog.NewNullLogger())
		var h heard
		for range 3 {
			remove := w.Add("ns", "a", h.fn)
			remove2 := w.Add("ns", "a", h.fn)
			pass(settle)
			remove()
			remove2()
			w.wg.Wait()
			must.MapLen(t, 0, w.feeds)
		}
		must.Len(t, 3, n.streams())
		for _, s := range n.streams() {
			<-s.gone
		}
		must.Eq(t, 6, len(h.list()))
	})
}

func TestWatcher_ContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", nil)
		c := connect(t, n)
		ctx, cancel := context.WithCancel(t.Context())
		w := NewWatcher(ctx, c, hclog.NewNullLogger())
		var h heard
		remove := w.Add("ns", "a", h.fn)
		pass(settle)
		cancel()
		w.Wait()
		remove()
		w.Add("ns", "a", h.fn)()
		pass(time.Hour)
		must.Eq(t, []string{"a run"}, h.list())
		must.Len(t, 1, n.streams())
	})
}

// A listener may take its time, and may remove itself.
func TestWatcher_SlowListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", nil)
		n.set(t, false, "b", nil)
		w, _ := watch(t, n)
		var slow, b heard
		var remove func()
		remove = w.Add("ns", "a", func(a *api.Allocation) {
			slow.fn(a)
			if a.DesiredStatus == api.AllocDesiredStatusStop {
				remove()
			}
			time.Sleep(time.Minute)
		})
		w.Add("ns", "b", b.fn)
		pass(settle)
		for range 50 {
			n.set(t, true, "a", nil)
			n.set(t, true, "b", nil)
			synctest.Wait()
		}
		n.set(t, true, "a", stop)
		synctest.Wait()
		must.Len(t, 51, b.list()) // nobody waits for the slow one
		must.Eq(t, []string{"a run"}, slow.list())
		pass(time.Minute)
		must.Eq(t, []string{"a run", "a stop"}, slow.list())
		n.set(t, true, "a", nil)
		pass(time.Hour)
		must.Len(t, 2, slow.list())
	})
}

// A stream that has broken off, or is silent, is opened again, and all is read
// again.
func TestWatcher_Breaks(t *testing.T) {
	cases := map[string]func(n *fakeNomad){
		"ends":      func(n *fakeNomad) { close(n.streams()[0].end) },
		"no frames": func(n *fakeNomad) { n.streams()[0].send <- "<html>" },
	}
	for name, breaks := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newFake()
				n.set(t, false, "a", nil)
				w, log := watch(t, n)
				var h heard
				w.Add("ns", "a", h.fn)
				pass(settle)
				breaks(n)
				n.set(t, false, "a", stop) // nobody tells
				pass(firstPause)
				must.Len(t, 2, n.streams())
				must.Eq(t, []string{"a run", "a stop"}, h.list())
				must.Len(t, 2, log.lines())
				must.StrContains(t, log.lines()[0], "[WARN]")
				must.StrContains(t, log.lines()[1], "works again")
			})
		})
	}
}

func TestWatcher_Silence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.mute = true
		n.set(t, false, "a", nil)
		w, log := watch(t, n)
		var h heard
		w.Add("ns", "a", h.fn)
		pass(settle + silenceLimit - time.Second)
		n.set(t, false, "a", stop)
		must.Len(t, 1, n.streams())
		pass(time.Second + firstPause)
		must.Len(t, 2, n.streams())
		must.Eq(t, []string{"a run", "a stop"}, h.list())
		must.StrContains(t, log.lines()[0], "silent")
	})
}

// A server that does not serve the stream is not asked often, and not much is
// logged.
func TestWatcher_Refused(t *testing.T) {
	cases := map[string]struct {
		refuse func(n *fakeNomad)
		most   int // requests an hour
		error  string
	}{
		"by ACL":       {func(n *fakeNomad) { n.refuse = 403 }, 125, "HTTP 403: Permission denied; the token needs read-job"},
		"not there":    {func(n *fakeNomad) { n.refuse = 404 }, 125, "HTTP 404"},
		"server error": {func(n *fakeNomad) { n.refuse = 500 }, 490, "HTTP 500"},
		"ends at once": {func(n *fakeNomad) { n.quick = true }, 490, "no first frame: the token may lack read-job"},
		"says nothing": {func(n *fakeNomad) { n.hang = true }, 180, "no first frame: the token may lack read-job"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newFake()
				tc.refuse(n)
				n.set(t, false, "a", nil)
				w, log := watch(t, n)
				var h heard
				w.Add("ns", "a", h.fn)
				pass(time.Hour)
				must.Between(t, 45, len(n.streams()), tc.most)
				must.Eq(t, 0, n.count("/v1/allocation/a"))
				must.Between(t, 5, len(log.lines()), 7)
				for _, line := range log.lines() {
					must.StrContains(t, line, tc.error)
				}

				// When it is repaired, it works again within a minute.
				n.look(func() { n.refuse, n.quick, n.hang = 0, false, false })
				pass(openLimit + refusedPause)
				must.Eq(t, []string{"a run"}, h.list())
				must.StrContains(t, log.lines()[len(log.lines())-1], "works again")
			})
		})
	}
}

// While the server is away the pauses grow, but a task that starts must not wait
// for their end: the agent that starts it is back.
func TestWatcher_AddedInPause(t *testing.T) {
	for name, code := range map[string]int{"away": 500, "refused": 403} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newFake()
				n.refuse = code
				n.set(t, false, "a", nil)
				n.set(t, false, "b", stop)
				w, _ := watch(t, n)
				var a, b heard
				w.Add("ns", "a", a.fn)
				for range 10 {
					asked := len(n.streams())
					for len(n.streams()) == asked {
						pass(100 * time.Millisecond)
					}
				}
				n.look(func() { n.refuse = 0 })
				pass(firstPause)
				w.Add("ns", "b", b.fn)
				synctest.Wait()
				must.Len(t, 11, n.streams())
				must.Eq(t, "Allocation:a Allocation:b", n.last().topics())
				must.Eq(t, []string{"a run"}, a.list())
				must.Eq(t, []string{"b stop"}, b.list())
			})
		})
	}
	t.Run("no flood", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newFake()
			n.refuse = 500
			w, _ := watch(t, n)
			var h heard
			for i := range 600 { // within a minute
				w.Add("ns", fmt.Sprint(i), h.fn)
				pass(100 * time.Millisecond)
			}
			must.Between(t, 50, len(n.streams()), 125)
		})
	})
}

// Failures that lie far apart do not follow each other, however short the streams
// between them are because more is watched.
func TestWatcher_FailuresApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", nil)
		w, _ := watch(t, n)
		var h heard
		w.Add("ns", "a", h.fn)
		pass(settle)
		for i := range 10 {
			for j := range 6 {
				w.Add("ns", fmt.Sprint(i, j), h.fn)
				pass(steady / 5)
			}
			opened := len(n.streams())
			close(n.last().end)
			pass(firstPause)
			must.Len(t, opened+1, n.streams())
		}
	})
}

// A stream that opens and ends, for hours, is no busy loop either, and no flood
// of log lines.
func TestWatcher_Flaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", nil)
		w, log := watch(t, n)
		var h heard
		w.Add("ns", "a", h.fn)
		end := time.Now().Add(time.Hour)
		for seen := 0; time.Now().Before(end); pass(100 * time.Millisecond) {
			if len(n.streams()) > seen {
				seen = len(n.streams())
				close(n.streams()[seen-1].end)
			}
		}
		must.Between(t, 240, len(n.streams()), 490)
		must.Between(t, 10, len(log.lines()), 14)
	})
}

// A frame that is too long is skipped, and what it told is read.
func TestWatcher_LongFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.set(t, false, "a", nil)
		w, log := watch(t, n)
		var h heard
		w.Add("ns", "a", h.fn)
		pass(settle)
		n.set(t, false, "a", stop)
		n.streams()[0].send <- `{"Index":103,"Events":[` + strings.Repeat(" ", maxFrame) + `]}`
		synctest.Wait()
		must.Eq(t, []string{"a run", "a stop"}, h.list())
		n.set(t, true, "a", nil)
		synctest.Wait()
		must.Len(t, 3, h.list())
		must.Len(t, 1, n.streams())
		must.StrContains(t, log.lines()[0], "too long")
	})
}

// Reading that fails is tried again; what is gone is not.
func TestWatcher_ReadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		n.answers["/v1/allocation/a"] = 500
		w, _ := watch(t, n)
		var a, b heard
		w.Add("ns", "a", a.fn)
		w.Add("ns", "b", b.fn) // unknown
		pass(time.Hour)
		must.Between(t, 240, n.count("/v1/allocation/a"), 490)
		must.Eq(t, 1, n.count("/v1/allocation/b"))
		n.look(func() { delete(n.answers, "/v1/allocation/a") })
		n.set(t, false, "a", stop)
		pass(lastPause)
		must.Eq(t, []string{"a stop"}, a.list())
		must.Len(t, 0, b.list())
		must.Len(t, 1, n.streams())

		// What the stream tells meanwhile is heard at once.
		n.set(t, true, "a", nil)
		synctest.Wait()
		must.Len(t, 2, a.list())
	})
}

func TestPause(t *testing.T) {
	for tries, most := range []time.Duration{1, 2, 4, 8, 15, 15, 15} {
		most *= time.Second
		for range 100 {
			must.Between(t, most/2, pause(tries), most)
		}
	}
	must.Between(t, lastPause/2, pause(1<<40), lastPause)
}
