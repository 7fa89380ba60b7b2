package election_test

import (
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/shoenig/test/must"
)

// What happens to Consul itself. The faults of one Consul come one after the
// other, because all its candidates share it.
func TestConsulFaults(t *testing.T) {
	type fault struct {
		name string
		run  func(*scene, election.Mode)
	}
	quick := []fault{
		{"leader killed", consulLeaderKilled},
		{"leader frozen", consulLeaderFrozen},
		{"snapshot restored", snapshotRestored},
		{"agent restarted", func(s *scene, m election.Mode) { agentRestarted(s, m, false) }},
		{"agent restarted without its data", func(s *scene, m election.Mode) { agentRestarted(s, m, true) }},
		{"agent frozen", agentFrozen},
	}
	for _, group := range []struct {
		name   string
		modes  []election.Mode
		faults []fault
	}{
		{"quick", []election.Mode{election.Balanced, election.Fenced}, quick},
		// Its windows are of ten seconds.
		{"slow", []election.Mode{election.Strict}, []fault{quick[0], quick[2], quick[4]}},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			consul := startConsul(t, cluster.ConsulConfig{})
			for _, mode := range group.modes {
				for _, f := range group.faults {
					t.Run(string(mode)+"/"+f.name, func(t *testing.T) { f.run(newScene(t, consul), mode) })
				}
			}
		})
	}
}

func consulLeaderKilled(s *scene, mode election.Mode) {
	s.pair(mode)
	i, err := s.consul.Leader(s.ctx)
	must.NoError(s.t, err)
	must.NoError(s.t, s.consul.KillServer(i))
	_, err = s.consul.Leader(s.ctx)
	must.NoError(s.t, err)
	s.settled()
	s.moves()
	must.NoError(s.t, s.consul.StartServer(s.ctx, i))
	s.settled()
}

func consulLeaderFrozen(s *scene, mode election.Mode) {
	s.pair(mode)
	i, err := s.consul.Leader(s.ctx)
	must.NoError(s.t, err)
	must.NoError(s.t, s.consul.PauseServer(i))
	s.t.Cleanup(func() { must.NoError(s.t, s.consul.ResumeServer(i)) }) // for the tests that follow
	other, err := s.consul.Leader(s.ctx)
	for ; err == nil && other == i; other, err = s.consul.Leader(s.ctx) {
		time.Sleep(50 * time.Millisecond) // nothing announces it
	}
	must.NoError(s.t, err)
	must.NoError(s.t, s.consul.ResumeServer(i))
	s.settled()
	s.moves()
}

// Consul goes back to a time when the other one led.
func snapshotRestored(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	snapshot, err := s.consul.Snapshot(s.ctx)
	must.NoError(s.t, err)
	from := s.log.Len()
	must.NoError(s.t, a.Do(s.ctx, "resign x"))
	token := s.gain(from, "b").Token
	must.NoError(s.t, s.consul.Restore(s.ctx, snapshot))
	s.loss(from, "b", election.ErrLockLost)
	s.settled()
	leader, ok := s.log.Leader("x")
	must.True(s.t, ok)
	must.Greater(s.t, token, leader.Token)
	s.moves()
}

// The agent of the leader goes away and comes back, with or without what it
// knew of services and checks.
func agentRestarted(s *scene, mode election.Mode, forget bool) {
	a := s.leader("a", mode, 0)
	must.NoError(s.t, s.consul.KillClient(0))
	s.loss(0, "a", nil)
	if forget {
		must.NoError(s.t, s.consul.ForgetClient(0))
	}
	from := s.log.Len()
	must.NoError(s.t, s.consul.StartClient(s.ctx, 0))
	s.gain(from, "a") // nobody else is there
	s.status(a, "well", func(st election.Status) bool { return st.Self && st.Error == "" })
	s.follower("b", mode, 1)
	s.moves()
}

func agentFrozen(s *scene, mode election.Mode) {
	s.pair(mode)
	from := s.log.Len()
	must.NoError(s.t, s.consul.PauseClient(0))
	s.loss(from, "a", election.ErrTrustExpired)
	must.NoError(s.t, s.consul.ResumeClient(0))
	s.settled()
	s.moves()
}
