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

// agentConfig is the decorator's part of the plugin's configuration. Unknown
// keys are the inner driver's.
type agentConfig struct {
	Lifecycle *agentBlock `codec:"lifecycle"`
}

type agentBlock struct {
	// AllowURLs, if not empty, are the only URL prefixes that url hooks may use.
	AllowURLs []string `codec:"allow_urls"`
}

var agentSpec = hclspec.NewBlock(blockName, false, hclspec.NewObject(map[string]*hclspec.Spec{
	"allow_urls": hclspec.NewAttr("allow_urls", "list(string)", false),
}))

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
	kinds := make(map[string]*hclspec.Spec)
	for _, k := range hook.Kinds() {
		kinds[string(k)] = hclspec.NewBlockList(string(k), hookSpec)
	}
	return hclspec.NewBlock(blockName, false, hclspec.NewObject(kinds))
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

// hooks are a task's checked hooks by kind.
type hooks map[hook.Kind][]*hook.Hook

// parseHooks checks the lifecycle block. The error names the field.
func parseHooks(b *taskBlock) (hooks, error) {
	if b == nil {
		return nil, nil
	}
	all := make(hooks)
	for kind, blocks := range map[hook.Kind][]hookBlock{
		hook.Prestart: b.Prestart, hook.Poststart: b.Poststart, hook.Ready: b.Ready,
		hook.Prestop: b.Prestop, hook.Poststop: b.Poststop,
	} {
		if len(blocks) > hook.MaxPerKind {
			return nil, fmt.Errorf("%s.%s: %d hooks; at most %d", blockName, kind, len(blocks), hook.MaxPerKind)
		}
		for i, block := range blocks {
			h, err := hook.New(kind, i, block.spec())
			if err != nil {
				return nil, err
			}
			all[kind] = append(all[kind], h)
		}
	}
	return all, nil
}

func (b hookBlock) spec() hook.Spec {
	s := hook.Spec{
		Sleep: b.Sleep, Timeout: b.Timeout, Retries: b.Retries,
		Interval: b.Interval, OnFailure: b.OnFailure,
	}
	if b.HTTP != nil {
		s.HTTP = &hook.HTTPSpec{
			URL: b.HTTP.URL, Network: b.HTTP.Network, Port: b.HTTP.Port, Socket: b.HTTP.Socket,
			Path: b.HTTP.Path, Method: b.HTTP.Method, Headers: b.HTTP.Headers, Status: b.HTTP.Status,
		}
	}
	if b.Exec != nil {
		s.Exec = &hook.ExecSpec{Command: b.Exec.Command}
	}
	return s
}
