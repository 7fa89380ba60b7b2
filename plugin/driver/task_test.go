package driver

import (
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
)

// How a task is reached is read from what has come through gRPC, and again
// from the handle that Nomad kept.
func TestNewDialer(t *testing.T) {
	s := newSetup(t, "")
	s.cfg.NetworkIsolation = &drivers.NetworkIsolationSpec{Mode: drivers.NetIsolationModeGroup, Path: "/run/netns/a"}
	s.cfg.Resources.Ports = &structs.AllocatedPorts{
		{Label: "http", Value: 23456, To: 8080, HostIP: "10.0.0.1"},
		{Label: "admin", Value: 23457, To: 0, HostIP: "10.0.0.1"},
		{Label: "same", Value: 23458, To: -1, HostIP: "::1"},
	}
	s.cfg.Env["NOMAD_ALLOC_IP_http"] = "172.26.64.9"
	handle := s.start(t)
	want := &hook.Dialer{
		TaskDir: s.cfg.TaskDir().Dir, Netns: "/run/netns/a", GroupIP: "172.26.64.9",
		AllowURLs: []string{"http://a"},
		Ports: map[string]hook.Port{
			"http":  {Host: "10.0.0.1:23456", To: 8080},
			"admin": {Host: "10.0.0.1:23457", To: 23457},
			"same":  {Host: "[::1]:23458", To: 23458},
		},
	}
	must.Eq(t, want, newDialer(s.only(t).cfg, []string{"http://a"}))
	must.Eq(t, want, newDialer(decoded(t, handle).Config, []string{"http://a"}))
}

// A group on the host's network has no namespace.
func TestNewDialer_HostNetwork(t *testing.T) {
	s := newSetup(t, "")
	s.start(t)
	d := newDialer(s.only(t).cfg, nil)
	must.Eq(t, "", d.Netns)
	must.Eq(t, "", d.GroupIP)
	must.MapEmpty(t, d.Ports)
}
