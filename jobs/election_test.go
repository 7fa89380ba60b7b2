package jobs_test

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/jobs"
)

// TestElectionDrivers checks the two ways in which the elected instances run.
func TestElectionDrivers(t *testing.T) {
	cases := map[string]struct {
		vars    map[string]string
		driver  string
		elector map[string]any
		app     map[string]any
	}{
		"defaults": {
			driver: "raw_exec",
			elector: map[string]any{
				"command": "elector",
				"args":    []any{"agent", "-listen=127.0.0.1:${NOMAD_PORT_elector}", "-ttl=1.5s", "-prefix=election"},
			},
			app: map[string]any{"command": "/bin/sh", "args": []any{"${NOMAD_TASK_DIR}/app.sh"}},
		},
		"own program": {
			vars:   map[string]string{"elector": "/opt/elector", "ttl": "10s", "prefix": "shop/election", "command": `["/bin/x", "-v"]`},
			driver: "raw_exec",
			elector: map[string]any{
				"command": "/opt/elector",
				"args":    []any{"agent", "-listen=127.0.0.1:${NOMAD_PORT_elector}", "-ttl=10s", "-prefix=shop/election"},
			},
			app: map[string]any{"command": "/bin/x", "args": []any{"-v"}},
		},
		"docker": {
			vars:   map[string]string{"driver": "docker", "image": "shop/x:1"},
			driver: "docker",
			elector: map[string]any{
				"image": "nomad-patterns/elector:1", "command": "/bin/elector", "network_mode": "host", "volumes": []any{},
				"args": []any{"agent", "-listen=127.0.0.1:${NOMAD_PORT_elector}", "-ttl=1.5s", "-prefix=election"},
			},
			app: map[string]any{
				"image": "shop/x:1", "command": "/bin/busybox", "network_mode": "host", "init": true,
				"args": []any{"sh", "${NOMAD_TASK_DIR}/app.sh"},
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			job, err := jobs.Parse(jobs.LeaderElection, tc.vars)
			must.NoError(t, err)
			must.SliceLen(t, 1, job.TaskGroups)
			must.SliceLen(t, 2, job.TaskGroups[0].Tasks)
			elector, app := job.TaskGroups[0].Tasks[0], job.TaskGroups[0].Tasks[1]

			// A prestart sidecar starts before the app and is stopped after it.
			must.Eq(t, "elector", elector.Name)
			must.Eq(t, "prestart", elector.Lifecycle.Hook)
			must.True(t, elector.Lifecycle.Sidecar)
			must.Eq(t, tc.driver, elector.Driver)
			must.Eq(t, tc.elector, elector.Config)
			must.Eq(t, "http://127.0.0.1:8500", elector.Env["CONSUL_HTTP_ADDR"])

			must.Eq(t, "app", app.Name)
			must.Nil(t, app.Lifecycle)
			must.Eq(t, tc.driver, app.Driver)
			must.Eq(t, tc.app, app.Config)
			must.Eq(t, "leader-election", app.Env["ELECTION"])
			must.MapNotContainsKey(t, app.Env, "CONSUL_HTTP_ADDR") // nor a token
			must.SliceLen(t, 1, app.Templates)
			// What the shell has to expand is left to it.
			must.StrContains(t, *app.Templates[0].EmbeddedTmpl, `event=${line#event: }`)
			must.StrNotContains(t, *app.Templates[0].EmbeddedTmpl, "$${")
		})
	}
}

// TestElectionRefuses checks that a bad value is refused with a message that says what
// would be right.
func TestElectionRefuses(t *testing.T) {
	cases := map[string][]string{ // variable: bad values
		"job_name":         {"", "-x", "a b", strings.Repeat("x", 65)},
		"datacenters":      {"[]"},
		"count":            {"0", "2.5", "1000"},
		"driver":           {"", "exec", "lifecycle-docker"},
		"release":          {"", `a"b`, "a;b"},
		"election":         {"", "/", "a/b", "-x", strings.Repeat("x", 129)},
		"mode":             {"", "lax"},
		"ttl":              {"", "0s", "500ms", "1.5", "2m"},
		"prefix":           {"", "/election", "election/", "a//b", "a b"},
		"consul_addr":      {"", "127.0.0.1:8500", "http://", "http://127.0.0.1:8500/"},
		"elector":          {"", "bin/elector", "elector x"},
		"elector_image":    {""},
		"image":            {""},
		"kill_timeout":     {"", "3", "0s", "1m"},
		"max_parallel":     {"0"},
		"min_healthy_time": {"", "3"},
		"healthy_deadline": {"", "0s", "3"},
		"cpu":              {"0"},
		"memory":           {"9"},
		"elector_cpu":      {"0"},
		"elector_memory":   {"31"},
	}
	for variable, values := range cases {
		for _, value := range values {
			t.Run(variable+"="+value, func(t *testing.T) {
				_, err := jobs.Parse(jobs.LeaderElection, map[string]string{variable: value})
				must.ErrorContains(t, err, "Invalid value for cmd variable; The ")
				must.ErrorContains(t, err, variable)
			})
		}
	}
}
