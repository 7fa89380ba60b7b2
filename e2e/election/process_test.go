package election_test

import (
	"strings"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/rig"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/shoenig/test/must"
)

// What happens to processes, to their networks and to their keys.
func TestFaults(t *testing.T) {
	consul := startConsul(t, cluster.ConsulConfig{})
	cases := map[string]func(*scene, election.Mode){
		"resign":               resigned,
		"hand over":            handedOver,
		"leave and join":       leftAndJoined,
		"kill":                 killed,
		"frozen past window":   frozenPastWindow,
		"frozen for a moment":  frozenForAMoment,
		"dropped":              dropped,
		"answers dropped":      answersDropped,
		"delayed":              delayed,
		"delayed past window":  delayedPastWindow,
		"connections reset":    connectionsReset,
		"unreachable at start": unreachableAtStart,
		"session destroyed":    sessionDestroyed,
		"key deleted":          keyDeleted,
		"key overwritten":      keyOverwritten,
		"second with same id":  secondWithSameID,
	}
	for _, mode := range []election.Mode{election.Balanced, election.Fenced} {
		for name, run := range cases {
			t.Run(string(mode)+"/"+name, func(t *testing.T) {
				t.Parallel()
				run(newScene(t, consul), mode)
			})
		}
	}
	// Its windows are of ten seconds, so most of it is left to the soak test.
	for name, run := range map[string]func(*scene, election.Mode){
		"resign": resigned, "hand over": handedOver, "frozen for seconds": frozenForSeconds, "kill": killed,
	} {
		t.Run("strict/"+name, func(t *testing.T) {
			t.Parallel()
			run(newScene(t, consul), election.Strict)
		})
	}
}

// pair is a leader a and a follower b.
func (s *scene) pair(mode election.Mode) (a, b *rig.Candidate) {
	s.t.Helper()
	writing := func(c *rig.CandidateConfig) { c.Every = 20 * time.Millisecond }
	return s.leader("a", mode, 0, writing), s.follower("b", mode, 1, writing)
}

func resigned(s *scene, mode election.Mode) {
	a, b := s.pair(mode)
	from := s.log.Len()
	must.ErrorContains(s.t, b.Do(s.ctx, "resign x"), election.ErrNotLeader.Error())
	must.NoError(s.t, a.Do(s.ctx, "resign x"))
	s.loss(from, "a", election.ErrResigned)
	s.gain(from, "b")
	s.moves() // and back
}

func handedOver(s *scene, mode election.Mode) {
	a, b := s.pair(mode)
	s.follower("c", mode, 2)
	for _, to := range []string{"c", "b", "c"} {
		s.status(s.settled(), "three candidates", func(st election.Status) bool { return len(st.Candidates) == 3 })
		from := s.log.Len()
		must.NoError(s.t, s.settled().Do(s.ctx, "handover x "+to))
		r, err := s.log.AwaitGain(s.ctx, from, "x")
		must.NoError(s.t, err)
		must.Eq(s.t, to, r.Candidate)
	}
	must.ErrorContains(s.t, b.Do(s.ctx, "handover x a"), election.ErrNotLeader.Error())
	must.ErrorContains(s.t, s.settled().Do(s.ctx, "handover x nobody"), election.ErrUnknownCandidate.Error())
	must.NotNil(s.t, a)
}

func leftAndJoined(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	from := s.log.Len()
	must.NoError(s.t, a.Do(s.ctx, "leave x"))
	s.loss(from, "a", election.ErrLeft)
	s.gain(from, "b")
	must.NoError(s.t, a.Do(s.ctx, "join x"))
	s.moves()
}

func killed(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	from := s.log.Len()
	_, err := a.Kill()
	must.NoError(s.t, err)
	s.gain(from, "b")
	must.Error(s.t, a.Wait(s.ctx))
	must.NoError(s.t, a.Start(s.ctx)) // the same ID once more
	s.moves()
}

func frozenPastWindow(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	from := s.log.Len()
	must.NoError(s.t, a.Pause())
	s.gain(from, "b")
	must.NoError(s.t, a.Resume())
	s.loss(from, "a", nil)
	s.moves()
}

func frozenForAMoment(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	must.NoError(s.t, a.Pause())
	time.Sleep(300 * time.Millisecond) // shorter than the window less a heartbeat
	must.NoError(s.t, a.Resume())
	s.steady(a, 2*time.Second)
}

// What costs a leader of the other modes its place does not cost this one.
func frozenForSeconds(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	must.NoError(s.t, a.Pause())
	time.Sleep(4 * time.Second)
	must.NoError(s.t, a.Resume())
	s.steady(a, 2*time.Second)
}

func dropped(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	from := s.log.Len()
	a.Proxy().Drop()
	// It finds out by itself, and somebody else takes over.
	s.loss(from, "a", election.ErrTrustExpired)
	s.gain(from, "b")
	st, err := a.Status(s.ctx, "x")
	must.NoError(s.t, err)
	must.False(s.t, st.Self)
	must.True(s.t, st.Observed < 0 || st.Observed > time.Second, must.Sprint("an old answer says so: ", st.Observed))
	s.wellAgain(a)
	s.moves()
}

// wellAgain lets everything through again, and waits until that has arrived.
func (s *scene) wellAgain(a *rig.Candidate) {
	s.t.Helper()
	a.Proxy().Pass()
	s.status(a, "well again", func(st election.Status) bool {
		return st.Error == "" && st.Leader != nil && st.Leader.ID == "b" && st.Observed >= 0 && st.Observed < time.Second
	})
}

func answersDropped(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	from := s.log.Len()
	a.Proxy().DropAnswers()
	s.loss(from, "a", election.ErrTrustExpired)
	a.Proxy().Pass()
	s.moves()
}

func delayed(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	a.Proxy().Delay(100 * time.Millisecond)
	s.steady(a, 4*time.Second)
	a.Proxy().Pass()
	s.moves()
}

func delayedPastWindow(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	from := s.log.Len()
	a.Proxy().Delay(time.Second)
	// Its heartbeats do get through: it has to give the lock up by itself.
	s.loss(from, "a", nil)
	s.gain(from, "b")
	s.wellAgain(a)
	s.moves()
}

func connectionsReset(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	for range 4 {
		a.Proxy().Reset()
		s.steady(a, 300*time.Millisecond)
	}
	s.moves()
}

func unreachableAtStart(s *scene, mode election.Mode) {
	a := s.candidate("a", mode, 0)
	a.Proxy().Refuse()
	must.NoError(s.t, a.Start(s.ctx))
	st := s.status(a, "in trouble", func(st election.Status) bool { return st.Error != "" })
	must.Nil(s.t, st.Leader)
	must.Negative(s.t, st.Observed)
	from := s.log.Len()
	a.Proxy().Pass()
	s.gain(from, "a")
	s.status(a, "well", func(st election.Status) bool { return st.Self && st.Error == "" })
}

// lockKey reads the key of the election.
func (s *scene) lockKey() *consulapi.KVPair {
	s.t.Helper()
	kv, _, err := s.consul.Server(0).KV().Get(s.prefix()+"/leader/x", &consulapi.QueryOptions{RequireConsistent: true})
	must.NoError(s.t, err)
	must.NotNil(s.t, kv)
	return kv
}

func sessionDestroyed(s *scene, mode election.Mode) {
	s.pair(mode)
	from := s.log.Len()
	_, err := s.consul.Server(0).Session().Destroy(s.lockKey().Session, nil)
	must.NoError(s.t, err)
	s.loss(from, "a", election.ErrLockLost)
	s.settled()
	s.moves()
}

func keyDeleted(s *scene, mode election.Mode) {
	s.pair(mode)
	from := s.log.Len()
	_, err := s.consul.Server(0).KV().Delete(s.lockKey().Key, nil)
	must.NoError(s.t, err)
	s.loss(from, "a", election.ErrLockLost)
	s.settled()
	s.moves()
}

func keyOverwritten(s *scene, mode election.Mode) {
	s.pair(mode)
	for _, value := range []string{"", "anything", `{"state":"released"}`, `{"state":"held","candidate":"b"}`} {
		leader := s.settled()
		from := s.log.Len()
		_, err := s.consul.Server(0).KV().Put(&consulapi.KVPair{Key: s.lockKey().Key, Value: []byte(value)}, nil)
		must.NoError(s.t, err)
		s.loss(from, leader.ID(), election.ErrLockLost)
	}
	s.settled()
	s.moves()
}

// The second one stays out, says why, and takes part when the first is gone.
func secondWithSameID(s *scene, mode election.Mode) {
	a, _ := s.pair(mode)
	log := rig.NewLog()
	second := s.candidate("a", mode, 2, func(c *rig.CandidateConfig) { c.Log = log })
	must.NoError(s.t, second.Start(s.ctx))
	st := s.status(second, "refused", func(st election.Status) bool {
		return strings.Contains(st.Error, `candidate "a"`) && st.Leader != nil
	})
	must.False(s.t, st.Self)
	must.Len(s.t, 2, st.Candidates)

	from := s.log.Len()
	_, err := a.Kill()
	must.NoError(s.t, err)
	s.gain(from, "b")
	s.status(second, "well", func(st election.Status) bool { return st.Error == "" })
}
