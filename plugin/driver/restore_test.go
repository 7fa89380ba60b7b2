package driver

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// saved has an allocation run, save a state and go.
func (r *rig) saved(t *testing.T, state string) {
	t.Helper()
	p := r.place(t, checkpointed(""))
	p.app.set(state)
	p.start(t)
	r.n.set(t, p.cfg.AllocID, drained)
	must.StrContains(t, p.leave(t, time.Minute), "saved")
	r.n.set(t, p.cfg.AllocID, terminal("complete"))
}

// The process finds its checkpoint in a file, and is given it before anybody
// takes it for ready.
func TestRestore_Order(t *testing.T) {
	r := newRig(t)
	r.saved(t, "the state")
	p := r.place(t, "")
	p.configure(t, checkpointed("", httpHook("prestart", "prestart", ""), httpHook("poststart", "poststart", ""), httpHook("ready", "ready", "")))
	start := p.StartTaskF
	p.StartTaskF = func(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
		must.Eq(t, "the state", p.file(t))
		return start(cfg)
	}
	text := p.begun(t)
	must.Eq(t, []string{"hook /prestart", "start", "restore the state", "hook /poststart", "hook /ready"}, p.all())
	must.StrContains(t, text, "checkpoint 1/1, 9 B, saved ")
	must.StrContains(t, text, "restored by http 204 in ")
	must.StrContains(t, text, "restoring ")
	_, err := p.d.WaitTask(t.Context(), p.cfg.ID)
	must.NoError(t, err)
	_, err = os.Stat(newJournal(p.cfg).path)
	must.ErrorIs(t, err, os.ErrNotExist)
}

// Without a restore block the file is all there is.
func TestRestore_ByFileOnly(t *testing.T) {
	r := newRig(t)
	r.saved(t, "the state")
	text, _, _ := strings.Cut(byPort, "restore {")
	p := r.place(t, block("checkpoint {\n store = \"shared\"\n"+text+"}\n"))
	p.start(t)
	must.Eq(t, []string{"start"}, p.all())
	must.Eq(t, "the state", p.file(t))
}

// An empty state is one, and any byte may be in it.
func TestRestore_AnyState(t *testing.T) {
	for name, state := range map[string]string{"empty": "", "bytes": "\x00\xff\n\r\x00", "large": strings.Repeat("a state ", 20_000)} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.saved(t, state)
			p := r.place(t, checkpointed(""))
			p.start(t)
			must.Eq(t, []string{"start", "restore " + state}, p.all())
			must.Eq(t, state, p.file(t))
		})
	}
}

// A cold start finds no file, also if the task has left one.
func TestRestore_Cold(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed(""))
	dir := filepath.Join(p.cfg.TaskDir().LocalDir, "lifecycle")
	must.NoError(t, os.MkdirAll(dir, 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint"), []byte("old"), 0o600))
	must.StrContains(t, p.begun(t), "cold start: no checkpoint")
	must.Eq(t, []string{"start"}, p.all())
	must.Eq(t, "", p.file(t))
}

// The newest state is taken up, start after start, in the same allocation and in
// another.
func TestRestore_Newest(t *testing.T) {
	r := newRig(t)
	r.saved(t, "one")
	p := r.place(t, checkpointed(""))
	for i, state := range []string{"two", "three"} {
		p.cfg.ID = p.cfg.AllocID + "/web/" + state
		p.start(t)
		p.app.set(state)
		text := p.leave(t, time.Minute)
		must.StrContains(t, text, "checkpoint "+[]string{"2/1", "3/1"}[i]+" saved")
	}
	next := r.place(t, checkpointed(""))
	next.start(t)
	must.Eq(t, []string{"start", "restore three"}, next.all())
	must.Eq(t, []string{"restore one", "restore two"}, restores(p.script))
}

func restores(s *script) []string {
	all := []string{}
	for _, line := range s.all() {
		if strings.HasPrefix(line, "restore") {
			all = append(all, line)
		}
	}
	return all
}

// A state goes to nobody but the same task in the same place.
func TestRestore_OnlyItsOwn(t *testing.T) {
	cases := map[string]func(*drivers.TaskConfig){
		"namespace": func(c *drivers.TaskConfig) { c.Namespace = "test" },
		"job":       func(c *drivers.TaskConfig) { c.JobID = "shop2" },
		"group":     func(c *drivers.TaskConfig) { c.TaskGroupName = "front2" },
		"index":     func(c *drivers.TaskConfig) { c.Env["NOMAD_ALLOC_INDEX"] = "1" },
		"another":   func(c *drivers.TaskConfig) { c.Name = "web2" },
		"none":      func(*drivers.TaskConfig) {},
	}
	r := newRig(t)
	r.saved(t, "the state")
	for name, edit := range cases {
		t.Run(name, func(t *testing.T) {
			p := r.place(t, checkpointed(""))
			ports := p.cfg.Resources
			if name == "another" {
				p.cfg = taskIn(t, p.cfg.AllocDir, p.cfg.AllocID, "web2")
				p.cfg.Resources = ports
				p.configure(t, checkpointed(""))
			}
			edit(p.cfg)
			p.start(t)
			if name == "none" {
				must.Eq(t, []string{"start", "restore the state"}, p.all())
			} else {
				must.Eq(t, []string{"start"}, p.all())
			}
		})
	}
}

// An allocation without an index is a mistake of ours, and no place for a state.
func TestRestore_NoIndex(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed(""))
	delete(p.cfg.Env, "NOMAD_ALLOC_INDEX")
	_, _, err := p.h.StartTask(p.cfg)
	must.ErrorContains(t, err, "identity: index is empty")
	p.forgotten(t)
}

// A system job's allocations all have the same index, so their state is their
// node's.
func TestRestore_SystemJob(t *testing.T) {
	r := newRig(t)
	on := func(node, more string) *place {
		p := r.place(t, checkpointed(more))
		p.cfg.NodeID = node
		job := parseJob(t, "job \"shop\" {\n type = \"system\"\n group \"front\" {\n task \"web\" {\n driver = \"lifecycle-fake\"\n }\n }\n}")
		r.n.run(t, p.cfg, job)
		return p
	}
	p := on("n1", "")
	_, _, err := p.h.StartTask(p.cfg)
	must.ErrorContains(t, err, `lifecycle.checkpoint.scope: the job has an allocation on each node`)
	must.False(t, structs.IsRecoverable(err))
	must.SliceEmpty(t, p.all())
	p.forgotten(t)

	const node = "scope = \"node\""
	for _, id := range []string{"n1", "n2"} {
		p = on(id, node)
		p.app.set("of " + id)
		p.start(t)
		p.leave(t, time.Minute)
	}
	for _, id := range []string{"n1", "n2"} {
		p = on(id, node)
		p.start(t)
		must.Eq(t, []string{"start", "restore of " + id}, p.all())
	}
}

// What on_restore_failure says decides whether a start without its state is one.
func TestRestore_AppRefuses(t *testing.T) {
	r := newRig(t)
	r.saved(t, "the state")
	p := r.place(t, checkpointed("on_restore_failure = \"fail\"", httpHook("poststart", "poststart", "")))
	p.app.refusesRestore(http.StatusInsufficientStorage)
	_, _, err := p.h.StartTask(p.cfg)
	must.ErrorContains(t, err, "lifecycle.checkpoint.restore.http failed after 1 try: PUT port http /state: status 507")
	must.True(t, structs.IsRecoverable(err))
	must.Eq(t, []string{"start", "restore the state", "stop ", "destroy force=true"}, p.all())
	p.forgotten(t)

	p = r.place(t, checkpointed("on_restore_failure = \"cold\"", httpHook("poststart", "poststart", "")))
	p.app.refusesRestore(http.StatusInsufficientStorage)
	must.StrContains(t, p.begun(t), "goes on without its checkpoint: lifecycle.checkpoint.restore.http failed after 1 try: PUT port http /state: status 507")
	must.Eq(t, []string{"start", "restore the state", "hook /poststart"}, p.all())
}

// A process that dies of its checkpoint does not run without it.
func TestRestore_ProcessEnds(t *testing.T) {
	for _, mode := range []string{"fail", "cold"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig(t)
			r.saved(t, "the state")
			p := r.place(t, checkpointed("on_restore_failure = \""+mode+"\""))
			p.app.refusesRestore(0)
			done := p.background(t.Context())
			eventually(t, "restore runs", func() bool { return p.count("restore") == 1 })
			p.only(t).finish(&drivers.ExitResult{ExitCode: 7})
			err := receive(t, done)
			must.ErrorContains(t, err, "lifecycle.checkpoint.restore.http failed after 1 try: the task's process has ended; it ended with exit code 7")
			must.True(t, structs.IsRecoverable(err))
			p.forgotten(t)
		})
	}
}

// refusing is a Consul that answers every request with an error.
func refusing(t *testing.T, code int) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Permission denied", code)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// byConsul makes a place whose store is the Consul at an address.
func (r *rig) byConsul(t *testing.T, address, more string) *place {
	t.Helper()
	text := strings.Replace(checkpointed(more), `store = "shared"`, "", 1)
	p := r.place(t, text)
	must.NoError(t, configureAgent(t, p.d, r.n.agent("consul {\n address = \""+address+"\"\n }")))
	return p
}

// A store that cannot be asked is not taken for an empty one.
func TestRestore_StoreUnreachable(t *testing.T) {
	r := newRig(t)
	gone := newRig(t)
	must.NoError(t, os.Remove(gone.dir))
	denies := func(t *testing.T, more string) *place { return r.byConsul(t, refusing(t, 403), more) }
	notThere := func(t *testing.T, more string) *place { return gone.place(t, checkpointed(more)) }
	cases := map[string]func(t *testing.T, more string) *place{
		"Consul denies": denies, "directory not there": notThere, "directory lost since": r.lost,
		"Consul is not there": func(t *testing.T, more string) *place { return r.byConsul(t, nowhere, more) },
	}
	for name, lay := range cases {
		t.Run(name, func(t *testing.T) {
			p := lay(t, "")
			p.d.storeLimit = time.Second
			var err error
			inTime(t, 10*time.Second, func() { _, _, err = p.h.StartTask(p.cfg) })
			must.Error(t, err)
			must.True(t, structs.IsRecoverable(err), must.Sprint(err.Error()))
			must.SliceEmpty(t, p.all())
			p.forgotten(t)

			p = lay(t, "on_restore_failure = \"cold\"")
			p.d.storeLimit = time.Second
			var text string
			inTime(t, 10*time.Second, func() { text = p.begun(t) })
			must.StrContains(t, text, "cold start, because no checkpoint could be fetched: ")
			must.Eq(t, []string{"start"}, p.all())
			must.Eq(t, "", p.file(t))
		})
	}
}

// lost makes a place whose store is opened and then taken away.
func (r *rig) lost(t *testing.T, more string) *place {
	t.Helper()
	own := newRig(t)
	p := own.place(t, checkpointed(more))
	_, err := p.d.around().store(t.Context(), "shared")
	must.NoError(t, err)
	t.Cleanup(own.losing(t))
	return p
}

// A task that had to start without the store saves there once it is back.
func TestRestore_ColdSavesLater(t *testing.T) {
	r, c := newRig(t), newConsul(t)
	first := r.byConsul(t, c.url, "")
	first.start(t)
	first.leave(t, time.Minute)

	c.fails(http.StatusForbidden)
	p := r.byConsul(t, c.url, "on_restore_failure = \"cold\"")
	p.app.set("later")
	must.StrContains(t, p.begun(t), "cold start, because no checkpoint could be fetched: ")
	c.fails(0)
	r.n.set(t, p.cfg.AllocID, drained)
	must.StrContains(t, p.leave(t, time.Minute), "checkpoint 2/1 saved")
	next := r.byConsul(t, c.url, "")
	next.start(t)
	must.Eq(t, []string{"start", "restore later"}, next.all())
}

// A damaged version is not passed over unless the job says that a cold start
// would do as well.
func TestRestore_Damaged(t *testing.T) {
	r := newRig(t)
	r.saved(t, "one")
	r.saved(t, "two")
	matches, err := filepath.Glob(filepath.Join(r.dir, "lifecycle/checkpoints/prod/shop/front/0/web/00000002/00000001.data"))
	must.NoError(t, err)
	must.Len(t, 1, matches)
	data, err := os.ReadFile(matches[0])
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(matches[0], bytes.ToUpper(data), 0o600))

	p := r.place(t, checkpointed(""))
	_, _, err = p.h.StartTask(p.cfg)
	must.ErrorContains(t, err, "lifecycle/checkpoints/prod/shop/front/0/web/00000002/00000001.data is damaged: ")
	must.ErrorContains(t, err, `to go back to the version before, delete lifecycle/checkpoints/prod/shop/front/0/web/00000002/00000001.json from the store, or set on_restore_failure = "cold"`)
	must.True(t, structs.IsRecoverable(err))
	must.SliceEmpty(t, p.all())
	p.forgotten(t)

	p = r.place(t, checkpointed("on_restore_failure = \"cold\""))
	must.StrContains(t, p.begun(t), "damaged, and passed over: ")
	must.Eq(t, []string{"start", "restore one"}, p.all())
}

// A name that the client's operator has not given a meaning is a mistake that no
// new try mends.
func TestRestore_UnknownStore(t *testing.T) {
	r := newRig(t)
	p := r.place(t, strings.Replace(checkpointed("on_restore_failure = \"cold\""), "shared", "share", 1))
	_, _, err := p.h.StartTask(p.cfg)
	must.ErrorContains(t, err, `lifecycle.checkpoint.store: this client's plugin configuration has no store "share"; it has consul, shared`)
	must.False(t, structs.IsRecoverable(err))
	p.forgotten(t)
}

// What lies in the task's directory does not lead a restore elsewhere.
func TestRestore_FileStaysInside(t *testing.T) {
	r := newRig(t)
	r.saved(t, "the state")
	outside := t.TempDir()
	p := r.place(t, checkpointed(""))
	must.NoError(t, os.Symlink(outside, filepath.Join(p.cfg.TaskDir().LocalDir, "lifecycle")))
	_, _, err := p.h.StartTask(p.cfg)
	must.ErrorContains(t, err, "write checkpoint file")
	entries, err := os.ReadDir(outside)
	must.NoError(t, err)
	must.SliceEmpty(t, entries)
	p.forgotten(t)
}
