package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
)

// service is the election block of a candidate with a service at a port of its own.
func service(name string, port int) string {
	return fmt.Sprintf(`election %[1]q {
  service {
    name       = %[1]q
    address    = "127.0.0.1"
    port       = %[2]d
    tags       = ["v1"]
    leader_tag = "primary"
  }
}`, name, port)
}

// ports asks the DNS of a Consul agent for the ports of healthy instances.
func (b *electorBench) ports(t *testing.T, name string) []uint16 {
	t.Helper()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, b.consul.ClientDNS(1))
	}}
	_, list, err := r.LookupSRV(t.Context(), "", "", name+".service.consul.")
	if err != nil {
		return nil // no such name: nobody
	}
	var ports []uint16
	for _, srv := range list {
		ports = append(ports, srv.Port)
	}
	slices.Sort(ports)
	return ports
}

// resolves waits until a name stands for exactly these ports.
func (b *electorBench) resolves(t *testing.T, name string, ports ...uint16) {
	t.Helper()
	var got []uint16
	defer func() {
		if t.Failed() {
			t.Logf("%s has ports %v", name, got)
		}
	}()
	await(t, fmt.Sprintf("%s has ports %v", name, ports), func() bool {
		got = b.ports(t, name)
		return slices.Equal(got, ports)
	})
}

// The catalog follows the leadership: by a tag, also when an elector dies, and when the
// Consul agent forgets everything.
func (b *electorBench) catalog(t *testing.T, _ *electorBench) {
	x := b.start(t, "c-x", 0, service("cat", 7001))
	x.leads(t, "cat")
	y := b.start(t, "c-y", 1, service("cat", 7002))
	b.resolves(t, "primary.cat", 7001)
	b.resolves(t, "candidate.cat", 7002)
	b.resolves(t, "v1.cat", 7001, 7002)

	must.Eq(t, 200, x.do(t, "DELETE", "cat", "", "").Code)
	b.resolves(t, "primary.cat", 7002)
	b.resolves(t, "candidate.cat", 7001)

	// Who leaves the election leaves the catalog, and comes back with it.
	must.Eq(t, 200, x.do(t, "DELETE", "cat", "?leave=true", "").Code)
	b.resolves(t, "cat", 7002)
	must.Eq(t, 202, x.do(t, "PUT", "cat", "", "").Code)
	b.resolves(t, "candidate.cat", 7001)

	// A dead leader keeps its tag, but is not healthy any more.
	y.end(t, syscall.SIGKILL)
	b.resolves(t, "primary.cat", 7001)
	b.resolves(t, "cat", 7001)

	// Somebody deregisters it by hand.
	index := func() uint64 {
		list, _, err := b.consul.Client(0).Catalog().Service("cat", "primary", nil)
		must.NoError(t, err)
		if len(list) != 1 {
			return 0
		}
		return list[0].CreateIndex
	}
	before := index()
	must.NoError(t, b.consul.Client(0).Agent().ServiceDeregister("cat-cat-c-x"))
	await(t, "it is registered again", func() bool { return index() > before })
	b.resolves(t, "primary.cat", 7001)

	must.Eq(t, 0, x.end(t, syscall.SIGTERM))
	b.resolves(t, "cat")
}

// Hooks are run in order, on_loss before anybody else leads, and are told why.
func (b *electorBench) hooks(t *testing.T, _ *electorBench) {
	journal := filepath.Join(t.TempDir(), "journal")
	config := fmt.Sprintf(`election "hk" {
  on_gain {
    command = ["/bin/sh", "-c", "echo $0 $ELECTION $ELECTION_EVENT >>%[1]s", "@ID@"]
  }
  on_loss {
    command = ["/bin/sh", "-c", "sleep 0.2; echo $0 $ELECTION $ELECTION_EVENT $ELECTION_REASON >>%[1]s", "@ID@"]
    timeout = "20s"
  }
}`, journal)
	x := b.start(t, "hk-x", 0, strings.ReplaceAll(config, "@ID@", "x"))
	// The end of leadership ends on_gain as well, so wait for that.
	written := func(lines int) {
		t.Helper()
		await(t, fmt.Sprintf("hooks have written %d lines", lines), func() bool {
			text, err := os.ReadFile(journal)
			return err == nil && strings.Count(string(text), "\n") >= lines
		})
	}
	written(1)
	y := b.start(t, "hk-y", 1, strings.ReplaceAll(config, "@ID@", "y"))
	y.follows(t, "hk", 2)
	must.Eq(t, 200, x.do(t, "DELETE", "hk", "?to=hk-y", "").Code)
	written(3)
	must.Eq(t, 0, y.end(t, syscall.SIGTERM))
	written(5)
	must.Eq(t, 0, x.end(t, syscall.SIGTERM))
	text, err := os.ReadFile(journal)
	must.NoError(t, err)
	must.Eq(t, []string{
		"x hk gain", "x hk loss handed over", "y hk gain", "y hk loss left the election", "x hk gain", "x hk loss left the election", "",
	}, strings.Split(string(text), "\n"))
}

// The elector serves the prestop hook of the lifecycle drivers: it leaves, and goes on
// answering.
func (b *electorBench) prestop(t *testing.T, _ *electorBench) {
	x := b.start(t, "p-x", 0, `election "p" {}`)
	x.leads(t, "p")
	y := b.start(t, "p-y", 1, `election "p" {}`)
	y.follows(t, "p", 2)
	h := x.stream(t, "other", "/hold")
	h.next(t, "leader")
	resp, err := x.client.Post("http://elector/lifecycle/prestop", "application/json", strings.NewReader(`{"event":"prestop"}`))
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	must.Eq(t, http.StatusOK, resp.StatusCode)
	h.next(t, "lost")
	y.leads(t, "p")
	must.False(t, x.do(t, "GET", "p", "", "").Joined)
	must.Eq(t, 503, x.do(t, "PUT", "p", "", "").Code)
	must.Eq(t, 503, x.do(t, "GET", "p", "/hold", "").Code)
	must.Eq(t, 0, x.end(t, syscall.SIGTERM))
}

// However an elector ends, somebody else leads, and one that could say goodbye leaves
// nothing in Consul.
func (b *electorBench) ends(t *testing.T, _ *electorBench) {
	for name, sig := range map[string]syscall.Signal{"term": syscall.SIGTERM, "int": syscall.SIGINT, "kill": syscall.SIGKILL} {
		election := "e-" + name
		config := fmt.Sprintf("election %q {}", election)
		x := b.start(t, election+"-x", 0, config)
		token := x.leads(t, election)
		y := b.start(t, election+"-y", 1, config)
		y.follows(t, election, 2)
		code := x.end(t, sig)
		must.Greater(t, token, y.leads(t, election))
		if sig == syscall.SIGKILL {
			continue
		}
		must.Eq(t, 0, code)
		services, err := b.consul.Client(0).Agent().ServicesWithFilter(fmt.Sprintf("Meta.candidate == %q", x.id))
		must.NoError(t, err)
		must.MapEmpty(t, services)
		y.follows(t, election, 1)
	}
}

// An elector that was not running for longer than its trust window does not believe to
// lead when it goes on, and what is held through it is lost.
func (b *electorBench) frozen(t *testing.T, _ *electorBench) {
	x := b.start(t, "f-x", 0, "")
	h := x.stream(t, "f", "/hold")
	_, led := h.next(t, "leader")
	y := b.start(t, "f-y", 1, `election "f" {}`)
	y.follows(t, "f", 2)
	must.NoError(t, x.cmd.Process.Signal(syscall.SIGSTOP))
	y.leads(t, "f")
	must.NoError(t, x.cmd.Process.Signal(syscall.SIGCONT))
	must.False(t, x.do(t, "GET", "f", "", "").Self)
	_, lost := h.next(t, "lost")
	must.Eq(t, led["token"], lost["token"])
	h.end(t) // the election is left before that, and after what was lost is told
	must.Eq(t, 404, x.do(t, "POST", "f", "/renew", "").Code)
}
