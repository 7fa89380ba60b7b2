package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// contentLabel holds a hash of all that went into an image.
const contentLabel = "nomad-patterns.content"

// ImageOptions say how a container of an image starts.
type ImageOptions struct {
	Entrypoint []string
	Cmd        []string
	Env        []string // KEY=value
}

// BuildImage makes a Docker image of host files alone, as FROM scratch would:
// no registry is asked. The keys of files are absolute paths in the image, the
// values are paths of regular files on this machine (symlinks are followed,
// modes are kept, the owner is root). If an image of this tag and the same
// content exists already, nothing is done.
//
// Nomad pulls images whose tag is "latest": give another one, like ":1".
func BuildImage(ctx context.Context, tag string, files map[string]string, opts ImageOptions) error {
	e, err := dialEngine(ctx)
	if err != nil {
		return fmt.Errorf("build image %s: %w", tag, err)
	}
	defer e.close()
	if err := e.buildImage(ctx, tag, files, opts); err != nil {
		return fmt.Errorf("build image %s: %w", tag, err)
	}
	return nil
}

// buildImage is BuildImage on a known engine.
func (e *engine) buildImage(ctx context.Context, tag string, files map[string]string, opts ImageOptions) error {
	archive, err := packFiles(files)
	if err != nil {
		return err
	}
	changes, err := opts.changes()
	if err != nil {
		return err
	}
	sum := sha256.New()
	sum.Write(archive)
	sum.Write([]byte(strings.Join(changes, "\n")))
	hash := hex.EncodeToString(sum.Sum(nil))

	labels, err := e.imageLabels(ctx, tag)
	if err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	if labels[contentLabel] == hash {
		return nil
	}
	return e.importImage(ctx, tag, append(changes, "LABEL "+contentLabel+"="+hash), bytes.NewReader(archive))
}

// changes writes the options as lines of a Dockerfile.
func (o ImageOptions) changes() ([]string, error) {
	var lines []string
	for _, list := range []struct {
		word string
		args []string
	}{{"ENTRYPOINT", o.Entrypoint}, {"CMD", o.Cmd}} {
		if list.args == nil {
			continue
		}
		b, err := json.Marshal(list.args)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", list.word, err)
		}
		lines = append(lines, list.word+" "+string(b))
	}
	for _, kv := range o.Env {
		key, value, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("environment %q is not KEY=value", key)
		}
		lines = append(lines, fmt.Sprintf("ENV %s=%q", key, value))
	}
	return lines, nil
}

// packFiles makes a tar archive of the files and of the directories above them.
// The same files give the same bytes.
func packFiles(files map[string]string) ([]byte, error) {
	dirs := map[string]bool{"tmp": true}
	var names []string
	for name := range files {
		if !path.IsAbs(name) || path.Clean(name) != name || name == "/" {
			return nil, fmt.Errorf("image path %q is not a clean absolute path of a file", name)
		}
		names = append(names, name)
		for d := path.Dir(name); d != "/"; d = path.Dir(d) {
			dirs[strings.TrimPrefix(d, "/")] = true
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, d := range sortedKeys(dirs) {
		mode := int64(0o755)
		if d == "tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: mode}); err != nil {
			return nil, fmt.Errorf("pack directory %q: %w", d, err)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		if err := packFile(w, name, files[name]); err != nil {
			return nil, fmt.Errorf("pack %q: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack files: %w", err)
	}
	return out.Bytes(), nil
}

// packFile adds one file.
func packFile(w *tar.Writer, name, source string) (err error) {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", source)
	}
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(name, "/"),
		Size: info.Size(), Mode: int64(info.Mode().Perm()),
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// pauseSource waits until it is told to end, and waits for the children that
// it inherits as the first process of its namespace.
const pauseSource = `package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	child := make(chan os.Signal, 1)
	signal.Notify(child, syscall.SIGCHLD)
	for {
		select {
		case <-end:
			return
		case <-child:
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}
`

// buildPause builds the infra image, if it does not exist. The program is
// compiled once and kept in the cache.
func buildPause(ctx context.Context, e *engine) error {
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(pauseSource))
	dir := filepath.Join(cache, "bin")
	binary := filepath.Join(dir, "pause-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(binary); errors.Is(err, fs.ErrNotExist) {
		if err := compilePause(ctx, dir, binary); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("pause program: %w", err)
	}
	return e.buildImage(ctx, infraImage, map[string]string{"/pause": binary}, ImageOptions{Entrypoint: []string{"/pause"}})
}

// compilePause compiles the program into a temporary directory and renames it,
// so that a half-written one is never used.
func compilePause(ctx context.Context, dir, binary string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("pause program: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, ".pause-")
	if err != nil {
		return fmt.Errorf("pause program: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := os.WriteFile(filepath.Join(tmp, "main.go"), []byte(pauseSource), 0o644); err != nil {
		return fmt.Errorf("pause program: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", "pause", "main.go")
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GO111MODULE=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile pause program: %w: %s", err, out)
	}
	if err := os.Rename(filepath.Join(tmp, "pause"), binary); err != nil {
		return fmt.Errorf("pause program: %w", err)
	}
	return nil
}

// sortedKeys lists the keys of a set in order.
func sortedKeys(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// sortedCopy is the list in order.
func sortedCopy(list []string) []string {
	out := append([]string{}, list...)
	sort.Strings(out)
	return out
}
