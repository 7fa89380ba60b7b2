package driver

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
)

// specOf parses the text of a lifecycle block as a task's own plugin does.
func specOf(t *testing.T, text string) (*spec, error) {
	t.Helper()
	s := newSetup(t, block(text+"\n"))
	var own taskConfig
	must.NoError(t, s.cfg.DecodeDriverConfig(&own))
	return parseSpec(own.Lifecycle)
}

const saveByPort = "save {\n http {\n port = \"http\"\n }\n}\n"

// What is wrong in a block is said before anything runs, and where it is.
func TestSpec_Refuses(t *testing.T) {
	check := func(more string) string { return "checkpoint {\n" + saveByPort + more + "\n}\n" }
	manage := func(more string) string { return "manage {\n" + more + "\n}\n" }
	many := strings.Repeat("created {\n sleep = \"1s\"\n}\n", hook.MaxPerKind+1)
	cases := map[string]struct{ text, want string }{
		"no save":           {"checkpoint {\n}\n", "lifecycle.checkpoint.save: missing; say how the task gives its state"},
		"save, no action":   {"checkpoint {\n save {\n}\n}\n", "lifecycle.checkpoint.save: 0 actions"},
		"save, sleep":       {"checkpoint {\n save {\n sleep = \"1s\"\n}\n}\n", "lifecycle.checkpoint.save.sleep: moves no data"},
		"save, url":         {"checkpoint {\n save {\n http {\n url = \"http://a\"\n}\n}\n}\n", "lifecycle.checkpoint.save.http.url: a checkpoint is the task's own"},
		"save, timeout":     {"checkpoint {\n save {\n timeout = \"x\"\n http {\n port = \"http\"\n}\n}\n}\n", "lifecycle.checkpoint.save.timeout: "},
		"restore, two":      {check("restore {\n sleep = \"1s\"\n exec {\n command = [\"a\"]\n}\n}"), "lifecycle.checkpoint.restore: 2 actions"},
		"restore, GET":      {check("restore {\n http {\n port = \"http\"\n method = \"GET\"\n}\n}"), "lifecycle.checkpoint.restore.http.method: "},
		"store, URL":        {check(`store = "s3://bucket"`), "lifecycle.checkpoint.store: is a name"},
		"max_size, text":    {check(`max_size = "much"`), `lifecycle.checkpoint.max_size: "much" is not a size up to 64 MiB`},
		"max_size, none":    {check(`max_size = "0"`), `lifecycle.checkpoint.max_size: "0" is not`},
		"max_size, large":   {check(`max_size = "65MiB"`), `lifecycle.checkpoint.max_size: "65MiB" is not`},
		"max_size, below":   {check(`max_size = "-1"`), `lifecycle.checkpoint.max_size: "-1" is not`},
		"keep, below":       {check("keep = -1"), "lifecycle.checkpoint.keep: -1 is not within 1 and 100"},
		"keep, above":       {check("keep = 101"), "lifecycle.checkpoint.keep: 101 is not within"},
		"interval, text":    {check(`interval = "30"`), `lifecycle.checkpoint.interval: "30" is not a duration`},
		"interval, short":   {check(`interval = "500ms"`), "lifecycle.checkpoint.interval: 500ms is not within 1s and 24h0m0s"},
		"interval, long":    {check(`interval = "25h"`), "lifecycle.checkpoint.interval: 25h0m0s is not within"},
		"wait, text":        {check(`wait = "a while"`), `lifecycle.checkpoint.wait: "a while" is not a duration`},
		"wait, below":       {check(`wait = "-1s"`), "lifecycle.checkpoint.wait: -1s is not within 0s and 1h0m0s"},
		"wait, long":        {check(`wait = "2h"`), "lifecycle.checkpoint.wait: 2h0m0s is not within"},
		"restore failure":   {check(`on_restore_failure = "ignore"`), `lifecycle.checkpoint.on_restore_failure: "ignore" is neither "fail" nor "cold"`},
		"scope":             {check(`scope = "rack"`), `lifecycle.checkpoint.scope: "rack" is neither "index" nor "node"`},
		"health, no place":  {manage("health {\n}"), "lifecycle.manage.health: give exactly one of port and socket"},
		"health, two":       {manage("health {\n port = \"a\"\n socket = \"b\"\n}"), "lifecycle.manage.health: give exactly one of port and socket"},
		"metrics, path":     {manage("metrics {\n port = \"a\"\n path = \"metrics\"\n}"), `lifecycle.manage.metrics.path: "metrics" is not a clean path`},
		"metrics, query":    {manage("metrics {\n port = \"a\"\n path = \"/metrics?format=prometheus\"\n}"), `lifecycle.manage.metrics.path: "/metrics?format=prometheus" is not a clean path`},
		"profile, dots":     {manage("profile {\n port = \"a\"\n path = \"/debug/../secret\"\n}"), "lifecycle.manage.profile.path: "},
		"config, socket":    {manage("config {\n socket = \"../a.sock\"\n}"), "lifecycle.manage.config.socket: "},
		"replicate, no max": {manage("replicate {\n}"), "lifecycle.manage.replicate: max = 0 is below min = 1"},
		"replicate, order":  {manage("replicate {\n min = 3\n max = 2\n}"), "lifecycle.manage.replicate: max = 2 is below min = 3"},
		"replicate, below":  {manage("replicate {\n min = -1\n max = 2\n}"), "lifecycle.manage.replicate: "},
		"group, exec":       {"group {\n running {\n exec {\n command = [\"a\"]\n}\n}\n}\n", "lifecycle.group.running[0].exec: belongs to one task"},
		"group, port":       {"group {\n stopped {\n http {\n port = \"http\"\n}\n}\n}\n", "lifecycle.group.stopped[0].http: the task does not run at stopped"},
		"group, fail":       {"group {\n stopping {\n sleep = \"1s\"\n on_failure = \"fail\"\n}\n}\n", "lifecycle.group.stopping[0].on_failure: "},
		"group, many":       {"group {\n" + many + "}\n", "lifecycle.group.created: 17 hooks; at most 16"},
		"stop_after, none":  {`stop_after = [""]`, `lifecycle.stop_after[0]: "" is empty or there twice`},
		"stop_after, twice": {`stop_after = ["a", "b", "a"]`, `lifecycle.stop_after[2]: "a" is empty or there twice`},
		"stop_after, many":  {"stop_after = [\"" + strings.Repeat("a\", \"", maxStopsFor) + "b\"]", "lifecycle.stop_after: 33 tasks; at most 32"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := specOf(t, tc.text)
			must.ErrorContains(t, err, tc.want)
			must.StrHasPrefix(t, tc.want[:15], err.Error())
		})
	}
}

func TestSpec_Defaults(t *testing.T) {
	s, err := parseSpec(nil)
	must.NoError(t, err)
	must.Eq(t, &spec{}, s, must.Cmp(cmpUnexported))

	s, err = specOf(t, "checkpoint {\n"+saveByPort+"}\nmanage {\n profile {\n port = \"http\"\n}\n health {\n socket = \"a.sock\"\n}\n replicate {\n max = 5\n}\n}\n")
	must.NoError(t, err)
	c := s.checkpoint
	must.Nil(t, c.restore)
	must.Eq(t, consulStore, c.store)
	must.Eq(t, 256<<10, c.maxSize)
	must.Eq(t, 3, c.keep)
	must.Eq(t, 0, c.interval)
	must.Eq(t, time.Minute, c.wait)
	must.False(t, c.failCold)
	must.False(t, c.byNode)
	must.Eq(t, 10*time.Second, c.save.Timeout)
	must.Eq(t, hook.HTTPSpec{Port: "http", Path: "/debug/pprof", Method: "GET"}, s.manage.offers["profile"])
	must.Eq(t, hook.HTTPSpec{Socket: "a.sock", Path: "/health", Method: "GET"}, s.manage.offers["health"])
	must.MapLen(t, 2, s.manage.offers)
	must.True(t, s.manage.replicate)
	must.Eq(t, [2]int64{1, 5}, [2]int64{s.manage.min, s.manage.max})
	must.True(t, s.hasSocket())
	must.False(t, s.hasExec())
}

func TestSpec_Limits(t *testing.T) {
	s, err := specOf(t, "checkpoint {\n"+saveByPort+"max_size = \"64MiB\"\nkeep = 100\ninterval = \"1s\"\nwait = \"0s\"\non_restore_failure = \"cold\"\nscope = \"node\"\nstore = \"shared\"\n}\nstop_after = [\"a\", \"b\"]\n")
	must.NoError(t, err)
	c := s.checkpoint
	must.Eq(t, MaxSize, c.maxSize)
	must.Eq(t, 100, c.keep)
	must.Eq(t, time.Second, c.interval)
	must.Eq(t, 0, c.wait)
	must.True(t, c.failCold)
	must.True(t, c.byNode)
	must.Eq(t, []string{"a", "b"}, s.stopAfter)
}

// Places that this very task does not have are found at its start, in every part
// of the block.
func TestSpec_PlacesOfTheTask(t *testing.T) {
	cases := map[string]struct{ text, want string }{
		"save":   {"checkpoint {\n" + saveByPort + "}\n", `lifecycle.checkpoint.save.http.port: the group's network has no port labelled "http"`},
		"group":  {"group {\n running {\n http {\n port = \"http\"\n}\n}\n}\n", `lifecycle.group.running[0].http.port: the group's network has no port labelled "http"`},
		"manage": {"manage {\n health {\n port = \"http\"\n}\n}\n", `lifecycle.manage.health.port: the group's network has no port labelled "http"`},
		"url":    {"group {\n created {\n http {\n url = \"http://a\"\n network = \"group\"\n}\n}\n}\n", "lifecycle.group.created[0].http.network: "},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, block(tc.text))
			_, _, err := s.h.StartTask(s.cfg)
			must.ErrorContains(t, err, tc.want)
			must.False(t, structs.IsRecoverable(err))
			must.SliceEmpty(t, s.all())
			s.forgotten(t)
		})
	}
}

// A block says nothing by keys that there are not.
func TestSchema_RefusesNewKeys(t *testing.T) {
	for name, text := range map[string]string{
		"checkpoint": "checkpoint {\n timeout = \"1s\"\n}",
		"save":       "checkpoint {\n save {\n port = \"http\"\n}\n}",
		"manage":     "manage {\n logs {\n}\n}",
		"offer":      "manage {\n health {\n url = \"http://a\"\n}\n}",
		"replicate":  "manage {\n replicate {\n count = 1\n}\n}",
		"group":      "group {\n prestop {\n}\n}",
		"two saves":  "checkpoint {\n save {\n}\n save {\n}\n}",
		"block":      "checkpoints {\n}",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, "")
			schema, err := s.d.TaskConfigSchema()
			must.NoError(t, err)
			_, err = parseConfig(t, schema, block(text+"\n"))
			must.Error(t, err)
		})
	}
}
