package manage

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestMatch(t *testing.T) {
	list := []Info{
		{AllocID: allocA, Task: "app"},
		{AllocID: allocA, Task: "proxy"},
		{AllocID: allocB, Task: "app"},
		{AllocID: allocC, Task: "app"},
	}
	for name, c := range map[string]struct {
		alloc, task string
		want        int
		code        int // 0: found
		says        string
	}{
		"whole ID":             {allocA, "app", 0, 0, ""},
		"beginning":            {"bbbbbbbb", "app", 2, 0, ""},
		"long enough":          {"aaaaaaaa-9", "app", 3, 0, ""},
		"only one has it":      {"aaaaaaaa", "proxy", 1, 0, ""},
		"ambiguous":            {"aaaaaaaa", "app", 0, 409, allocA + ", " + allocC},
		"no such task":         {allocA, "db", 0, 404, `no managed task "db"`},
		"no such allocation":   {"cccccccc", "app", 0, 404, "cccccccc"},
		"too short":            {"aaaaaaa", "app", 0, 400, "8 characters"},
		"empty":                {"", "app", 0, 400, "8 characters"},
		"not an ID":            {"aaaaaaaa/../x", "app", 0, 400, "8 characters"},
		"longer than an ID is": {allocA + "a", "app", 0, 400, "8 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := match(list, c.alloc, c.task)
			if c.code != 0 {
				must.NotNil(t, err)
				must.Eq(t, c.code, err.Status)
				must.StrContains(t, err.Message, c.says)
				return
			}
			must.Nil(t, err)
			must.Eq(t, c.want, got)
		})
	}
}

// A task that starts again in its allocation takes the place of its earlier
// start, whose removal comes later.
func TestRegistry_Restart(t *testing.T) {
	r := NewRegistry()
	first, second := &Task{App: newApp(allocA, "app")}, &Task{App: newApp(allocA, "app")}
	other := &Task{App: newApp(allocA, "proxy")}
	r.Add(first)
	r.Add(other)
	r.Add(second)
	r.Remove(first)
	must.Eq(t, []*Task{second, other}, r.all())
	r.Remove(second)
	r.Remove(second)
	must.Eq(t, []*Task{other}, r.all())
}
