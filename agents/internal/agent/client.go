package agent

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ClientFlags say where an agent is, to a command that asks it.
type ClientFlags struct {
	address, tokenFile, caFile, certFile, keyFile Value[string]

	env string // that the names of variables begin with
}

// Declare declares the flags. Name is the agent's, and begins the names of variables;
// listen is where the agent listens by default.
func (f *ClientFlags) Declare(fs *flag.FlagSet, name, listen string) {
	f.env = strings.ToUpper(name) + "_"
	f.address.V = "http://" + listen
	f.address.Flag(fs, "address", "agent: `host:port`, http://…, https://… or unix:///path ("+f.env+"ADDR; default "+f.address.V+")")
	f.tokenFile.Flag(fs, "token-file", "`file` with the agent's token ("+f.env+"TOKEN_FILE)")
	f.caFile.Flag(fs, "ca-file", "`file` with the CA of the agent's certificate ("+f.env+"CACERT)")
	f.certFile.Flag(fs, "client-cert-file", "`file` with our certificate ("+f.env+"CLIENT_CERT)")
	f.keyFile.Flag(fs, "client-key-file", "`file` with our key ("+f.env+"CLIENT_KEY)")
}

// Target is an agent, and what it wants to see of those who ask it.
type Target struct {
	Address string // as it was given
	Token   string
	TLS     *tls.Config
}

// Target uses the flags and the environment. The error is a *ConfigError.
func (f *ClientFlags) Target() (*Target, error) {
	var p Problems
	f.address.Env(&p, f.env+"ADDR")
	f.tokenFile.Env(&p, f.env+"TOKEN_FILE")
	f.caFile.Env(&p, f.env+"CACERT")
	f.certFile.Env(&p, f.env+"CLIENT_CERT")
	f.keyFile.Env(&p, f.env+"CLIENT_KEY")
	t := &Target{Address: f.address.V, TLS: ClientTLS(&p, f.caFile, f.certFile, f.keyFile)}
	if _, err := BaseURL(t.Address); err != nil {
		p.Addf(f.address.From, "address", "%v", err)
	}
	t.Token = ReadToken(&p, "token-file", f.tokenFile)
	return t, p.Err()
}

// ReadToken reads the token that a client sends; "" if no file is given. Field is the name
// of the setting.
func ReadToken(p *Problems, field string, file Value[string]) string {
	if file.V == "" {
		return ""
	}
	token, err := readSecret(file.V)
	if err != nil {
		p.Addf(file.From, field, "%v", err)
	}
	return token
}

// ClientTLS is the configuration of a client. Values that are "" are left out.
func ClientTLS(p *Problems, ca, cert, key Value[string]) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca.V != "" {
		pool, err := readCAs(ca.V)
		if err != nil {
			p.Addf(ca.From, "ca-file", "%v", err)
		}
		config.RootCAs = pool
	}
	const together = "a certificate and its key belong together; give the file of the %s too"
	switch {
	case cert.V == "" && key.V == "":
	case key.V == "":
		p.Addf(cert.From, "client-cert-file", together, "key")
	case cert.V == "":
		p.Addf(key.From, "client-key-file", together, "certificate")
	default:
		pair, err := tls.LoadX509KeyPair(cert.V, key.V)
		var file *fs.PathError
		switch {
		case errors.As(err, &file) && file.Path == key.V:
			p.Addf(key.From, "client-key-file", "%v", err)
		case err != nil:
			p.Addf(cert.From, "client-cert-file", "%v", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// socketHost ends the name of a host that stands for a unix socket.
const socketHost = ".socket"

// BaseURL is what URLs of an agent begin with, for its address: host:port, http://…,
// https://… or unix:///path. The last needs the transport of ClientTransport. The error
// does not show the address: there may be a password in it.
func BaseURL(address string) (string, error) {
	if path, is := socketPath(address); is {
		return "http://" + hex.EncodeToString([]byte(path)) + socketHost, nil
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return "", errors.New("is not host:port, http://…, https://… or unix:///path")
	}
	if u.User != nil {
		return "", errors.New("must be without user and password")
	}
	return strings.TrimRight(address, "/"), nil
}

// ClientTransport is a transport to agents, those at unix sockets as well.
func ClientTransport(config *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: 3 * time.Second}
	return &http.Transport{
		TLSClientConfig: config, TLSHandshakeTimeout: 5 * time.Second, IdleConnTimeout: 90 * time.Second,
		MaxIdleConnsPerHost: 64, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			if name, is := strings.CutSuffix(host, socketHost); is {
				if path, err := hex.DecodeString(name); err == nil {
					return dialer.DialContext(ctx, "unix", string(path))
				}
			}
			return dialer.DialContext(ctx, network, address)
		},
	}
}
