package group

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

var rewrite = flag.Bool("rewrite", false, "write the golden traces anew")

// TestScenarios plays each testdata/*.txt: what stands above the line "---" is
// done, what stands below is what comes of it. Each line above is one of
//
//	task NAME [KEY=VALUE|FLAG]...   hook, after, group, boot, takes, kill, delay, late; sidecar, leader, stock
//	offline                         Nomad's API does not answer
//	check                           the plan
//	start                           all tasks
//	wait DURATION
//	restart [TASK]...               at once
//	stop REASON                     the whole allocation
//
// and waits for its end unless it ends with "&".
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	must.NoError(t, err)
	must.Positive(t, len(files))
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			golden, err := os.ReadFile(file)
			must.NoError(t, err)
			script, _, _ := strings.Cut(string(golden), "---\n")
			var got string
			synctest.Test(t, func(t *testing.T) { got = script + "---\n" + play(t, script) })
			if *rewrite {
				must.NoError(t, os.WriteFile(file, []byte(got), 0o644))
				return
			}
			must.Eq(t, string(golden), got)
		})
	}
}

func play(t *testing.T, script string) string {
	n := newNomad(t)
	for line := range strings.Lines(script) {
		line, _, _ = strings.Cut(strings.TrimSuffix(line, "\n"), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		do := command(t, n, words)
		if words[len(words)-1] == "&" {
			n.wg.Go(do)
		} else {
			do()
		}
	}
	n.settle()
	return n.text()
}

func command(t *testing.T, n *nomad, words []string) func() {
	args := words[1:]
	if len(args) > 0 && args[len(args)-1] == "&" {
		args = args[:len(args)-1]
	}
	switch words[0] {
	case "task":
		return func() { n.add(parseTask(t, args)) }
	case "offline":
		return func() { n.offline = true }
	case "check":
		return func() {
			if err := n.plan().Validate(); err != nil {
				for line := range strings.Lines(err.Error()) {
					n.note("the plan is refused: %s", strings.TrimSpace(line))
				}
			}
		}
	case "start":
		return n.start
	case "wait":
		return func() { time.Sleep(parseDuration(t, args[0])) }
	case "restart":
		return func() { n.restart(args...) }
	case "stop":
		return func() { n.stop(args[0]) }
	}
	t.Fatalf("no such command: %s", words[0])
	return nil
}

func parseTask(t *testing.T, words []string) *task {
	tk := &task{
		name: words[0], boot: 230 * time.Millisecond, takes: 1030 * time.Millisecond, kill: 10 * time.Second,
		PlanTask: PlanTask{Driver: "lifecycle-docker", Managed: true},
	}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "hook":
			tk.Hook = value
		case "sidecar":
			tk.Sidecar = true
		case "leader":
			tk.Leader = true
		case "stock":
			tk.Managed, tk.Driver = false, "docker"
		case "after":
			tk.StopAfter = strings.Split(value, ",")
		case "group":
			var events []Event
			for name := range strings.SplitSeq(value, ",") {
				events = append(events, Event(name))
			}
			tk.Hooks = hooks(events...)
		case "boot":
			tk.boot = parseDuration(t, value)
		case "takes":
			tk.takes = parseDuration(t, value)
		case "kill":
			tk.kill = parseDuration(t, value)
		case "delay":
			tk.delay = parseDuration(t, value)
		case "late":
			tk.late = parseDuration(t, value)
		default:
			t.Fatalf("no such word: %s", w)
		}
	}
	return tk
}

func parseDuration(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	must.NoError(t, err)
	return d
}
