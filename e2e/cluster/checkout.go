package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// modulePath is how the checkout is recognised.
const modulePath = "github.com/nomad-patterns/nomad-patterns"

// Checkout finds the root of this project's checkout: the directory at or
// above the working directory whose go.mod is of this module.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		path, err := moduleOf(filepath.Join(dir, "go.mod"))
		switch {
		case err == nil && path == modulePath:
			return dir, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("find the checkout: %w", err)
		case dir == filepath.Dir(dir):
			return "", fmt.Errorf("%s is not inside a checkout of %s", start, modulePath)
		}
	}
}

// moduleOf is the module path of a go.mod file.
func moduleOf(file string) (path string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "module "); ok {
			return strings.Trim(strings.TrimSpace(rest), `"`), nil
		}
	}
	return "", lines.Err()
}

// BuildPlugin builds the lifecycle plugin of this checkout and returns the
// path of the program, bin/nomad-driver-lifecycle.
func BuildPlugin(ctx context.Context, progress io.Writer) (string, error) {
	return buildProgram(ctx, progress, "nomad-driver-lifecycle", "./plugin")
}

// BuildAgent builds an agent of this checkout, for example "elector", and returns
// the path of the program, bin/elector. It is static, so that it runs in any image.
func BuildAgent(ctx context.Context, progress io.Writer, name string) (string, error) {
	return buildProgram(ctx, progress, name, "./agents/"+name, "CGO_ENABLED=0")
}

// buildProgram builds a package into bin.
func buildProgram(ctx context.Context, progress io.Writer, name, pkg string, env ...string) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("build %s: %w", name, err) }
	root, err := Checkout()
	if err != nil {
		return fail(err)
	}
	path := filepath.Join(root, "bin", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fail(err)
	}
	unlock, err := lockFile(filepath.Join(root, "bin", ".lock"))
	if err != nil {
		return fail(err)
	}
	defer unlock()
	// A running program keeps its file open: the new one gets a new one.
	tmp := path + ".new"
	say(progress, "building %s", name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", tmp, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fail(fmt.Errorf("%w: %s", err, out))
	}
	if err := os.Rename(tmp, path); err != nil {
		return fail(err)
	}
	return path, nil
}
