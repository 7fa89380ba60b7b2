package group

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/plugin/process"
)

// A member's file may hold anything: a newer plugin's words, half a disk block.
// What is accepted can be written and read again.
func FuzzDecodeMember(f *testing.F) {
	whole, err := encodeMember(Member{
		Task: "web", Driver: "lifecycle-docker", State: Stopping, StopAfter: []string{"api"},
		Hooks: hooks(OnCreated, OnStopped), Since: time.Unix(1, 2), Started: time.Unix(3, 4),
		Reason: "drained", Whole: true, Writer: process.ID{PID: 1, Start: 2, Boot: "b"},
	})
	must.NoError(f, err)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"task":"web","state":"running","writer":{"pid":1,"boot":"b"},"news":[1]}`))
	f.Add([]byte(`{"task":"web","state":"asleep"}`))
	f.Add([]byte(`{"task":"web","state":"running","hooks":{"created":null,"other":{"a":"<"}},"writer":{"pid":1,"boot":"b"}}`))
	f.Add([]byte("null"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeMember("web", data)
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		must.NoError(t, err)
		back, err := decodeMember("web", again)
		must.NoError(t, err)
		must.Eq(t, m.State, back.State)
		must.Eq(t, m.Writer, back.Writer)
		must.True(t, m.Started.Equal(back.Started))
		must.MapLen(t, len(m.Hooks), back.Hooks)
		// Whatever it says, those who look at it decide something.
		self := Member{Task: "self", StopAfter: []string{"web"}}
		q := newQueue(self, Facts{}, []Member{m}, time.Unix(0, 0))
		q.look(time.Unix(0, 0), []Member{m})
		if next := q.look(time.Unix(1, 0), []Member{m}); next < 0 || next > interval {
			t.Fatalf("looks again after %s", next)
		}
		for _, e := range Events() {
			Due(e, Facts{}, []Member{m}, false)
		}
	})
}
