package jobs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/jobs"
)

func TestNames(t *testing.T) {
	must.SliceContains(t, jobs.Names(), jobs.GracefulService)
	for _, name := range jobs.Names() {
		src, err := jobs.Source(name)
		must.NoError(t, err)
		must.Positive(t, len(src))
	}
}

func TestUnknown(t *testing.T) {
	_, err := jobs.Source("nothing")
	must.ErrorContains(t, err, `no job template "nothing"; there are `)
	must.ErrorContains(t, err, jobs.GracefulService)
	_, err = jobs.Parse("nothing", nil)
	must.ErrorContains(t, err, `no job template "nothing"`)
}

// TestDefaults checks that every template runs unchanged: nothing has to be set.
func TestDefaults(t *testing.T) {
	for _, name := range jobs.Names() {
		t.Run(name, func(t *testing.T) {
			job, err := jobs.Parse(name, nil)
			must.NoError(t, err)
			must.Eq(t, name, *job.Name)
			must.Eq(t, name, *job.ID)
			must.Positive(t, len(job.TaskGroups))
			for _, group := range job.TaskGroups {
				must.Positive(t, len(group.Tasks))
			}
		})
	}
}

// TestFormat checks that `nomad fmt` has nothing to do.
func TestFormat(t *testing.T) {
	for _, name := range jobs.Names() {
		t.Run(name, func(t *testing.T) {
			src, err := jobs.Source(name)
			must.NoError(t, err)
			must.Eq(t, string(hclwrite.Format(src)), string(src))
		})
	}
}

// TestVariables checks that every variable says what it is, has a type and a default.
func TestVariables(t *testing.T) {
	for _, name := range jobs.Names() {
		src, err := jobs.Source(name)
		must.NoError(t, err)
		file, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
		must.False(t, diags.HasErrors(), must.Sprint(diags))

		variables := 0
		for _, block := range file.Body.(*hclsyntax.Body).Blocks {
			if block.Type != "variable" {
				continue
			}
			variables++
			t.Run(name+"/"+block.Labels[0], func(t *testing.T) {
				for _, attr := range []string{"description", "type", "default"} {
					must.MapContainsKey(t, block.Body.Attributes, attr)
				}
				value, diags := block.Body.Attributes["description"].Expr.Value(nil)
				must.False(t, diags.HasErrors(), must.Sprint(diags))
				must.StrHasSuffix(t, ".", value.AsString())
				for _, b := range block.Body.Blocks {
					must.Eq(t, "validation", b.Type)
					must.MapContainsKey(t, b.Body.Attributes, "error_message")
				}
			})
		}
		must.Positive(t, variables)
	}
}

func TestUndeclaredVariable(t *testing.T) {
	_, err := jobs.Parse(jobs.GracefulService, map[string]string{"cuont": "3"})
	must.ErrorContains(t, err, "cuont")
}

// TestGracefulDrivers checks the two ways in which the graceful service runs.
func TestGracefulDrivers(t *testing.T) {
	cases := map[string]struct {
		vars    map[string]string
		driver  string
		signal  string
		timeout time.Duration
		prestop int // number of hooks
	}{
		"defaults": {
			driver: "lifecycle-raw_exec", signal: "SIGQUIT", timeout: 23 * time.Second, prestop: 2,
		},
		"docker": {
			vars:   map[string]string{"driver": "docker", "files": `{ "cgi-bin/slow" = "#!/bin/sh\n" }`},
			driver: "lifecycle-docker", signal: "SIGTERM", timeout: 23 * time.Second, prestop: 3,
		},
		"own times": {
			vars:   map[string]string{"drain_wait": "10s", "longest_request": "120s", "kill_signal": "SIGINT"},
			driver: "lifecycle-raw_exec", signal: "SIGINT", timeout: 135 * time.Second, prestop: 2,
		},
		"own kill timeout": {
			vars:   map[string]string{"kill_timeout": "29s"},
			driver: "lifecycle-raw_exec", signal: "SIGQUIT", timeout: 29 * time.Second, prestop: 2,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			job, err := jobs.Parse(jobs.GracefulService, tc.vars)
			must.NoError(t, err)
			must.SliceLen(t, 1, job.TaskGroups)
			must.SliceLen(t, 1, job.TaskGroups[0].Tasks)

			task := job.TaskGroups[0].Tasks[0]
			must.Eq(t, "web", task.Name)
			must.Eq(t, tc.driver, task.Driver)
			must.Eq(t, tc.signal, task.KillSignal)
			must.Eq(t, tc.timeout, *task.KillTimeout)
			must.Eq(t, 0, task.ShutdownDelay)
			must.SliceLen(t, 1, task.Services)

			lifecycle := one(t, task.Config["lifecycle"])
			prestop, ok := lifecycle["prestop"].([]map[string]any)
			must.True(t, ok)
			must.SliceLen(t, tc.prestop, prestop)
			// The id that Nomad gives to the service of a task, with the allocation left
			// to be filled in by Nomad.
			must.StrHasSuffix(t,
				"/v1/agent/service/deregister/_nomad-task-${NOMAD_ALLOC_ID}-web-"+task.Services[0].Name+"-"+task.Services[0].PortLabel,
				one(t, prestop[0]["http"])["url"].(string))
		})
	}
}

// one returns the only block in a decoded list of blocks.
func one(t *testing.T, blocks any) map[string]any {
	t.Helper()
	list, ok := blocks.([]map[string]any)
	must.True(t, ok, must.Sprintf("%T is no list of blocks", blocks))
	must.SliceLen(t, 1, list)
	return list[0]
}

// TestGracefulRefuses checks that a bad value is refused with a message that says
// what would be right.
func TestGracefulRefuses(t *testing.T) {
	cases := map[string][]string{ // variable: bad values
		"job_name":         {"", "-x", "a b", strings.Repeat("x", 65)},
		"datacenters":      {"[]"},
		"count":            {"0", "1", "2.5", "1000"},
		"driver":           {"", "exec", "lifecycle-docker"},
		"release":          {"", `a"b`, "a;b"},
		"document_root":    {"", "doc", "/a b", "/a;b", `/a"b`},
		"nginx":            {"nginx"},
		"image":            {""},
		"files":            {`{ "/x" = "" }`, `{ "../x" = "" }`, `{ "a/../x" = "" }`, `{ "" = "" }`},
		"service_name":     {"", "A", "a_b", "-a", "a-"},
		"check_path":       {"", "x"},
		"consul_addr":      {"", "127.0.0.1:8500", "http://", "http://127.0.0.1:8500/"},
		"drain_wait":       {"", "3", "0s", "1m", "-3s"},
		"longest_request":  {"", "3", "0s", "1m"},
		"kill_timeout":     {"3", "0s", "1m"},
		"kill_signal":      {"QUIT", "3"},
		"max_parallel":     {"0"},
		"min_healthy_time": {"", "3"},
		"healthy_deadline": {"", "0s", "3"},
		"cpu":              {"0"},
		"memory":           {"9"},
	}
	for variable, values := range cases {
		for _, value := range values {
			t.Run(variable+"="+value, func(t *testing.T) {
				_, err := jobs.Parse(jobs.GracefulService, map[string]string{variable: value})
				must.ErrorContains(t, err, "Invalid value for cmd variable; The ")
				must.ErrorContains(t, err, variable)
			})
		}
	}
}
