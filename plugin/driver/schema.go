package driver

import (
	"fmt"
	"maps"

	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-patterns/nomad-patterns/plugin/hook"
)

// blockName is the one key that the decorator adds, both to the plugin's
// configuration and to the task's.
const blockName = "lifecycle"

// taskConfig is the decorator's part of the task's configuration.
type taskConfig struct {
	Lifecycle *taskBlock `codec:"lifecycle"`
}

type taskBlock struct {
	Prestart  []hookBlock `codec:"prestart"`
	Poststart []hookBlock `codec:"poststart"`
	Ready     []hookBlock `codec:"ready"`
	Prestop   []hookBlock `codec:"prestop"`
	Poststop  []hookBlock `codec:"poststop"`

	Checkpoint *checkpointBlock `codec:"checkpoint"`
	Manage     *manageBlock     `codec:"manage"`
	Group      *groupBlock      `codec:"group"`
	StopAfter  []string         `codec:"stop_after"`
}

type checkpointBlock struct {
	Save             *hookBlock `codec:"save"`
	Restore          *hookBlock `codec:"restore"`
	Store            string     `codec:"store"`
	MaxSize          string     `codec:"max_size"`
	Keep             int        `codec:"keep"`
	Interval         string     `codec:"interval"`
	Wait             string     `codec:"wait"`
	OnRestoreFailure string     `codec:"on_restore_failure"`
	Scope            string     `codec:"scope"`
}

type manageBlock struct {
	Health    *offerBlock     `codec:"health"`
	Metrics   *offerBlock     `codec:"metrics"`
	Profile   *offerBlock     `codec:"profile"`
	Config    *offerBlock     `codec:"config"`
	Replicate *replicateBlock `codec:"replicate"`
}

type offerBlock struct {
	Port   string `codec:"port"`
	Socket string `codec:"socket"`
	Path   string `codec:"path"`
}

type replicateBlock struct {
	Min int64 `codec:"min"`
	Max int64 `codec:"max"`
}

type groupBlock struct {
	Created  []hookBlock `codec:"created" json:",omitempty"`
	Running  []hookBlock `codec:"running" json:",omitempty"`
	Stopping []hookBlock `codec:"stopping" json:",omitempty"`
	Stopped  []hookBlock `codec:"stopped" json:",omitempty"`
}

type hookBlock struct {
	HTTP      *httpBlock `codec:"http"`
	Exec      *execBlock `codec:"exec"`
	Sleep     string     `codec:"sleep"`
	Timeout   string     `codec:"timeout"`
	Retries   int        `codec:"retries"`
	Interval  string     `codec:"interval"`
	OnFailure string     `codec:"on_failure"`
}

type httpBlock struct {
	URL     string             `codec:"url"`
	Network string             `codec:"network"`
	Port    string             `codec:"port"`
	Socket  string             `codec:"socket"`
	Path    string             `codec:"path"`
	Method  string             `codec:"method"`
	Headers hclutils.MapStrStr `codec:"headers"`
	Status  []int              `codec:"valid_status_codes"`
}

type execBlock struct {
	Command []string `codec:"command"`
}

var hookSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"http": hclspec.NewBlock("http", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"url":                hclspec.NewAttr("url", "string", false),
		"network":            hclspec.NewAttr("network", "string", false),
		"port":               hclspec.NewAttr("port", "string", false),
		"socket":             hclspec.NewAttr("socket", "string", false),
		"path":               hclspec.NewAttr("path", "string", false),
		"method":             hclspec.NewAttr("method", "string", false),
		"headers":            hclspec.NewAttr("headers", "list(map(string))", false),
		"valid_status_codes": hclspec.NewAttr("valid_status_codes", "list(number)", false),
	})),
	"exec": hclspec.NewBlock("exec", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"command": hclspec.NewAttr("command", "list(string)", true),
	})),
	"sleep":      hclspec.NewAttr("sleep", "string", false),
	"timeout":    hclspec.NewAttr("timeout", "string", false),
	"retries":    hclspec.NewAttr("retries", "number", false),
	"interval":   hclspec.NewAttr("interval", "string", false),
	"on_failure": hclspec.NewAttr("on_failure", "string", false),
})

func taskSpec() *hclspec.Spec {
	attr := func(name, kind string) *hclspec.Spec { return hclspec.NewAttr(name, kind, false) }
	block := func(name string, attrs map[string]*hclspec.Spec) *hclspec.Spec {
		return hclspec.NewBlock(name, false, hclspec.NewObject(attrs))
	}
	offer := func(name string) *hclspec.Spec {
		return block(name, map[string]*hclspec.Spec{
			"port": attr("port", "string"), "socket": attr("socket", "string"), "path": attr("path", "string"),
		})
	}
	lists := func(kinds []hook.Kind) map[string]*hclspec.Spec {
		specs := make(map[string]*hclspec.Spec)
		for _, k := range kinds {
			specs[string(k)] = hclspec.NewBlockList(string(k), hookSpec)
		}
		return specs
	}
	specs := lists(hook.Kinds())
	specs["checkpoint"] = block("checkpoint", map[string]*hclspec.Spec{
		"save":               hclspec.NewBlock("save", false, hookSpec),
		"restore":            hclspec.NewBlock("restore", false, hookSpec),
		"store":              attr("store", "string"),
		"max_size":           attr("max_size", "string"),
		"keep":               attr("keep", "number"),
		"interval":           attr("interval", "string"),
		"wait":               attr("wait", "string"),
		"on_restore_failure": attr("on_restore_failure", "string"),
		"scope":              attr("scope", "string"),
	})
	specs["manage"] = block("manage", map[string]*hclspec.Spec{
		"health": offer("health"), "metrics": offer("metrics"), "profile": offer("profile"), "config": offer("config"),
		"replicate": block("replicate", map[string]*hclspec.Spec{"min": attr("min", "number"), "max": attr("max", "number")}),
	})
	specs["group"] = block("group", lists(hook.GroupKinds()))
	specs["stop_after"] = attr("stop_after", "list(string)")
	return hclspec.NewBlock(blockName, false, hclspec.NewObject(specs))
}

// withBlock returns a copy of the inner driver's schema with the decorator's
// block in it. The inner driver ignores the block when it decodes, so both
// read the same bytes.
func withBlock(inner, block *hclspec.Spec) (*hclspec.Spec, error) {
	attrs := maps.Clone(inner.GetObject().GetAttributes())
	if attrs == nil {
		attrs = make(map[string]*hclspec.Spec)
	}
	if _, taken := attrs[blockName]; taken {
		return nil, fmt.Errorf("inner driver has a %q key of its own", blockName)
	}
	attrs[blockName] = block
	return hclspec.NewObject(attrs), nil
}
