package queue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Limits of segments. Both the items of a segment and their state have to fit a
// transaction, whatever happens to the items.
const (
	maxSegmentItems = 256
	maxSegmentBytes = 96 << 10
	// tailItems and tailBytes say when a segment is not added to any more: rewriting
	// it costs more than beginning another.
	tailBytes = 16 << 10
)

// state of an item.
type state uint8

const (
	stateReady     state = iota // can be handed out, or waits for its group
	stateDelayed                // waits for its time
	stateClaimed                // a worker has it
	stateHeld                   // done; its output waits for a merge
	stateDone                   // done
	stateDead                   // a dead letter
	stateCancelled              // somebody has cancelled it
)

var stateNames = [...]string{"ready", "delayed", "claimed", "held", "done", "dead", "cancelled"}

func (s state) String() string { return stateNames[s] }

// finished says whether nothing more happens to the item itself.
func (s state) finished() bool { return s >= stateHeld }

// slot is what changes of an item.
type slot struct {
	claim    uint64 // the last one
	state    state
	stage    uint8
	priority uint8
	grouped  bool
	failed   uint16
	lost     uint16
}

// note is what few items have.
type note struct {
	output    string
	reason    string
	notBefore int64 // milliseconds; while delayed
}

// segment is a run of items with consecutive numbers. Its items are written once, or
// some times while it is the last one and small; their state as often as it changes.
type segment struct {
	first uint64
	value []byte   // the items as they are stored, in JSON
	at    []uint32 // where each begins in value
	slots []slot
	notes map[int]note
	born  int64 // of the first item, in milliseconds
	left  int   // items that are not finished, or held

	itemsDirty, stateDirty bool
	sent                   bool // value is on its way: copy before changing it
	stored                 bool // something is in Consul
	hasState               bool // also a state
	stateBytes             int  // of the state as JSON, never too low
	retireAt               int64
}

// The form of a segment's items. All separators have two bytes, so the end of an item
// follows from the beginning of the next.
const (
	segmentSep = ",\n"
	segmentEnd = "]}"
)

func newSegment(first uint64, now int64) *segment {
	head := fmt.Sprintf("{\"first\":%d,\"at\":%d,\"items\":[\n", first, now)
	// The end of a segment without items would be wrong; there is none.
	return &segment{first: first, born: now, value: []byte(head + segmentEnd)}
}

// add adds an item as JSON.
func (g *segment) add(raw []byte, s slot) {
	if g.sent {
		g.value, g.sent = bytes.Clone(g.value), false
	}
	g.value = g.value[:len(g.value)-len(segmentEnd)]
	if len(g.at) > 0 {
		g.value = append(g.value, segmentSep...)
	}
	g.at = append(g.at, uint32(len(g.value))) //nolint:gosec // bounded by maxSegmentBytes
	g.value = append(append(g.value, raw...), segmentEnd...)
	g.slots = append(g.slots, s)
	g.left++
}

// fits says whether an item can be added.
func (g *segment) fits(size int) bool {
	return len(g.slots) < maxSegmentItems && (len(g.slots) == 0 || len(g.value) < tailBytes || g.itemsDirty && len(g.value)+size < maxSegmentBytes)
}

// compact gives back memory that growing has left over, when nothing more is added.
func (g *segment) compact() {
	g.value, g.sent = bytes.Clone(g.value), false
	g.at, g.slots = append([]uint32(nil), g.at...), append([]slot(nil), g.slots...)
}

// raw is an item as JSON. It must not be changed.
func (g *segment) raw(i int) []byte {
	end := len(g.value)
	if i+1 < len(g.at) {
		end = int(g.at[i+1])
	}
	return g.value[g.at[i] : end-len(segmentEnd)]
}

// seq is the number of an item.
func (g *segment) seq(i int) uint64 { return g.first + uint64(i) } //nolint:gosec // i is a place in slots

// end is the number after the last item's.
func (g *segment) end() uint64 { return g.first + uint64(len(g.slots)) }

// note sets what few items have.
func (g *segment) note(i int, n note) {
	if n == (note{}) {
		delete(g.notes, i)
		return
	}
	if g.notes == nil {
		g.notes = map[int]note{}
	}
	g.notes[i] = n
	g.stateBytes += len(n.output) + len(n.reason) + 60
}

// storedState is the state of a segment in Consul. Items that are not named are ready
// and never were anything else. Items are named by their place in the segment, as
// ranges such as "0-99,105".
type storedState struct {
	Flush uint64         `json:"flush"` // no two writes are the same
	Runs  []storedRun    `json:"items"`
	Notes map[int]stored `json:"notes,omitempty"`
}

type storedRun struct {
	Items  string `json:"items"`
	State  string `json:"state"`
	Claim  uint64 `json:"claim,omitempty"`
	Worker string `json:"worker,omitempty"`
	Failed uint16 `json:"failed,omitempty"`
	Lost   uint16 `json:"lost,omitempty"`
}

type stored struct {
	Output    string `json:"output,omitempty"`
	Reason    string `json:"reason,omitempty"`
	NotBefore int64  `json:"not_before_ms,omitempty"`
}

// encodeState is the state as it is stored. worker names who has a claim.
func (g *segment) encodeState(flush uint64, worker func(claim uint64) string) []byte {
	type kind struct {
		state        state
		claim        uint64
		failed, lost uint16
	}
	out := storedState{Flush: flush, Runs: []storedRun{}}
	place := map[kind]int{}
	var texts [][]byte
	for i := 0; i < len(g.slots); {
		s := g.slots[i]
		k := kind{s.state, s.claim, s.failed, s.lost}
		j := i + 1
		for j < len(g.slots) {
			n := g.slots[j]
			if (kind{n.state, n.claim, n.failed, n.lost}) != k {
				break
			}
			j++
		}
		if k != (kind{}) {
			at, ok := place[k]
			if !ok {
				at = len(out.Runs)
				place[k] = at
				r := storedRun{State: s.state.String(), Claim: s.claim, Failed: s.failed, Lost: s.lost}
				if s.state == stateClaimed {
					r.Worker = worker(s.claim)
				}
				out.Runs = append(out.Runs, r)
				texts = append(texts, nil)
			}
			if texts[at] != nil {
				texts[at] = append(texts[at], ',')
			}
			texts[at] = strconv.AppendInt(texts[at], int64(i), 10)
			if j > i+1 {
				texts[at] = strconv.AppendInt(append(texts[at], '-'), int64(j-1), 10)
			}
		}
		i = j
	}
	for i := range out.Runs {
		out.Runs[i].Items = string(texts[i])
	}
	if len(g.notes) > 0 {
		out.Notes = make(map[int]stored, len(g.notes))
		for i, n := range g.notes {
			out.Notes[i] = stored{n.output, n.reason, n.notBefore}
		}
	}
	raw, err := json.Marshal(out)
	if err != nil {
		panic("queue: " + err.Error()) // it has nothing that cannot be written
	}
	g.stateBytes = len(raw)
	return raw
}

// storedItems is what a segment's items are in Consul.
type storedItems struct {
	First uint64            `json:"first"`
	At    int64             `json:"at"`
	Items []json.RawMessage `json:"items"`
}

// place is what of an item says where it belongs.
type itemPlace struct {
	Stage     string `json:"stage"`
	Priority  int    `json:"priority"`
	Group     string `json:"group"`
	Key       string `json:"key"`
	NotBefore string `json:"not_before"`
}

// decodeSegment reads the items of a segment. Its slots are not set.
func decodeSegment(value []byte) (*segment, error) {
	var in storedItems
	if err := json.Unmarshal(value, &in); err != nil {
		return nil, err
	}
	if len(in.Items) == 0 || len(in.Items) > maxSegmentItems {
		return nil, fmt.Errorf("%d items are not between 1 and %d", len(in.Items), maxSegmentItems)
	}
	g := newSegment(in.First, in.At)
	for _, raw := range in.Items {
		g.add(raw, slot{})
	}
	g.stored = true
	return g, nil
}

// decodeState sets the state of the slots. worker is told who has a claim.
func (g *segment) decodeState(value []byte, worker func(claim uint64, name string)) error {
	var in storedState
	if err := json.Unmarshal(value, &in); err != nil {
		return err
	}
	for _, r := range in.Runs {
		st := state(0)
		for int(st) < len(stateNames) && stateNames[st] != r.State {
			st++
		}
		if int(st) == len(stateNames) {
			return fmt.Errorf("%q is not a state", r.State)
		}
		if st == stateClaimed {
			worker(r.Claim, r.Worker)
		}
		for part := range strings.SplitSeq(r.Items, ",") {
			from, to, ranged := strings.Cut(part, "-")
			a, err := strconv.Atoi(from)
			b := a
			if ranged && err == nil {
				b, err = strconv.Atoi(to)
			}
			if err != nil || a < 0 || b < a || b >= len(g.slots) {
				return fmt.Errorf("%q is not a range of its %d items", part, len(g.slots))
			}
			for i := a; i <= b; i++ {
				s := &g.slots[i]
				s.state, s.claim, s.failed, s.lost = st, r.Claim, r.Failed, r.Lost
			}
		}
	}
	for i, n := range in.Notes {
		if i < 0 || i >= len(g.slots) {
			return fmt.Errorf("a note is about item %d of %d", i, len(g.slots))
		}
		g.note(i, note{n.Output, n.Reason, n.NotBefore})
	}
	g.hasState, g.stateBytes = true, len(value)
	return nil
}
