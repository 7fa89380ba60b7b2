package group

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestPlan_Validate(t *testing.T) {
	main := func(after ...string) PlanTask { return PlanTask{StopAfter: after} }
	sidecar := func(after ...string) PlanTask {
		return PlanTask{Hook: "prestart", Sidecar: true, StopAfter: after}
	}
	cases := map[string]struct {
		plan Plan
		want []string // parts of the error; none for no error
	}{
		"unknown":               {plan: nil},
		"nothing declared":      {plan: Plan{"web": main(), "proxy": sidecar()}},
		"sidecar after main":    {plan: Plan{"web": main(), "proxy": sidecar("web")}},
		"main after main":       {plan: Plan{"web": main("api"), "api": main()}},
		"main after leader":     {plan: Plan{"web": main("api"), "api": {Leader: true}}},
		"sidecar after sidecar": {plan: Plan{"web": main(), "a": sidecar("b"), "b": sidecar()}},
		"sidecar after poststart sidecar": {plan: Plan{
			"a": sidecar("b"), "b": {Hook: "poststart", Sidecar: true}, "web": main(),
		}},
		"after one that has ended before": {plan: Plan{"web": main("init"), "init": {Hook: "prestart"}}},
		"poststop after main":             {plan: Plan{"web": main(), "bye": {Hook: "poststop", StopAfter: []string{"web"}}}},
		"leading sidecar":                 {plan: Plan{"web": main("lead"), "lead": {Hook: "prestart", Sidecar: true, Leader: true}}},
		"all events":                      {plan: Plan{"web": {Hooks: hooks(OnCreated, OnRunning)}, "api": {Hooks: hooks(OnStopping, OnStopped)}}},

		"unknown task": {
			plan: Plan{"web": main("prxy"), "proxy": sidecar()},
			want: []string{`task "web": lifecycle.stop_after: there is no task "prxy" in the group; its tasks are "proxy", "web"`},
		},
		"itself": {
			plan: Plan{"web": main("web")},
			want: []string{`task "web": lifecycle.stop_after names the task itself`},
		},
		"circle of two": {
			plan: Plan{"web": main("proxy"), "proxy": main("web")},
			want: []string{"circle: proxy → web → proxy;"},
		},
		"circle of three behind a tail": {
			plan: Plan{"a": main("b"), "b": main("c"), "c": main("d"), "d": main("b")},
			want: []string{"circle: b → c → d → b;"},
		},
		"after a sidecar": {
			plan: Plan{"web": main("proxy"), "proxy": sidecar()},
			want: []string{`task "web": lifecycle.stop_after: "proxy" is a sidecar`},
		},
		"leader after main": {
			plan: Plan{"web": {Leader: true, StopAfter: []string{"api"}}, "api": main()},
			want: []string{`task "web": lifecycle.stop_after: it is the leader`},
		},
		"after poststop": {
			plan: Plan{"web": main("bye"), "proxy": sidecar("bye"), "bye": {Hook: "poststop"}},
			want: []string{`task "proxy": lifecycle.stop_after: "bye" is a poststop task`, `task "web": lifecycle.stop_after: "bye" is a poststop task`},
		},
		"hook declared twice": {
			plan: Plan{"web": {Hooks: hooks(OnStopped)}, "api": {Hooks: hooks(OnStopped)}},
			want: []string{`lifecycle.group.stopped is declared by the tasks "api" and "web"`},
		},
		"no such event": {
			plan: Plan{"web": {Hooks: hooks("started")}},
			want: []string{`task "web": lifecycle.group has no event "started"; its events are "created", "running", "stopping", "stopped"`},
		},
		"all at once": {
			plan: Plan{"web": {StopAfter: []string{"web", "x"}, Hooks: hooks(OnRunning)}, "api": {Hooks: hooks(OnRunning)}},
			want: []string{"names the task itself", `no task "x"`, "declared by the tasks"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := tc.plan.Validate()
			if len(tc.want) == 0 {
				must.NoError(t, err)
				return
			}
			must.ErrorIs(t, err, ErrInvalid)
			for _, part := range tc.want {
				must.StrContains(t, err.Error(), part)
			}
			must.Eq(t, len(tc.want), len(strings.Split(err.Error(), "\n")))
		})
	}
}

func TestPredecessors(t *testing.T) {
	at := func(task string, second int, after ...string) Member {
		return Member{Task: task, First: time.Unix(int64(second), 0), Started: time.Unix(int64(100-second), 0), StopAfter: after}
	}
	sidecar := PlanTask{Hook: "prestart", Sidecar: true}
	plan := Plan{"a": sidecar, "b": sidecar, "c": {Hook: "poststart", Sidecar: true}, "web": {}, "lead": {Sidecar: true, Hook: "prestart", Leader: true}}
	all := []Member{at("a", 1), at("b", 1), at("c", 3), at("lead", 9), at("web", 2)}
	cases := map[string]struct {
		self    Member
		plan    Plan
		members []Member
		want    []string
	}{
		"named":                    {self: at("a", 1, "z", "b", "z"), members: all, want: []string{"b", "z"}},
		"first sidecar":            {self: all[0], plan: plan, members: all, want: []string{"b", "c"}},
		"started at the same time": {self: all[1], plan: plan, members: all, want: []string{"c"}},
		"last sidecar":             {self: all[2], plan: plan, members: all},
		"main task":                {self: all[4], plan: plan, members: all},
		"leader":                   {self: at("lead", 0), plan: plan, members: all},
		"without a plan":           {self: all[0], members: all},
		"others name some":         {self: all[0], plan: plan, members: append([]Member{at("x", 1, "y")}, all...)},
		"the plan names some":      {self: at("a", 1), plan: Plan{"a": sidecar, "b": sidecar, "x": {StopAfter: []string{"y"}}}, members: all},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			must.Eq(t, tc.want, predecessors(tc.self, tc.plan, tc.members))
		})
	}
}

func TestDeclared(t *testing.T) {
	h := func(text string) map[Event]json.RawMessage {
		return map[Event]json.RawMessage{OnCreated: json.RawMessage(text)}
	}
	cases := map[string]struct {
		plan    Plan
		members []Member
		want    string // task: hook
		err     string
	}{
		"nobody":            {plan: Plan{"a": {}}, members: []Member{{Task: "a"}}},
		"file":              {members: []Member{{Task: "a", Hooks: h("1")}}, want: "a: 1"},
		"plan":              {plan: Plan{"a": {Hooks: h("1")}}, want: "a: 1"},
		"file before plan":  {plan: Plan{"a": {Hooks: h("1")}}, members: []Member{{Task: "a", Hooks: h("2")}}, want: "a: 2"},
		"file without it":   {plan: Plan{"a": {Hooks: h("1")}}, members: []Member{{Task: "a"}}},
		"two files":         {members: []Member{{Task: "a", Hooks: h("1")}, {Task: "b", Hooks: h("1")}}, err: `"a" and "b"`},
		"file and plan":     {plan: Plan{"a": {Hooks: h("1")}}, members: []Member{{Task: "b", Hooks: h("1")}}, err: `"a" and "b"`},
		"twice in the plan": {plan: Plan{"a": {Hooks: h("1")}, "b": {Hooks: h("1")}}, err: `"a" and "b"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d, ok, err := declared(OnCreated, tc.plan, tc.members)
			if tc.err != "" {
				must.ErrorIs(t, err, ErrInvalid)
				must.ErrorContains(t, err, tc.err)
				return
			}
			must.NoError(t, err)
			must.Eq(t, tc.want != "", ok)
			if ok {
				must.Eq(t, tc.want, d.Task+": "+string(d.Hook))
			}
		})
	}
}
