package dockerguard

import (
	"testing"

	"github.com/hashicorp/nomad/plugins/base"
)

// FuzzConfig decodes what a job's author and an operator have written. It must
// not panic, and what is let through unasked must be harmless.
func FuzzConfig(f *testing.F) {
	seed := func(plugin, task words) {
		var p, c []byte
		if err := base.MsgPackEncode(&p, plugin); err != nil {
			f.Fatal(err)
		}
		if err := base.MsgPackEncode(&c, task); err != nil {
			f.Fatal(err)
		}
		f.Add(p, c)
	}
	seed(words{}, words{})
	seed(words{"allow_privileged": true, "volumes": words{"enabled": true}}, words{"pid_mode": "host"})
	seed(words{"volumes": words{"enabled": false, "selinuxlabel": nil}}, words{"pid_mode": "container:x", "volumes": []string{"a:b"}})
	seed(words{"volumes": 1}, words{"mount": []words{{"type": "bind", "source": "../x"}}, "mounts": nil})
	seed(words{"unknown": []any{1, nil, "x", words{}}}, words{"ipc_mode": 7})
	f.Fuzz(func(t *testing.T, plugin, task []byte) {
		p, err := Parse(plugin, nil)
		if err != nil {
			p = Policy{}
		}
		var c taskConfig
		if base.MsgPackDecode(task, &c) != nil {
			return
		}
		if p.checkNamespaces(&c) == nil && !p.privileged {
			for _, mode := range []string{c.PidMode, c.IPCMode, c.UTSMode, c.UsernsMode, c.Cgroupns} {
				switch mode {
				case "", "private", "none", "shareable":
				default:
					t.Fatalf("let %q through", mode)
				}
			}
		}
	})
}
