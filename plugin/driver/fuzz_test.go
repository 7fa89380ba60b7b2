package driver

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"github.com/zclconf/go-cty/cty/msgpack"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
)

// cmpUnexported lets specs be compared.
var cmpUnexported = cmp.AllowUnexported(spec{}, checkpointSpec{}, manageSpec{})

// FuzzSpec reads a lifecycle block in both forms in which it comes: as msgpack,
// which is the task's own after Nomad has put in its variables, and as JSON of
// Nomad's API, which is another task's. Whatever is in it, there is an error that
// names the block, or a spec within all limits.
func FuzzSpec(f *testing.F) {
	for _, text := range []string{
		"", strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(lifecycleText), "lifecycle {"), "}"),
		"checkpoint {\n" + byPort + "store = \"shared\"\nmax_size = \"1MiB\"\nkeep = 5\ninterval = \"30s\"\nwait = \"5s\"\non_restore_failure = \"cold\"\nscope = \"node\"\n}\n",
		offers, "manage {\n replicate {\n min = 1\n max = 10\n}\n}\n",
		"stop_after = [\"a\", \"b\"]\ngroup {\n created {\n sleep = \"1s\"\n}\n stopped {\n http {\n url = \"http://a/b\"\n headers = { A = \"b\" }\n}\n}\n}\n",
		"prestop {\n sleep = \"x\"\n}\n", "checkpoint {\n}\n",
	} {
		text = block(text)
		schema, err := (&Driver{inner: newFake()}).TaskConfigSchema()
		must.NoError(f, err)
		value, err := parseConfig(f, schema, text)
		must.NoError(f, err)
		packed, err := msgpack.Marshal(value, value.Type())
		must.NoError(f, err)
		f.Add(packed)
		var words map[string]any
		must.NoError(f, base.MsgPackDecode(packed, &words))
		data, err := json.Marshal(words[blockName])
		must.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte(`[{"group":[{"created":[{"http":[{"url":"http://a/${NOMAD_TASK_NAME}"}]}]}],"stop_after":["a"]}]`))
	f.Add([]byte(`[{"prestop":[{"http":[{"url":"http://a/${NOMAD_JOB_NAME}"}]}]}]`))
	env := map[string]string{"NOMAD_JOB_NAME": "shop"}
	f.Fuzz(func(t *testing.T, data []byte) {
		var own taskConfig
		if base.MsgPackDecode(data, &own) == nil {
			checkSpec(t, own.Lifecycle)
		}
		var raw any
		if json.Unmarshal(data, &raw) != nil {
			return
		}
		if b, err := decodeBlock(raw, env); err == nil {
			checkSpec(t, b)
		}
	})
}

func checkSpec(t *testing.T, b *taskBlock) {
	t.Helper()
	s, err := parseSpec(b)
	if err != nil {
		must.StrHasPrefix(t, blockName+".", err.Error())
		return
	}
	must.NoError(t, s.each(func(h *hook.Hook) error {
		must.Between(t, time.Nanosecond, h.Timeout, hook.MaxTimeout+time.Second)
		must.StrHasPrefix(t, blockName+".", h.Field())
		return nil
	}))
	if c := s.checkpoint; c != nil {
		must.NotNil(t, c.save)
		must.Between(t, 1, c.maxSize, MaxSize)
		must.Between(t, 1, c.keep, maxKeep)
		must.Between(t, 0, c.interval, maxInterval)
		must.Between(t, 0, c.wait, maxWait)
		must.StrNotContains(t, c.store, "://")
	}
	if m := s.manage; m != nil {
		for _, o := range m.offers {
			must.StrHasPrefix(t, "/", o.Path)
		}
		must.True(t, !m.replicate || m.min >= 1 && m.min <= m.max)
	}

	// It is the same after Nomad has kept it, and for the others of its group.
	var state handleState
	handle := drivers.NewTaskHandle(handleVersion)
	must.NoError(t, handle.SetDriverState(&handleState{Lifecycle: b}))
	must.NoError(t, handle.GetDriverState(&state))
	again, err := parseSpec(state.Lifecycle)
	must.NoError(t, err)
	must.Eq(t, s, again, must.Cmp(cmpUnexported))
	if b == nil {
		return
	}
	hooks := 0
	for event, text := range b.Group.encode() {
		var part groupBlock
		must.NoError(t, json.Unmarshal(text, &part))
		parsed, err := part.parse()
		must.NoError(t, err)
		must.Eq(t, s.group[hook.Kind(event)], parsed[hook.Kind(event)])
		hooks += len(parsed[hook.Kind(event)])
	}
	for _, all := range s.group {
		hooks -= len(all)
	}
	must.Eq(t, 0, hooks)
}
