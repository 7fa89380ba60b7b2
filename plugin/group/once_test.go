package group

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func fails(err error) func(context.Context, Declaration) error {
	return func(context.Context, Declaration) error { return err }
}

func never(t *testing.T) func(context.Context, Declaration) error {
	return func(_ context.Context, d Declaration) error {
		t.Errorf("ran %s", d.Event)
		return nil
	}
}

// The life of one hook, as one process sees it.
func TestOnce(t *testing.T) {
	dir := t.TempDir()
	ctx := soon(t)
	web := join(t, dir, Member{Task: "web"})
	outcome, err := web.Once(ctx, OnStopping, Facts{}, never(t))
	must.NoError(t, err)
	must.Eq(t, NotDeclared, outcome)

	proxy := join(t, dir, Member{Task: "proxy", Hooks: hooks(OnStopping)})
	outcome, err = web.Once(ctx, OnStopping, Facts{}, never(t))
	must.NoError(t, err)
	must.Eq(t, NotDue, outcome)
	must.FileNotExists(t, web.donePath(OnStopping))

	must.NoError(t, web.Stopping("drained", true))
	broken := errors.New("no route to host")
	_, err = web.Once(ctx, OnStopping, Facts{}, fails(broken))
	must.ErrorIs(t, err, broken)
	done, err := web.Done(OnStopping)
	must.NoError(t, err)
	must.False(t, done)

	// What was begun is to be ended, also when it would not be begun any more.
	must.NoError(t, web.Stopped())
	must.NoError(t, proxy.Stopped())

	var got Declaration
	outcome, err = proxy.Once(ctx, OnStopping, Facts{}, func(_ context.Context, d Declaration) error {
		got = d
		return nil
	})
	must.NoError(t, err)
	must.Eq(t, Ran, outcome)
	must.Eq(t, Declaration{Event: OnStopping, Task: "proxy", Hook: hooks(OnStopping)[OnStopping]}, got)

	for _, g := range []*Group{web, proxy, join(t, dir, Member{Task: "web"})} {
		outcome, err = g.Once(ctx, OnStopping, Facts{Whole: true}, never(t))
		must.NoError(t, err)
		must.Eq(t, RanBefore, outcome)
		must.NoError(t, g.AwaitDone(ctx, OnStopping))
	}
}

// A plan makes a declaration known before its task starts.
func TestOnce_DeclaredByPlan(t *testing.T) {
	web := join(t, t.TempDir(), Member{Task: "web"})
	facts := Facts{Plan: Plan{"web": {}, "log": {Hook: "poststart", Hooks: hooks(OnCreated)}}}
	outcome, err := web.Once(soon(t), OnCreated, facts, fails(nil))
	must.NoError(t, err)
	must.Eq(t, Ran, outcome)
}

// One runs it, all others wait for its end.
func TestOnce_OthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var mu sync.Mutex
		outcomes := make(map[Outcome]int)
		runs := 0
		var wg sync.WaitGroup
		for _, task := range []string{"a", "b", "c", "d", "e"} {
			m := Member{Task: task}
			if task == "a" {
				m.Hooks = hooks(OnCreated)
			}
			g := join(t, dir, m)
			wg.Go(func() {
				begin := time.Now()
				outcome, err := g.Once(ctx, OnCreated, Facts{}, func(context.Context, Declaration) error {
					runs++ // the lock guards it, and the race detector sees whether it does
					time.Sleep(1050 * time.Millisecond)
					return nil
				})
				must.NoError(t, err)
				must.GreaterEq(t, 1050*time.Millisecond, time.Since(begin))
				mu.Lock()
				defer mu.Unlock()
				outcomes[outcome]++
			})
			wg.Go(func() { must.NoError(t, g.AwaitDone(ctx, OnCreated)) })
		}
		wg.Wait()
		must.Eq(t, 1, runs)
		must.Eq(t, map[Outcome]int{Ran: 1, RanBefore: 4}, outcomes)
	})
}

// Who waits takes over when the hook fails, unless its time has passed by then.
func TestOnce_TakesOver(t *testing.T) {
	cases := map[string]struct {
		stop bool // the whole allocation stops while the hook runs
		want Outcome
	}{
		"still due":      {want: Ran},
		"not due by now": {stop: true, want: NotDue},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				a := join(t, dir, Member{Task: "a", Hooks: hooks(OnCreated)})
				b := join(t, dir, Member{Task: "b"})
				broken := errors.New("no route to host")
				begun := make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() {
					_, err := a.Once(ctx, OnCreated, Facts{}, func(context.Context, Declaration) error {
						close(begun)
						time.Sleep(1050 * time.Millisecond)
						if tc.stop {
							must.NoError(t, a.Stopping("drained", true))
						}
						return broken
					})
					must.ErrorIs(t, err, broken)
				})
				<-begun
				outcome, err := b.Once(ctx, OnCreated, Facts{}, fails(nil))
				must.NoError(t, err)
				must.Eq(t, tc.want, outcome)
				wg.Wait()
			})
		})
	}
}

// Another process may end the hook between the look at the files and the lock.
// What is logged of an unreadable file is just between them.
func TestOnce_EndedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	ctx := soon(t)
	a := join(t, dir, Member{Task: "a", Hooks: hooks(OnCreated)})
	var once sync.Once
	logger := hclog.New(&hclog.LoggerOptions{Output: writerFunc(func() {
		once.Do(func() {
			outcome, err := a.Once(ctx, OnCreated, Facts{}, fails(nil))
			must.NoError(t, err)
			must.Eq(t, Ran, outcome)
		})
	})})
	b, err := Join(dir, Member{Task: "b", State: Starting}, time.Now, logger)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(filepath.Join(dir, "torn.json"), nil, 0o600))
	outcome, err := b.Once(ctx, OnCreated, Facts{}, never(t))
	must.NoError(t, err)
	must.Eq(t, RanBefore, outcome)
}

type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// Waiting ends with its context, says whom it was for, and is never without an
// end.
func TestOnce_Bounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a := join(t, dir, Member{Task: "a", Hooks: hooks(OnCreated)})
		b := join(t, dir, Member{Task: "b"})
		_, err := b.Once(context.Background(), OnCreated, Facts{}, never(t))
		must.ErrorIs(t, err, errUnbounded)
		must.ErrorIs(t, b.AwaitDone(context.Background(), OnCreated), errUnbounded)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		must.ErrorContains(t, b.AwaitDone(ctx, OnCreated), "not begun")
		_, err = b.Once(ctx, OnCreated, Facts{}, never(t)) // its time is up
		must.ErrorIs(t, err, context.DeadlineExceeded)

		var wg sync.WaitGroup
		begun, end := make(chan struct{}), make(chan struct{})
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			_, err := a.Once(ctx, OnCreated, Facts{}, func(context.Context, Declaration) error {
				close(begun)
				<-end
				return nil
			})
			must.NoError(t, err)
		})
		<-begun
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err = b.Once(ctx, OnCreated, Facts{}, never(t))
		must.ErrorIs(t, err, context.DeadlineExceeded)
		must.ErrorContains(t, err, `begun for task "a" by process `)
		must.Eq(t, time.Second, time.Since(begin))
		close(end)
		wg.Wait()
	})
}

// A hook that panics lets go of the lock.
func TestOnce_Panics(t *testing.T) {
	g := join(t, t.TempDir(), Member{Task: "a", Hooks: hooks(OnCreated)})
	ctx := soon(t)
	func() {
		defer func() { must.NotNil(t, recover()) }()
		_, _ = g.Once(ctx, OnCreated, Facts{}, func(context.Context, Declaration) error { panic("broken") })
	}()
	outcome, err := g.Once(ctx, OnCreated, Facts{}, fails(nil))
	must.NoError(t, err)
	must.Eq(t, Ran, outcome)
}

// Trouble with files is said, and never taken for an outcome.
func TestOnce_Files(t *testing.T) {
	cases := map[string]struct {
		breaks func(t *testing.T, g *Group)
		runs   bool
		want   string
	}{
		"lock is a directory": {
			breaks: func(t *testing.T, g *Group) { must.NoError(t, os.Mkdir(g.lockPath(OnCreated), 0o700)) },
			want:   "created.lock",
		},
		"directory is gone": {
			breaks: func(t *testing.T, g *Group) {
				must.NoError(t, os.RemoveAll(g.dir))
				must.NoError(t, os.WriteFile(g.dir, nil, 0o600))
			},
			want: "not a directory",
		},
		"declared twice": {
			breaks: func(t *testing.T, g *Group) {
				join(t, g.dir, Member{Task: "other", State: Running, Hooks: hooks(OnCreated)})
			},
			want: `declared by the tasks "a" and "other"`,
		},
		"end cannot be noted": {
			breaks: func(*testing.T, *Group) {}, runs: true,
			want: "so it will run again",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g := join(t, filepath.Join(t.TempDir(), "group"), Member{Task: "a", Hooks: hooks(OnCreated)})
			tc.breaks(t, g)
			ran := false
			outcome, err := g.Once(soon(t), OnCreated, Facts{}, func(context.Context, Declaration) error {
				ran = true
				return os.RemoveAll(g.dir)
			})
			must.ErrorContains(t, err, tc.want)
			must.Eq(t, "", outcome)
			must.Eq(t, tc.runs, ran)
		})
	}
}
