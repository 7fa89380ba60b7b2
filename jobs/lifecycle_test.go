package jobs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/jobs"
)

// TestStatefulDrivers checks the two ways in which the stateful worker runs, and what
// becomes of a command of one's own.
func TestStatefulDrivers(t *testing.T) {
	cases := map[string]struct {
		vars   map[string]string
		driver string
		config map[string]any // but for the lifecycle block
		save   []any
	}{
		"defaults": {
			driver: "lifecycle-raw_exec",
			config: map[string]any{"command": "/bin/sh", "args": []any{"${NOMAD_TASK_DIR}/work.sh"}},
			save:   []any{"/bin/sh", "${NOMAD_TASK_DIR}/save.sh"},
		},
		"docker": {
			vars:   map[string]string{"driver": "docker"},
			driver: "lifecycle-docker",
			config: map[string]any{
				"image": "nomad-patterns/busybox:1", "entrypoint": []any{"/bin/busybox"}, "args": []any{"sh", "${NOMAD_TASK_DIR}/work.sh"},
			},
			save: []any{"/bin/busybox", "sh", "${NOMAD_TASK_DIR}/save.sh"},
		},
		"own program": {
			vars:   map[string]string{"command": `["/bin/train", "-v"]`, "save": `["/bin/train", "-save"]`},
			driver: "lifecycle-raw_exec",
			config: map[string]any{"command": "/bin/train", "args": []any{"-v"}},
			save:   []any{"/bin/train", "-save"},
		},
		"own program in an image": {
			vars:   map[string]string{"driver": "docker", "image": "shop/train:1", "command": `["/bin/train"]`, "save": `["/bin/save"]`},
			driver: "lifecycle-docker",
			config: map[string]any{"image": "shop/train:1", "entrypoint": []any{"/bin/train"}, "args": []any{}},
			save:   []any{"/bin/save"},
		},
		"own program without a save": { // which the driver refuses: that of the sample would save nothing
			vars:   map[string]string{"command": `["/bin/train"]`},
			driver: "lifecycle-raw_exec",
			config: map[string]any{"command": "/bin/train", "args": []any{}},
			save:   []any{},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			job, err := jobs.Parse(jobs.StatefulWorker, tc.vars)
			must.NoError(t, err)
			task := onlyTask(t, job)
			must.Eq(t, tc.driver, task.Driver)
			must.Eq(t, 25*time.Second, *task.KillTimeout)

			lifecycle := one(t, task.Config["lifecycle"])
			delete(task.Config, "lifecycle")
			must.Eq(t, tc.config, task.Config)
			checkpoint := one(t, lifecycle["checkpoint"])
			save := one(t, checkpoint["save"])
			must.Eq(t, any(tc.save), one(t, save["exec"])["command"])
			must.Eq(t, any("10s"), save["timeout"])
			must.Eq(t, any("consul"), checkpoint["store"])
			must.Eq(t, any("30s"), checkpoint["interval"])
			must.Eq(t, any("256KiB"), checkpoint["max_size"])
			must.Eq(t, any("fail"), checkpoint["on_restore_failure"])
		})
	}
}

// TestAutoreplicateDrivers checks the two ways in which the workers run that ask for more
// of themselves.
func TestAutoreplicateDrivers(t *testing.T) {
	cases := map[string]struct {
		vars    map[string]string
		driver  string
		config  map[string]any // but for the lifecycle block
		timeout time.Duration
		bounds  [2]int64
		script  string // is in it
	}{
		"defaults": {
			driver:  "lifecycle-raw_exec",
			config:  map[string]any{"command": "/bin/sh", "args": []any{"${NOMAD_TASK_DIR}/work.sh"}},
			timeout: 7 * time.Second, bounds: [2]int64{1, 4},
			script: `$(curl -sS -m 40 --unix-socket "$LIFECYCLE_SOCKET" -d "{\"delta\":$1}" http://localhost/v1/replicate`,
		},
		"docker": {
			vars: map[string]string{
				"driver": "docker", "image": "shop/curl:8", "work_dir": "/srv/work", "work_time": "20s", "min": "2", "max": "9",
				"curl": "/opt/curl",
			},
			driver: "lifecycle-docker",
			config: map[string]any{
				"image": "shop/curl:8", "entrypoint": []any{"/bin/sh"}, "args": []any{"${NOMAD_TASK_DIR}/work.sh"},
				"volumes": []any{"/srv/work:/srv/work"}, "init": true,
			},
			timeout: 25 * time.Second, bounds: [2]int64{2, 9},
			script: `$(/opt/curl -sS`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			job, err := jobs.Parse(jobs.Autoreplicate, tc.vars)
			must.NoError(t, err)
			task := onlyTask(t, job)
			must.Eq(t, tc.driver, task.Driver)
			must.Eq(t, tc.timeout, *task.KillTimeout)
			must.StrContains(t, *task.Templates[0].EmbeddedTmpl, tc.script)
			must.StrNotContains(t, *task.Templates[0].EmbeddedTmpl, "$${")

			// Both bounds are the same, and there is no count that running it again would set.
			group := job.TaskGroups[0]
			must.Nil(t, group.Count)
			must.Eq(t, tc.bounds, [2]int64{*group.Scaling.Min, *group.Scaling.Max})
			lifecycle := one(t, task.Config["lifecycle"])
			replicate := one(t, one(t, lifecycle["manage"])["replicate"])
			must.Eq(t, map[string]any{"min": int(tc.bounds[0]), "max": int(tc.bounds[1])}, replicate)
			delete(task.Config, "lifecycle")
			must.Eq(t, tc.config, task.Config)
		})
	}
}

func onlyTask(t *testing.T, job *api.Job) *api.Task {
	t.Helper()
	must.SliceLen(t, 1, job.TaskGroups)
	must.SliceLen(t, 1, job.TaskGroups[0].Tasks)
	return job.TaskGroups[0].Tasks[0]
}

// TestLifecycleRefuses checks that a bad value is refused with a message that says what
// would be right.
func TestLifecycleRefuses(t *testing.T) {
	common := map[string][]string{ // variable: bad values
		"job_name":    {"", "-x", "a b", strings.Repeat("x", 65)},
		"datacenters": {"[]"},
		"driver":      {"", "exec", "lifecycle-docker"},
		"release":     {"", `a"b`, "a;b"},
		"image":       {""},
		"cpu":         {"0"},
		"memory":      {"9"},
	}
	cases := map[string]map[string][]string{ // by template
		jobs.StatefulWorker: {
			"count":              {"0", "2.5", "1001"},
			"priority":           {"0", "101", "1.5"},
			"step":               {"", "10", ".5", "1s", "0.123"},
			"store":              {"", "s3://bucket", "a/b"},
			"interval":           {"", "30", "0s", "1m"},
			"max_size":           {"", "0KiB", "256", "1GiB"},
			"on_restore_failure": {"", "ignore"},
			"kill_timeout":       {"", "3", "0s", "1m"},
		},
		jobs.Autoreplicate: {
			"min":       {"0", "1.5", "1001"},
			"max":       {"0", "1.5", "1001"},
			"work_dir":  {"", "/", "work", "/a b", "/a/../b", "/a/"},
			"work_time": {"", "2", "0s", "100s"},
			"high":      {"0", "1.5"},
			"idle":      {"", "30", "0s", "1m"},
			"curl":      {"", "curl x", "curl;x"},
		},
	}
	for template, more := range cases {
		for _, variables := range []map[string][]string{common, more} {
			for variable, values := range variables {
				for _, value := range values {
					t.Run(template+"/"+variable+"="+value, func(t *testing.T) {
						_, err := jobs.Parse(template, map[string]string{variable: value})
						must.ErrorContains(t, err, "Invalid value for cmd variable; The ")
						must.ErrorContains(t, err, variable)
					})
				}
			}
		}
	}
}
