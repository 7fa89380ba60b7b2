package cli

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestInstall(t *testing.T) {
	want, err := os.ReadFile("/proc/self/exe")
	must.NoError(t, err)
	for name, c := range map[string]struct {
		to   string // below the directory
		was  string // what is there
		path string
	}{
		"new directories": {to: "bin/worker", path: "bin/worker"},
		"a directory":     {to: ".", path: "worker"},
		"replaced":        {to: "there", was: "old", path: "there"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if c.was != "" {
				must.NoError(t, os.WriteFile(filepath.Join(dir, c.to), []byte(c.was), 0o600))
			}
			must.Eq(t, 0, Main([]string{"install", filepath.Join(dir, c.to)}, io.Discard, io.Discard))
			path := filepath.Join(dir, c.path)
			got, err := os.ReadFile(path)
			must.NoError(t, err)
			must.True(t, string(want) == string(got))
			info, err := os.Stat(path)
			must.NoError(t, err)
			must.Eq(t, fs.FileMode(0o755), info.Mode().Perm())
			entries, err := os.ReadDir(filepath.Dir(path))
			must.NoError(t, err)
			must.Len(t, 1, entries) // nothing half done is left
		})
	}
}

func TestInstallFails(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, c := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no path":          {nil, 1, "give a path"},
		"two paths":        {[]string{"a", "b"}, 1, "give a path"},
		"below a file":     {[]string{filepath.Join(file, "worker")}, 2, "not a directory"},
		"no write allowed": {[]string{"/proc/worker"}, 2, "install:"},
	} {
		t.Run(name, func(t *testing.T) {
			var text strings.Builder
			must.Eq(t, c.code, Main(append([]string{"install"}, c.args...), io.Discard, &text))
			must.StrContains(t, text.String(), c.text)
		})
	}
}
