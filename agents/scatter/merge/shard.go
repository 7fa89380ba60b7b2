package merge

import (
	"cmp"
	"strings"
)

// compareShards orders shards by their names: whole numbers by their value, before all
// other names, which are compared as strings. (To compare a number and another name as
// strings would be no order: "9" < "10" < "1a" < "9".)
func compareShards(a, b string) int {
	if a == b {
		return 0
	}
	aWhole, bWhole := isWhole(a), isWhole(b)
	switch {
	case aWhole && bWhole:
		x, y := strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y), strings.Compare(a, b))
	case aWhole:
		return -1
	case bWhole:
		return 1
	}
	return strings.Compare(a, b)
}

// isWhole says whether the name of a shard is a whole number, of any size.
func isWhole(name string) bool {
	for i := range len(name) {
		if !isDigit(name[i]) {
			return false
		}
	}
	return name != ""
}
