package cluster

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

func TestParseVersion(t *testing.T) {
	cases := map[string]struct {
		text string
		want version
		err  bool
	}{
		"nomad":      {text: "Nomad v1.11.3\nBuildDate 2026\nRevision 1", want: version{1, 11}},
		"enterprise": {text: "Nomad v1.10.0+ent", want: version{1, 10}},
		"consul":     {text: "Consul v1.22.0\nBuild Date 1970", want: version{1, 22}},
		"next major": {text: "Nomad v2.0.5", want: version{2, 0}},
		"none":       {text: "hello", err: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := parseVersion(tc.text)
			must.Eq(t, tc.err, err != nil)
			must.Eq(t, tc.want, got)
		})
	}
	must.True(t, version{2, 0}.atLeast(version{1, 10}))
	must.True(t, version{1, 10}.atLeast(version{1, 10}))
	must.False(t, version{1, 9}.atLeast(version{1, 10}))
}

func TestPinned(t *testing.T) {
	root, err := Checkout()
	must.NoError(t, err)
	for _, tl := range []tool{nomadTool(), consulTool(), lintTool()} {
		v, err := tl.pinned(root)
		must.NoError(t, err)
		_, err = parseVersion(v)
		must.NoError(t, err)
	}
	_, err = tool{name: "other", module: "m"}.pinned(root)
	must.Error(t, err)
}

// A program on PATH that is too old, or no such program at all, is not used,
// and the reason is told; a newer one is used and nothing is built.
func TestFind_Path(t *testing.T) {
	cases := map[string]struct {
		script string
		used   bool
		said   string
	}{
		"new enough": {script: "echo Nomad v1.10.2", used: true, said: "using nomad 1.10"},
		"too old":    {script: "echo Nomad v1.9.7", said: "older than 1.10"},
		"broken":     {script: "exit 1", said: "exit status 1"},
		"silent":     {script: "true", said: "no version"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			bin, cache := t.TempDir(), t.TempDir()
			path := filepath.Join(bin, "nomad")
			must.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+tc.script+"\n"), 0o755))
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			t.Setenv("XDG_CACHE_HOME", cache)

			root, err := Checkout()
			must.NoError(t, err)
			pinned, err := nomadTool().pinned(root)
			must.NoError(t, err)
			cached := filepath.Join(cache, "nomad-patterns", "bin", "nomad-"+pinned)
			must.NoError(t, os.MkdirAll(filepath.Dir(cached), 0o755))
			must.NoError(t, os.WriteFile(cached, nil, 0o755))

			var progress bytes.Buffer
			got, err := nomadTool().find(t.Context(), &progress)
			must.NoError(t, err)
			want := cached
			if tc.used {
				want = path
			}
			must.Eq(t, want, got)
			must.StrContains(t, progress.String(), tc.said)
		})
	}
}

func TestRequire(t *testing.T) {
	here := filepath.Join(t.TempDir(), "here")
	must.NoError(t, os.WriteFile(here, nil, 0o600))
	must.NoError(t, Require(t.Context(), nil, Package{Name: "present", Probe: here}))

	// Without apt-get the error names the package and the command.
	t.Setenv("PATH", t.TempDir())
	err := Require(t.Context(), nil, Package{Name: "present", Probe: here}, Package{Name: "absent", Probe: here + "-not"})
	must.ErrorContains(t, err, "apt-get install --no-install-recommends absent")
}
