package rig

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
)

// checkPatience bounds the search for an order of the operations of one register.
const checkPatience = time.Minute

// Observation is what the test itself did to a register.
type Observation struct {
	Target, Election string // of a read
	Kind             ObservationKind
	Value            string // that was read
	Call, Return     time.Duration
}

// ObservationKind is the kind of an Observation.
type ObservationKind int

// Observations. A snapshot and its restore are of all registers in Consul.
const (
	Read ObservationKind = iota
	SnapshotTaken
	SnapshotRestored
)

// input is an operation on one register.
type input struct {
	kind  ObservationKind
	write bool
	token uint64
	value string // to write, or that was read
}

// registerState is the state of one register.
type registerState struct {
	token    uint64 // highest that was written
	value    string
	snapshot string
}

// registerModel says what a fenced register may do.
var registerModel = porcupine.Model{
	Init: func() any { return registerState{} },
	Step: func(state, in, _ any) (bool, any) {
		s, op := state.(registerState), in.(input)
		switch {
		case op.write:
			if op.token < s.token {
				return false, s
			}
			s.token, s.value = op.token, op.value
			return true, s
		case op.kind == SnapshotTaken:
			s.snapshot = s.value
			return true, s
		case op.kind == SnapshotRestored:
			s.value = s.snapshot
			return true, s
		default:
			return op.value == s.value, s
		}
	},
	DescribeOperation: func(in, _ any) string { return fmt.Sprintf("%+v", in) },
}

// Linearizable finds the registers whose history has no order that a fenced
// register allows.
func Linearizable(records []Record, seen []Observation) []string {
	read := map[string]bool{} // values
	for _, o := range seen {
		if o.Kind == Read {
			read[o.Value] = true
		}
	}
	histories := map[cellName][]porcupine.Operation{}
	clients := map[string]int{}
	for _, w := range writes(records) {
		op := porcupine.Operation{
			Input: input{write: true, token: w.token, value: w.value}, Call: int64(w.begun), Return: int64(w.end),
		}
		switch {
		case w.result == journal.Refused:
			// It had no effect. Should its value be read all the same, then no
			// order explains the read.
			continue
		case w.result == journal.Unknown && !read[w.value]:
			// With no effect, and with one that nobody saw, the rest is the same.
			continue
		case w.result == journal.Unknown:
			op.Return = math.MaxInt64
		}
		key := w.process + w.cell.target
		if _, ok := clients[key]; !ok {
			clients[key] = len(clients)
		}
		op.ClientId = clients[key]
		histories[w.cell] = append(histories[w.cell], op)
	}
	for _, o := range seen {
		op := porcupine.Operation{
			ClientId: math.MaxInt32, Input: input{kind: o.Kind, value: o.Value}, Call: int64(o.Call), Return: int64(o.Return),
		}
		if o.Kind == Read {
			cell := cellName{o.Target, o.Election}
			histories[cell] = append(histories[cell], op)
			continue
		}
		for cell := range histories {
			if cell.target == journal.TargetKV {
				histories[cell] = append(histories[cell], op)
			}
		}
	}
	var found []string
	for cell, ops := range histories {
		switch porcupine.CheckOperationsTimeout(registerModel, ops, checkPatience) {
		case porcupine.Illegal:
			found = append(found, fmt.Sprintf("%s of %s is not linearizable (%d operations)", cell.target, cell.election, len(ops)))
		case porcupine.Unknown:
			found = append(found, fmt.Sprintf("%s of %s: no verdict on %d operations within %s", cell.target, cell.election, len(ops), checkPatience))
		}
	}
	slices.Sort(found)
	return found
}
