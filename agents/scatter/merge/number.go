package merge

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
)

// number is one that can be summed.
type number struct {
	raw   string // as it was written; empty if it is a sum
	whole bool
	i     int64   // its value if it is whole
	f     float64 // its value, rounded
}

// parseNumber takes a number that was scanned. One that no float64 is near to is garbage.
func parseNumber(raw []byte) (number, error) {
	n := number{}
	if !bytes.ContainsAny(raw, ".eE") {
		if i, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
			return number{whole: true, i: i, f: float64(i)}, nil
		}
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil {
		return n, garbage("number %.40q is out of range", raw)
	}
	n.f = f
	return n, nil
}

// plus is the exact sum if both are whole and it fits, otherwise the rounded one; ok says
// that there is one.
func (n number) plus(m number) (sum number, ok bool) {
	if n.whole && m.whole {
		if i := n.i + m.i; (i > n.i) == (m.i > 0) {
			return number{whole: true, i: i, f: float64(i)}, true
		}
	}
	f := n.f + m.f
	return number{f: f}, !math.IsInf(f, 0)
}

func (n number) String() string {
	switch {
	case n.raw != "":
		return n.raw
	case n.whole:
		return strconv.FormatInt(n.i, 10)
	}
	b, err := json.Marshal(n.f)
	if err != nil {
		return "null" // not a number, which no sum of finite ones is
	}
	return string(b)
}

// split is an exact value, as far as a float64 and the rest of an int64 can tell: ordered
// by near, then by rest. So times in nanoseconds, which a float64 cannot tell from their
// neighbours, are still ordered, and so are mixtures of them and others.
type split struct {
	near float64
	rest int64
}

func splitOf(n number) split {
	s := split{near: n.f}
	switch {
	case !n.whole:
	case n.f >= math.MaxInt64: // 2^63, which an int64 does not hold
		s.rest = n.i - math.MaxInt64 - 1
	default:
		s.rest = n.i - int64(n.f)
	}
	return s
}
