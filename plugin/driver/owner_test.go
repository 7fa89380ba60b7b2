package driver

import (
	"os/user"
	"strconv"
	"testing"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/fsisolation"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
)

// A task's socket is its user's, where the node knows who that is: an image has
// users of its own.
func TestOwner(t *testing.T) {
	u, err := user.Lookup("nobody")
	must.NoError(t, err)
	uid, err := strconv.Atoi(u.Uid)
	must.NoError(t, err)
	gid, err := strconv.Atoi(u.Gid)
	must.NoError(t, err)
	root, nobody := manage.OwnedBy(0, 0), manage.OwnedBy(uid, gid)
	cases := map[string]struct {
		driver, user string
		want         manage.Owner
	}{
		"raw_exec":            {"raw_exec", "", root},
		"raw_exec, user":      {"raw_exec", "nobody", nobody},
		"exec":                {"exec", "", nobody},
		"exec, user":          {"exec", "root", root},
		"exec, no such user":  {"exec", "no-such-user", manage.Owner{}},
		"docker":              {"docker", "", manage.Owner{}},
		"docker, a name":      {"docker", "root", manage.Owner{}},
		"docker, a number":    {"docker", "0", root},
		"docker, and a group": {"docker", u.Uid + ":100", nobody},
		"docker, no number":   {"docker", "-1", manage.Owner{}},
		"docker, not of node": {"docker", "1234567890", manage.Owner{}},
		"another":             {"podman", "", manage.Owner{}},
		"another with images": {"podman", "root", manage.Owner{}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.caps.FSIsolation = map[string]fsisolation.Mode{"raw_exec": fsisolation.None, "exec": fsisolation.Chroot}[tc.driver]
			if f.caps.FSIsolation == "" {
				f.caps.FSIsolation = fsisolation.Image
			}
			f.PluginInfoF = base.StaticInfo(&base.PluginInfoResponse{Type: base.PluginTypeDriver, Name: tc.driver})
			d := decorate(t, "lifecycle-"+tc.driver, f.factory)
			cfg := newTaskConfig(t)
			cfg.User = tc.user
			task := d.newTask(cfg, &spec{}, lifecycle.Created)
			defer task.cancel()
			must.True(t, tc.want == task.owner(), must.Sprintf("%+v", task.owner()))
		})
	}
}
