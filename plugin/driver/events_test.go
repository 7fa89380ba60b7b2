package driver

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// collect subscribes to the driver's events. The function that it returns gives
// all that have come since, those of the driver itself up to the moment of the
// call included.
func collect(t *testing.T, s *setup) func() []*drivers.TaskEvent {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := s.d.TaskEvents(ctx)
	must.NoError(t, err)
	var mu sync.Mutex
	var got []*drivers.TaskEvent
	last := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev := range ch {
			if ev.Message == "last" {
				select {
				case last <- struct{}{}:
				case <-ctx.Done():
				}
				continue
			}
			mu.Lock()
			got = append(got, ev)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() []*drivers.TaskEvent {
		// Events are delivered in order, so one more shows that the others
		// have come.
		s.d.emit(s.cfg, nil, "last")
		receive(t, last)
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(got)
	}
}

// states are the states and hooks that events are about, in their order.
func states(events []*drivers.TaskEvent) []string {
	all := []string{}
	for _, ev := range events {
		all = append(all, ev.Annotations["state"]+ev.Annotations["hook"])
	}
	return all
}

// messages are the texts of events.
func messages(events []*drivers.TaskEvent) []string {
	all := []string{}
	for _, ev := range events {
		all = append(all, ev.Message)
	}
	return all
}

// Nomad keeps ten events of a task: there is one for each of three states, which
// tells what hooks came before it, and one for what comes after the last.
func TestEvents_Few(t *testing.T) {
	ignore := "on_failure = \"ignore\""
	s := newSetup(t, block(
		httpHook("prestart", "a", ""), httpHook("poststart", "b", ""), httpHook("poststart", "fail", ignore),
		httpHook("ready", "c", ""), httpHook("prestop", "d", ""), "prestop {\n sleep = \"10ms\"\n}\n", httpHook("poststop", "fail", ""),
	))
	events := collect(t, s)
	s.start(t)
	result := s.waitTask(t)
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
	wait(t, result)

	type line struct {
		hook, state, begin string
		contains           []string
	}
	want := []line{
		{"", "running", "running (created ", []string{
			"ms, starting ", "prestart hooks succeeded in ", ": http 200; ",
			"poststart hooks failed, going on in ", ": http 200; lifecycle.poststart[1].http after 1 try: POST ", "ready hooks succeeded in ",
		}},
		{"", "stopping", "stopping: unknown (running ", []string{"s)"}},
		{"", "stopped", "stopped (stopping and ending ", []string{"ms)", "prestop hooks succeeded in ", ": http 200; sleep 10ms"}},
		{"poststop", "", "poststop hooks failed, going on in ", []string{"lifecycle.poststop[0].http after 1 try: POST "}},
	}
	got := events()
	must.Len(t, len(want), got)
	for i, ev := range got {
		must.StrHasPrefix(t, want[i].begin, ev.Message)
		for _, text := range want[i].contains {
			must.StrContains(t, ev.Message, text)
		}
		must.Eq(t, want[i].hook, ev.Annotations["hook"])
		must.Eq(t, want[i].state, ev.Annotations["state"])
		if want[i].hook != "" {
			_, err := time.ParseDuration(ev.Annotations["duration"])
			must.NoError(t, err)
		}
		must.Eq(t, s.cfg.ID, ev.TaskID)
		must.Eq(t, s.cfg.Name, ev.TaskName)
		must.Eq(t, s.cfg.AllocID, ev.AllocID)
		must.False(t, ev.Timestamp.IsZero())
		must.StrNotContains(t, ev.Message, "\n")
	}
}

// What cut a prestop hook is in its event.
func TestEvents_KillTimeout(t *testing.T) {
	s := newSetup(t, block(httpHook("prestop", "hang", "timeout = \"1h\""), httpHook("prestop", "after", "")))
	events := collect(t, s)
	s.start(t)
	result := s.waitTask(t)
	must.NoError(t, s.h.StopTask(s.cfg.ID, 200*time.Millisecond, ""))
	wait(t, result)
	got := only(t, events(), "stopped")
	must.StrContains(t, got.Message, "lifecycle.prestop[0].http after 1 try: cut by the task's kill_timeout of 200ms")
	must.StrContains(t, got.Message, "lifecycle.prestop[1].http after 1 try: cut by the task's kill_timeout of 200ms")
	must.Eq(t, 0, s.count("hook /after"))
}

// only returns the one event that is about a state or hook.
func only(t *testing.T, events []*drivers.TaskEvent, what string) *drivers.TaskEvent {
	t.Helper()
	var found []*drivers.TaskEvent
	for i, s := range states(events) {
		if s == what {
			found = append(found, events[i])
		}
	}
	must.Len(t, 1, found, must.Sprint(messages(events)))
	return found[0]
}

// A hook that fails the start makes no event of its own: Nomad makes one of the
// error. That a process which has run is ended is told.
func TestEvents_OfAFailedStart(t *testing.T) {
	s := newSetup(t, block(httpHook("poststart", "fail", "")))
	events := collect(t, s)
	_, _, err := s.h.StartTask(s.cfg)
	must.Error(t, err)
	must.Eq(t, []string{"stopping", "stopped"}, states(events()))
	must.StrHasPrefix(t, "stopping: failed (the start has failed) (created ", events()[0].Message)

	s = newSetup(t, block(httpHook("prestart", "fail", "")))
	events = collect(t, s)
	_, _, err = s.h.StartTask(s.cfg)
	must.Error(t, err)
	must.SliceEmpty(t, events())
}

func TestEvents_Secrets(t *testing.T) {
	s := newSetup(t, "")
	s.configure(t, block("prestop {\n http {\n url = \""+strings.Replace(s.url, "http://", "http://u:s3cret@", 1)+"/fail?token=s3cret\"\n}\n}\n"))
	events := collect(t, s)
	s.start(t)
	result := s.waitTask(t)
	must.NoError(t, s.h.StopTask(s.cfg.ID, time.Minute, ""))
	wait(t, result)
	must.StrContains(t, only(t, events(), "stopped").Message, "status 500")
	for _, text := range messages(events()) {
		must.StrNotContains(t, text, "s3cret")
	}
}

// The inner driver's events come along, over gRPC; a nil one, which would end
// Nomad's stream, does not.
func TestEvents_InnerOnesAreMerged(t *testing.T) {
	s := newSetup(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch, err := s.h.TaskEvents(ctx)
	must.NoError(t, err)
	for _, ev := range []*drivers.TaskEvent{
		nil, {TaskID: "t1", Message: "Downloading image", Timestamp: time.Now()},
	} {
		select {
		case s.events <- ev:
		case <-time.After(patience):
			t.Fatal("nobody takes the inner driver's event")
		}
	}
	must.Eq(t, "Downloading image", receive(t, ch).Message)
	s.d.emit(s.cfg, map[string]string{"hook": "ready"}, "own")
	own := receive(t, ch)
	must.Eq(t, "own", own.Message)
	must.Eq(t, map[string]string{"hook": "ready"}, own.Annotations)

	// An inner driver that closes its channel does not silence us.
	close(s.events)
	s.d.emit(s.cfg, nil, "still here")
	must.Eq(t, "still here", receive(t, ch).Message)
}

func TestEvents_EndWithTheCaller(t *testing.T) {
	s := newSetup(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := s.d.TaskEvents(ctx)
	must.NoError(t, err)
	cancel()
	_, more := <-ch
	must.False(t, more)
}
