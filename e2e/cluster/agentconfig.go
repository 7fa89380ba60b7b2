package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// infraImage is what holds the network namespace of a group on Docker. It is
// built here because Nomad's default would have to be pulled.
const infraImage = "nomad-patterns/pause:1"

// cniPath is where Debian's containernetworking-plugins puts the plugins.
const cniPath = "/usr/lib/cni"

// nomadConfig is the data of the templates of the Nomad agents.
type nomadConfig struct {
	Name       string
	Dir        string // data of this agent
	LogLevel   string
	HTTP, RPC  int
	Serf       int // server only
	ConsulAddr string
	ConsulSock string // clients only
	ServerRPC  string // clients only: address of the server
	AllocDir   string
	MinDynamic int
	MaxDynamic int
	CNIPath    string
	PluginDir  string
	InfraImage string
	Docker     bool
	// Checkpoints is the directory behind the store "shared".
	Checkpoints string
	// Endpoint is the directory of the node's management endpoint.
	Endpoint string
	// Plugins are the lifecycle plugins, in a fixed order.
	Plugins []pluginConfig
}

// pluginConfig is one installed name of the lifecycle plugin.
type pluginConfig struct {
	Label string // file name in the plugin directory
	Inner string // driver that it decorates
}

// nomadCommon is what the server and the clients share.
const nomadCommon = `name       = {{ q .Name }}
data_dir   = {{ q .Dir }}
bind_addr  = "127.0.0.1"
log_level  = {{ q .LogLevel }}
plugin_dir = {{ q .PluginDir }}

disable_update_check = true
leave_on_interrupt   = false
leave_on_terminate   = false

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

ports {
  http = {{ .HTTP }}
  rpc  = {{ .RPC }}
  serf = {{ .Serf }}
}

# Everybody is 127.0.0.1 here, so limits per address are limits of all.
limits {
  http_max_conns_per_client = 2000
  rpc_max_conns_per_client  = 2000
}

consul {
  address = {{ q .ConsulAddr }}
}
`

// nomadServer is added for the server. The heartbeats are faster than the
// default (10 s and 10 s) so that a killed client is found lost within the
// patience of a test; they leave room for a busy machine.
const nomadServer = `
server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1

  min_heartbeat_ttl = "5s"
  heartbeat_grace   = "5s"
}
`

// nomadClient is added for a client.
const nomadClient = `
client {
  enabled      = true
  no_host_uuid = true

  alloc_dir         = {{ q .AllocDir }}
  network_interface = "lo"
  cni_path          = {{ q .CNIPath }}

  meta {
    # For jobs that talk to the Consul agent of their node.
    consul_http   = {{ q .ConsulAddr }}
    consul_socket = {{ q .ConsulSock }}
  }

  # The clients of a cluster share loopback.
  min_dynamic_port = {{ .MinDynamic }}
  max_dynamic_port = {{ .MaxDynamic }}

  # A full disk of the machine must not take ended allocations away from tests.
  gc_disk_usage_threshold  = 99
  gc_inode_usage_threshold = 99

  server_join {
    retry_join     = [{{ q .ServerRPC }}]
    retry_interval = "1s"
  }

  options {
    # The probes of the clouds fail, or take seconds, off the clouds.
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
}

# Without it Nomad collects no statistics of tasks at all.
telemetry {
  publish_allocation_metrics = true
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}
{{- if .Docker }}

plugin "docker" {
  config {
{{- template "dockerConfig" . }}
  }
}
{{- end }}
{{- $top := . }}
{{- range .Plugins }}

plugin {{ q .Label }} {
  args = ["-inner={{ .Inner }}"]

  config {
{{- if eq .Inner "docker" }}
{{- template "dockerConfig" $top }}
{{- else if eq .Inner "raw_exec" }}
    enabled = true
{{- end }}

    lifecycle {
      nomad {
        address = "http://127.0.0.1:{{ $top.HTTP }}"
      }

      consul {
        address = {{ q $top.ConsulAddr }}
      }

      stores = {
        shared = "file://{{ $top.Checkpoints }}"
      }

      endpoint {
        dir = {{ q $top.Endpoint }}
      }
    }
  }
}
{{- end }}
{{ define "dockerConfig" }}
    infra_image = {{ q .InfraImage }}

    volumes {
      enabled = true
    }

    gc {
      # Images are built here and could not be pulled again.
      image = false

      # Several clients share one engine and would remove one another's.
      dangling_containers {
        enabled = false
      }
    }
{{- end }}`

// hclString writes a string for HCL.
func hclString(s string) string { return fmt.Sprintf("%q", s) }

// render fills the templates of one Nomad agent.
func (n nomadConfig) render(server bool) (string, error) {
	text := nomadCommon
	if server {
		text += nomadServer
	} else {
		text += nomadClient
	}
	t, err := template.New("nomad").Funcs(template.FuncMap{"q": hclString}).Parse(text)
	if err != nil {
		return "", fmt.Errorf("parse template of nomad agent %s: %w", n.Name, err)
	}
	var b strings.Builder
	if err := t.Execute(&b, n); err != nil {
		return "", fmt.Errorf("render configuration of nomad agent %s: %w", n.Name, err)
	}
	return b.String(), nil
}

// serverConfig is the data of the Nomad server.
func serverConfig(l layout, logLevel string) nomadConfig {
	return nomadConfig{
		Name: "server", Dir: filepath.Join(l.agentDir("server"), "data"), LogLevel: logLevel,
		HTTP: l.ports.serverHTTP, RPC: l.ports.serverRPC, Serf: l.ports.serverSerf,
		ConsulAddr: loopbackAddr(l.ports.consulHTTP),
		PluginDir:  filepath.Join(l.agentDir("server"), "plugins"), // none: it runs no tasks
	}
}

// clientConfig is the data of Nomad client i.
func clientConfig(l layout, i int, logLevel string, docker bool, plugins []pluginConfig) nomadConfig {
	p := l.ports.clients[i]
	return nomadConfig{
		Name: clientName(i), Dir: filepath.Join(l.clientDir(i), "data"), LogLevel: logLevel,
		HTTP: p.http, RPC: p.rpc, Serf: l.ports.serverSerf,
		ConsulAddr: loopbackAddr(p.consulHTTP), ConsulSock: l.consulSocket(i), ServerRPC: loopbackAddr(l.ports.serverRPC),
		AllocDir: l.allocDir(i), MinDynamic: p.minDynamic, MaxDynamic: p.maxDynamic,
		CNIPath: cniPath, PluginDir: l.pluginDir(),
		Docker: docker, InfraImage: infraImage, Plugins: plugins,
		Checkpoints: l.checkpointDir(), Endpoint: l.endpointDir(i),
	}
}

// writeFiles makes the directories and writes the configuration of all agents,
// and links the plugin under the names of its drivers.
func writeFiles(l layout, cfg Config, docker bool, plugins []pluginConfig) error {
	dirs := []string{
		l.logDir(), l.pluginDir(), l.checkpointDir(),
		filepath.Join(l.agentDir("consul"), "data"),
		filepath.Join(l.agentDir("server"), "data"), filepath.Join(l.agentDir("server"), "plugins"),
	}
	for i := range cfg.Clients {
		dirs = append(dirs, filepath.Join(l.clientDir(i), "data"), l.allocDir(i), filepath.Join(l.agentDir(consulName(i)), "data"))
	}
	for _, dir := range dirs {
		// Tasks of other users pass through to their own directories.
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make directories of the agents: %w", err)
		}
	}
	files := map[string]string{filepath.Join(l.dir, "extra.hcl"): cfg.ExtraNomadConfig}
	text, err := consulConfig(l, cfg.LogLevel)
	if err != nil {
		return err
	}
	files[filepath.Join(l.agentDir("consul"), "consul.json")] = text
	if text, err = serverConfig(l, cfg.LogLevel).render(true); err != nil {
		return err
	}
	files[filepath.Join(l.agentDir("server"), "agent.hcl")] = text
	for i := range cfg.Clients {
		if text, err = clientConfig(l, i, cfg.LogLevel, docker, plugins).render(false); err != nil {
			return err
		}
		files[filepath.Join(l.clientDir(i), "agent.hcl")] = text
		if text, err = consulClientConfig(l, i, cfg.LogLevel); err != nil {
			return err
		}
		files[filepath.Join(l.agentDir(consulName(i)), "consul.json")] = text
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	for _, p := range plugins {
		if err := os.Symlink(cfg.PluginBinary, filepath.Join(l.pluginDir(), p.Label)); err != nil {
			return fmt.Errorf("install plugin: %w", err)
		}
	}
	return nil
}
