package driver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/shoenig/test/must"
)

// What is wrong with the operator's configuration is said when it is read, and
// where it is.
func TestAgentConfig_Refuses(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	cases := map[string]struct{ text, want string }{
		"allow_urls":        {`allow_urls = ["ftp://a"]`, "lifecycle.allow_urls[0]: "},
		"namespace unknown": {`allow_host_namespaces = ["pid", "net"]`, `lifecycle.allow_host_namespaces[1]: "net" is not one of`},

		"nomad address":    {"nomad {\n address = \"tcp://a\"\n}", "lifecycle.nomad.address: "},
		"nomad user":       {"nomad {\n address = \"http://u:s3cret@a\"\n}", "lifecycle.nomad.address: "},
		"nomad token file": {"nomad {\n token_file = \"" + missing + "\"\n}", "lifecycle.nomad.token_file: "},
		"nomad ca file":    {"nomad {\n address = \"https://a\"\n ca_file = \"" + missing + "\"\n}", "lifecycle.nomad.ca_file: "},
		"nomad key file":   {"nomad {\n address = \"https://a\"\n cert_file = \"" + missing + "\"\n}", "lifecycle.nomad.key_file: "},

		"consul address": {"consul {\n address = \"ftp://a\"\n}", "lifecycle.consul: address is not "},
		"consul user":    {"consul {\n address = \"http://u:s3cret@a\"\n}", "lifecycle.consul: address is not "},
		"consul ca file": {"consul {\n address = \"https://a\"\n ca_file = \"" + missing + "\"\n}", "lifecycle.consul: ca_file"},

		"store without a URL": {`stores = { shared = "/srv" }`, `lifecycle.stores: what "shared" stands for is no URL`},
		"store named consul":  {`stores = { consul = "file:///srv" }`, `lifecycle.stores: "consul" cannot be the name of a blob store`},
		"store without name":  {`stores = { "" = "file:///srv" }`, `lifecycle.stores: "" cannot be the name`},

		"endpoint dir":      {"endpoint {\n dir = \"run\"\n}", `lifecycle.endpoint.dir: "run" is not the absolute path`},
		"endpoint listen":   {"endpoint {\n listen = \"4690\"\n}", "lifecycle.endpoint.listen: "},
		"endpoint no token": {"endpoint {\n listen = \"127.0.0.1:4690\"\n}", "lifecycle.endpoint.token_file: missing"},
		"endpoint open":     {"endpoint {\n listen = \"0.0.0.0:4690\"\n token_file = \"" + missing + "\"\n}", "lifecycle.endpoint.listen: "},
		"endpoint cert":     {"endpoint {\n listen = \"127.0.0.1:4690\"\n cert_file = \"a\"\n}", "lifecycle.endpoint.cert_file: "},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.SetConfigF = func(*base.Config) error { f.add("config"); return nil }
			d := decorate(t, "lifecycle-fake", f.factory)
			err := configureAgent(t, d, "lifecycle {\n"+tc.text+"\n}\n")
			must.ErrorContains(t, err, tc.want)
			must.StrHasPrefix(t, tc.want[:10], err.Error())
			must.StrNotContains(t, err.Error(), "s3cret")
			must.SliceEmpty(t, f.all())
		})
	}
}

// Keys that there are not are refused by the schema already.
func TestAgentConfig_UnknownKeys(t *testing.T) {
	for name, text := range map[string]string{
		"block":    "nomd {\n}",
		"nomad":    "nomad {\n adddress = \"http://a\"\n}",
		"consul":   "consul {\n region = \"eu\"\n}",
		"endpoint": "endpoint {\n port = 1\n}",
	} {
		t.Run(name, func(t *testing.T) {
			must.Error(t, configureAgent(t, decorate(t, "lifecycle-fake", newFake().factory), "lifecycle {\n"+text+"\n}\n"))
		})
	}
}

// A whole configuration is read as it is written, in both versions of HCL.
func TestAgentConfig_Whole(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(token, []byte("0123456789abcdef\n"), 0o600))
	text := `
lifecycle {
  allow_urls            = ["https://hooks.example"]
  allow_host_namespaces = ["pid"]
  nomad {
    address    = "http://127.0.0.1:1"
    region     = "eu"
    token_file = "` + token + `"
  }
  consul {
    address    = "http://127.0.0.1:1"
    token_file = "` + token + `"
  }
  stores = {
    shared = "file:///srv/checkpoints"
    s3     = "s3://bucket?region=eu-central-1"
  }
  endpoint {
    dir        = "/run/x"
    listen     = "127.0.0.1:4690"
    token_file = "` + token + `"
  }
}
`
	d := decorate(t, "lifecycle-fake", newFake().factory)
	must.NoError(t, configureAgent(t, d, text))
	want := agentBlock{
		AllowURLs: []string{"https://hooks.example"}, AllowHostNamespaces: []string{"pid"},
		Nomad:    &serverBlock{Address: nowhere, Region: "eu", TokenFile: token},
		Consul:   &serverBlock{Address: nowhere, TokenFile: token},
		Stores:   hclutils.MapStrStr{"shared": "file:///srv/checkpoints", "s3": "s3://bucket?region=eu-central-1"},
		Endpoint: &endpointBlock{Dir: "/run/x", Listen: "127.0.0.1:4690", TokenFile: token},
	}
	must.Eq(t, want, d.config)
	must.Eq(t, want, d.shared.config)

	schema, err := d.ConfigSchema()
	must.NoError(t, err)
	var own agentConfig
	hclutils.NewConfigParser(schema).ParseHCL(t, "config {\n"+text+"}", &own)
	must.Eq(t, want, *own.Lifecycle)
}

// Tasks that run keep what they have, and later ones get what is new.
func TestAgentConfig_Again(t *testing.T) {
	r := newRig(t)
	p := r.place(t, checkpointed(""))
	p.app.set("the state")
	p.start(t)
	must.NoError(t, configureAgent(t, p.d, r.n.agent("")))
	r.n.set(t, p.cfg.AllocID, drained)
	result := p.waitTask(t)
	must.NoError(t, p.h.StopTask(p.cfg.ID, patience, ""))
	wait(t, result)
	must.SliceContains(t, r.objects(t), "00000001/00000001.json")
	must.NoError(t, p.h.DestroyTask(p.cfg.ID, false))

	p.cfg.ID += "-again"
	_, _, err := p.h.StartTask(p.cfg)
	must.ErrorContains(t, err, `has no store "shared"; it has consul`)
}
