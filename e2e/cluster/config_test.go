package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/hcl"
	"github.com/shoenig/test/must"
)

// testLayout is a layout that needs no machine.
func testLayout(t *testing.T, clients int) layout {
	t.Helper()
	ports, err := planPorts(2, clients, false)
	must.NoError(t, err)
	return layout{id: "abc", dir: "/tmp/np-abc", ports: ports}
}

// allPlugins are the plugins of a machine on which everything works.
func allPlugins() []pluginConfig {
	return []pluginConfig{
		{Label: "lifecycle-docker", Inner: "docker"},
		{Label: "lifecycle-exec", Inner: "exec"},
		{Label: "lifecycle-raw_exec", Inner: "raw_exec"},
	}
}

// The whole text is compared, so that a change of what the agents are told is
// seen in review. To accept one, copy the text of the failure into testdata.
func TestNomadConfig_Golden(t *testing.T) {
	l := testLayout(t, 2)
	cases := map[string]struct {
		config nomadConfig
		server bool
	}{
		"server":         {config: serverConfig(l, "INFO"), server: true},
		"client-full":    {config: clientConfig(l, 1, "DEBUG", true, allPlugins())},
		"client-minimal": {config: clientConfig(l, 0, "INFO", false, nil)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			text, err := tc.config.render(tc.server)
			must.NoError(t, err)
			golden, err := os.ReadFile(filepath.Join("testdata", name+".hcl"))
			must.NoError(t, err)
			must.Eq(t, string(golden), text)

			// And Nomad's parser takes it.
			var parsed map[string]any
			must.NoError(t, hcl.Decode(&parsed, text))
			must.Eq(t, any("127.0.0.1"), parsed["bind_addr"])
			must.Eq(t, tc.server, parsed["server"] != nil)
			must.Eq(t, !tc.server, parsed["client"] != nil)
		})
	}
}

func TestNomadConfig_Quoting(t *testing.T) {
	l := testLayout(t, 1)
	l.dir = `/tmp/with "quotes" and \`
	text, err := serverConfig(l, "INFO").render(true)
	must.NoError(t, err)
	var parsed map[string]any
	must.NoError(t, hcl.Decode(&parsed, text))
	must.Eq(t, any(l.dir+"/server/data"), parsed["data_dir"])
}

func TestConsulConfig(t *testing.T) {
	l := testLayout(t, 1)
	text, err := consulConfig(l, "INFO")
	must.NoError(t, err)
	var parsed struct {
		BindAddr   string         `json:"bind_addr"`
		ClientAddr string         `json:"client_addr"`
		Ports      map[string]int `json:"ports"`
	}
	must.NoError(t, json.Unmarshal([]byte(text), &parsed))
	must.Eq(t, "127.0.0.1", parsed.BindAddr)
	must.Eq(t, "127.0.0.1", parsed.ClientAddr)
	must.Eq(t, l.ports.consulHTTP, parsed.Ports["http"])
}

func TestWithDefaults(t *testing.T) {
	cases := map[string]struct {
		in  Config
		err string
	}{
		"zero value":     {in: Config{}},
		"negative":       {in: Config{Clients: -1}, err: "clients"},
		"too many":       {in: Config{Clients: maxClients + 1}, err: "clients"},
		"docker":         {in: Config{Docker: "yes"}, err: "docker"},
		"no such plugin": {in: Config{PluginBinary: "/no/such/file"}, err: "plugin binary"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tc.in.withDefaults()
			if tc.err != "" {
				must.ErrorContains(t, err, tc.err)
				return
			}
			must.NoError(t, err)
			must.Eq(t, 1, got.Clients)
			must.Eq(t, DockerAuto, got.Docker)
			must.Positive(t, got.StartTimeout)
			must.NotNil(t, got.Progress)
		})
	}
}

func TestAgentEnv(t *testing.T) {
	got := agentEnv([]string{"PATH=/bin", "NOMAD_TOKEN=x", "CONSUL_HTTP_ADDR=y", "VAULT_TOKEN=z", "HOME=/h"}, "abc:server")
	must.Eq(t, []string{"PATH=/bin", "HOME=/h", markEnv + "=abc:server"}, got)
}

func TestPrepareDir(t *testing.T) {
	full := t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(full, "precious"), nil, 0o600))
	_, err := prepareDir(full, "abc")
	must.ErrorContains(t, err, "not empty")

	empty := filepath.Join(t.TempDir(), "a", "b")
	got, err := prepareDir(empty, "abc")
	must.NoError(t, err)
	must.Eq(t, empty, got)
	must.DirExists(t, got)
}
