package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

const (
	portNetwork   = `port "http" {}`
	bridgeNetwork = `mode = "bridge"
      port "http" {
        to = 8080
      }`
)

// allHooks has every kind of hook and every way to reach the task.
const allHooks = `
prestart {
  exec { command = ["@APP@", "-note=prestart"] }
}
poststart {
  http {
    port = "http"
    path = "/poststart"
  }
  retries  = 20
  interval = "100ms"
}
ready {
  http {
    port = "http"
    path = "/ready"
  }
  interval = "100ms"
}
prestop {
  http {
    socket = "mgmt.sock"
    path   = "/prestop"
  }
}
prestop {
  exec { command = ["@APP@", "-note=exec"] }
}
prestop {
  sleep = "200ms"
}
poststop {
  http { url = "@URL@/poststop" }
}
`

func TestHooks(t *testing.T) {
	c := start(t, 1)
	for _, inner := range inners(c) {
		t.Run(inner, func(t *testing.T) {
			t.Parallel()
			t.Run("in order", func(t *testing.T) {
				t.Parallel()
				r := record(t)
				s := spec{
					Job: "order-" + inner, Driver: "lifecycle-" + inner, Network: portNetwork,
					Args: []string{
						"-listen=:${NOMAD_PORT_http}", "-socket=${NOMAD_TASK_DIR}/mgmt.sock", "-ready-after=500ms",
					},
					Lifecycle: strings.ReplaceAll(allHooks, "@URL@", r.addr),
				}
				run(t, c, s)
				a := running(t, c, s.Job)
				must.Eq(t, []string{"note prestart", "started", "http /poststart poststart"},
					fix(journal(t, c, a)), must.Sprint(events(a)))
				must.Len(t, 0, r.list())

				a = stop(t, c, s.Job)
				must.Eq(t, []string{
					"note prestart", "started", "http /poststart poststart",
					"http /prestop prestop", "note exec", "signal SIGTERM",
				}, fix(journal(t, c, a)))
				must.Eq(t, []string{"POST /poststop"}, r.list())
				for _, want := range []string{
					"prestart hooks succeeded", "poststart hooks succeeded", "ready hooks succeeded",
					"prestop hooks succeeded", "http 200; exec exit 0; sleep 200ms", "poststop hooks succeeded",
				} {
					must.True(t, hasEvent(a, want), must.Sprintf("%q in %q", want, events(a)))
				}
				must.Eq(t, 0, processes(t, a.ID))
			})
			t.Run("bridge network", func(t *testing.T) {
				t.Parallel()
				s := spec{
					Job: "bridge-" + inner, Driver: "lifecycle-" + inner, Network: bridgeNetwork,
					// Loopback of the group: nobody outside its namespace reaches it.
					Args: []string{"-listen=127.0.0.1:8080"},
					Lifecycle: `
ready {
  http {
    port = "http"
    path = "/ready"
  }
  interval = "100ms"
}
prestop {
  http {
    url     = "http://127.0.0.1:8080/group"
    network = "group"
  }
}`,
				}
				run(t, c, s)
				running(t, c, s.Job)
				a := stop(t, c, s.Job)
				must.Eq(t, []string{"started", "http /group prestop", "signal SIGTERM"}, journal(t, c, a), must.Sprint(events(a)))
			})
			t.Run("ready fails", func(t *testing.T) {
				t.Parallel()
				s := spec{
					Job: "unready-" + inner, Driver: "lifecycle-" + inner, Network: portNetwork,
					Args: []string{"-listen=:${NOMAD_PORT_http}", "-ready-after=1h"},
					Lifecycle: `
ready {
  http {
    port = "http"
    path = "/ready"
  }
  interval = "200ms"
  timeout  = "2s"
}`,
				}
				run(t, c, s)
				a := ended(t, c, s.Job)
				must.Eq(t, "failed", a.ClientStatus)
				must.True(t, hasEvent(a, "lifecycle.ready[0].http failed after"), must.Sprint(events(a)))
				must.True(t, hasEvent(a, "status 503: warming up"), must.Sprint(events(a)))
				must.Eq(t, 0, processes(t, a.ID))
			})
			t.Run("process dies before it is ready", func(t *testing.T) {
				t.Parallel()
				s := spec{
					Job: "dies-" + inner, Driver: "lifecycle-" + inner,
					Args:      []string{"-die-after=300ms"},
					Lifecycle: `ready { sleep = "30s" }`,
				}
				run(t, c, s)
				a := ended(t, c, s.Job)
				must.True(t, hasEvent(a, "process has ended; it ended with exit code 3"), must.Sprint(events(a)))
			})
			t.Run("prestart fails", func(t *testing.T) {
				t.Parallel()
				s := spec{
					Job: "prestart-" + inner, Driver: "lifecycle-" + inner,
					Lifecycle: `prestart {
  exec { command = ["@APP@", "-note=migrate", "-exit=7"] }
}`,
				}
				run(t, c, s)
				a := ended(t, c, s.Job)
				must.True(t, hasEvent(a, "ended with exit code 7"), must.Sprint(events(a)))
				must.Eq(t, []string{"migrate prestart"}, journal(t, c, a)) // never "started"
				must.Eq(t, 0, processes(t, a.ID))
			})
			t.Run("prestart is cut", func(t *testing.T) {
				t.Parallel()
				s := spec{
					Job: "prestart-cut-" + inner, Driver: "lifecycle-" + inner,
					Lifecycle: `prestart {
  exec { command = ["@BUSYBOX@", "sleep", "600"] }
  timeout = "1s"
}`,
				}
				run(t, c, s)
				a := ended(t, c, s.Job)
				must.True(t, hasEvent(a, "cut at its timeout of 1s"), must.Sprint(events(a)))
				must.Eq(t, 0, processesOf(t, a.ID, "sleep"))
			})
			t.Run("prestop hangs", func(t *testing.T) {
				t.Parallel()
				s := spec{
					Job: "hang-" + inner, Driver: "lifecycle-" + inner, Network: portNetwork,
					Args: []string{"-listen=:${NOMAD_PORT_http}"},
					Lifecycle: `
prestop {
  http {
    port = "http"
    path = "/hang"
  }
  timeout = "1s"
}
prestop {
  exec { command = ["@BUSYBOX@", "sleep", "600"] }
  timeout = "1s"
}
prestop {
  http { url = "http://127.0.0.1:1/" }
}
prestop {
  exec { command = ["/no/such/program"] }
}
prestop {
  sleep = "59m"
}`,
				}
				run(t, c, s)
				running(t, c, s.Job)
				begin := time.Now()
				a := stop(t, c, s.Job)
				t.Logf("stop took %s with a kill_timeout of 10s", time.Since(begin).Round(time.Millisecond))
				must.Eq(t, []string{"started", "signal SIGTERM"}, journal(t, c, a)) // it was asked, not killed
				for _, want := range []string{
					"prestop[0].http after 1 try: cut at its timeout of 1s",
					"prestop[1].exec after 1 try: cut at its timeout of 1s",
					"prestop[2].http after 1 try: POST http://127.0.0.1:1/",
					"prestop[3].exec after 1 try: ",
					"cut by the task's kill_timeout of 10s",
				} {
					must.True(t, hasEvent(a, want), must.Sprintf("%q in %q", want, events(a)))
				}
				must.Eq(t, 0, processes(t, a.ID))
			})
		})
	}
}

// fix shortens the notes of commands to what does not depend on the event.
func fix(lines []string) []string {
	for i, l := range lines {
		switch l {
		case "prestart prestart":
			lines[i] = "note prestart"
		case "exec prestop":
			lines[i] = "note exec"
		}
	}
	return lines
}

func TestBadConfig(t *testing.T) {
	c := start(t, 1)
	cases := map[string]struct{ lifecycle, want string }{
		"unknown hook":        {`prestopp { sleep = "1s" }`, "prestopp"},
		"unknown key":         {`prestop { snooze = "1s" }`, "snooze"},
		"bad duration":        {`prestop { sleep = "5x" }`, `lifecycle.prestop[0].sleep: "5x" is not a duration`},
		"two actions":         {"prestop {\n sleep = \"1s\"\n exec { command = [\"x\"] }\n}", "lifecycle.prestop[0]: 2 actions"},
		"missing port label":  {"ready {\n http { port = \"admin\" }\n}", `lifecycle.ready[0].http.port: the group's network has no port labelled "admin"; it has http`},
		"bad url":             {"poststop {\n http { url = \"consul/v1\" }\n}", "lifecycle.poststop[0].http.url"},
		"no group network":    {"prestop {\n http {\n url = \"http://127.0.0.1/\"\n network = \"group\"\n}\n }", "lifecycle.prestop[0].http.network"},
		"unreachable url":     {"poststart {\n http { url = \"http://127.0.0.1:1/\" }\n}", "lifecycle.poststart[0].http failed after 1 try: POST http://127.0.0.1:1/: dial tcp"},
		"too many hooks":      {strings.Repeat("prestop { sleep = \"1s\" }\n", 17), "lifecycle.prestop: 17 hooks; at most 16"},
		"too large a command": {"prestop {\n exec { command = [\"" + strings.Repeat("x", 70<<10) + "\"] }\n}", "lifecycle.prestop[0].exec.command: 71680 bytes; at most 65536"},
		"fail on prestop":     {"prestop {\n sleep = \"1s\"\n on_failure = \"fail\"\n}", "lifecycle.prestop[0].on_failure"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := spec{
				Job: "bad-" + strings.ReplaceAll(name, " ", "-"), Driver: "lifecycle-raw_exec", Network: portNetwork,
				Lifecycle: tc.lifecycle,
			}
			run(t, c, s)
			a := ended(t, c, s.Job)
			must.Eq(t, "failed", a.ClientStatus)
			must.True(t, hasEvent(a, tc.want), must.Sprintf("%q in %q", tc.want, events(a)))
			must.Eq(t, 0, processes(t, a.ID))
		})
	}
}
