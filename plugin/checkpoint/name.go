package checkpoint

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Prefix is what all names in a store begin with: what a token or a policy has
// to allow to be read and written.
const Prefix = "lifecycle/checkpoints/"

// Identity says whose state it is. Allocations that follow one another in the
// same place have the same.
type Identity struct {
	Namespace, Job, Group string
	// Index is the allocation's index in its group, "0" and up, or "node-" and
	// the node's ID where there is one allocation per node.
	Index string
	Task  string
}

// prefix is what the names of the identity's objects begin with.
func (id Identity) prefix() (string, error) {
	p := Prefix
	for _, part := range []struct{ field, value string }{
		{"namespace", id.Namespace}, {"job", id.Job}, {"group", id.Group}, {"index", id.Index}, {"task", id.Task},
	} {
		if part.value == "" {
			return "", fmt.Errorf("identity: %s is empty; give all five parts", part.field)
		}
		p += escape(part.value) + "/"
	}
	return p, nil
}

const (
	maxPart = 120 // bytes of one escaped part of a name; file systems end at 255
	hashed  = 34  // of them for the hash of one that is longer, with its mark
)

// escape renders any text as one part of a name, different texts differently.
// The result has no "..", no leading dot and no "__": the first two mean
// something in paths, and the last to gocloud.dev, which escapes by it.
func escape(part string) string {
	var b strings.Builder
	for i := range len(part) {
		c := part[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
			b.WriteByte(c)
		case c == '.' && i > 0 && part[i-1] != '.', c == '_' && (i == 0 || part[i-1] != '_'):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "~%02X", c)
		}
	}
	if b.Len() <= maxPart {
		return b.String()
	}
	// No short form has "~~", so a long one cannot be mistaken for one.
	return fmt.Sprintf("%s~~%032x", b.String()[:maxPart-hashed], sha256.Sum256([]byte(part)))[:maxPart]
}

// maxNumber is the highest epoch, and the highest number in an epoch.
const maxNumber = 99_999_999

// The names of objects below an identity's prefix.
const (
	ownerName = "owner"
	endName   = "end"
	finalName = "final"
	dataExt   = "data"
	jsonExt   = "json"
)

// ref names a version. The zero ref names none.
type ref struct{ epoch, seq int }

func (v ref) compare(w ref) int {
	return cmp.Or(cmp.Compare(v.epoch, w.epoch), cmp.Compare(v.seq, w.seq))
}

func (v ref) String() string { return fmt.Sprintf("%d/%d", v.epoch, v.seq) }

func (v ref) dataBase() string { return fmt.Sprintf("%08d.%s", v.seq, dataExt) }

func epochObject(prefix string, epoch int, base string) string {
	return fmt.Sprintf("%s%08d/%s", prefix, epoch, base)
}

func (v ref) dataName(prefix string) string { return epochObject(prefix, v.epoch, v.dataBase()) }

func (v ref) manifestName(prefix string) string {
	return epochObject(prefix, v.epoch, fmt.Sprintf("%08d.%s", v.seq, jsonExt))
}

// turn is what a list shows of one epoch.
type turn struct {
	owner, end, final bool
	data, manifest    map[int]bool // by number; never nil
}

func (t *turn) ended() bool { return t.end || t.final }

// last is the highest number in the epoch, 0 if there is none.
func (t *turn) last() int {
	last := 0
	for _, m := range []map[int]bool{t.data, t.manifest} {
		for seq := range m {
			last = max(last, seq)
		}
	}
	return last
}

// halves are the numbers of versions of which one object is missing, in order.
func (t *turn) halves() []int {
	var all []int
	for seq := range t.data {
		if !t.manifest[seq] {
			all = append(all, seq)
		}
	}
	for seq := range t.manifest {
		if !t.data[seq] {
			all = append(all, seq)
		}
	}
	slices.Sort(all)
	return all
}

// tree is what a list shows of a chain.
type tree struct {
	prefix string
	turns  map[int]*turn // by epoch
}

// newTree sorts names. Those that this package would not have written are left
// out, and so are never deleted.
func newTree(prefix string, names []string) *tree {
	t := &tree{prefix: prefix, turns: map[int]*turn{}}
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		dir, base, _ := strings.Cut(rest, "/")
		epoch, ok := number(dir)
		if !ok {
			continue
		}
		digits, ext, _ := strings.Cut(base, ".")
		seq, isVersion := number(digits)
		switch {
		case base == ownerName:
			t.turn(epoch).owner = true
		case base == endName:
			t.turn(epoch).end = true
		case base == finalName:
			t.turn(epoch).final = true
		case isVersion && ext == dataExt:
			t.turn(epoch).data[seq] = true
		case isVersion && ext == jsonExt:
			t.turn(epoch).manifest[seq] = true
		}
	}
	return t
}

// number reads what %08d wrote.
func number(s string) (int, bool) {
	if len(s) != 8 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n > 0
}

func (t *tree) turn(epoch int) *turn {
	if t.turns[epoch] == nil {
		t.turns[epoch] = &turn{data: map[int]bool{}, manifest: map[int]bool{}}
	}
	return t.turns[epoch]
}

// epochs are those of which there is anything, in order.
func (t *tree) epochs() []int {
	all := make([]int, 0, len(t.turns))
	for epoch := range t.turns {
		all = append(all, epoch)
	}
	slices.Sort(all)
	return all
}

// newest is the highest epoch, 0 if there is none.
func (t *tree) newest() int {
	newest := 0
	for epoch := range t.turns {
		newest = max(newest, epoch)
	}
	return newest
}

// closed is the epoch up to which versions are closed, 0 if none are.
func (t *tree) closed() int {
	closed := 0
	for epoch, turn := range t.turns {
		if turn.final {
			closed = max(closed, epoch)
		}
	}
	return closed
}

// versions are those with a manifest, newest first.
func (t *tree) versions() []ref {
	var all []ref
	for epoch, turn := range t.turns {
		for seq := range turn.manifest {
			all = append(all, ref{epoch, seq})
		}
	}
	slices.SortFunc(all, func(v, w ref) int { return w.compare(v) })
	return all
}
