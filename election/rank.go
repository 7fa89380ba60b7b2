package election

import (
	"cmp"
	"hash/fnv"
	"io"
	"slices"
)

// ranked is a live candidate of one election.
type ranked struct {
	id       string
	priority int
	hash     uint64
}

// rank orders the live candidates of an election: by priority, and among equals by
// rendezvous hashing, so that each of many elections prefers somebody else, and nearly
// all keep their order when a candidate comes or goes.
func rank(v view, election string) []ranked {
	var list []ranked
	for id, c := range v.candidates {
		if c.session == "" {
			continue
		}
		priority, ok := c.reg.Elections[election]
		if !ok {
			continue
		}
		list = append(list, ranked{id: id, priority: priority, hash: rendezvous(election, id)})
	}
	slices.SortFunc(list, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(b.hash, a.hash), cmp.Compare(a.id, b.id))
	})
	return list
}

// rendezvous is the weight of a candidate in an election.
func rendezvous(election, id string) uint64 {
	h := fnv.New64a()
	// A hash never fails to be written to. No name holds a slash.
	_, _ = io.WriteString(h, election+"/"+id)
	// FNV alone hardly mixes the last bytes into the high bits, and names often
	// differ in the last byte only: the finalizer of SplitMix64 does.
	x := h.Sum64()
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// place returns how many live candidates of an election come before this one, another
// one left out. A candidate that is not in the view yet comes last.
func place(v view, election, id, without string) int {
	n := 0
	for _, r := range rank(v, election) {
		switch r.id {
		case id:
			return n
		case without:
		default:
			n++
		}
	}
	return n
}
