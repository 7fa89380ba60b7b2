package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/demo/graceful"
	"github.com/nomad-patterns/nomad-patterns/e2e/load"
)

func TestParse(t *testing.T) {
	cases := map[string]struct {
		args string
		want string // part of the error; empty: none
	}{
		"nothing":    {args: ""},
		"everything": {args: "-driver raw_exec -keep -count 3 -rate 10 -downloads 0.5 -drain-wait 3s"},
		"argument":   {args: "docker", want: `unexpected argument "docker"`},
		"driver":     {args: "-driver exec", want: `"exec" is none of`},
		"count":      {args: "-count 1", want: "not between 2 and 10"},
		"rate":       {args: "-rate -1", want: "not between 0 and 5000"},
		"no number":  {args: "-rate NaN", want: "not between 0 and 5000"},
		"downloads":  {args: "-downloads 0", want: "not between 0 and 50"},
		"drain wait": {args: "-drain-wait 1500ms", want: "whole number of seconds"},
		"unknown":    {args: "-fast", want: "flag provided but not defined"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := parse(strings.Fields(tc.args), io.Discard)
			if tc.want == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, tc.want)
		})
	}
	_, err := parse([]string{"-h"}, io.Discard)
	must.ErrorIs(t, err, flag.ErrHelp)
}

func TestTable(t *testing.T) {
	stats := func(requests, failures int64, reason string) load.Stats {
		s := load.Stats{Requests: requests, Failures: failures, Slowest: 20 * time.Millisecond}
		if failures > 0 {
			s.Reasons = map[string]int64{reason: failures}
		}
		return s
	}
	outcomes := []outcome{{
		variant: graceful.Stock,
		Result: load.Result{
			Stats: stats(1000, 71, load.ReasonRefused),
			Streams: map[string]load.Stats{
				graceful.Pages:     stats(990, 68, load.ReasonRefused),
				graceful.Downloads: stats(10, 3, load.ReasonCut),
			},
			Phases: []load.Phase{
				{Name: phaseUpdate, Stats: stats(500, 41, load.ReasonRefused)},
				{Name: phaseRestart, Stats: stats(500, 30, load.ReasonRefused)},
			},
		},
	}, {
		variant: graceful.Ours,
		Result:  load.Result{Stats: stats(1000, 0, ""), DiscoveryFailures: 2, DiscoveryError: "no answer"},
	}}
	var out bytes.Buffer
	must.NoError(t, table(&out, outcomes))
	var rows [][]string
	for line := range strings.Lines(out.String()) {
		rows = append(rows, strings.Fields(line))
	}
	must.Eq(t, strings.Fields("stock driver 1000 41 30 0 0 71 3 of 10 0s 20ms"), rows[3])
	must.Eq(t, strings.Fields("lifecycle driver 1000 0 0 0 0 0 0 of 0 0s 0s"), rows[4])
	must.StrContains(t, out.String(), "stock driver: 71 connection refused\n")
	must.StrContains(t, out.String(), "lifecycle driver: Consul could not be asked 2 times: no answer\n")
}

func TestStatic(t *testing.T) {
	must.NoError(t, cluster.Require(t.Context(), t.Output(), cluster.Busybox()))
	must.NoError(t, static(cluster.Busybox().Probe))
	must.ErrorContains(t, static("/bin/ls"), "busybox-static")
	text := t.TempDir() + "/text"
	must.NoError(t, os.WriteFile(text, []byte("text"), 0o600))
	must.ErrorContains(t, static(text), "read program")
}
