package server

import (
	"strings"
	"testing"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// Whatever a client sends, what is made of it stays below the election's own prefix and
// within what a transaction takes.
func FuzzKV(f *testing.F) {
	for _, body := range []string{
		`{"token":1,"ops":[{"verb":"set","key":"a/b","value":"x"},{"verb":"delete-cas","key":"c","index":3}]}`,
		`{"ops":[{"verb":"cas","key":"ä","value_base64":"eA==","index":0}]}`,
		`{"ops":[{"verb":"get","key":"a/../b"}]}`,
		`{"ops":[{"verb":"get","key":"/"}]}`,
		`{"ops":null}`, `[]`, ``,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var req kvRequest
		if httpapi.ReadJSON(strings.NewReader(body), &req) != nil {
			return
		}
		ops, err := req.ops("p/x/")
		if err != nil {
			return
		}
		if len(ops) == 0 || len(ops) > maxTxnOps {
			t.Fatalf("%d operations", len(ops))
		}
		for _, op := range ops {
			key, ok := strings.CutPrefix(op.Key, "p/x/")
			if !ok || key == "" || strings.Contains("/"+key+"/", "/../") || strings.Contains("/"+key+"/", "//") {
				t.Fatalf("key %q", op.Key)
			}
		}
	})
}
