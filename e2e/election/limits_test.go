package election_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/rig"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/shoenig/test/must"
)

// policy is what a candidate may do who uses the library: what docs/election.md says
// without what the agent needs.
const policy = `
key_prefix "test-TestACL/" {
  policy = "write"
}
service "elector" {
  policy = "write"
}
session_prefix "" {
  policy = "write"
}
`

// newToken makes a token with these rules.
func newToken(t *testing.T, c *cluster.Consul, name, rules string) *consulapi.ACLToken {
	t.Helper()
	p, _, err := c.Server(0).ACL().PolicyCreate(&consulapi.ACLPolicy{Name: name, Rules: rules}, nil)
	must.NoError(t, err)
	token, _, err := c.Server(0).ACL().TokenCreate(&consulapi.ACLToken{Policies: []*consulapi.ACLLink{{ID: p.ID}}}, nil)
	must.NoError(t, err)
	return token
}

func withToken(token *consulapi.ACLToken) func(*rig.CandidateConfig) {
	return func(c *rig.CandidateConfig) { c.Env = []string{"CONSUL_HTTP_TOKEN=" + token.SecretID} }
}

func TestACL(t *testing.T) {
	consul := startConsul(t, cluster.ConsulConfig{ACL: true})
	s := newScene(t, consul)

	// With the policy of the manual it works. The token is taken away while it
	// leads: it stops by itself, and says why. The next one has to wait until the
	// agent takes the service out of the catalog: without the token the agent
	// cannot tell the servers that the check is critical.
	good := newToken(t, consul, "good", policy)
	a := s.leader("a", election.Balanced, 0, withToken(good))
	b := s.follower("b", election.Balanced, 1, withToken(newToken(t, consul, "other", policy)))
	from := s.log.Len()
	_, err := consul.Server(0).ACL().TokenDelete(good.AccessorID, nil)
	must.NoError(t, err)
	s.loss(from, "a", nil)
	s.status(a, "refused", denied)
	kill(s, a) // it could not give anything back
	kill(s, b) // while somebody else leads nobody asks for the lock

	// Without one of the rights a candidate does not lead, and says why.
	for name, rules := range map[string]string{
		// Its own key can be written, and no lock.
		"no-locks":    strings.Replace(policy, `"test-TestACL/"`, `"test-TestACL/candidate/"`, 1) + `key_prefix "" { policy = "read" }`,
		"no-keys":     strings.Replace(policy, "key_prefix", "query_prefix", 1),
		"no-service":  strings.Replace(policy, "service ", "query ", 1),
		"no-sessions": strings.Replace(policy, "session_prefix", "query_prefix", 1),
	} {
		c := s.candidate(name, election.Balanced, 2, withToken(newToken(t, consul, name, rules)))
		must.NoError(t, c.Start(s.ctx))
		s.status(c, "refused", denied)
		kill(s, c)
	}
	c := s.candidate("no-token", election.Balanced, 2, func(c *rig.CandidateConfig) { c.Env = []string{"CONSUL_HTTP_TOKEN="} })
	must.NoError(t, c.Start(s.ctx))
	s.status(c, "refused", denied)
	kill(s, c)
}

// kill ends a candidate for good.
func kill(s *scene, c *rig.Candidate) {
	s.t.Helper()
	_, err := c.Kill()
	must.NoError(s.t, err)
	must.Error(s.t, c.Wait(s.ctx))
}

// denied says whether the candidate was told so.
func denied(st election.Status) bool {
	text := strings.ToLower(st.Error)
	return !st.Self && (strings.Contains(text, "permission denied") || strings.Contains(text, "acl not found") || strings.Contains(text, "403"))
}

// The agent takes a limited number of connections from one address, and answers
// "too many" to what exceeds it, or hangs up.
func TestConnectionLimit(t *testing.T) {
	const limit = 12
	consul := startConsul(t, cluster.ConsulConfig{ExtraClientConfig: `{"limits": {"http_max_conns_per_client": 12}}`})
	s := newScene(t, consul)
	a := s.leader("a", election.Balanced, 0)
	must.LessEq(t, 8, a.Proxy().Conns())

	// Somebody takes all that are left: who leads goes on.
	address := strings.TrimPrefix(consul.ClientAddr(0), "http://")
	var taken []net.Conn
	for range 2 * limit {
		c, err := net.Dial("tcp", address)
		must.NoError(t, err)
		taken = append(taken, c)
	}
	waitHungUp(t, taken[len(taken)-1])
	s.steady(a, 3*time.Second)

	// Who comes now gets no connection, says so, and takes part when there are
	// connections again.
	late := s.candidate("late", election.Balanced, 0)
	must.NoError(t, late.Start(s.ctx))
	st := s.status(late, "in trouble", func(st election.Status) bool { return st.Error != "" })
	t.Logf("what it says: %s", st.Error)
	for _, c := range taken {
		must.NoError(t, c.Close())
	}
	s.status(late, "well", func(st election.Status) bool { return st.Error == "" && st.Leader != nil })
	s.moves()
}

// waitHungUp waits until the agent has ended the connection.
func waitHungUp(t *testing.T, c net.Conn) {
	t.Helper()
	must.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := io.ReadAll(c)
	var timeout net.Error
	must.False(t, errors.As(err, &timeout) && timeout.Timeout(), must.Sprint("the agent takes more connections than its limit"))
}
