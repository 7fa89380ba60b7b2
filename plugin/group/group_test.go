package group

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/process"
)

// One whole life, as the others see it.
func TestGroup_States(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := Dir(t.TempDir())
		g := join(t, dir, Member{Task: "web", Driver: "lifecycle-docker", StopAfter: []string{"api"}, Hooks: hooks(OnRunning)})
		started := time.Now()
		seen := func(want State, reason string, whole bool, since time.Time) {
			t.Helper()
			members, err := g.Members()
			must.NoError(t, err)
			must.Len(t, 1, members)
			m := members[0]
			must.Eq(t, "web", m.Task)
			must.Eq(t, "lifecycle-docker", m.Driver)
			must.Eq(t, want, m.State)
			must.Eq(t, []string{"api"}, m.StopAfter)
			must.Eq(t, string(hooks(OnRunning)[OnRunning]), string(m.Hooks[OnRunning]))
			must.Eq(t, reason, m.Reason)
			must.Eq(t, whole, m.Whole)
			must.True(t, m.Started.Equal(started), must.Sprintf("started %s", m.Started))
			must.True(t, m.Since.Equal(since), must.Sprintf("since %s, not %s", m.Since, since))
			must.Eq(t, os.Getpid(), m.Writer.PID)
			must.False(t, m.Lost)
		}
		seen(Starting, "", false, started)
		time.Sleep(time.Second)
		must.NoError(t, g.Running())
		seen(Running, "", false, started.Add(time.Second))
		time.Sleep(time.Second)
		must.NoError(t, g.Stopping("unknown", false))
		seen(Stopping, "unknown", false, started.Add(2*time.Second))
		time.Sleep(time.Second)
		must.NoError(t, g.Running())
		must.NoError(t, g.Stopping("drained", true))
		must.NoError(t, g.Stopping("", false))
		seen(Stopping, "drained", true, started.Add(2*time.Second))
		must.NoError(t, g.Stopped())
		must.NoError(t, g.Stopping("stopped", true))
		seen(Stopped, "drained", true, started.Add(3*time.Second))

		must.NoError(t, g.Leave())
		must.NoError(t, g.Leave())
		must.NoError(t, g.Stopped())
		members, err := g.Members()
		must.NoError(t, err)
		must.SliceEmpty(t, members)
	})
}

// What a process that has died wrote of a task is kept by the one that recovers
// it, but not by the next start of the task.
func TestJoin_Again(t *testing.T) {
	cases := map[string]struct {
		before func(*Group) error
		state  State
		kept   bool // of this start
		lost   bool // all of it
		want   Member
	}{
		"recovered":                  {before: (*Group).Running, state: Running, kept: true, want: Member{State: Running}},
		"recovered in a whole stop":  {before: func(g *Group) error { return g.Stopping("drained", true) }, state: Running, kept: true, want: Member{State: Running, Reason: "drained", Whole: true}},
		"found to have ended":        {before: func(g *Group) error { return g.Stopping("drained", true) }, state: Stopped, kept: true, want: Member{State: Stopped, Reason: "drained", Whole: true}},
		"started again":              {before: func(g *Group) error { return g.Stopping("restarted", true) }, state: Starting, want: Member{State: Starting}},
		"recovered without its file": {before: (*Group).Leave, state: Running, lost: true, want: Member{State: Running}},
		"recovered from a torn file": {before: func(g *Group) error { return os.Truncate(g.path(), 10) }, state: Running, lost: true, want: Member{State: Running}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				first := time.Now()
				must.NoError(t, tc.before(join(t, dir, Member{Task: "web"})))
				time.Sleep(time.Minute)
				m := join(t, dir, Member{Task: "web", State: tc.state}).own()
				must.Eq(t, tc.want.State, m.State)
				must.Eq(t, tc.want.Reason, m.Reason)
				must.Eq(t, tc.want.Whole, m.Whole)
				must.Eq(t, tc.kept, m.Started.Equal(first))
				must.Eq(t, !tc.lost, m.First.Equal(first))
			})
		})
	}
}

func TestJoin_Refused(t *testing.T) {
	large := map[Event]json.RawMessage{OnCreated: json.RawMessage(`"` + strings.Repeat("x", maxMember) + `"`)}
	cases := map[string]struct {
		there []Member
		m     Member
		want  string
	}{
		"no name":        {m: Member{}, want: "cannot be that of a file"},
		"path":           {m: Member{Task: "a/b"}, want: "cannot be that of a file"},
		"parent":         {m: Member{Task: ".."}, want: "cannot be that of a file"},
		"itself":         {m: Member{Task: "a", StopAfter: []string{"a"}}, want: "names the task itself"},
		"no such event":  {m: Member{Task: "a", Hooks: hooks("created2")}, want: `no event "created2"`},
		"no JSON":        {m: Member{Task: "a", Hooks: map[Event]json.RawMessage{OnCreated: json.RawMessage("{")}}, want: "lifecycle.group"},
		"too large":      {m: Member{Task: "a", Hooks: large}, want: "at most 262144"},
		"circle":         {there: []Member{{Task: "b", StopAfter: []string{"c"}}, {Task: "c", StopAfter: []string{"a"}}}, m: Member{Task: "a", StopAfter: []string{"b"}}, want: "a → b → c → a"},
		"declared twice": {there: []Member{{Task: "b", Hooks: hooks(OnRunning)}}, m: Member{Task: "a", Hooks: hooks(OnCreated, OnRunning)}, want: `lifecycle.group.running is declared by the tasks "a" and "b"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, m := range tc.there {
				join(t, dir, m)
			}
			_, err := tryJoin(dir, tc.m)
			must.ErrorIs(t, err, ErrInvalid)
			must.ErrorContains(t, err, tc.want)
			entries, err := os.ReadDir(dir)
			must.NoError(t, err)
			must.Len(t, len(tc.there), entries) // it has left nothing behind
		})
	}
}

// What contradicts nothing is not refused.
func TestJoin_Accepted(t *testing.T) {
	dir := t.TempDir()
	declare := Member{Task: "a", StopAfter: []string{"b", "nobody"}, Hooks: hooks(OnCreated)}
	join(t, dir, Member{Task: "b", StopAfter: []string{"c"}})
	join(t, dir, Member{Task: "c", Hooks: hooks(OnRunning)})
	must.NoError(t, join(t, dir, declare).Stopped())
	join(t, dir, declare) // its own file is no other task's
	join(t, dir, Member{Task: ".hidden"})

	// A circle of others is not the newcomer's to answer for, and what runs
	// already is not refused.
	join(t, dir, Member{Task: "c", State: Running, StopAfter: []string{"a"}, Hooks: hooks(OnCreated)})
	join(t, dir, Member{Task: "d", StopAfter: []string{"a"}})

	_, err := Join(dir, Member{Task: "e", State: Stopping}, time.Now, hclog.NewNullLogger())
	must.ErrorContains(t, err, `cannot join as "stopping"`)
	must.False(t, errors.Is(err, ErrInvalid))
}

// A file that is not whole, or not a member's, is absent, and is said to be once.
func TestGroup_Unreadable(t *testing.T) {
	writer := `"writer":{"pid":1,"start":1,"boot":"x"}`
	cases := map[string]string{
		"empty":        "",
		"half":         `{"task":"web","state":"runn`,
		"other task":   `{"task":"api","state":"running",` + writer + `}`,
		"other state":  `{"task":"web","state":"asleep",` + writer + `}`,
		"no writer":    `{"task":"web","state":"running"}`,
		"other JSON":   `[]`,
		"longer":       `{"task":"web","state":"running",` + writer + `}` + strings.Repeat(" ", maxMember),
		"wrong detail": `{"task":"web","state":"running","since":"yesterday",` + writer + `}`,
	}
	for name, content := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var log listener
			g, err := Join(dir, Member{Task: "api", State: Starting}, time.Now, log.logger())
			must.NoError(t, err)
			tasks := func() (names []string) {
				members, err := g.Members()
				must.NoError(t, err)
				for _, m := range members {
					names = append(names, m.Task)
				}
				return names
			}
			must.NoError(t, os.WriteFile(filepath.Join(dir, "web.json"), []byte(content), 0o600))
			must.Eq(t, []string{"api"}, tasks())
			must.Eq(t, []string{"api"}, tasks())
			must.Eq(t, 1, strings.Count(log.String(), "unreadable"), must.Sprint(log.String()))
			must.StrContains(t, log.String(), "task=web")

			must.NoError(t, join(t, dir, Member{Task: "web"}).Running())
			must.Eq(t, []string{"api", "web"}, tasks())
			must.NoError(t, os.WriteFile(filepath.Join(dir, "web.json"), []byte(content), 0o600))
			must.Eq(t, []string{"api"}, tasks())
			must.Eq(t, 2, strings.Count(log.String(), "unreadable"), must.Sprint(log.String()))
		})
	}
}

// Members are in the order of their names, not of their files' names, and other
// files are none.
func TestGroup_Members(t *testing.T) {
	dir := t.TempDir()
	names := []string{"a", "a b", "a-b", "a.b", "created.done", "é"}
	var g *Group
	for _, name := range slices.Backward(names) {
		g = join(t, dir, Member{Task: name})
	}
	for _, other := range []string{"new-123", "created.lock", "stopped.done", "web.json.new"} {
		must.NoError(t, os.WriteFile(filepath.Join(dir, other), []byte("x"), 0o600))
	}
	members, err := g.Members()
	must.NoError(t, err)
	var got []string
	for _, m := range members {
		got = append(got, m.Task)
	}
	must.Eq(t, names, got)
	must.NoError(t, os.RemoveAll(dir)) // the allocation is gone
	members, err = g.Members()
	must.NoError(t, err)
	must.SliceEmpty(t, members)
}

// A task of another boot has stopped with the machine; one of a dead process is
// lost, whether its number is free or another's now.
func TestGroup_DeadWriters(t *testing.T) {
	dir := t.TempDir()
	g := join(t, dir, Member{Task: "web"})
	me := g.own().Writer
	cases := map[string]struct {
		writer process.ID
		state  State
		lost   bool
	}{
		"alive":        {writer: process.ID{PID: me.PID, Start: me.Start, Boot: me.Boot}, state: Running},
		"other number": {writer: process.ID{PID: 1 << 30, Start: me.Start, Boot: me.Boot}, state: Running, lost: true},
		"other start":  {writer: process.ID{PID: me.PID, Start: me.Start + 1, Boot: me.Boot}, state: Running, lost: true},
		"other boot":   {writer: process.ID{PID: me.PID, Start: me.Start, Boot: "before"}, state: Stopped, lost: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			data, err := encodeMember(Member{Task: "api", State: Running, Writer: tc.writer})
			must.NoError(t, err)
			must.NoError(t, os.WriteFile(filepath.Join(dir, "api.json"), data, 0o600))
			members, err := g.Members()
			must.NoError(t, err)
			must.Eq(t, tc.state, members[0].State)
			must.Eq(t, tc.lost, members[0].Lost)
		})
	}
}

// A change that could not be written is written with the next one.
func TestGroup_WriteFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "group")
	g := join(t, dir, Member{Task: "web"})
	must.NoError(t, os.RemoveAll(dir))
	must.ErrorContains(t, g.Stopping("drained", true), `task "web"`)
	must.NoError(t, os.Mkdir(dir, 0o700))
	must.NoError(t, g.Stopping("drained", true)) // no change, but the file lacks the last one
	members, err := g.Members()
	must.NoError(t, err)
	must.Eq(t, Stopping, members[0].State)
	must.True(t, members[0].Whole)
}

// Only the owner can read what may hold secrets.
func TestGroup_Permissions(t *testing.T) {
	dir := Dir(t.TempDir())
	g := join(t, dir, Member{Task: "web", Hooks: hooks(OnCreated)})
	for path, want := range map[string]os.FileMode{dir: 0o700, g.path(): 0o600} {
		info, err := os.Stat(path)
		must.NoError(t, err)
		must.Eq(t, want, info.Mode().Perm())
	}
}

// Many may say something of one task at once; a reader never finds half of it.
func TestGroup_Concurrent(t *testing.T) {
	dir := t.TempDir()
	var log listener
	g, err := Join(dir, Member{Task: "web", State: Starting}, time.Now, log.logger())
	must.NoError(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { must.NoError(t, g.Running()) })
		wg.Go(func() { must.NoError(t, g.Stopping("drained", true)) })
		wg.Go(func() {
			for range 50 {
				members, err := g.Members()
				must.NoError(t, err)
				must.Len(t, 1, members)
			}
		})
	}
	wg.Wait()
	must.Eq(t, Stopping, g.own().State)
	must.Eq(t, "", log.String())
}
