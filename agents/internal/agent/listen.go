package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen is the block listen { }: where and for whom the HTTP API is.
type Listen struct {
	// Address is host:port or unix:///path. Off loopback, TLS or a token has to be
	// asked for.
	Address Value[string] `hcl:"address,optional"`
	// SocketMode is the permissions of a unix socket, in octal. Default "0600".
	SocketMode Value[string] `hcl:"socket_mode,optional"`
	// CertFile and KeyFile turn TLS on. They are read again at SIGHUP.
	CertFile Value[string] `hcl:"cert_file,optional"`
	KeyFile  Value[string] `hcl:"key_file,optional"`
	// ClientCAFile: clients have to show a certificate of this CA.
	ClientCAFile Value[string] `hcl:"client_ca_file,optional"`
	// TokenFile holds what clients have to send as "Authorization: Bearer …", except
	// to /v1/health. It is read again at SIGHUP.
	TokenFile Value[string] `hcl:"token_file,optional"`
	// Management is a second address, on loopback, for pprof. Default: none.
	Management Value[string] `hcl:"management,optional"`
}

// Flags declares the flags that say where to listen.
func (l *Listen) Flags(fs *flag.FlagSet) {
	l.Address.Flag(fs, "listen", "HTTP API: `host:port` or unix:///path; off loopback only with TLS or a token")
	l.SocketMode.Flag(fs, "listen-socket-mode", "octal `mode` of a unix socket (default 0600)")
	l.CertFile.Flag(fs, "listen-cert-file", "`file` with the certificate of the HTTP API")
	l.KeyFile.Flag(fs, "listen-key-file", "`file` with the key of the HTTP API")
	l.ClientCAFile.Flag(fs, "listen-client-ca-file", "`file` with the CA whose certificates clients have to show")
	l.TokenFile.Flag(fs, "listen-token-file", "`file` with the token that clients have to send")
	l.Management.Flag(fs, "management", "`host:port` on loopback that serves /debug/pprof (default none)")
}

// Check adds what is wrong with the settings, and with the files that they name.
func (l *Listen) Check(p *Problems) {
	if l.SocketMode.V != "" {
		if _, err := l.mode(); err != nil {
			p.Addf(l.SocketMode.From, "socket_mode", "%v", err)
		}
	}
	if (l.CertFile.V == "") != (l.KeyFile.V == "") {
		p.Addf(l.CertFile.From+l.KeyFile.From, "cert_file", "cert_file and key_file belong together; give both or neither")
	}
	if l.ClientCAFile.V != "" && l.CertFile.V == "" {
		p.Addf(l.ClientCAFile.From, "client_ca_file", "needs cert_file and key_file")
	}
	p.Add(new(access).load(l))
	local, err := isLocal(l.Address.V)
	switch {
	case err != nil:
		p.Addf(l.Address.From, "address", "%v", err)
	case !local && l.CertFile.V == "" && l.TokenFile.V == "":
		p.Addf(l.Address.From, "address", "%q can be reached from other machines; give cert_file and key_file, or token_file, or an address on 127.0.0.1 or unix:///", l.Address.V)
	}
	if l.Management.V != "" {
		local, err := isLocal(l.Management.V)
		if err == nil && !local {
			err = fmt.Errorf("%q is not on loopback", l.Management.V)
		}
		if err != nil {
			p.Addf(l.Management.From, "management", "%v", err)
		}
	}
}

func (l *Listen) mode() (fs.FileMode, error) {
	if l.SocketMode.V == "" {
		return 0o600, nil
	}
	mode, err := strconv.ParseUint(l.SocketMode.V, 8, 32)
	if err != nil || mode > 0o777 || mode&0o600 != 0o600 {
		return 0, fmt.Errorf("%q is not an octal mode with 06 for the owner, for example \"0660\"", l.SocketMode.V)
	}
	return fs.FileMode(mode), nil
}

// socketPath is the path in unix:///path.
func socketPath(address string) (path string, is bool) {
	return strings.CutPrefix(address, "unix://")
}

// lookupTimeout bounds asking for the addresses of a host name in -validate.
const lookupTimeout = 5 * time.Second

// isLocal says whether only this machine can reach an address.
func isLocal(address string) (bool, error) {
	if path, is := socketPath(address); is {
		// The kernel's limit is 108 bytes with the final zero.
		if !filepath.IsAbs(path) || len(path) > 107 {
			return false, fmt.Errorf("%q is not unix:// and an absolute path of at most 107 bytes", address)
		}
		return true, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, fmt.Errorf("%q is not host:port or unix:///path", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false, fmt.Errorf("the port of %q is not a number from 0 to 65535", address)
	}
	if host == "" {
		return false, nil // all interfaces
	}
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback(), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return false, err
	}
	for _, a := range addrs {
		if !a.IP.IsLoopback() {
			return false, nil
		}
	}
	return true, nil
}

// open listens at an address. Mode is for unix sockets.
func open(ctx context.Context, address string, mode fs.FileMode) (net.Listener, error) {
	path, is := socketPath(address)
	if !is {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// The mode of an unbound socket becomes that of its file, so that there is no
	// moment in which others may connect. The umask can take bits away: they are
	// given afterwards.
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if ctrlErr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(mode)) }); ctrlErr != nil {
			return ctrlErr
		}
		return err
	}}
	l, err := c.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStale removes the file of a unix socket that nobody listens at.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket; remove it or choose another path", path)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("another process listens at %s", path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("find out whether %s is in use: %w", path, err)
	}
	return os.Remove(path)
}

// readSecret reads a token from a file, without the newline that editors leave.
func readSecret(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return secret, nil
}
