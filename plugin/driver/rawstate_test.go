package driver

import (
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/shoenig/test/must"
)

// A real process counts its starts: it finds the count of the one before in its
// checkpoint, in whatever allocation it starts next, and a command saves it.
func TestReal_Checkpoint(t *testing.T) {
	store := t.TempDir()
	const counting = `test -S $LIFECYCLE_SOCKET || exit 7
n=0; test -e $LIFECYCLE_CHECKPOINT_FILE && n=$(cat $LIFECYCLE_CHECKPOINT_FILE)
echo $((n+1)) > $NOMAD_TASK_DIR/count; echo $$ > $NOMAD_TASK_DIR/pid; exec sleep 300`
	saving := "checkpoint {\n store = \"shared\"\n" + shell("save", "cp $NOMAD_TASK_DIR/count $LIFECYCLE_CHECKPOINT_FILE", "") + "}\n"
	for _, want := range []string{"1\n", "2\n", "3\n"} {
		r := newReal(t, "", "")
		r.storeAt(t, store)
		r.configure(t, counting, block(saving))
		_, _, err := r.h.StartTask(r.cfg)
		must.NoError(t, err)
		pid := r.pid(t, "pid")
		must.Eq(t, want, r.read(t, "count"))

		var st apiStatus
		code, _ := ask(t, over(t, ownSocket(r.cfg)), http.MethodGet, "/v1/state", &st)
		must.Eq(t, http.StatusOK, code)
		must.Eq(t, "running", st.State)
		info, err := os.Stat(ownSocket(r.cfg))
		must.NoError(t, err)
		must.Eq(t, 0o600, info.Mode().Perm()) // it is root's, as the process is

		ch, err := r.h.WaitTask(t.Context(), r.cfg.ID)
		must.NoError(t, err)
		must.NoError(t, r.h.StopTask(r.cfg.ID, 20*time.Second, "SIGTERM"))
		must.Eq(t, int(syscall.SIGTERM), wait(t, ch).Signal)
		gone(t, pid)
	}
}

// storeAt gives the driver a store in a directory.
func (r *realDriver) storeAt(t *testing.T, dir string) {
	t.Helper()
	cfg := agentOf(t)
	must.NoError(t, base.MsgPackEncode(&cfg.PluginConfig, map[string]any{
		"enabled": true, blockName: map[string]any{"stores": []map[string]string{{"shared": "file://" + dir}}},
	}))
	must.NoError(t, r.h.SetConfig(cfg))
	r.cfg.Env["NOMAD_ALLOC_INDEX"] = "0"
}
