package dockerguard

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/shoenig/test/must"
)

// words are configuration as a job or an operator writes it.
type words = map[string]any

func encode(t *testing.T, w words) []byte {
	t.Helper()
	if w == nil {
		return nil
	}
	var data []byte
	must.NoError(t, base.MsgPackEncode(&data, w))
	return data
}

// newTask has the directories that Nomad makes, those of another task of the
// group, and a secret outside of them all.
func newTask(t *testing.T, w words) *drivers.TaskConfig {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	must.NoError(t, err)
	alloc := filepath.Join(top, "alloc")
	for _, dir := range []string{"alloc/data", "web/local/site", "web/secrets", "other/local"} {
		must.NoError(t, os.MkdirAll(filepath.Join(alloc, dir), 0o755))
	}
	must.NoError(t, os.MkdirAll(filepath.Join(top, "host"), 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(top, "host", "secret"), []byte("s"), 0o600))
	task := &drivers.TaskConfig{ID: "a/web/1", AllocID: "a", AllocDir: alloc, Name: "web"}
	must.NoError(t, task.EncodeConcreteDriverConfig(w))
	return task
}

func TestNamespaces(t *testing.T) {
	cases := map[string]struct {
		plugin words
		allow  []string
		task   words
		want   string // part of the error; "" for none
	}{
		"nothing asked for":        {task: words{"image": "x:1"}},
		"engine's defaults":        {task: words{"pid_mode": "", "ipc_mode": "", "uts_mode": "", "userns_mode": "", "cgroupns": ""}},
		"private":                  {task: words{"pid_mode": "private", "ipc_mode": "none", "cgroupns": "private"}},
		"shareable":                {task: words{"ipc_mode": "shareable"}},
		"host pid":                 {task: words{"pid_mode": "host"}, want: `pid_mode: "host" is not allowed`},
		"host ipc":                 {task: words{"ipc_mode": "host"}, want: `ipc_mode: "host" is not allowed`},
		"host uts":                 {task: words{"uts_mode": "host"}, want: `uts_mode: "host" is not allowed`},
		"host user":                {task: words{"userns_mode": "host"}, want: `userns_mode: "host" is not allowed`},
		"host cgroup":              {task: words{"cgroupns": "host"}, want: `cgroupns: "host" is not allowed`},
		"another container's":      {task: words{"pid_mode": "container:other"}, want: `add "pid" to allow_host_namespaces`},
		"another container's ipc":  {task: words{"ipc_mode": "container:other"}, want: "ipc_mode"},
		"a mode of another engine": {task: words{"pid_mode": "ns:/proc/1/ns/pid"}, want: "pid_mode"},
		"in other letters":         {task: words{"pid_mode": "HOST"}, want: "pid_mode"},
		"host network":             {task: words{"network_mode": "host"}},
		"network of a container":   {task: words{"network_mode": "container:proxy"}},
		"privileged client":        {plugin: words{"allow_privileged": true}, task: words{"pid_mode": "host", "uts_mode": "host"}},
		"client says no":           {plugin: words{"allow_privileged": false}, task: words{"pid_mode": "host"}, want: "pid_mode"},
		"allowed":                  {allow: []string{"ipc", "pid"}, task: words{"pid_mode": "host", "ipc_mode": "container:other"}},
		"allowed for another":      {allow: []string{"pid"}, task: words{"pid_mode": "host", "ipc_mode": "host"}, want: "ipc_mode"},
		"with volumes":             {plugin: words{"volumes": words{"enabled": true}}, task: words{"pid_mode": "host"}, want: "pid_mode"},
		"a later driver's options": {plugin: words{"allowed_modes": words{"pid": []string{"host"}}}, task: words{"pid_mode": "host"}, want: "pid_mode"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := Parse(encode(t, c.plugin), c.allow)
			must.NoError(t, err)
			err = p.Check(newTask(t, c.task))
			if c.want == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, c.want)
		})
	}
}

func TestParse(t *testing.T) {
	cases := map[string]struct {
		config []byte
		allow  []string
		want   string
	}{
		"nothing":          {},
		"unknown word":     {allow: []string{"pid", "net"}, want: `allow_host_namespaces[1]: "net" is not one of`},
		"not msgpack":      {config: []byte{0xc1}, want: "decode the docker driver's plugin config"},
		"not a map":        {config: encode(t, words{"volumes": 7}), want: "decode the docker driver's plugin config"},
		"null for a block": {config: encode(t, words{"volumes": nil, "allow_privileged": nil})},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := Parse(c.config, c.allow)
			if c.want != "" {
				must.ErrorContains(t, err, c.want)
				return
			}
			must.NoError(t, err)
			must.Eq(t, Policy{}, p)
		})
	}
}

func TestPaths(t *testing.T) {
	volume := func(v ...string) words { return words{"volumes": v} }
	bind := func(field, source string) words {
		return words{field: []words{{"type": "bind", "source": source, "target": "/x"}}}
	}
	cases := map[string]struct {
		links map[string]string // below the allocation's directory; HOST is outside
		task  words
		want  string
	}{
		"none":                       {task: words{"image": "x:1"}},
		"own directory":              {task: volume("local/site:/site:ro", "secrets/:/s", "./:/t")},
		"shared directory":           {task: volume("../alloc/data:/data")},
		"another task's":             {task: volume("../other/local:/o")},
		"whole allocation":           {task: volume("..:/all")},
		"not there yet":              {task: volume("local/new/deep:/n")},
		"no source":                  {task: volume(":/x")},
		"link inside":                {links: map[string]string{"web/local/now": "site"}, task: volume("local/now:/site")},
		"link to a sibling":          {links: map[string]string{"web/local/data": "../../alloc/data"}, task: volume("local/data:/d")},
		"chain inside":               {links: map[string]string{"web/local/a": "b", "web/local/b": "site"}, task: volume("local/a:/a")},
		"dangling inside":            {links: map[string]string{"web/local/a": "missing"}, task: volume("local/a:/a")},
		"dangling link out":          {links: map[string]string{"web/local/a": "../../../missing"}, task: volume("local/a:/a"), want: `volumes[0]: "local/a": leads out`},
		"link out":                   {links: map[string]string{"web/local/etc": "HOST"}, task: volume("local/site:/s", "local/etc:/e"), want: `volumes[1]: "local/etc": leads out of the allocation's directory`},
		"link out by dots":           {links: map[string]string{"web/local/etc": "../../../host"}, task: volume("local/etc:/e"), want: "volumes[0]"},
		"link above the path":        {links: map[string]string{"web/local/etc": "HOST"}, task: volume("local/etc/secret:/e"), want: "volumes[0]"},
		"link above, nothing behind": {links: map[string]string{"web/local/etc": "HOST"}, task: volume("local/etc/new:/e"), want: "volumes[0]"},
		"link out in shared":         {links: map[string]string{"alloc/data/etc": "HOST"}, task: volume("../alloc/data/etc:/e"), want: "volumes[0]"},
		"chain out":                  {links: map[string]string{"web/local/a": "b", "web/local/b": "HOST"}, task: volume("local/a:/a"), want: "volumes[0]"},
		"loop":                       {links: map[string]string{"web/local/a": "b", "web/local/b": "a"}, task: volume("local/a:/a"), want: "look it up"},
		"absolute, inside":           {task: volume("ALLOC/web/local:/l")},
		"absolute, inside, link out": {links: map[string]string{"web/local/etc": "HOST"}, task: volume("ALLOC/web/local/etc:/l"), want: "volumes[0]"},
		"absolute, outside":          {task: volume("HOST:/h"), want: `leads out`},
		"absolute link inside":       {links: map[string]string{"web/local/a": "ALLOC/alloc"}, task: volume("local/a:/a"), want: "volumes[0]"},
		"dots out":                   {task: volume("../../host:/h"), want: `volumes[0]: "../../host": leads out`},
		"name like dots":             {task: volume("../..data:/h")},
		"mount":                      {task: bind("mount", "local/site")},
		"mount out":                  {links: map[string]string{"web/local/etc": "HOST"}, task: bind("mount", "local/etc"), want: `mount[0].source: "local/etc"`},
		"mounts out":                 {links: map[string]string{"web/local/etc": "HOST"}, task: bind("mounts", "local/etc"), want: `mounts[0].source`},
		"tmpfs":                      {task: words{"mount": []words{{"type": "tmpfs", "target": "/x"}}}},
		"named volume":               {task: words{"mount": []words{{"type": "volume", "source": "/etc"}}}},
		"volume of a driver":         {task: words{"volumes": []string{"/etc:/x"}, "volume_driver": "nfs"}},
		"own local is a link":        {links: map[string]string{"web/local": "HOST"}, want: "the task's local directory: leads out"},
		"own secrets are a link":     {links: map[string]string{"web/secrets": "HOST"}, want: "the task's secrets directory"},
		"own directory is a link":    {links: map[string]string{"web": "HOST"}, want: "leads out"},
		"shared is a link":           {links: map[string]string{"alloc": "HOST"}, want: "the shared alloc directory"},
		"hosts is a link":            {links: map[string]string{"hosts": "HOST/secret"}, want: "hosts file"},
		"resolv.conf is a link":      {links: map[string]string{"web/resolv.conf": "HOST/new"}, want: "resolv.conf"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			task := newTask(t, nil)
			must.NoError(t, task.EncodeConcreteDriverConfig(place(task, c.task)))
			for at, target := range c.links {
				at = filepath.Join(task.AllocDir, at)
				must.NoError(t, os.RemoveAll(at))
				must.NoError(t, os.Symlink(place(task, target).(string), at))
			}
			p, err := Parse(encode(t, words{"volumes": words{"enabled": false}}), nil)
			must.NoError(t, err)
			err = p.Check(task)
			if c.want == "" {
				must.NoError(t, err)
			} else {
				must.ErrorContains(t, err, c.want)
			}
			p, err = Parse(encode(t, words{"volumes": words{"enabled": true}}), nil)
			must.NoError(t, err)
			must.NoError(t, p.Check(task))
		})
	}
}

func TestDirectories(t *testing.T) {
	task := newTask(t, nil)
	task.AllocDir = "relative"
	must.ErrorContains(t, Policy{}.Check(task), `allocation directory "relative" is not absolute`)
	task.AllocDir = "/nonexistent/allocation"
	must.ErrorContains(t, Policy{}.Check(task), "open allocation directory")
	must.NoError(t, task.EncodeConcreteDriverConfig(words{"volumes": 7}))
	must.ErrorContains(t, Policy{}.Check(task), "decode the docker driver's task config")
}

func TestNeeded(t *testing.T) {
	attr := func(name string) *hclspec.Spec {
		return hclspec.NewObject(map[string]*hclspec.Spec{name: hclspec.NewAttr(name, "string", false)})
	}
	must.True(t, Needed(nil))
	must.True(t, Needed(attr("allow_privileged")))
	must.False(t, Needed(attr("allowed_modes")))
}
