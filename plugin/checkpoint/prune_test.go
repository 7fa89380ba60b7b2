package checkpoint

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// lines makes names of a test's short list.
func lines(list string) []string {
	var names []string
	for _, name := range strings.Fields(list) {
		epoch, base, _ := strings.Cut(name, "/")
		seq, ext, ok := strings.Cut(base, ".")
		if ok {
			base = strings.Repeat("0", 8-len(seq)) + seq + "." + ext
		}
		epoch = strings.Repeat("0", 8-len(epoch)) + epoch
		if ext == "both" {
			base = strings.TrimSuffix(base, "both")
			names = append(names, prefix+epoch+"/"+base+"json", prefix+epoch+"/"+base+"data")
			continue
		}
		names = append(names, prefix+epoch+"/"+base)
	}
	return names
}

func TestGarbage(t *testing.T) {
	cases := map[string]struct {
		list    string
		own     int
		keep    int
		saved   ref
		damaged []ref
		halves  []ref
		old     []ref
		want    string
	}{
		"nothing":             {own: 1, keep: 1},
		"as many as are kept": {list: "1/owner 1/1.both 1/2.both", own: 1, keep: 2, saved: ref{1, 2}},
		"older go, oldest first": {
			list: "1/owner 1/1.both 1/2.both 1/3.both 1/4.both", own: 1, keep: 2, saved: ref{1, 4},
			want: "1/1.both 1/2.both",
		},
		"over all epochs": {
			list: "1/owner 1/1.both 1/2.both 2/owner 2/1.both", own: 2, keep: 2, saved: ref{2, 1},
			want: "1/1.both",
		},
		"a claim deletes no version": {list: "1/1.both 1/2.both 1/3.both 2/owner", own: 2, keep: 1},
		"damaged ones do not count": {
			list: "1/1.both 1/2.both 1/3.both 2/owner 2/1.both", own: 2, keep: 2, saved: ref{2, 1}, damaged: []ref{{1, 3}},
			want: "1/1.both",
		},
		"nothing of a later owner": {
			list: "1/owner 1/1.both 1/2.both 2/owner 2/1.both 2/2.both 2/3.both 2/4.data", own: 1, keep: 1, saved: ref{1, 2}, old: []ref{{2, 4}},
			want: "1/1.both",
		},
		"half-written and perhaps still being written": {list: "1/owner 1/1.data 2/owner", own: 2, keep: 1},
		"half-written for long":                        {list: "1/owner 1/1.data 1/2.json 2/owner", own: 2, keep: 1, old: []ref{{1, 1}, {1, 2}}, want: "1/1.data 1/2.json"},
		"half-written by itself":                       {list: "1/owner 1/1.data 1/2.data 1/3.both", own: 1, keep: 1, saved: ref{1, 3}, halves: []ref{{1, 1}}, want: "1/1.data"},
		"thought half-written, and is whole":           {list: "1/owner 1/1.both 1/2.both", own: 1, keep: 2, saved: ref{1, 2}, halves: []ref{{1, 1}}},
		"owners of newer epochs stay":                  {list: "5/owner 5/end 20/owner", own: 20, keep: 1},
		"owners of old epochs go":                      {list: "4/owner 4/end 5/owner 20/owner", own: 20, keep: 1, want: "4/owner 4/end"},
		"an old epoch with versions stays":             {list: "4/owner 4/end 4/1.both 5/owner 20/owner", own: 20, keep: 1},
		"an old epoch goes with its last version": {
			list: "4/owner 4/1.both 20/owner 20/1.both", own: 20, keep: 1, saved: ref{20, 1},
			want: "4/1.both 4/owner",
		},
		"what closes stays":       {list: "1/1.both 3/owner 3/final 4/owner 4/final 4/end 30/owner", own: 30, keep: 1, want: "3/owner 3/final"},
		"old by the newest epoch": {list: "4/owner 4/end 5/owner 20/owner", own: 5, keep: 1, want: "4/owner 4/end"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			set := func(refs []ref) map[ref]bool {
				m := map[ref]bool{}
				for _, v := range refs {
					m[v] = true
				}
				return m
			}
			damaged, old := set(tc.damaged), set(tc.old)
			got := newTree(prefix, lines(tc.list)).garbage(rules{
				own: tc.own, keep: tc.keep, saved: tc.saved, halves: set(tc.halves),
				damaged: func(v ref) bool { return damaged[v] }, old: func(v ref) bool { return old[v] },
			})
			must.Eq(t, lines(tc.want), got)
		})
	}
}
