package checkpoint

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func TestPrefix(t *testing.T) {
	long := strings.Repeat("x", 128)
	cases := map[string]struct {
		id   Identity
		want string
	}{
		"plain":      {identity, prefix},
		"dispatched": {Identity{"default", "batch/dispatch-1700000000-ab12cd34", "g", "3", "t"}, Prefix + "default/batch~2Fdispatch-1700000000-ab12cd34/g/3/t/"},
		"node":       {Identity{"ops", "agent", "g", "node-1f0d", "t"}, Prefix + "ops/agent/g/node-1f0d/t/"},
		"paths":      {Identity{".", "..", "a/../b", "../..", ".tmp"}, Prefix + "~2E/~2E~2E/a~2F.~2E~2Fb/~2E~2E~2F.~2E/~2Etmp/"},
		"odd":        {Identity{"a b", "a%20b", "a~20b", "v1.2_3", "ä"}, Prefix + "a~20b/a~2520b/a~7E20b/v1.2_3/~C3~A4/"},
		"gocloud":    {Identity{"a__0x2f__b", "_", "__", "a_b", "t"}, Prefix + "a_~5F0x2f_~5Fb/_/_~5F/a_b/t/"},
		"long": {
			Identity{"n", long, long + "y", "0", "t"},
			"", // see below
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tc.id.prefix()
			must.NoError(t, err)
			if name == "long" {
				parts := strings.Split(got, "/")
				must.Eq(t, maxPart, len(parts[3]))
				must.Eq(t, maxPart, len(parts[4]))
				must.NotEq(t, parts[3], parts[4])
				must.StrHasPrefix(t, strings.Repeat("x", 86)+"~~", parts[3])
				return
			}
			must.Eq(t, tc.want, got)
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	cases := map[string]struct {
		id   Identity
		opts Options
		want string
	}{
		"namespace": {Identity{"", "j", "g", "0", "t"}, Options{}, "namespace is empty"},
		"job":       {Identity{"n", "", "g", "0", "t"}, Options{}, "job is empty"},
		"group":     {Identity{"n", "j", "", "0", "t"}, Options{}, "group is empty"},
		"index":     {Identity{"n", "j", "g", "", "t"}, Options{}, "index is empty"},
		"task":      {Identity{"n", "j", "g", "0", ""}, Options{}, "task is empty"},
		"keep":      {identity, Options{Keep: -1}, "keep is -1"},
		"max size":  {identity, Options{MaxSize: -1}, "max_size is -1"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Open(&mem{shared: newShared()}, tc.id, tc.opts)
			must.ErrorContains(t, err, tc.want)
		})
	}
}

// Whatever the parts are, prefixes differ, are no prefixes of one another, and
// are as the stores want them.
func TestPrefixProperties(t *testing.T) {
	part := rapid.OneOf(
		rapid.StringOfN(rapid.SampledFrom([]rune("a/.~_%2F E")), 1, 8, -1),
		rapid.StringN(1, 150, 300),
	)
	id := rapid.Custom(func(t *rapid.T) Identity {
		return Identity{part.Draw(t, "ns"), part.Draw(t, "job"), part.Draw(t, "group"), part.Draw(t, "index"), part.Draw(t, "task")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := id.Draw(t, "a"), id.Draw(t, "b")
		pa, err := a.prefix()
		must.NoError(t, err)
		pb, err := b.prefix()
		must.NoError(t, err)
		if (a == b) != (pa == pb) {
			t.Fatalf("%q and %q for %+v and %+v", pa, pb, a, b)
		}
		if a != b && strings.HasPrefix(pa, pb) {
			t.Fatalf("%q begins with %q", pa, pb)
		}
		checkName(t, pa+"00000001/owner")
	})
}

func checkName(t rapid.TB, name string) {
	t.Helper()
	// Consul 1.22 compares the key with itself unescaped, cleans it and refuses
	// "..".
	unescaped, err := url.PathUnescape(name)
	if err != nil || unescaped != name || filepath.Clean(name) != name || strings.Contains(name, "..") {
		t.Fatalf("Consul would refuse %q", name)
	}
	if strings.Contains(name, "__") || strings.Contains(name, "/.") || !filepath.IsLocal(name) || len(name) > 1000 {
		t.Fatalf("%q is not safe everywhere", name)
	}
	for _, part := range strings.Split(name, "/") {
		if part == "" || len(part) > maxPart {
			t.Fatalf("part %q of %q", part, name)
		}
	}
	if s := strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~/"); s != "" {
		t.Fatalf("%q in %q", s, name)
	}
}

func TestTreeLeavesOutWhatIsNotItsOwn(t *testing.T) {
	tree := newTree(prefix, []string{
		prefix + "00000001/owner", prefix + "00000001/end", prefix + "00000002/final",
		prefix + "00000001/00000003.data", prefix + "00000001/00000003.json", prefix + "00000001/00000004.data",
		prefix + "00000000/owner", prefix + "1/owner", prefix + "000000009/owner", prefix + "+0000009/owner", prefix + "notes",
		prefix + "00000009/Owner", prefix + "00000009/owner/x", prefix + "00000009/00000001.txt", prefix + "00000009/00000000.json",
		prefix + "00000009/00000001.json.bak", prefix + "00000009", prefix, "lifecycle/checkpoints/default/shop/web/0/serverb/00000009/owner",
	})
	must.Eq(t, []int{1, 2}, tree.epochs())
	must.Eq(t, &turn{owner: true, end: true, data: map[int]bool{3: true, 4: true}, manifest: map[int]bool{3: true}}, tree.turns[1])
	must.Eq(t, []int{4}, tree.turns[1].halves())
	must.Eq(t, 4, tree.turns[1].last())
	must.Eq(t, 2, tree.closed())
	must.Eq(t, []ref{{1, 3}}, tree.versions())
}
