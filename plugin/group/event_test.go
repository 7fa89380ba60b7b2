package group

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestDue(t *testing.T) {
	const whole = "whole"
	m := func(task string, s State, more ...string) Member {
		m := Member{Task: task, State: s}
		for _, x := range more {
			m.Whole, m.Lost = m.Whole || x == whole, m.Lost || x == "lost"
		}
		return m
	}
	plan := Plan{
		"init":  {Hook: "prestart"},
		"proxy": {Hook: "prestart", Sidecar: true, Managed: true},
		"web":   {Managed: true},
		"warm":  {Hook: "poststart"},
		"log":   {Hook: "poststart", Sidecar: true},
		"bye":   {Hook: "poststop", Managed: true},
	}
	up := []Member{m("proxy", Running), m("web", Running)}
	stopped := []Member{m("proxy", Stopped, whole), m("web", Stopped, whole)}
	cases := map[string]struct {
		event   Event
		facts   Facts
		members []Member
		begun   bool
		want    bool
	}{
		"created: first task":         {event: OnCreated, members: []Member{m("web", Starting)}, want: true},
		"created: declared late":      {event: OnCreated, members: []Member{m("log", Starting), m("web", Running)}, want: true},
		"created: was cut":            {event: OnCreated, begun: true, want: true},
		"created: whole stop":         {event: OnCreated, facts: Facts{Whole: true}},
		"created: another's word":     {event: OnCreated, members: []Member{m("web", Stopping, whole)}},
		"created: cut, but now stops": {event: OnCreated, facts: Facts{Whole: true}, begun: true},
		"created: terminal":           {event: OnCreated, facts: Facts{Terminal: true}},

		"running: all":                 {event: OnRunning, facts: Facts{Plan: plan}, members: up, want: true},
		"running: others known to run": {event: OnRunning, facts: Facts{Plan: plan, Running: map[string]bool{"log": true}}, members: up, want: true},
		"running: others do not":       {event: OnRunning, facts: Facts{Plan: plan, Running: map[string]bool{"log": false}}, members: up},
		"running: short ones do not":   {event: OnRunning, facts: Facts{Plan: plan, Running: map[string]bool{"init": false, "warm": false}}, members: up, want: true},
		"running: one starts":          {event: OnRunning, facts: Facts{Plan: plan}, members: []Member{m("proxy", Running), m("web", Starting)}},
		"running: one has not joined":  {event: OnRunning, facts: Facts{Plan: plan}, members: []Member{m("proxy", Running)}},
		"running: one restarts":        {event: OnRunning, facts: Facts{Plan: plan}, members: []Member{m("proxy", Stopping), m("web", Running)}},
		"running: lost, but runs":      {event: OnRunning, facts: Facts{Plan: plan}, members: []Member{m("proxy", Running, "lost"), m("web", Running)}, want: true},
		"running: without a plan":      {event: OnRunning, members: up},
		"running: without a plan, cut": {event: OnRunning, members: up, begun: true, want: true},
		"running: cut, one has ended":  {event: OnRunning, facts: Facts{Plan: plan}, members: []Member{m("web", Stopped)}, begun: true, want: true},
		"running: whole stop":          {event: OnRunning, facts: Facts{Plan: plan, Whole: true}, members: up},
		"running: terminal":            {event: OnRunning, facts: Facts{Plan: plan, Terminal: true}, members: up, begun: true},
		"running: nothing to run":      {event: OnRunning, facts: Facts{Plan: Plan{"init": {Hook: "prestart"}}}},

		"stopping: asked":             {event: OnStopping, facts: Facts{Whole: true}, members: up, want: true},
		"stopping: another was asked": {event: OnStopping, members: []Member{m("proxy", Running), m("web", Stopping, whole)}, want: true},
		"stopping: restart":           {event: OnStopping, members: []Member{m("proxy", Stopping), m("web", Stopping)}},
		"stopping: late":              {event: OnStopping, facts: Facts{Whole: true}, members: []Member{m("proxy", Running), m("web", Stopped, whole)}, want: true},
		"stopping: too late":          {event: OnStopping, facts: Facts{Whole: true}, members: stopped},
		"stopping: ended by itself":   {event: OnStopping, facts: Facts{Whole: true}, members: []Member{m("proxy", Running), m("web", Stopped)}, want: true},
		"stopping: was cut":           {event: OnStopping, facts: Facts{Whole: true}, members: []Member{m("web", Stopped, whole)}, begun: true, want: true},
		"stopping: terminal":          {event: OnStopping, facts: Facts{Whole: true, Terminal: true}, members: []Member{m("web", Stopped)}},
		"stopping: nothing of a stop": {event: OnStopping, members: up},
		"stopped: all":                {event: OnStopped, members: stopped, want: true},
		"stopped: one runs":           {event: OnStopped, facts: Facts{Whole: true}, members: []Member{m("proxy", Stopping), m("web", Stopped)}},
		"stopped: between restarts":   {event: OnStopped, members: []Member{m("proxy", Stopped), m("web", Stopped)}},
		"stopped: terminal":           {event: OnStopped, facts: Facts{Terminal: true}, members: []Member{m("web", Stopped)}, want: true},
		"stopped: terminal, one runs": {event: OnStopped, facts: Facts{Terminal: true}, members: []Member{m("web", Running)}},
		"stopped: terminal, one lost": {event: OnStopped, facts: Facts{Terminal: true}, members: []Member{m("web", Running, "lost")}, want: true},
		"stopped: whole, one lost":    {event: OnStopped, facts: Facts{Whole: true}, members: []Member{m("web", Running, "lost")}},
		"stopped: poststop to come":   {event: OnStopped, facts: Facts{Plan: plan}, members: stopped},
		"stopped: poststop runs":      {event: OnStopped, facts: Facts{Plan: plan}, members: append([]Member{m("bye", Running)}, stopped...)},
		"stopped: poststop has ended": {event: OnStopped, facts: Facts{Plan: plan}, members: append([]Member{m("bye", Stopped)}, stopped...), want: true},
		"stopped: poststop never ran": {event: OnStopped, facts: Facts{Plan: plan, Terminal: true}, members: stopped, want: true},
		"no such event":               {event: "x", begun: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			must.Eq(t, tc.want, Due(tc.event, tc.facts, tc.members, tc.begun))
		})
	}
}
