package driver

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/drivers/exec"
	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
)

// constructor makes an inner driver.
type constructor = func(context.Context, hclog.Logger) drivers.DriverPlugin

func inners() map[string]constructor {
	return map[string]constructor{
		"docker": docker.NewDockerDriver, "exec": exec.NewExecDriver, "raw_exec": rawexec.NewRawExecDriver,
	}
}

// Both schemas are the inner driver's, word for word, and one key more.
func TestSchema_IsSuperset(t *testing.T) {
	for name, inner := range inners() {
		t.Run(name, func(t *testing.T) {
			d := decorate(t, "lifecycle-"+name, inner)
			h := harness(t, d)
			for kind, schemas := range map[string][2]func() (*hclspec.Spec, error){
				"task":  {d.inner.TaskConfigSchema, h.TaskConfigSchema},
				"agent": {d.inner.ConfigSchema, h.ConfigSchema},
			} {
				stock, err := schemas[0]()
				must.NoError(t, err)
				ours, err := schemas[1]()
				must.NoError(t, err)
				attrs := ours.GetObject().GetAttributes()
				must.MapContainsKey(t, attrs, blockName)
				for key, want := range stock.GetObject().GetAttributes() {
					must.Eq(t, want.String(), attrs[key].String(), must.Sprintf("%s %s", kind, key))
				}
				must.MapLen(t, len(stock.GetObject().GetAttributes())+1, attrs)
				must.MapNotContainsKey(t, stock.GetObject().GetAttributes(), blockName)
			}
		})
	}
}

const lifecycleText = `
lifecycle {
  prestart {
    exec {
      command = ["/bin/migrate", "-up"]
    }
    timeout = "20s"
  }
  ready {
    http {
      port    = "http"
      path    = "/ready"
      headers = { X-A = "1", X-B = "2" }
    }
    interval = "2s"
  }
  prestop {
    http {
      url                = "http://127.0.0.1:1/stop"
      method             = "PUT"
      network            = "host"
      valid_status_codes = [200, 404]
      headers {
        X-Token = "t"
      }
    }
    retries    = 3
    on_failure = "ignore"
  }
  prestop {
    sleep = "5s"
  }
}
`

const dockerText = `
image   = "shop/web:7"
command = "serve"
args    = ["-v", "2"]
ports   = ["http"]
labels {
  team = "shop"
}
mount {
  type   = "bind"
  source = "local/x"
  target = "/x"
}
auth {
  username = "u"
  password = "p"
}
`

// A job's config reads the same for the inner driver, with the block and
// without it.
func TestSchema_StockConfigUnchanged(t *testing.T) {
	cases := map[string]struct {
		text string
		out  func() any
	}{
		"docker":   {dockerText, func() any { return new(docker.TaskConfig) }},
		"exec":     {"command = \"/bin/a\"\nargs = [\"b\"]\ncap_add = [\"net_raw\"]\n", func() any { return new(exec.TaskConfig) }},
		"raw_exec": {"command = \"/bin/a\"\nargs = [\"b\"]\nwork_dir = \"/tmp\"\n", func() any { return new(rawexec.TaskConfig) }},
	}
	for name, inner := range inners() {
		t.Run(name, func(t *testing.T) {
			tc := cases[name]
			d := decorate(t, "lifecycle-"+name, inner)
			read := func(from drivers.DriverPlugin, text string) any {
				var cfg drivers.TaskConfig
				setConfig(t, from, &cfg, text)
				out := tc.out()
				must.NoError(t, cfg.DecodeDriverConfig(out))
				return out
			}
			stock := read(d.inner, tc.text)
			must.NotEq(t, tc.out(), stock)
			must.Eq(t, stock, read(d, tc.text))
			must.Eq(t, stock, read(d, tc.text+lifecycleText))
		})
	}
}

func TestSchema_LifecycleBlock(t *testing.T) {
	for name, inner := range inners() {
		t.Run(name, func(t *testing.T) {
			d := decorate(t, "lifecycle-"+name, inner)
			var cfg drivers.TaskConfig
			text := "command = \"/bin/a\"\n"
			if name == "docker" {
				text = "image = \"a\"\n"
			}
			setConfig(t, d, &cfg, text+lifecycleText)
			var own taskConfig
			must.NoError(t, cfg.DecodeDriverConfig(&own))
			sp, err := parseSpec(own.Lifecycle)
			must.NoError(t, err)
			must.True(t, sp.hasExec())
			must.True(t, sp.managed)
			must.False(t, sp.hasSocket())
			hs := sp.hooks

			must.Len(t, 1, hs[hook.Prestart])
			must.Eq(t, []string{"/bin/migrate", "-up"}, hs[hook.Prestart][0].Exec.Command)
			must.Eq(t, "20s", hs[hook.Prestart][0].Timeout.String())
			must.Len(t, 1, hs[hook.Ready])
			must.Eq(t, map[string]string{"X-A": "1", "X-B": "2"}, hs[hook.Ready][0].HTTP.Headers)
			must.Eq(t, "2s", hs[hook.Ready][0].Interval.String())
			must.Len(t, 2, hs[hook.Prestop])
			first := hs[hook.Prestop][0]
			must.Eq(t, &hook.HTTPSpec{
				URL: "http://127.0.0.1:1/stop", Network: "host", Method: "PUT",
				Headers: map[string]string{"X-Token": "t"}, Status: []int{200, 404},
			}, first.HTTP)
			must.Eq(t, 3, first.Retries)
			must.Eq(t, "5s", hs[hook.Prestop][1].Sleep.String())
			must.Eq(t, "lifecycle.prestop[1]", hs[hook.Prestop][1].Field())
		})
	}
}

// Nomad's own test parser, which reads HCL 1, agrees.
func TestSchema_HCL1(t *testing.T) {
	schema, err := decorate(t, "lifecycle-raw_exec", rawexec.NewRawExecDriver).TaskConfigSchema()
	must.NoError(t, err)
	var own taskConfig
	hclutils.NewConfigParser(schema).ParseHCL(t, "config {\n command = \"/bin/a\"\n"+lifecycleText+"}", &own)
	must.Len(t, 2, own.Lifecycle.Prestop)
	must.Eq(t, hclutils.MapStrStr{"X-A": "1", "X-B": "2"}, own.Lifecycle.Ready[0].HTTP.Headers)
}

func TestSchema_Refuses(t *testing.T) {
	cases := map[string]struct{ text, want string }{
		"unknown hook":       {`lifecycle { preload { sleep = "1s" } }`, "preload"},
		"unknown key":        {`lifecycle { prestop { slep = "1s" } }`, "slep"},
		"unknown http key":   {`lifecycle { prestop { http { uri = "x" } } }`, "uri"},
		"exec, no command":   {`lifecycle { prestop { exec { } } }`, "command"},
		"retries no number":  {`lifecycle { prestop { retries = "many" } }`, "retries"},
		"two blocks":         {"lifecycle { }\nlifecycle { }", "lifecycle"},
		"inner's own errors": {`command = ["a"]`, "command"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			schema, err := decorate(t, "lifecycle-raw_exec", rawexec.NewRawExecDriver).TaskConfigSchema()
			must.NoError(t, err)
			text := tc.text
			if !strings.HasPrefix(text, "command") {
				text = "command = \"/bin/a\"\n" + text
			}
			_, err = parseConfig(t, schema, oneLiners(text))
			must.ErrorContains(t, err, tc.want)
		})
	}
}

// oneLiners spreads nested blocks over lines, as HCL wants them.
func oneLiners(text string) string {
	text = strings.ReplaceAll(text, "{ ", "{\n")
	return strings.ReplaceAll(text, " }", "\n}")
}

func TestSchema_Collision(t *testing.T) {
	f := newFake()
	taken := hclspec.NewObject(map[string]*hclspec.Spec{blockName: hclspec.NewAttr(blockName, "string", false)})
	f.ConfigSchemaF = base.StaticConfigSchema(taken)
	f.TaskConfigSchemaF = func() (*hclspec.Spec, error) { return taken, nil }
	h := harness(t, decorate(t, "lifecycle-fake", f.factory))
	_, err := h.TaskConfigSchema()
	must.ErrorContains(t, err, `has a "lifecycle" key of its own`)
	_, err = h.ConfigSchema()
	must.ErrorContains(t, err, `has a "lifecycle" key of its own`)
}

func TestParseHooks_Refuses(t *testing.T) {
	many := make([]hookBlock, hook.MaxPerKind+1)
	for i := range many {
		many[i].Sleep = "1s"
	}
	cases := map[string]struct {
		block taskBlock
		want  string
	}{
		"too many":   {taskBlock{Prestop: many}, "lifecycle.prestop: 17 hooks; at most 16"},
		"the second": {taskBlock{Ready: []hookBlock{{Sleep: "1s"}, {Sleep: "x"}}}, `lifecycle.ready[1].sleep: "x"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := parseSpec(&tc.block)
			must.ErrorContains(t, err, tc.want)
		})
	}
}

func TestSetConfig(t *testing.T) {
	cases := map[string]struct {
		allow []string
		want  string
	}{
		"none":        {nil, ""},
		"good":        {[]string{"http://127.0.0.1:8500/v1", "https://hooks.example"}, ""},
		"no scheme":   {[]string{"hooks.example"}, "lifecycle.allow_urls[0]"},
		"second, bad": {[]string{"http://a", "ftp://a"}, "lifecycle.allow_urls[1]"},
		"no host":     {[]string{"http:///x"}, "lifecycle.allow_urls[0]"},
		"password":    {[]string{"http://u:s3cret@a"}, "lifecycle.allow_urls[0]"},
		"query":       {[]string{"http://a?b=s3cret"}, "lifecycle.allow_urls[0]"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			var inner []byte
			f.SetConfigF = func(c *base.Config) error { f.add("config"); inner = c.PluginConfig; return nil }
			d := decorate(t, "lifecycle-fake", f.factory)
			h := harness(t, d)
			var raw []byte
			must.NoError(t, base.MsgPackEncode(&raw, map[string]any{
				"command": "inner's", blockName: map[string]any{"allow_urls": tc.allow},
			}))
			err := h.SetConfig(&base.Config{PluginConfig: raw})
			if tc.want != "" {
				must.ErrorContains(t, err, tc.want)
				must.StrNotContains(t, err.Error(), "s3cret")
				must.SliceEmpty(t, f.all())
				return
			}
			must.NoError(t, err)
			must.Eq(t, raw, inner)
			must.SliceEqOp(t, tc.allow, d.config.AllowURLs)
			// Nomad calls it again, during validation without any config.
			must.NoError(t, h.SetConfig(&base.Config{}))
			must.SliceEmpty(t, d.config.AllowURLs)
		})
	}
}

// The lifecycle block of the plugin's configuration goes through its schema.
func TestConfigSchema_AllowURLs(t *testing.T) {
	d := decorate(t, "lifecycle-raw_exec", rawexec.NewRawExecDriver)
	schema, err := d.ConfigSchema()
	must.NoError(t, err)
	var own agentConfig
	hclutils.NewConfigParser(schema).ParseHCL(t, `config { enabled = true
 lifecycle { allow_urls = ["http://a"] } }`, &own)
	must.Eq(t, []string{"http://a"}, own.Lifecycle.AllowURLs)
}
