package manage

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
)

// DefaultDir is where the endpoint is unless the operator says otherwise.
const DefaultDir = "/run/nomad-lifecycle"

// Config is the block endpoint { } of the plugin's configuration.
type Config struct {
	// Dir is the directory of the node's sockets. It is created for this user
	// alone. Every plugin process of the node must have the same. Default
	// [DefaultDir].
	Dir string
	// Listen is host:port, "" for the unix socket only.
	Listen string
	// TokenFile holds what clients on TCP have to send as "Authorization: Bearer
	// …". It is read again when it changes.
	TokenFile string
	// CertFile and KeyFile turn TLS on. They are read again when they change.
	CertFile, KeyFile string
}

// Validate checks the settings and that their files can be read. The error
// names the field and the fix.
func (c Config) Validate() error {
	if c.Dir != "" && (!filepath.IsAbs(c.Dir) || filepath.Clean(c.Dir) == "/") {
		return fmt.Errorf("endpoint.dir: %q is not the absolute path of a directory; write for example %q", c.Dir, DefaultDir)
	}
	if c.Listen == "" {
		if c.TokenFile+c.CertFile+c.KeyFile != "" {
			return errors.New("endpoint.listen: missing, but token_file, cert_file or key_file is there; they are for TCP only: give listen or take them out")
		}
		return nil
	}
	local, err := onLoopback(c.Listen)
	if err != nil {
		return fmt.Errorf("endpoint.listen: %w", err)
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("endpoint.cert_file: cert_file and key_file belong together; give both or neither")
	}
	if c.TokenFile == "" {
		return errors.New("endpoint.token_file: missing; whoever reaches listen reads logs and profiles of all tasks, so give a file with at least 16 random characters, for example of \"openssl rand -hex 32\"")
	}
	if !local && c.CertFile == "" {
		return fmt.Errorf("endpoint.listen: %q can be reached from other machines, where the token would be read on the way; give cert_file and key_file, or an address on 127.0.0.1", c.Listen)
	}
	if _, err := newAccess(c.TokenFile); err != nil {
		return fmt.Errorf("endpoint.token_file: %w", err)
	}
	if c.CertFile != "" {
		if _, err := newCertificate(c.CertFile, c.KeyFile); err != nil {
			return fmt.Errorf("endpoint.cert_file: %w", err)
		}
	}
	return nil
}

// onLoopback says whether only this machine can reach an address. Names are
// not looked up: what they mean can change.
func onLoopback(address string) (bool, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, fmt.Errorf("%q is not host:port; write for example \"127.0.0.1:4690\"", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false, fmt.Errorf("the port of %q is not a number up to 65535", address)
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback(), nil
}
