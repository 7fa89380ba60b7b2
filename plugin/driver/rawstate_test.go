package driver

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/shoenig/test/must"
)

// A real process counts its starts: it finds the count of the one before in its
// checkpoint, in whatever allocation it starts next, and a command saves it.
func TestReal_Checkpoint(t *testing.T) {
	store := t.TempDir()
	const counting = `n=0; test -e $LIFECYCLE_CHECKPOINT_FILE && n=$(cat $LIFECYCLE_CHECKPOINT_FILE)
echo $((n+1)) > $NOMAD_TASK_DIR/count; echo $$ > $NOMAD_TASK_DIR/pid; exec sleep 300`
	saving := "checkpoint {\n store = \"shared\"\n" + shell("save", "cp $NOMAD_TASK_DIR/count $LIFECYCLE_CHECKPOINT_FILE", "") + "}\n"
	alloc := ""
	for i, want := range []string{"1\n", "2\n", "3\n"} {
		r := newReal(t, "", "")
		r.storeAt(t, store)
		if i == 2 { // a restart in place
			r.cfg.ID = r.cfg.AllocID + "/web/" + uuid.Short()
		}
		r.configure(t, counting, block(saving))
		alloc = r.cfg.AllocID
		_, _, err := r.h.StartTask(r.cfg)
		must.NoError(t, err)
		pid := r.pid(t, "pid")
		must.Eq(t, want, r.read(t, "count"))

		c := over(t, ownSocket(r.cfg))
		var st apiStatus
		code, _ := ask(t, c, http.MethodGet, "/v1/state", &st)
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
	must.NotEq(t, "", alloc)
}

// storeAt gives the driver a store in a directory, and no Nomad.
func (r *realDriver) storeAt(t *testing.T, dir string) {
	t.Helper()
	var raw []byte
	must.NoError(t, base.MsgPackEncode(&raw, map[string]any{
		"enabled": true, blockName: map[string]any{"stores": []map[string]string{{"shared": "file://" + dir}}},
	}))
	cfg := agentOf(t)
	cfg.PluginConfig = raw
	must.NoError(t, r.h.SetConfig(cfg))
	r.cfg.Env["NOMAD_ALLOC_INDEX"] = "0"
}

// A process that reads its own stream of events learns of its stop, and what it
// does then is not cut short.
func TestReal_SocketFromInside(t *testing.T) {
	curl := "/usr/bin/curl"
	if _, err := os.Stat(curl); err != nil {
		curl = ""
	}
	r := newReal(t, forever, block("manage {\n}\n", shell("prestop", inside(curl), "")))
	_, _, err := r.h.StartTask(r.cfg)
	must.NoError(t, err)
	r.pid(t, "pid")
	must.NoError(t, r.h.StopTask(r.cfg.ID, 20*time.Second, "SIGTERM"))
	text := r.read(t, "state")
	if curl == "" {
		must.StrContains(t, text, "srw")
		return
	}
	var st apiStatus
	must.NoError(t, json.Unmarshal([]byte(text), &st))
	must.Eq(t, "stopping", st.State)
	must.Eq(t, "unknown", st.Reason)
	must.NotNil(t, st.RemainingMS)
}

// inside asks for the state from within the task, or at least looks whether the
// socket is there.
func inside(curl string) string {
	if curl == "" {
		return "ls -l $LIFECYCLE_SOCKET > $NOMAD_TASK_DIR/state"
	}
	return strings.Join([]string{"cd $NOMAD_SECRETS_DIR &&", curl, "-sS --unix-socket lifecycle.sock http://localhost/v1/state > $NOMAD_TASK_DIR/state"}, " ")
}
