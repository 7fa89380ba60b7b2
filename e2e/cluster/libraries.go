package cluster

import (
	"context"
	"debug/elf"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// CurlImage is an image with busybox as /bin/sh, and curl.
const CurlImage = "nomad-patterns/curl:1"

// BuildCurlImage makes CurlImage of the programs of this machine.
func BuildCurlImage(ctx context.Context) error {
	files, err := WithLibraries(ctx, Curl().Probe)
	if err != nil {
		return err
	}
	files["/bin/sh"], files["/bin/busybox"] = Busybox().Probe, Busybox().Probe
	return BuildImage(ctx, CurlImage, files, ImageOptions{})
}

// lddTimeout bounds the look for a program's libraries.
const lddTimeout = 10 * time.Second

// WithLibraries returns a program of this machine and the shared libraries that it needs,
// as BuildImage takes them: each at its own path. A static program needs none.
func WithLibraries(ctx context.Context, program string) (map[string]string, error) {
	files := map[string]string{program: program}
	f, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", program, err)
	}
	needed, err := f.ImportedLibraries()
	_ = f.Close() // it was only read
	if err != nil || len(needed) == 0 {
		return files, err
	}
	ctx, cancel := context.WithTimeout(ctx, lddTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: ldd: %w", program, err)
	}
	libraries, err := parseLdd(string(out))
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", program, err)
	}
	maps.Copy(files, libraries)
	return files, nil
}

// parseLdd reads "name => /path (0x…)" and, of the loader, "/path (0x…)". The kernel's own
// has no path.
func parseLdd(out string) (map[string]string, error) {
	files := make(map[string]string)
	for line := range strings.Lines(out) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " (0x")
		_, path, found := strings.Cut(line, " => ")
		if !found {
			path = line
		}
		switch {
		case path == "not found":
			return nil, fmt.Errorf("%s", line)
		case filepath.IsAbs(path):
			files[filepath.Clean(path)] = path
		}
	}
	return files, nil
}
