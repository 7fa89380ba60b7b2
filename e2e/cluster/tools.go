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
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Binaries are the programs of a cluster, as paths.
type Binaries struct {
	Nomad  string
	Consul string
}

// tool is a program that is only run, never imported. Its version is pinned by
// the go.mod in e2e/tools/<name>.
type tool struct {
	name   string
	module string   // module whose version counts
	pkg    string   // package to build
	flags  []string // of "go build"
	env    []string // while building
	// oldest is the oldest version on PATH that is taken instead of building.
	// Empty: PATH is not looked at.
	oldest  version
	usually string // how long the build takes, for a person
}

// version is major and minor; the patch level never matters here.
type version [2]int

func (v version) String() string { return fmt.Sprintf("%d.%d", v[0], v[1]) }

// atLeast compares versions.
func (v version) atLeast(o version) bool {
	return v[0] > o[0] || v[0] == o[0] && v[1] >= o[1]
}

func nomadTool() tool {
	return tool{
		name: "nomad", module: "github.com/hashicorp/nomad", pkg: "github.com/hashicorp/nomad",
		// The tag is the one that Nomad's own build uses.
		flags: []string{"-tags", "hashicorpmetrics"}, oldest: version{1, 10}, usually: "about 7 minutes on 2 cores",
	}
}

func consulTool() tool {
	return tool{
		name: "consul", module: "github.com/hashicorp/consul", pkg: "github.com/hashicorp/consul",
		// The checksum database does not know these; go.sum pins them.
		env: []string{"GONOSUMDB=github.com/hashicorp/consul/envoyextensions," +
			"github.com/hashicorp/consul/troubleshoot,github.com/hashicorp/consul/proto-public"},
		oldest: version{1, 18}, usually: "about 7 minutes on 2 cores",
	}
}

func lintTool() tool {
	return tool{
		name: "golangci-lint", module: "github.com/golangci/golangci-lint/v2",
		pkg: "github.com/golangci/golangci-lint/v2/cmd/golangci-lint", usually: "about 4 minutes on 2 cores",
	}
}

// dir is the directory of the tool's go.mod within the checkout.
func (t tool) dir(root string) string {
	name := t.name
	if name == "golangci-lint" {
		name = "lint"
	}
	return filepath.Join(root, "e2e", "tools", name)
}

// Tools finds the agents: those on PATH if their versions are supported
// (Nomad 1.10, Consul 1.18, or newer), else those that this function has built
// from the pinned modules. A build takes minutes and happens once per version;
// progress says what goes on. The working directory must be in the checkout
// if there is something to build.
func Tools(ctx context.Context, progress io.Writer) (Binaries, error) {
	if progress == nil {
		progress = io.Discard
	}
	nomad, err := nomadTool().find(ctx, progress)
	if err != nil {
		return Binaries{}, err
	}
	consul, err := consulTool().find(ctx, progress)
	if err != nil {
		return Binaries{}, err
	}
	return Binaries{Nomad: nomad, Consul: consul}, nil
}

// Linter is the path of golangci-lint in the pinned version, built if needed.
func Linter(ctx context.Context, progress io.Writer) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	return lintTool().find(ctx, progress)
}

// find returns the path of the tool: from PATH, from the cache, or built now.
func (t tool) find(ctx context.Context, progress io.Writer) (string, error) {
	if t.oldest != (version{}) {
		if path, err := exec.LookPath(t.name); err == nil {
			v, err := askVersion(ctx, path)
			switch {
			case err != nil:
				say(progress, "%s on PATH (%s) is not used: %v", t.name, path, err)
			case !v.atLeast(t.oldest):
				say(progress, "%s on PATH (%s) is not used: version %s is older than %s", t.name, path, v, t.oldest)
			default:
				say(progress, "using %s %s from PATH: %s", t.name, v, path)
				return path, nil
			}
		}
	}
	root, err := Checkout()
	if err != nil {
		return "", fmt.Errorf("find %s: %w", t.name, err)
	}
	pinned, err := t.pinned(root)
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "bin", t.name+"-"+pinned)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("find %s: %w", t.name, err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	// Somebody else may be building it: then wait and take theirs.
	unlock, err := lockFile(path + ".lock")
	if err != nil {
		return "", fmt.Errorf("build %s: %w", t.name, err)
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("find %s: %w", t.name, err)
	}
	if err := t.build(ctx, root, path, pinned, progress); err != nil {
		return "", fmt.Errorf("build %s %s: %w", t.name, pinned, err)
	}
	return path, nil
}

// versionNumber finds the version in what "nomad version" and "consul version"
// print first.
var versionNumber = regexp.MustCompile(`v?(\d+)\.(\d+)\.\d+`)

// askVersion runs the program to learn its version.
func askVersion(ctx context.Context, path string) (version, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return version{}, fmt.Errorf("ask for its version: %w", err)
	}
	return parseVersion(string(out))
}

// parseVersion takes the first version number out of a text.
func parseVersion(text string) (version, error) {
	m := versionNumber.FindStringSubmatch(text)
	if m == nil {
		return version{}, fmt.Errorf("no version in %.60q", text)
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return version{}, fmt.Errorf("version %q: %w", m[0], err)
	}
	minor, err := strconv.Atoi(m[2])
	if err != nil {
		return version{}, fmt.Errorf("version %q: %w", m[0], err)
	}
	return version{major, minor}, nil
}

// pinned is the version of the tool's module in its go.mod, without the v.
func (t tool) pinned(root string) (string, error) {
	file := filepath.Join(t.dir(root), "go.mod")
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("find the pinned version of %s: %w", t.name, err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) >= 2 && f[0] == t.module && strings.HasPrefix(f[1], "v") {
			return f[1][1:], nil
		}
	}
	return "", fmt.Errorf("find the pinned version of %s: no line for %s in %s", t.name, t.module, file)
}

// build compiles the tool under a temporary name and renames it. It shows how
// far it is every few seconds.
func (t tool) build(ctx context.Context, root, path, pinned string, progress io.Writer) (err error) {
	start := time.Now()
	say(progress, "building %s %s once, %s; it is kept as %s", t.name, pinned, t.usually, path)
	tmp := path + ".new"
	args := append([]string{"build", "-v", "-mod=readonly", "-o", tmp}, t.flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, t.pkg)...)
	cmd.Dir = t.dir(root)
	cmd.Env = append(append(os.Environ(), "GOWORK=off", "GOFLAGS="), t.env...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var compiled atomic.Int64
	done := make(chan struct{})
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				say(progress, "  %s: %s, %d packages compiled", t.name, time.Since(start).Round(time.Second), compiled.Load())
			}
		}
	}()
	// With -v each compiled package is a line. What is not a package is kept
	// for the error.
	var complaints []string
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := lines.Text()
		if strings.ContainsAny(line, " \t") || strings.HasPrefix(line, "#") {
			if !strings.HasPrefix(line, "go: downloading ") {
				complaints = append(complaints, line)
			}
			continue
		}
		compiled.Add(1)
	}
	err = errors.Join(lines.Err(), cmd.Wait())
	close(done)
	<-shown
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %s", err, strings.Join(complaints, "\n")), os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	say(progress, "built %s %s in %s", t.name, pinned, time.Since(start).Round(time.Second))
	return nil
}
