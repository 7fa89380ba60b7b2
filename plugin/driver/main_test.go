package driver

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/jobspec2"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/shoenig/test/must"
	"github.com/zclconf/go-cty/cty"
	"go.uber.org/goleak"
)

// TestMain lets no test reach the agents of this machine: whatever a driver is
// not told about Nomad and Consul, it takes from here, where nothing listens.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"NOMAD_ADDR": nowhere, "NOMAD_TOKEN": "", "NOMAD_REGION": "", "NOMAD_NAMESPACE": "",
		"CONSUL_HTTP_ADDR": nowhere, "CONSUL_HTTP_TOKEN": "", "CONSUL_HTTP_TOKEN_FILE": "",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m,
		// raw_exec does not close its connection to an executor that another
		// plugin process has ended, as the recovery tests have it.
		goleak.IgnoreAnyFunction("google.golang.org/grpc/internal/grpcsync.(*CallbackSerializer).run"),
	)
}

// nowhere refuses connections.
const nowhere = "http://127.0.0.1:1"

// patience is how long a test waits for something that happens at once unless
// the code is broken. No test measures it.
const patience = 20 * time.Second

// harness puts d behind Nomad's own gRPC pair, so that what is lost on the way
// is lost in tests as well. It is Nomad's DriverHarness but for its end: that
// one stops the server twice at once, which is a data race.
func harness(t *testing.T, d *Driver) drivers.DriverPlugin {
	t.Helper()
	client, _ := plugin.TestPluginGRPCConn(t, true, map[string]plugin.Plugin{
		base.PluginTypeDriver: drivers.NewDriverPlugin(d, testLogger()),
		base.PluginTypeBase:   &base.PluginBase{Impl: d},
	})
	t.Cleanup(func() { must.NoError(t, client.Close()) }) // the server stops with it
	raw, err := client.Dispense(base.PluginTypeDriver)
	must.NoError(t, err)
	return raw.(drivers.DriverPlugin)
}

func testLogger() hclog.Logger { return hclog.NewNullLogger() }

// decorate makes a driver that ends with the test.
func decorate(t *testing.T, name string, inner func(context.Context, hclog.Logger) drivers.DriverPlugin) *Driver {
	t.Helper()
	t.TempDir() // whatever a task's last goroutine still writes comes before its removal
	ctx, cancel := context.WithCancel(context.Background())
	d := New(ctx, name, inner(ctx, testLogger()), testLogger())
	t.Cleanup(func() { cancel(); d.background.Wait() })
	return d
}

// newTaskConfig describes a task as Nomad does, with its directories made.
func newTaskConfig(t *testing.T) *drivers.TaskConfig {
	t.Helper()
	allocID := uuid.Generate()
	dir := t.TempDir()
	return taskIn(t, dir, allocID, "web")
}

// taskIn describes a task of an allocation whose directory is dir.
func taskIn(t *testing.T, dir, allocID, name string) *drivers.TaskConfig {
	t.Helper()
	local, secrets := filepath.Join(dir, name, "local"), filepath.Join(dir, name, "secrets")
	for _, d := range []string{local, secrets} {
		must.NoError(t, os.MkdirAll(d, 0o755))
	}
	return &drivers.TaskConfig{
		ID: allocID + "/" + name + "/" + uuid.Short(), AllocID: allocID, AllocDir: dir, NodeID: "n1",
		Namespace: "prod", JobName: "shop", JobID: "shop", TaskGroupName: "front", Name: name,
		Env: map[string]string{
			"NOMAD_TASK_DIR": local, "NOMAD_SECRETS_DIR": secrets, "NOMAD_ALLOC_INDEX": "0",
		},
		Resources: &drivers.Resources{},
	}
}

// setConfig gives cfg the driver configuration in the text of a job file.
func setConfig(t *testing.T, d drivers.DriverPlugin, cfg *drivers.TaskConfig, text string) {
	t.Helper()
	schema, err := d.TaskConfigSchema()
	must.NoError(t, err)
	value, err := parseConfig(t, schema, text)
	must.NoError(t, err)
	must.NoError(t, cfg.EncodeDriverConfig(value))
}

// parseConfig goes the whole way of a config block: Nomad's job file parser,
// then, on the client, the driver's schema.
func parseConfig(t testing.TB, schema *hclspec.Spec, text string) (cty.Value, error) {
	t.Helper()
	job, err := jobspec2.Parse("test.nomad.hcl", strings.NewReader(`
job "shop" {
  group "front" {
    task "web" {
      driver = "any"
      config {
`+text+`
      }
    }
  }
}`))
	must.NoError(t, err)
	spec, diags := hclspecutils.Convert(schema)
	must.False(t, diags.HasErrors())
	value, diags, _ := hclutils.ParseHclInterface(job.TaskGroups[0].Tasks[0].Config, spec, nil)
	if diags.HasErrors() {
		return value, diags
	}
	return value, nil
}

// wait returns a task's result, which is to come soon.
func wait(t *testing.T, ch <-chan *drivers.ExitResult) *drivers.ExitResult {
	t.Helper()
	select {
	case r := <-ch:
		must.NotNil(t, r)
		return r
	case <-time.After(patience):
		t.Fatal("no result of the task")
		return nil
	}
}

// eventually polls until ok is true, for states that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// decoded is a handle as Nomad has it after a restart of the agent: it keeps
// msgpack, and the driver configuration is lost.
func decoded(t *testing.T, h *drivers.TaskHandle) *drivers.TaskHandle {
	t.Helper()
	var data []byte
	must.NoError(t, base.MsgPackEncode(&data, h))
	var out drivers.TaskHandle
	must.NoError(t, base.MsgPackDecode(data, &out))
	return &out
}
