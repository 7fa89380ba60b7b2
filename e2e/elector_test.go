package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/proxy"
	"github.com/nomad-patterns/nomad-patterns/election"
)

func TestElector(t *testing.T) {
	b := newElectorBench(t)
	for name, test := range map[string]func(*testing.T, *electorBench){
		"become leader":  b.becomeLeader,
		"hand over":      b.handOver,
		"hold":           b.hold,
		"hold attached":  b.holdAttached,
		"lease":          b.lease,
		"kv":             b.kv,
		"catalog":        b.catalog,
		"hooks":          b.hooks,
		"prestop":        b.prestop,
		"ends":           b.ends,
		"frozen":         b.frozen,
		"slow network":   b.slowNetwork,
		"many elections": b.many,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
		})
	}
}

func (b *electorBench) becomeLeader(t *testing.T, _ *electorBench) {
	x, y := b.start(t, "bl-x", 0, ""), b.start(t, "bl-y", 1, `address = "10.1.2.3:80"`)
	first := y.do(t, "PUT", "bl", "?wait=30s", "")
	must.Eq(t, 200, first.Code)
	must.True(t, first.Self)
	must.Positive(t, first.Token)
	must.Positive(t, first.Trusted)

	// Somebody else leads, and everybody comes to know who.
	second := x.do(t, "PUT", "bl", "?wait=100ms", "")
	must.Eq(t, 202, second.Code)
	must.False(t, second.Self)
	await(t, "the leader is known", func() bool {
		second = x.do(t, "GET", "bl", "", "")
		return second.Leader != nil
	})
	must.Eq(t, "bl-y", second.Leader.ID)
	must.Eq(t, "10.1.2.3:80", second.Leader.Address)
	must.Eq(t, first.Token, second.Token)
	renewed := x.do(t, "POST", "bl", "/renew", "")
	must.Eq(t, 409, renewed.Code)
	must.StrContains(t, string(renewed.Inner), `"leader":{"id":"bl-y"`)
	must.Eq(t, 200, y.do(t, "POST", "bl", "/renew", "").Code)

	// A resignation ends the part of a candidate that came by PUT.
	watch := x.stream(t, "bl", "/watch")
	must.Eq(t, 200, y.do(t, "DELETE", "bl", "", "").Code)
	must.Greater(t, first.Token, x.leads(t, "bl"))
	for data := map[string]any(nil); data["self"] != true; {
		_, data = watch.next(t, "status")
	}
	x.follows(t, "bl", 1)
	must.Eq(t, 404, y.do(t, "DELETE", "bl", "", "").Code)
}

func (b *electorBench) handOver(t *testing.T, _ *electorBench) {
	const config = `election "ho" {}`
	list := []*elector{b.start(t, "ho-x", 0, config), b.start(t, "ho-y", 1, config), b.start(t, "ho-z", 0, config)}
	for _, e := range list {
		e.follows(t, "ho", 3)
	}
	leader := func() *elector {
		var found *elector
		await(t, "one of them leads", func() bool {
			for _, e := range list {
				if e.do(t, "GET", "ho", "", "").Self {
					found = e
				}
			}
			return found != nil
		})
		return found
	}
	for _, to := range []*elector{list[2], list[0], list[1]} {
		from := leader()
		if from == to {
			continue
		}
		before := from.do(t, "GET", "ho", "", "").Token
		must.Eq(t, 404, from.do(t, "DELETE", "ho", "?to=nobody", "").Code)
		must.Eq(t, 404, from.do(t, "DELETE", "ho", "?to="+from.id, "").Code)
		await(t, to.id+" knows that "+from.id+" leads", func() bool {
			leader := to.do(t, "GET", "ho", "", "").Leader
			return leader != nil && leader.ID == from.id
		})
		a := to.do(t, "DELETE", "ho", "?to="+from.id, "")
		must.Eq(t, 409, a.Code)
		must.StrContains(t, string(a.Inner), `"leader":{"id":"`+from.id+`"`)
		must.Eq(t, 200, from.do(t, "DELETE", "ho", "?to="+to.id, "").Code)
		must.Greater(t, before, to.leads(t, "ho"))
		must.True(t, from.do(t, "GET", "ho", "", "").Joined)
	}
	// From the configuration, so a resignation stays a candidate.
	from := leader()
	must.Eq(t, 200, from.do(t, "DELETE", "ho", "", "").Code)
	must.NotEq(t, from.id, leader().id)
	must.True(t, from.do(t, "GET", "ho", "", "").Joined)
	must.Eq(t, 200, from.do(t, "DELETE", "ho", "?leave=true", "").Code)
	must.False(t, from.do(t, "GET", "ho", "", "").Joined)

	// The same by the command line.
	from = leader()
	to := list[0]
	for _, e := range list {
		if e != from && e.do(t, "GET", "ho", "", "").Joined {
			to = e
		}
	}
	cmd := exec.CommandContext(t.Context(), b.program, "hand-over", "-address=unix://"+from.socket, "ho", to.id)
	out, err := cmd.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	to.leads(t, "ho")
}

func (b *electorBench) hold(t *testing.T, _ *electorBench) {
	x, y := b.start(t, "h-x", 0, ""), b.start(t, "h-y", 1, "")
	a := x.stream(t, "h", "/hold?mode=fenced")
	_, data := a.next(t, "leader")
	token := data["token"].(float64)
	must.Eq(t, true, data["self"])
	_, data = a.next(t, "trusted")
	must.Eq(t, token, data["token"].(float64))
	must.Positive(t, data["trusted_ms"].(float64))

	// The end of a stream is the end of its leadership, and of its candidature.
	other := y.stream(t, "h", "/hold?mode=fenced")
	other.next(t, "candidate")
	x.follows(t, "h", 2)
	a.close()
	_, data = other.next(t, "leader")
	must.Greater(t, token, data["token"].(float64))
	y.follows(t, "h", 1)
	must.Eq(t, 404, x.do(t, "POST", "h", "/renew", "").Code)

	// A waiting one leaves as well.
	a = x.stream(t, "h", "/hold")
	a.next(t, "candidate")
	y.follows(t, "h", 2)
	a.close()
	y.follows(t, "h", 1)

	// What an operator takes away is lost, and said to be.
	must.Eq(t, 200, y.do(t, "DELETE", "h", "", "").Code)
	_, lost := other.next(t, "lost")
	must.Eq(t, data["token"], lost["token"])
	must.Eq(t, "left the election", lost["reason"])
	for other.lines.Scan() {
		must.Eq(t, "", other.lines.Text(), must.Sprint("after the end")) // of the event itself
	}
}

func (b *electorBench) holdAttached(t *testing.T, _ *electorBench) {
	const config = `election "at" {}`
	x := b.start(t, "at-x", 0, config)
	token := x.leads(t, "at")
	h := x.stream(t, "at", "/hold")
	_, data := h.next(t, "leader")
	must.Eq(t, float64(token), data["token"].(float64))
	y := b.start(t, "at-y", 1, config)
	y.follows(t, "at", 2)
	h.close()
	y.leads(t, "at")
	must.True(t, x.do(t, "GET", "at", "", "").Joined)
}

func (b *electorBench) lease(t *testing.T, _ *electorBench) {
	x, y := b.start(t, "l-x", 0, ""), b.start(t, "l-y", 1, "")
	must.Eq(t, 200, x.do(t, "PUT", "l", "?wait=30s&lease=2s", "").Code)
	must.Eq(t, 202, y.do(t, "PUT", "l", "", "").Code)
	must.Eq(t, 200, x.do(t, "POST", "l", "/renew", "").Code)
	y.leads(t, "l") // for nobody renews any more
	must.Eq(t, 404, x.do(t, "POST", "l", "/renew", "").Code)
	must.False(t, x.do(t, "GET", "l", "", "").Joined)
}

func (b *electorBench) kv(t *testing.T, _ *electorBench) {
	x, y := b.start(t, "kv-x", 0, ""), b.start(t, "kv-y", 1, "", "-data-prefix=kv-data")
	token := x.do(t, "PUT", "kv", "?wait=30s", "").Token
	kv := func(e *elector, format string, args ...any) answer {
		t.Helper()
		return e.do(t, "POST", "kv", "/kv", fmt.Sprintf(format, args...))
	}
	a := kv(x, `{"token":%d,"ops":[{"verb":"set","key":"dir/cursor","value":"ä"},{"verb":"get-or-empty","key":"none"},{"verb":"delete","key":"none"}]}`, token)
	must.Eq(t, 200, a.Code)
	must.Len(t, 2, a.Results)
	must.Eq(t, "dir/cursor", a.Results[0].Key)
	must.Eq(t, 0, a.Results[1].Index)
	index := a.Results[0].Index
	pair, _, err := b.consul.Server(0).KV().Get("election-data/kv/dir/cursor", nil)
	must.NoError(t, err)
	must.Eq(t, "ä", string(pair.Value))

	a = kv(x, `{"ops":[{"verb":"get","key":"dir/cursor"},{"verb":"cas","key":"dir/cursor","value":"2","index":%d}]}`, index)
	must.Eq(t, 200, a.Code, must.Sprint(a.Error))
	must.Eq(t, "ä", a.Results[0].Value)

	// Refused as a whole, and it is told what for.
	for body, field := range map[string]string{
		fmt.Sprintf(`{"ops":[{"verb":"set","key":"k","value":"1"},{"verb":"cas","key":"dir/cursor","value":"3","index":%d}]}`, index): "ops[1]",
		`{"ops":[{"verb":"delete-cas","key":"gone","index":7},{"verb":"set","key":"k","value":"1"}]}`:                                 "ops[0]",
		`{"ops":[{"verb":"get","key":"gone"}]}`: "ops[0]",
	} {
		a = kv(x, "%s", body)
		must.Eq(t, 409, a.Code, must.Sprint(body, a.Error))
		must.Eq(t, field, a.Field, must.Sprint(a.Error))
	}
	pair, _, err = b.consul.Server(0).KV().Get("election-data/kv/k", nil)
	must.NoError(t, err)
	must.Nil(t, pair)

	// Nobody but the leader writes, and no leader with the token of another term.
	must.Eq(t, 202, y.do(t, "PUT", "kv", "", "").Code)
	must.Eq(t, 409, kv(y, `{"ops":[{"verb":"set","key":"k","value":"y"}]}`).Code)
	must.Eq(t, 200, x.do(t, "DELETE", "kv", "", "").Code)
	y.leads(t, "kv")
	must.Eq(t, 409, kv(y, `{"token":%d,"ops":[{"verb":"set","key":"k","value":"y"}]}`, token).Code)
	must.Eq(t, 200, kv(y, `{"ops":[{"verb":"set","key":"k","value":"y"}]}`).Code)
	pair, _, err = b.consul.Server(0).KV().Get("kv-data/kv/k", nil)
	must.NoError(t, err)
	must.Eq(t, "y", string(pair.Value))
	must.Eq(t, 404, kv(x, `{"ops":[{"verb":"set","key":"k","value":"x"}]}`).Code)
}

// A large value is not what a transaction of Consul takes, and the elector knows it.
func (b *electorBench) many(t *testing.T, _ *electorBench) {
	x := b.start(t, "m-x", 0, `election "m-[000-199]" {}`)
	await(t, "200 elections are led", func() bool {
		out, err := exec.CommandContext(t.Context(), b.program, "status", "-json", "-address=unix://"+x.socket).Output()
		must.NoError(t, err)
		return bytes.Count(out, []byte(`"self":true`)) >= 200
	})
	big := fmt.Sprintf(`{"ops":[{"verb":"set","key":"k","value":%q}]}`, strings.Repeat("v", 370<<10))
	must.Eq(t, 200, x.do(t, "POST", "m-000", "/kv", big).Code)
	must.Eq(t, 0, x.end(t, syscall.SIGTERM))
	keys, _, err := b.consul.Server(0).KV().List("election/leader/m-", nil)
	must.NoError(t, err)
	must.Len(t, 200, keys)
	for _, k := range keys {
		must.Eq(t, "", k.Session)
	}
}

// slowNetwork delays everything between the elector and Consul beyond the trust window.
// Heartbeats arrive, so Consul gives nobody else the lock; the elector ends the leadership
// and its holder all the same.
func (b *electorBench) slowNetwork(t *testing.T, _ *electorBench) {
	p, err := proxy.Start(strings.TrimPrefix(b.consul.ClientAddr(0), "http://"))
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, p.Close()) })
	x := b.start(t, "sn-x", 0, "", "-consul-address="+p.Addr())
	h := x.stream(t, "sn", "/hold")
	_, data := h.next(t, "leader")
	p.Delay(5 * time.Second)
	_, lost := h.next(t, "lost")
	must.Eq(t, data["token"], lost["token"])
	must.Eq(t, election.ErrTrustExpired.Error(), lost["reason"].(string))
	must.Eq(t, 404, x.do(t, "POST", "sn", "/renew", "").Code) // with the stream went the candidature
	p.Pass()
	x.stream(t, "sn", "/hold").next(t, "leader")
}

// TestElectorACL: the policy of the manual is enough for everything, and what an elector
// without it says.
func TestElectorACL(t *testing.T) {
	b := &electorBench{
		t: t, program: buildElector(t), consul: clustertest.StartConsul(t, cluster.ConsulConfig{Clients: 2, ACL: true}),
	}
	manual, err := os.ReadFile("../docs/election.md")
	must.NoError(t, err)
	_, policy, found := strings.Cut(string(manual), "## ACL policy\n\n```hcl\n")
	must.True(t, found)
	policy, _, found = strings.Cut(policy, "```")
	must.True(t, found)

	x := b.start(t, "acl-x", 0, `election "acl" {
  service {
    name = "publisher"
    port = 8080
  }
}`, "-consul-token-file="+b.token(t, "good", policy))
	x.leads(t, "acl")
	must.Eq(t, 200, x.do(t, "POST", "acl", "/kv", `{"ops":[{"verb":"set","key":"k","value":"1"}]}`).Code)
	await(t, "the leader has its tag", func() bool {
		list, _, err := b.consul.Server(0).Catalog().Service("publisher", "leader", nil)
		must.NoError(t, err)
		return len(list) == 1
	})

	y := b.launch(t, "acl-y", 1, `election "acl" {}`, "-consul-token-file="+b.token(t, "bad", `node_prefix "" { policy = "read" }`))
	await(t, "it says that it is not allowed to", func() bool {
		return strings.Contains(strings.ToLower(y.health(t).Reason), "permission denied")
	})
	must.False(t, y.do(t, "GET", "acl", "", "").Self)
	must.Eq(t, 0, x.end(t, syscall.SIGTERM))
}

// token makes a token with a policy, and returns the file in which it is.
func (b *electorBench) token(t *testing.T, name, rules string) string {
	t.Helper()
	acl := b.consul.Server(0).ACL()
	p, _, err := acl.PolicyCreate(&consulapi.ACLPolicy{Name: name, Rules: rules}, nil)
	must.NoError(t, err)
	token, _, err := acl.TokenCreate(&consulapi.ACLToken{Policies: []*consulapi.ACLLink{{ID: p.ID}}}, nil)
	must.NoError(t, err)
	file := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(file, []byte(token.SecretID+"\n"), 0o600))
	return file
}
