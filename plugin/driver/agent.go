package driver

import (
	"fmt"
	"net/url"

	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-patterns/nomad-patterns/plugin/checkpoint"
	"github.com/nomad-patterns/nomad-patterns/plugin/dockerguard"
)

// agentConfig is the decorator's part of the plugin's configuration. Unknown
// keys are the inner driver's.
type agentConfig struct {
	Lifecycle *agentBlock `codec:"lifecycle"`
}

type agentBlock struct {
	// AllowURLs, if not empty, are the only URL prefixes that url hooks may use.
	AllowURLs []string `codec:"allow_urls"`
	// AllowHostNamespaces are the namespaces of the host that docker tasks may
	// share without allow_privileged.
	AllowHostNamespaces []string `codec:"allow_host_namespaces"`
	// Nomad and Consul are where the agents are.
	Nomad  *serverBlock `codec:"nomad"`
	Consul *serverBlock `codec:"consul"`
	// Stores are blob stores by the names that jobs call them.
	Stores hclutils.MapStrStr `codec:"stores"`
	// Endpoint is the node's management endpoint.
	Endpoint *endpointBlock `codec:"endpoint"`
}

type serverBlock struct {
	Address       string `codec:"address"`
	Region        string `codec:"region"` // Nomad's
	TokenFile     string `codec:"token_file"`
	CAFile        string `codec:"ca_file"`
	CertFile      string `codec:"cert_file"`
	KeyFile       string `codec:"key_file"`
	TLSServerName string `codec:"tls_server_name"`
}

type endpointBlock struct {
	Dir       string `codec:"dir"`
	Listen    string `codec:"listen"`
	TokenFile string `codec:"token_file"`
	CertFile  string `codec:"cert_file"`
	KeyFile   string `codec:"key_file"`
}

func agentSpec() *hclspec.Spec {
	texts := func(names ...string) *hclspec.Spec {
		attrs := make(map[string]*hclspec.Spec)
		for _, n := range names {
			attrs[n] = hclspec.NewAttr(n, "string", false)
		}
		return hclspec.NewObject(attrs)
	}
	return hclspec.NewBlock(blockName, false, hclspec.NewObject(map[string]*hclspec.Spec{
		"allow_urls":            hclspec.NewAttr("allow_urls", "list(string)", false),
		"allow_host_namespaces": hclspec.NewAttr("allow_host_namespaces", "list(string)", false),
		"nomad": hclspec.NewBlock("nomad", false,
			texts("address", "region", "token_file", "ca_file", "cert_file", "key_file", "tls_server_name")),
		"consul": hclspec.NewBlock("consul", false,
			texts("address", "token_file", "ca_file", "cert_file", "key_file", "tls_server_name")),
		"stores":   hclspec.NewAttr("stores", "list(map(string))", false),
		"endpoint": hclspec.NewBlock("endpoint", false, texts("dir", "listen", "token_file", "cert_file", "key_file")),
	}))
}

// check finds what is wrong with the block before anything uses it.
func (b *agentBlock) check() error {
	for i, prefix := range b.AllowURLs {
		u, err := url.Parse(prefix)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return fmt.Errorf("allow_urls[%d]: not an http or https URL with a host and, at most, a path", i)
		}
	}
	if _, err := dockerguard.Parse(nil, b.AllowHostNamespaces); err != nil {
		return err // it names the field
	}
	if b.Consul != nil {
		if _, err := checkpoint.NewConsul(b.consulConfig()); err != nil {
			return err // it names the block
		}
	}
	if b.Endpoint != nil {
		if err := b.endpointConfig().Validate(); err != nil {
			return err // likewise
		}
	}
	for name, raw := range b.Stores {
		if name == "" || name == consulStore {
			return fmt.Errorf("stores: %q cannot be the name of a blob store", name)
		}
		if u, err := url.Parse(raw); err != nil || u.Scheme == "" {
			return fmt.Errorf("stores: what %q stands for is no URL such as \"file:///srv/checkpoints\" or \"s3://bucket\"", name)
		}
	}
	return nil
}
