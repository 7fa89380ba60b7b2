package child

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// Nomad's own docker driver, which its package cmd makes a plugin of.
func TestDocker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/hashicorp/nomad/drivers/docker/cmd")
	build.Stderr = os.Stderr
	must.NoError(t, build.Run())

	log := &lines{}
	d, err := New(t.Context(), path, nil, log.logger())
	must.NoError(t, err)
	t.Cleanup(func() {
		d.Close()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	must.Eq(t, "lifecycle-docker", d.Name())
	schema, err := d.TaskConfigSchema()
	must.NoError(t, err)
	must.MapContainsKey(t, schema.GetObject().GetAttributes(), "image")
	c := &base.Config{ApiVersion: drivers.ApiVersion010, AgentConfig: &base.AgentConfig{}}
	// It is not to clean up after other tests.
	must.NoError(t, base.MsgPackEncode(&c.PluginConfig, map[string]any{
		"gc": map[string]any{"image": false, "container": false, "dangling_containers": map[string]any{"enabled": false}},
	}))
	must.NoError(t, d.SetConfig(c))
	caps, err := d.Capabilities()
	must.NoError(t, err)
	must.True(t, caps.MustInitiateNetwork)

	// Whether there is an engine here or not: the fingerprint says so, also after
	// a crash.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fps, err := d.Fingerprint(ctx)
	must.NoError(t, err)
	before := receive(t, "fingerprint", fps)
	must.NoError(t, before.Err)
	must.Eq(t, "0.1.0", before.Attributes["driver.docker.plugin.version"].GoString())
	d.crash(t)
	must.Eq(t, drivers.HealthStateUnhealthy, receive(t, "ill health", fps).Health)
	after := receive(t, "fingerprint", fps)
	must.Eq(t, before.Health, after.Health, sprintf("%s", after.HealthDescription))
	must.Eq(t, before.HealthDescription, after.HealthDescription)
}
