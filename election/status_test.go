package election

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestStatusJSON(t *testing.T) {
	const ms = time.Millisecond
	cases := []struct {
		name string
		s    Status
		wire string
	}{
		{
			"leader",
			Status{
				Election: "x", Mode: Balanced, Self: true, Joined: true, Leader: &Leader{ID: "a", Address: "h:1", Meta: map[string]string{"k": "v"}},
				Token: 123, Term: 4, Trusted: 1290 * ms, Observed: 12 * ms, Candidates: []CandidateInfo{{ID: "a", Rank: 0}, {ID: "b", Rank: 1}},
			},
			`{"election":"x","mode":"balanced","self":true,"joined":true,"leader":{"id":"a","address":"h:1","meta":{"k":"v"}},` +
				`"token":123,"term":4,"trusted_ms":1290,"observed_ms":12,"candidates":[{"id":"a","rank":0},{"id":"b","rank":1}]}`,
		},
		{
			"nothing known",
			Status{Election: "x", Mode: Strict, Observed: -1 * ms, Candidates: []CandidateInfo{}, Error: "no consul session"},
			`{"election":"x","mode":"strict","self":false,"joined":false,"leader":null,"token":0,"term":0,"trusted_ms":0,` +
				`"observed_ms":-1,"candidates":[],"error":"no consul session"}`,
		},
		{
			"zero",
			Status{Candidates: []CandidateInfo{}},
			`{"election":"","mode":"","self":false,"joined":false,"leader":null,"token":0,"term":0,"trusted_ms":0,"observed_ms":0,"candidates":[]}`,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b, err := json.Marshal(c.s)
			must.NoError(t, err)
			must.Eq(t, c.wire, string(b))
			var back Status
			must.NoError(t, json.Unmarshal(b, &back))
			must.Eq(t, c.s, back)
		})
	}
}

// TestStatusRoundsDown: what is sent promises less and not more.
func TestStatusRoundsDown(t *testing.T) {
	for _, c := range []struct{ trusted, observed, wantTrusted, wantObserved time.Duration }{
		{time.Millisecond - 1, 1, 0, time.Millisecond},
		{time.Millisecond, time.Millisecond, time.Millisecond, time.Millisecond},
		{2*time.Millisecond - 1, time.Millisecond + 1, time.Millisecond, 2 * time.Millisecond},
		{0, -time.Hour, 0, -time.Millisecond},
		{0, -1, 0, -time.Millisecond},
	} {
		b, err := json.Marshal(Status{Trusted: c.trusted, Observed: c.observed})
		must.NoError(t, err)
		var s Status
		must.NoError(t, json.Unmarshal(b, &s))
		must.Eq(t, c.wantTrusted, s.Trusted)
		must.Eq(t, c.wantObserved, s.Observed)
		must.NotNil(t, s.Candidates)
	}
	var s Status
	must.Error(t, json.Unmarshal([]byte(`{"token":-1}`), &s))
}
