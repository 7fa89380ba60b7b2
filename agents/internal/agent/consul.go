package agent

import (
	"flag"
	"net/url"
	"os"
	"strings"

	"github.com/hashicorp/consul/api"
)

// Consul is the block consul { }: where Consul is and how it is spoken to. The
// variables of Consul's own tools are honoured; for each setting they come after the
// flag and before the file. In a Nomad task with a consul block the token of its
// workload identity arrives by such a variable (CONSUL_HTTP_TOKEN).
type Consul struct {
	Address    Value[string] `hcl:"address,optional"` // host:port, http://…, https://…, unix:///…
	TokenFile  Value[string] `hcl:"token_file,optional"`
	Datacenter Value[string] `hcl:"datacenter,optional"`
	Namespace  Value[string] `hcl:"namespace,optional"`
	Partition  Value[string] `hcl:"partition,optional"`
	TLS        *ConsulTLS    `hcl:"tls,block"`
}

// ConsulTLS is the block tls { } in consul { }.
type ConsulTLS struct {
	CAFile     Value[string] `hcl:"ca_file,optional"`
	CertFile   Value[string] `hcl:"cert_file,optional"`
	KeyFile    Value[string] `hcl:"key_file,optional"`
	ServerName Value[string] `hcl:"server_name,optional"`
}

// Flags declares the flags -consul-….
func (c *Consul) Flags(fs *flag.FlagSet) {
	if c.TLS == nil {
		c.TLS = &ConsulTLS{}
	}
	c.Address.Flag(fs, "consul-address", "Consul agent: `host:port` or URL (CONSUL_HTTP_ADDR; default 127.0.0.1:8500)")
	c.TokenFile.Flag(fs, "consul-token-file", "`file` with the ACL token, read once at the start (CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_TOKEN)")
	c.TLS.CAFile.Flag(fs, "consul-ca-file", "`file` with Consul's CA (CONSUL_CACERT)")
	c.TLS.CertFile.Flag(fs, "consul-cert-file", "`file` with our certificate (CONSUL_CLIENT_CERT)")
	c.TLS.KeyFile.Flag(fs, "consul-key-file", "`file` with our key (CONSUL_CLIENT_KEY)")
	c.TLS.ServerName.Flag(fs, "consul-server-name", "`name` in Consul's certificate (CONSUL_TLS_SERVER_NAME)")
}

// Client turns the settings into a configuration for Consul's API; c may be nil. A
// token file is read, and has to be there.
func (c *Consul) Client(p *Problems) *api.Config {
	cfg := api.DefaultConfig() // with the environment
	if c == nil {
		c = &Consul{}
	}
	tls := c.TLS
	if tls == nil {
		tls = &ConsulTLS{}
	}
	over := func(dst *string, v *Value[string], env ...string) {
		if v.IsSet() && (isFlag(v.From) || !inEnv(env...)) {
			*dst = v.V
		}
	}
	over(&cfg.Address, &c.Address, api.HTTPAddrEnvName)
	over(&cfg.Datacenter, &c.Datacenter)
	over(&cfg.Namespace, &c.Namespace, api.HTTPNamespaceEnvName)
	over(&cfg.Partition, &c.Partition, api.HTTPPartitionEnvName)
	over(&cfg.TLSConfig.CAFile, &tls.CAFile, api.HTTPCAFile)
	over(&cfg.TLSConfig.CertFile, &tls.CertFile, api.HTTPClientCert)
	over(&cfg.TLSConfig.KeyFile, &tls.KeyFile, api.HTTPClientKey)
	over(&cfg.TLSConfig.Address, &tls.ServerName, api.HTTPTLSServerName)
	checkConsulAddress(p, cfg.Address, c.Address.From)

	// A token replaces one from further down, however it was given.
	tokenFrom := api.HTTPTokenFileEnvName
	if c.TokenFile.V != "" && (isFlag(c.TokenFile.From) || !inEnv(api.HTTPTokenEnvName, api.HTTPTokenFileEnvName)) {
		cfg.TokenFile, cfg.Token, tokenFrom = c.TokenFile.V, "", c.TokenFile.From
	}
	if cfg.TokenFile != "" {
		token, err := readSecret(cfg.TokenFile)
		if err != nil {
			p.Addf(tokenFrom, "token_file", "%v", err)
		}
		cfg.Token, cfg.TokenFile = token, ""
	}
	return cfg
}

func checkConsulAddress(p *Problems, address, from string) {
	if from == "" {
		from = api.HTTPAddrEnvName
	}
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		scheme, rest = "http", address
	}
	u, err := url.Parse(scheme + "://" + rest)
	switch {
	case scheme != "http" && scheme != "https" && scheme != "unix":
		p.Addf(from, "address", "%s:// is not http, https or unix; give host:port or such a URL", scheme) // not the rest, as below
	case err != nil || (u.Host == "" && scheme != "unix") || u.User != nil:
		// The address is not shown: there may be a password in it.
		p.Addf(from, "address", "is not host:port, and not a URL without user and password")
	}
}

func isFlag(from string) bool { return strings.HasPrefix(from, "-") }

// inEnv says whether one of the variables is set.
func inEnv(names ...string) bool {
	for _, name := range names {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}
