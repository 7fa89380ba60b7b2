package driver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/shoenig/test/must"
)

// newDockerSetup is newSetup with an inner driver that has docker's name, and of
// its configuration what the guard reads.
func newDockerSetup(t *testing.T, name string, more map[string]*hclspec.Spec) *setup {
	t.Helper()
	attr := func(name, kind string) *hclspec.Spec { return hclspec.NewAttr(name, kind, false) }
	agent := map[string]*hclspec.Spec{
		"allow_privileged": attr("allow_privileged", "bool"),
		"volumes":          hclspec.NewBlock("volumes", false, hclspec.NewObject(map[string]*hclspec.Spec{"enabled": attr("enabled", "bool")})),
	}
	for k, v := range more {
		agent[k] = v
	}
	f := newFake()
	f.PluginInfoF = base.StaticInfo(&base.PluginInfoResponse{Type: base.PluginTypeDriver, Name: name, PluginVersion: "9.9.9"})
	f.ConfigSchemaF = base.StaticConfigSchema(hclspec.NewObject(agent))
	f.TaskConfigSchemaF = func() (*hclspec.Spec, error) {
		return hclspec.NewObject(map[string]*hclspec.Spec{
			"image": attr("image", "string"), "command": attr("command", "string"), "args": attr("args", "list(string)"),
			"entrypoint": attr("entrypoint", "list(string)"), "pid_mode": attr("pid_mode", "string"), "volumes": attr("volumes", "list(string)"),
		}), nil
	}
	d := decorate(t, "lifecycle-"+name, f.factory)
	s := &setup{fake: f, d: d, h: harness(t, d), cfg: newTaskConfig(t), url: hookServer(t, f.script)}
	must.NoError(t, os.MkdirAll(filepath.Join(s.cfg.AllocDir, "alloc"), 0o755))
	return s
}

// What the built-in docker driver should refuse and does not, it does not see:
// whether the job has a lifecycle block or not.
func TestGuard(t *testing.T) {
	outside := func(t *testing.T, cfg *drivers.TaskConfig) {
		must.NoError(t, os.Symlink("/etc", filepath.Join(cfg.TaskDir().LocalDir, "etc")))
	}
	cases := map[string]struct {
		agent string
		text  string
		plant func(*testing.T, *drivers.TaskConfig)
		want  string // "" if it is allowed
	}{
		"host's processes":     {"", `pid_mode = "host"`, nil, `pid_mode: "host" is not allowed on this client`},
		"with a block as well": {"", "pid_mode = \"host\"\nlifecycle {\n}", nil, `pid_mode: "host" is not allowed`},
		"link that leads out":  {"", `volumes = ["local/etc:/x"]`, outside, "volumes[0]"},
		"nothing of that":      {"", `volumes = ["local/x:/x"]`, nil, ""},
		"operator allows one":  {"lifecycle {\n allow_host_namespaces = [\"pid\"]\n}\n", `pid_mode = "host"`, nil, ""},
		"another":              {"lifecycle {\n allow_host_namespaces = [\"ipc\"]\n}\n", `pid_mode = "host"`, nil, "pid_mode"},
		"all":                  {"allow_privileged = true\n", `pid_mode = "host"`, nil, ""},
		"operator allows any":  {"volumes {\n enabled = true\n}\n", `volumes = ["local/etc:/x"]`, outside, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newDockerSetup(t, "docker", nil)
			must.NoError(t, configureAgent(t, s.d, tc.agent))
			s.configure(t, "image = \"a\"\n"+tc.text+"\n")
			if tc.plant != nil {
				tc.plant(t, s.cfg)
			}
			_, _, err := s.h.StartTask(s.cfg)
			if tc.want == "" {
				must.NoError(t, err)
				must.Eq(t, []string{"start"}, s.all())
				return
			}
			must.ErrorContains(t, err, tc.want)
			must.False(t, structs.IsRecoverable(err))
			must.SliceEmpty(t, s.all())
			s.forgotten(t)
			must.MapEmpty(t, s.d.allocs)
		})
	}
}

// A command before the task is a container of the same kind, and what it leaves
// behind is looked at before the next one.
func TestGuard_PrestartCommand(t *testing.T) {
	s := newDockerSetup(t, "docker", nil)
	const hook = "prestart {\n exec {\n command = [\"migrate\"]\n }\n}\n"
	s.configure(t, "image = \"a\"\npid_mode = \"host\"\n"+block(hook))
	_, _, err := s.h.StartTask(s.cfg)
	must.ErrorContains(t, err, `lifecycle.prestart[0].exec failed after 1 try: run "migrate": pid_mode: "host" is not allowed`)
	must.SliceEmpty(t, s.all())

	s.configure(t, "image = \"a\"\nvolumes = [\"local/etc:/x\"]\n"+block(hook))
	start := s.StartTaskF
	s.StartTaskF = func(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
		handle, network, err := start(cfg)
		must.NoError(t, os.Symlink("/etc", filepath.Join(cfg.TaskDir().LocalDir, "etc")))
		task, terr := s.task(cfg.ID)
		must.NoError(t, terr)
		task.finish(&drivers.ExitResult{})
		return handle, network, err
	}
	_, _, err = s.h.StartTask(s.cfg)
	must.ErrorContains(t, err, "volumes[0]")
	must.Eq(t, []string{"start", "stop ", "destroy force=true"}, s.all())
	s.forgotten(t)
}

// Other drivers, and a docker that has the fixes, decide for themselves.
func TestGuard_OnlyWhereNeeded(t *testing.T) {
	fixed := map[string]*hclspec.Spec{"allowed_modes": hclspec.NewAttr("allowed_modes", "any", false)}
	for name, s := range map[string]*setup{
		"podman": newDockerSetup(t, "podman", nil), "docker with the fixes": newDockerSetup(t, "docker", fixed),
	} {
		t.Run(name, func(t *testing.T) {
			s.configure(t, "image = \"a\"\npid_mode = \"host\"\n")
			s.start(t)
			must.Eq(t, []string{"start"}, s.all())
		})
	}
}

// The configuration of a driver that is not docker is none of the guard's
// business, whatever it calls its options.
func TestGuard_OtherConfigurations(t *testing.T) {
	f := newFake()
	f.ConfigSchemaF = base.StaticConfigSchema(hclspec.NewObject(map[string]*hclspec.Spec{
		"volumes": hclspec.NewAttr("volumes", "list(string)", false), "allow_privileged": hclspec.NewAttr("allow_privileged", "string", false),
	}))
	d := decorate(t, "lifecycle-fake", f.factory)
	must.NoError(t, configureAgent(t, d, "volumes = [\"/srv\"]\nallow_privileged = \"never\"\n"))
}
