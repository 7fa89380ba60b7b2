package election

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"
)

func TestParse(t *testing.T) {
	held := record{State: stateHeld, Candidate: "a", Address: "x:1", Mode: Balanced, WindowMS: 1500, Attempt: "n"}
	k := keys{"p"}
	pairs := api.KVPairs{
		{Key: "p/leader/good", ModifyIndex: 7, LockIndex: 3, Session: "s", Value: held.encode()},
		{Key: "p/leader/broken", ModifyIndex: 8, Session: "s", Value: []byte(`{"state":"released"`)},
		{Key: "p/leader/types", ModifyIndex: 8, Value: []byte(`{"state":"released","window_ms":"long"}`)},
		{Key: "p/leader/empty", ModifyIndex: 8},
		{Key: "p/leader/array", ModifyIndex: 8, Value: []byte(`[1]`)},
		{Key: "p/leader/null", ModifyIndex: 8, Value: []byte(`null`)},
		{Key: "p/leader/more", ModifyIndex: 8, Value: []byte(`{"state":"held","window_ms":9,"news":{}}`)},
		{Key: "p/leader/", ModifyIndex: 8},
		{Key: "p/leader/a/b", ModifyIndex: 8},
		{Key: "p/leader/no name", ModifyIndex: 8},
		{Key: "p/leaders", ModifyIndex: 8},
		{Key: "p/candidate/a", ModifyIndex: 9, Session: "s", Value: registration{ID: "a", Elections: map[string]int{"good": 4}}.encode()},
		{Key: "p/candidate/liar", ModifyIndex: 9, Value: registration{ID: "a"}.encode()},
		{Key: "p/candidate/broken", ModifyIndex: 9, Session: "s", Value: []byte("\xff")},
		{Key: "p/candidate/", ModifyIndex: 9},
		{Key: "other", ModifyIndex: 9},
	}
	v := k.parse(view{}, pairs, 9, time.Second, false)
	must.False(t, v.reset)
	must.Eq(t, 9, v.index)
	must.Eq(t, time.Second, v.at)
	must.MapLen(t, 7, v.leaders)
	must.Eq(t, 7, v.leaders["good"].modify)
	must.Eq(t, 3, v.leaders["good"].lock)
	must.Eq(t, "s", v.leaders["good"].session)
	must.Eq(t, held, v.leaders["good"].rec)
	must.Eq(t, "s", v.leaders["broken"].session)
	for _, name := range []string{"broken", "types", "empty", "array", "null"} {
		must.Eq(t, record{}, v.leaders[name].rec, must.Sprint(name))
	}
	must.Eq(t, 9*time.Millisecond, v.leaders["more"].rec.window())
	must.MapLen(t, 3, v.candidates)
	must.Eq(t, map[string]int{"good": 4}, v.candidates["a"].reg.Elections)
	must.Eq(t, "liar", v.candidates["liar"].reg.ID)
	must.Eq(t, "broken", v.candidates["broken"].reg.ID)
	must.Eq(t, 0, len(v.candidates["broken"].reg.Elections))
}

func TestParseAgain(t *testing.T) {
	k := keys{"p"}
	pair := func(index uint64, state string) api.KVPairs {
		return api.KVPairs{{Key: "p/leader/x", ModifyIndex: index, Value: record{State: state}.encode()}}
	}
	last := k.parse(view{}, pair(7, stateHeld), 9, 0, false)
	cases := []struct {
		name   string
		pairs  api.KVPairs
		index  uint64
		forget bool
		reset  bool
		state  string
	}{
		{"the same", pair(7, stateHeld), 9, false, false, stateHeld},
		{"written", pair(10, stateReleased), 10, false, false, stateReleased},
		{"same index is not read again", pair(7, stateReleased), 10, false, false, stateHeld},
		{"forgotten", pair(7, stateReleased), 10, true, true, stateReleased},
		{"index went back", pair(7, stateReleased), 8, false, true, stateReleased},
		{"key went back", pair(6, stateReleased), 10, false, true, stateReleased},
		{"deleted", nil, 10, false, false, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := k.parse(last, c.pairs, c.index, time.Second, c.forget)
			must.Eq(t, c.reset, v.reset)
			must.Eq(t, c.state, v.leaders["x"].rec.State)
			must.Eq(t, 9, last.index) // a view never changes
			must.Eq(t, stateHeld, last.leaders["x"].rec.State)
		})
	}
}

// TestRecordOnTheWire keeps the form that processes of other versions read.
func TestRecordOnTheWire(t *testing.T) {
	must.Eq(t, `{"state":"held","candidate":"a","address":"x:1","meta":{"k":"v"},"mode":"balanced","window_ms":1500,"attempt":"n"}`,
		string(record{
			State: stateHeld, Candidate: "a", Address: "x:1", Meta: map[string]string{"k": "v"}, Mode: Balanced, WindowMS: 1500, Attempt: "n",
		}.encode()))
	must.Eq(t, `{"state":"released","candidate":"a","window_ms":0,"token":9,"to":"b"}`,
		string(record{State: stateReleased, Candidate: "a", Token: 9, To: "b"}.encode()))
	must.Eq(t, `{"id":"a","instance":"elector-a-1","elections":{"x":-3}}`,
		string(registration{ID: "a", Instance: "elector-a-1", Elections: map[string]int{"x": -3}}.encode()))
}

// TestWindowOfARecord: no record makes the others wait longer than any holder's window,
// nor less than not at all.
func TestWindowOfARecord(t *testing.T) {
	for ms, want := range map[int64]time.Duration{
		0: 0, 1500: 1500 * time.Millisecond, 60_000: time.Minute, -1: 0, -1 << 63: 0,
		60_001: MaxTTL, 1_000_000_000_000: MaxTTL, 1<<63 - 1: MaxTTL,
	} {
		must.Eq(t, want, record{WindowMS: ms}.window(), must.Sprint(ms))
	}
}

// FuzzParse: whatever somebody writes under the prefix, a view of it is sane, and it
// says nothing of a holder that does not hold.
func FuzzParse(f *testing.F) {
	for _, key := range []string{"leader/x", "candidate/x", "leader/x/y", "leader/", "", "leader/\xff"} {
		f.Add(key, []byte(`{"state":"held","window_ms":1500}`), uint64(7), uint64(9), "s", []byte(`{"elections":{"x":1}}`), false)
	}
	f.Add("leader/x", []byte(`{"state":"released","token":18446744073709551615,"window_ms":-9223372036854775808}`), uint64(1), uint64(0), "", []byte(`null`), true)
	f.Fuzz(func(t *testing.T, key string, value []byte, modify, index uint64, session string, second []byte, forget bool) {
		k := keys{"p"}
		pair := &api.KVPair{Key: "p/" + key, ModifyIndex: modify, Session: session, Value: value}
		last := k.parse(view{}, api.KVPairs{pair}, index, 0, false)
		again := *pair
		again.ModifyIndex, again.Value = modify+1, second
		for _, v := range []view{last, k.parse(last, api.KVPairs{&again}, index+1, 1, forget), k.parse(last, nil, index, 1, forget)} {
			must.LessEq(t, 1, len(v.leaders)+len(v.candidates))
			for name, l := range v.leaders {
				must.NoError(t, CheckName(name))
				must.Eq(t, "leader/"+name, key)
				must.Eq(t, session, l.session)
				if !json.Valid(value) && !json.Valid(second) {
					must.Eq(t, record{}, l.rec)
				}
			}
			for id, c := range v.candidates {
				must.Eq(t, "candidate/"+id, key)
				must.Eq(t, id, c.reg.ID)
				must.Eq(t, session, c.session)
			}
			name := strings.TrimPrefix(key, "leader/")
			for _, r := range rank(v, name) {
				must.NotEq(t, "", v.candidates[r.id].session)
			}
		}
	})
}
