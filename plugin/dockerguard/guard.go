package dockerguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

// Policy is what the operator allows, as far as the guard has to know it. The
// zero value allows nothing.
type Policy struct {
	privileged bool
	volumes    bool
	namespaces []string
}

// namespace is one that a container may share, and the field of a task's
// configuration that asks for it.
type namespace struct {
	name, field string
	mode        func(*taskConfig) string
	harmless    []string // modes besides "", which is the engine's default
}

func namespaces() []namespace {
	return []namespace{
		{"pid", "pid_mode", func(c *taskConfig) string { return c.PidMode }, []string{"private"}},
		{"ipc", "ipc_mode", func(c *taskConfig) string { return c.IPCMode }, []string{"private", "none", "shareable"}},
		{"uts", "uts_mode", func(c *taskConfig) string { return c.UTSMode }, []string{"private"}},
		{"userns", "userns_mode", func(c *taskConfig) string { return c.UsernsMode }, []string{"private"}},
		{"cgroupns", "cgroupns", func(c *taskConfig) string { return c.Cgroupns }, []string{"private"}},
	}
}

// pluginConfig is what is read of the docker driver's plugin configuration.
type pluginConfig struct {
	AllowPrivileged bool `codec:"allow_privileged"`
	Volumes         struct {
		Enabled bool `codec:"enabled"`
	} `codec:"volumes"`
}

// taskConfig is what is read of the docker driver's task configuration.
type taskConfig struct {
	PidMode    string   `codec:"pid_mode"`
	IPCMode    string   `codec:"ipc_mode"`
	UTSMode    string   `codec:"uts_mode"`
	UsernsMode string   `codec:"userns_mode"`
	Cgroupns   string   `codec:"cgroupns"`
	Volumes    []string `codec:"volumes"`
	// VolumeDriver makes names of volumes of what is in Volumes otherwise. The
	// driver refuses it if volumes are not enabled.
	VolumeDriver string  `codec:"volume_driver"`
	Mount        []mount `codec:"mount"`
	Mounts       []mount `codec:"mounts"`
}

type mount struct {
	Type   string `codec:"type"`
	Source string `codec:"source"`
}

// Parse reads the operator's configuration: the docker driver's own, encoded as
// it is in base.Config.PluginConfig, and the names of the namespaces that tasks
// may share with the host or other containers: pid, ipc, uts, userns, cgroupns.
func Parse(config []byte, allowHostNamespaces []string) (Policy, error) {
	var c pluginConfig
	if len(config) != 0 {
		if err := base.MsgPackDecode(config, &c); err != nil {
			return Policy{}, fmt.Errorf("decode the docker driver's plugin config: %w", err)
		}
	}
	for i, name := range allowHostNamespaces {
		if !slices.ContainsFunc(namespaces(), func(ns namespace) bool { return ns.name == name }) {
			return Policy{}, fmt.Errorf("allow_host_namespaces[%d]: %q is not one of pid, ipc, uts, userns, cgroupns", i, name)
		}
	}
	return Policy{privileged: c.AllowPrivileged, volumes: c.Volumes.Enabled, namespaces: slices.Clone(allowHostNamespaces)}, nil
}

// Needed reports whether a docker driver with the given schema of its plugin
// configuration needs the guard. Those that came with the fixes have an option
// for the modes that they allow.
func Needed(configSchema *hclspec.Spec) bool {
	_, fixed := configSchema.GetObject().GetAttributes()["allowed_modes"]
	return !fixed
}

// Check returns an error if the docker driver must not see the task. The
// directories of the allocation have to exist.
func (p Policy) Check(task *drivers.TaskConfig) error {
	var c taskConfig
	if err := task.DecodeDriverConfig(&c); err != nil {
		return fmt.Errorf("decode the docker driver's task config: %w", err)
	}
	if err := p.checkNamespaces(&c); err != nil {
		return err
	}
	if p.volumes {
		return nil
	}
	return checkPaths(task, &c)
}

func (p Policy) checkNamespaces(c *taskConfig) error {
	if p.privileged {
		return nil
	}
	for _, ns := range namespaces() {
		mode := ns.mode(c)
		if mode == "" || slices.Contains(ns.harmless, mode) || slices.Contains(p.namespaces, ns.name) {
			continue
		}
		return fmt.Errorf("%s: %q is not allowed on this client; its operator may add %q to allow_host_namespaces in the plugin's lifecycle block, or set allow_privileged",
			ns.field, mode, ns.name)
	}
	return nil
}

// checkPaths looks up all that the driver will mount.
func checkPaths(task *drivers.TaskConfig, c *taskConfig) error {
	if !filepath.IsAbs(task.AllocDir) {
		return fmt.Errorf("allocation directory %q is not absolute", task.AllocDir)
	}
	dir := task.TaskDir()
	root, err := os.OpenRoot(task.AllocDir)
	if err != nil {
		return fmt.Errorf("open allocation directory: %w", err)
	}
	defer func() { _ = root.Close() }() // only a directory handle

	for what, path := range map[string]string{
		"the shared alloc directory": dir.SharedAllocDir, "the task's local directory": dir.LocalDir,
		"the task's secrets directory": dir.SecretsDir, "the allocation's hosts file": filepath.Join(task.AllocDir, "hosts"),
		"the task's resolv.conf": filepath.Join(dir.Dir, "resolv.conf"),
	} {
		if err := checkPath(root, task.AllocDir, path); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if c.VolumeDriver == "" {
		for i, v := range c.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if err := checkPath(root, task.AllocDir, expand(dir.Dir, source)); err != nil {
				return fmt.Errorf("volumes[%d]: %q: %w", i, source, err)
			}
		}
	}
	for _, list := range []struct {
		field  string
		mounts []mount
	}{{"mount", c.Mount}, {"mounts", c.Mounts}} {
		for i, m := range list.mounts {
			if m.Type != "bind" {
				continue // the driver allows only tmpfs besides, which has no source
			}
			if err := checkPath(root, task.AllocDir, expand(dir.Dir, m.Source)); err != nil {
				return fmt.Errorf("%s[%d].source: %q: %w", list.field, i, m.Source, err)
			}
		}
	}
	return nil
}

// expand makes a path of a job's source as the driver does.
func expand(base, source string) string {
	if filepath.IsAbs(source) {
		return filepath.Clean(source)
	}
	return filepath.Join(base, source)
}

var errOutside = errors.New("leads out of the allocation's directory, and volumes are not enabled on this client; mount something inside without symbolic links that point out of it, or have the operator set volumes { enabled = true }")

// checkPath finds out whether path, below allocDir by its name, is also below it
// by its links. root is allocDir. What does not exist is fine: the engine makes
// it, or refuses it.
func checkPath(root *os.Root, allocDir, path string) error {
	rel, err := filepath.Rel(allocDir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return errOutside
	}
	// A root follows links as long as they stay inside, and cannot be raced
	// while it does. That a path leads out is its own finding; all else is the
	// kernel's.
	_, err = root.Stat(rel)
	var kernel syscall.Errno
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.As(err, &kernel):
		return fmt.Errorf("look it up: %w", kernel)
	}
	return errOutside
}
