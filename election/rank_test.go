package election

import (
	"fmt"
	"slices"
	"testing"

	"github.com/shoenig/test/must"
)

// candidates is a view of live candidates of all these elections.
func candidates(elections []string, ids ...string) view {
	v := view{candidates: map[string]candidateKey{}}
	for _, id := range ids {
		k := candidateKey{session: "s", reg: registration{ID: id, Elections: map[string]int{}}}
		for _, name := range elections {
			k.reg.Elections[name] = 0
		}
		v.candidates[id] = k
	}
	return v
}

func order(v view, election string) []string {
	var ids []string
	for _, r := range rank(v, election) {
		ids = append(ids, r.id)
	}
	return ids
}

func manyElections() []string {
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("shard-%03d", i)
	}
	return names
}

func TestRankSpreads(t *testing.T) {
	names := manyElections()
	for _, ids := range [][]string{{"a", "b", "c"}, {"node-1", "node-2", "node-3"}, {"10.0.0.1-17", "10.0.0.2-17", "10.0.0.3-17"}} {
		v := candidates(names, ids...)
		firsts, seconds := map[string]int{}, map[string]int{}
		for _, name := range names {
			o := order(v, name)
			firsts[o[0]]++
			seconds[o[1]]++
		}
		for _, id := range ids {
			must.Between(t, 267, firsts[id], 400) // 20 % around a third
			must.Between(t, 267, seconds[id], 400)
		}
	}
}

func TestRankMovesFew(t *testing.T) {
	names := manyElections()
	three, four := candidates(names, "a", "b", "c"), candidates(names, "a", "b", "c", "d")
	moved := 0
	for _, name := range names {
		o := order(four, name)
		if o[0] == "d" {
			moved++
		}
		must.Eq(t, order(three, name), slices.DeleteFunc(o, func(id string) bool { return id == "d" }))
	}
	must.Between(t, 200, moved, 300)
}

func TestRankByPriority(t *testing.T) {
	v := candidates([]string{"x"}, "a", "b", "c", "d", "dead", "elsewhere")
	for id, p := range map[string]int{"a": -100, "b": 100, "c": 5, "d": 0, "dead": 100} {
		v.candidates[id].reg.Elections["x"] = p
	}
	delete(v.candidates["elsewhere"].reg.Elections, "x")
	v.candidates["dead"] = candidateKey{reg: v.candidates["dead"].reg}
	must.Eq(t, []string{"b", "c", "d", "a"}, order(v, "x"))
	must.Eq(t, 0, len(order(v, "y")))
	for i, id := range []string{"b", "c", "d", "a"} {
		must.Eq(t, i, place(v, "x", id, ""))
	}
	must.Eq(t, 4, place(v, "x", "dead", ""))
	must.Eq(t, 4, place(v, "x", "unknown", ""))
	must.Eq(t, 2, place(v, "x", "a", "c")) // c does not want it
	must.Eq(t, 0, place(v, "x", "b", "b"))
	must.Eq(t, 0, place(view{}, "x", "a", ""))
}
