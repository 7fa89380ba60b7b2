package driver

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// The state is saved at every stop after which somebody may take it up, after
// the prestop hooks and before the process is told to end; and at no other.
func TestSave_ByReason(t *testing.T) {
	cases := map[string]struct {
		decide func(*testing.T, *fakeNomad, *drivers.TaskConfig)
		reason string
		saves  bool
	}{
		"drained":   {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) { n.set(t, cfg.AllocID, drained) }, "drained", true},
		"preempted": {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) { n.set(t, cfg.AllocID, preempted) }, "preempted", true},
		"updated": {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) {
			n.set(t, cfg.AllocID, func(a *api.Allocation) {
				a.DesiredStatus, a.DesiredDescription = api.AllocDesiredStatusStop, "alloc is being updated due to job update"
			})
		}, "updated", true},
		"restarted": {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) {
			n.set(t, cfg.AllocID, func(a *api.Allocation) {
				a.TaskStates = map[string]*api.TaskState{"web": {Events: []*api.TaskEvent{{Type: api.TaskRestartSignal}}}}
			})
		}, "restarted", true},
		"unknown":     {func(_ *testing.T, n *fakeNomad, _ *drivers.TaskConfig) { n.close() }, "unknown", true},
		"job stopped": {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) { n.stopJob(t, cfg) }, "stopped", false},
		"job purged": {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) {
			n.forget("/v1/job/shop")
			n.set(t, cfg.AllocID, notNeeded)
		}, "stopped", false},
		"scaled down": {func(t *testing.T, n *fakeNomad, cfg *drivers.TaskConfig) {
			job, none := shop(t), 0
			job.TaskGroups[0].Count = &none
			n.answer(t, "/v1/job/shop", job)
			n.set(t, cfg.AllocID, notNeeded)
		}, "scaled-down", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p := r.place(t, checkpointed("", httpHook("prestop", "prestop", "")))
			p.app.set("the state")
			p.start(t)
			tc.decide(t, r.n, p.cfg)
			text := p.leave(t, 20*time.Second)
			next := r.place(t, checkpointed(""))
			started := next.begun(t)
			if !tc.saves {
				must.Eq(t, []string{"start", "hook /prestop", "stop ", "destroy force=false"}, p.all())
				must.StrNotContains(t, text, "checkpoint")
				must.StrContains(t, started, "cold start: no checkpoint")
				must.Eq(t, []string{"start"}, next.all())
				return
			}
			must.Eq(t, []string{"start", "hook /prestop", "save", "stop ", "destroy force=false"}, p.all())
			must.StrContains(t, text, "checkpoint 1/1 saved: 9 B")
			ev := p.told(t, "/state")
			must.Eq(t, tc.reason, ev.Reason)
			must.False(t, ev.Final)
			must.Between(t, 1, ev.RemainingMS, 5_000)
			must.Between(t, 10_000, ev.KillMS, 20_000)
			must.StrContains(t, started, "checkpoint 1/1, 9 B, saved ")
			must.Eq(t, []string{"start", "restore the state"}, next.all())
			must.Eq(t, "the state", next.file(t))
		})
	}
}

// A task gives its state at a port, at a socket in its local directory, or by a
// command that writes a file.
func TestSave_Ways(t *testing.T) {
	bySocket := strings.ReplaceAll(byPort, `port = "http"`, `socket = "app.sock"`)
	byCommand := "save {\n exec {\n command = [\"save\"]\n }\n}\nrestore {\n exec {\n command = [\"restore\"]\n }\n}\n"
	cases := map[string]struct {
		text string
		all  []string
		next []string
	}{
		"port":    {byPort, []string{"start", "save", "stop ", "destroy force=false"}, []string{"start", "restore the state"}},
		"socket":  {bySocket, []string{"start", "save", "stop ", "destroy force=false"}, []string{"start", "restore the state"}},
		"command": {byCommand, []string{"start", "exec save", "stop ", "destroy force=false"}, []string{"start", "exec restore"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			text := block("checkpoint {\n store = \"shared\"\n" + tc.text + "}\n")
			place := func() *place {
				p := r.place(t, text)
				if name == "socket" {
					listenSocket(t, p)
				}
				p.execs(func(cfg *drivers.TaskConfig, command string) int {
					file := cfg.Env[checkpointKey]
					if command == "save" {
						must.NoError(t, os.WriteFile(file, []byte("the state"), 0o600))
						return 0
					}
					data, err := os.ReadFile(file)
					must.NoError(t, err)
					must.Eq(t, "the state", string(data))
					return 0
				})
				p.app.set("the state")
				return p
			}
			p := place()
			p.start(t)
			must.Eq(t, filepath.Join(p.cfg.TaskDir().LocalDir, "lifecycle", "checkpoint"), p.only(t).cfg.Env[checkpointKey])
			must.StrContains(t, p.leave(t, time.Minute), "checkpoint 1/1 saved: 9 B")
			must.Eq(t, tc.all, p.all())
			next := place()
			next.start(t)
			must.Eq(t, tc.next, next.all())
			must.Eq(t, "the state", next.file(t))
		})
	}
}

// listenSocket has the application answer at a socket as well.
func listenSocket(t *testing.T, p *place) {
	t.Helper()
	t.Chdir(p.cfg.TaskDir().LocalDir) // the path may be too long for the kernel
	serveUnix(t, "app.sock", p.app)
}

// A task may have nothing to save. What it has saved before stays.
func TestSave_Nothing(t *testing.T) {
	byCommand := "save {\n exec {\n command = [\"save\"]\n }\n}\n"
	for name, text := range map[string]string{"204": byPort, "no file": byCommand} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			first := r.place(t, checkpointed(""))
			first.app.set("the state")
			first.start(t)
			first.leave(t, time.Minute)

			p := r.place(t, block("checkpoint {\n store = \"shared\"\n"+text+"}\n"))
			p.app.answers(answering(http.StatusNoContent, ""))
			p.execs(func(*drivers.TaskConfig, string) int { return 0 })
			p.start(t)
			must.Eq(t, "the state", p.file(t))
			message := p.leave(t, time.Minute)
			must.StrContains(t, message, "the task has no state to save")
			must.StrNotContains(t, message, "NOT saved")

			next := r.place(t, checkpointed(""))
			next.start(t)
			must.Eq(t, []string{"start", "restore the state"}, next.all())
		})
	}
}

// A save that fails is told, costs no more than its time, and prevents no stop.
func TestSave_Fails(t *testing.T) {
	garbage := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = conn.Write([]byte("hello\r\n\r\n")) // as above
			_ = conn.Close()
		}
	}
	noLength := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = conn.Write([]byte("HTTP/1.0 200 OK\r\n\r\nhalf a st"))
			_ = conn.Close()
		}
	}
	cases := map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"too large": {answering(200, strings.Repeat("x", 5000)), "lifecycle.checkpoint.save.http: POST port http /state: the answer is too large: "},
		"no length": {noLength, "lifecycle.checkpoint.save.http failed after 1 try: POST port http /state: the answer says no length"},
		"garbage":   {garbage, "malformed HTTP response"},
		"status":    {answering(503, "not now"), "lifecycle.checkpoint.save.http failed after 1 try: POST port http /state: status 503: not now"},
		"hangs":     {hanging, "lifecycle.checkpoint.save.http failed after 1 try: cut at its timeout of 300ms"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p := r.place(t, strings.Replace(checkpointed("max_size = \"4KiB\"", httpHook("prestop", "prestop", "")), `timeout = "5s"`, `timeout = "300ms"`, 1))
			p.app.answers(tc.answer)
			p.start(t)
			r.n.set(t, p.cfg.AllocID, drained)
			var text string
			inTime(t, 10*time.Second, func() { text = p.leave(t, time.Minute) })
			must.StrContains(t, text, "checkpoint NOT saved: ")
			must.StrContains(t, text, tc.want)
			must.Eq(t, []string{"start", "hook /prestop", "save", "stop ", "destroy force=false"}, p.all())
			must.StrContains(t, r.place(t, checkpointed("")).begun(t), "cold start: no checkpoint")
		})
	}
}

// What a command leaves as its state is looked at with care: the task owns its
// directory, and the plugin is root.
func TestSave_CommandFails(t *testing.T) {
	cases := map[string]struct {
		run  func(t *testing.T, file string) int
		want string
	}{
		"exit code": {func(*testing.T, string) int { return 3 }, `lifecycle.checkpoint.save.exec failed after 1 try: "save" ended with exit code 3`},
		"too large": {func(t *testing.T, file string) int {
			must.NoError(t, os.WriteFile(file, make([]byte, 4097), 0o600))
			return 0
		}, "4096"},
		"link out": {func(t *testing.T, file string) int {
			must.NoError(t, os.Symlink("/etc/passwd", file))
			return 0
		}, "checkpoint"},
		"directory": {func(t *testing.T, file string) int {
			must.NoError(t, os.Mkdir(file, 0o700))
			return 0
		}, "checkpoint"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p := r.place(t, block("checkpoint {\n store = \"shared\"\n max_size = \"4KiB\"\n save {\n exec {\n command = [\"save\"]\n }\n}\n}\n"))
			p.execs(func(cfg *drivers.TaskConfig, _ string) int {
				must.NoError(t, os.MkdirAll(filepath.Dir(cfg.Env[checkpointKey]), 0o755))
				return tc.run(t, cfg.Env[checkpointKey])
			})
			p.start(t)
			var text string
			inTime(t, 10*time.Second, func() { text = p.leave(t, time.Minute) })
			must.StrContains(t, text, "checkpoint NOT saved: ")
			must.StrContains(t, text, tc.want)
			must.SliceNotContains(t, r.objects(t), "00000001/00000001.json")
		})
	}
}

// A process that ends while it is asked for its state has not given it.
func TestSave_ProcessEndsMeanwhile(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed("", httpHook("poststop", "poststop", "")))
	p.app.answers(func(_ http.ResponseWriter, req *http.Request) {
		p.only(t).finish(&drivers.ExitResult{ExitCode: 9})
		<-req.Context().Done()
	})
	p.start(t)
	var text string
	inTime(t, 10*time.Second, func() { text = p.leave(t, time.Minute) })
	// The process ends before the save is known to have failed, so the event of
	// its end may come too early to tell.
	if strings.Contains(text, "NOT saved") {
		must.StrContains(t, text, "the task's process has ended")
	}
	must.Eq(t, 1, p.count("hook /poststop"))
	must.StrContains(t, r.place(t, checkpointed("")).begun(t), "cold start: no checkpoint")
}

// A process that has ended by itself is asked for nothing.
func TestSave_NotOfAnEndedProcess(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed(""))
	p.start(t)
	result := p.waitTask(t)
	p.only(t).finish(&drivers.ExitResult{ExitCode: 1})
	wait(t, result)
	must.NoError(t, p.h.StopTask(p.cfg.ID, time.Minute, ""))
	must.Eq(t, 0, p.count("save"))
}

// Hooks that take all the time there is leave some for the state.
func TestSave_HasTimeOfItsOwn(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed("", httpHook("prestop", "hang", "timeout = \"1h\"")))
	events := collect(t, p.setup)
	p.start(t)
	p.app.set("the state")
	r.n.set(t, p.cfg.AllocID, drained)
	text := p.leave(t, 2*time.Second)
	must.StrContains(t, text, "checkpoint 1/1 saved: 9 B")
	must.StrContains(t, only(t, events(), "stopped").Message, "of the task's kill_timeout for its checkpoint")
	must.Eq(t, []string{"start", "hook /hang", "save", "stop ", "destroy force=false"}, p.all())
}

// The only task of a batch job that has ended with success has nothing to go on
// from. One that has failed does, and so does any of a service.
func TestSave_OfOneThatIsDone(t *testing.T) {
	cases := map[string]struct {
		kind   string
		code   int
		closed bool
	}{
		"batch, success":   {"batch", 0, true},
		"batch, failure":   {"batch", 1, false},
		"service, success": {"service", 0, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			of := func() *place {
				p := r.place(t, checkpointed(""))
				r.n.run(t, p.cfg, parseJob(t, "job \"shop\" {\n type = \""+tc.kind+"\"\n group \"front\" {\n task \"web\" {\n driver = \"lifecycle-fake\"\n }\n }\n}"))
				return p
			}
			p := of()
			p.app.set("the state")
			p.start(t)
			code, text := ask(t, over(t, ownSocket(p.cfg)), http.MethodPost, "/v1/save", nil)
			must.Eq(t, http.StatusOK, code, must.Sprint(text))
			result := p.waitTask(t)
			p.only(t).finish(&drivers.ExitResult{ExitCode: tc.code})
			wait(t, result)
			must.NoError(t, p.h.DestroyTask(p.cfg.ID, false))
			next := of()
			next.start(t)
			if tc.closed {
				must.Eq(t, []string{"start"}, next.all())
			} else {
				must.Eq(t, []string{"start", "restore the state"}, next.all())
			}
		})
	}
}
