package history

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// checkPatience bounds the search for an order of what happened to one item.
const checkPatience = 10 * time.Second

// Added is an item that was enqueued.
type Added struct {
	ID           queue.ID
	Call, Return time.Duration
}

// Seen is the status of an item that is finished.
type Seen struct {
	ID           queue.ID
	State        string
	Claim        uint64 // whose output was accepted
	Call, Return time.Duration
}

// opKind is the kind of an operation on an item.
type opKind string

const (
	opAdd   opKind = "enqueue"
	opClaim opKind = "claim"
	opAck   opKind = "ack"
	opRead  opKind = "read"
)

// input is an operation on an item. What was answered is part of it.
type input struct {
	kind    opKind
	claim   uint64
	action  queue.Action
	verdict queue.Verdict // "": nobody knows
}

// itemState is what is known of an item.
type itemState struct {
	added bool
	last  uint64 // attempt that is known of
	over  bool   // nothing more may be taken from the last one
	done  uint64 // attempt that was accepted
}

// itemModel says what may happen to an item. Leases run out when they want, and a claim
// whose answer got lost is seen by nobody, so an attempt can be over at any time; but
// once it was refused it is over for good.
var itemModel = porcupine.NondeterministicModel{
	Init:              func() []any { return []any{itemState{}} },
	Step:              func(state, in, _ any) []any { return step(state.(itemState), in.(input)) },
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(in, _ any) string { return fmt.Sprintf("%+v", in) },
}

// step returns the states that an operation can lead to.
func step(s itemState, op input) []any {
	var after []any
	possible := func(ok bool, next itemState) {
		if ok {
			after = append(after, next)
		}
	}
	accepted := s
	if accepted.over = true; op.action == queue.Done {
		accepted.done = op.claim
	}
	current := s.added && s.done == 0 && s.last == op.claim && !s.over
	refused := s
	if s.last == op.claim && s.done == 0 {
		refused.over = true
	}
	switch {
	case op.kind == opAdd:
		next := s
		next.added = true
		possible(!s.added, next)
	case op.kind == opClaim:
		next := s
		next.last, next.over = op.claim, false
		possible(s.added && s.done == 0 && op.claim > s.last, next)
	case op.kind == opRead:
		possible(s.done == op.claim, s)
	case op.verdict == "":
		possible(current, accepted)
		possible(true, s)
	case op.verdict == queue.Accepted:
		possible(current, accepted)
	case op.verdict == queue.Duplicate:
		// A client that heard nothing of the first time has asked twice.
		possible(current && op.action == queue.Done, accepted)
		possible(s.done == op.claim, s)
	case op.verdict == queue.Stale:
		possible(s.done != op.claim, refused)
	}
	return after
}

// Check finds what cannot have happened: items whose history has no order that the model
// allows.
func Check(added []Added, records []Record, seen []Seen) []string {
	histories := map[queue.ID][]porcupine.Operation{}
	clients := map[string]int{"": 0}
	add := func(process string, id queue.ID, in input, call, ret time.Duration) {
		if _, ok := clients[process]; !ok {
			clients[process] = len(clients)
		}
		histories[id] = append(histories[id], porcupine.Operation{
			ClientId: clients[process], Input: in, Call: int64(call), Return: int64(ret),
		})
	}
	for _, a := range added {
		add("", a.ID, input{kind: opAdd}, a.Call, a.Return)
	}
	for _, s := range seen {
		add("", s.ID, input{kind: opRead, claim: s.Claim}, s.Call, s.Return)
	}
	type batch struct {
		process string
		number  int
	}
	ends := map[batch]Event{}
	for _, r := range records {
		if r.Kind == AckEnded {
			ends[batch{r.Process, r.Batch}] = r.Event
		}
	}
	for _, r := range records {
		switch r.Kind {
		case Claim:
			for _, a := range r.Attempts {
				add(r.Process, a.ID, input{kind: opClaim, claim: a.Claim}, r.Call, r.Return)
			}
		case AckBegun:
			end, known := ends[batch{r.Process, r.Batch}]
			known = known && end.Error == ""
			for i, a := range r.Attempts {
				in := input{kind: opAck, claim: a.Claim, action: a.Action}
				ret := time.Duration(math.MaxInt64)
				if known {
					in.verdict, ret = end.Verdicts[i], end.Return
				}
				add(r.Process, a.ID, in, r.Call, ret)
			}
		}
	}
	var found []string
	model := itemModel.ToModel()
	for id, ops := range histories {
		switch porcupine.CheckOperationsTimeout(model, ops, checkPatience) {
		case porcupine.Illegal:
			found = append(found, fmt.Sprintf("item %s: what was seen cannot have happened: %s", id, tell(ops)))
		case porcupine.Unknown:
			found = append(found, fmt.Sprintf("item %s: no verdict on %d operations within %s", id, len(ops), checkPatience))
		}
	}
	slices.Sort(found)
	return found
}

// tell lists operations by their beginning.
func tell(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	text := ""
	for _, o := range ops {
		text += fmt.Sprintf("\n  client %d, %s to %s: %+v", o.ClientId, time.Duration(o.Call), time.Duration(o.Return), o.Input)
	}
	return text
}
