package reason

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
)

const (
	envAddress     = "NOMAD_ADDR"
	envToken       = "NOMAD_TOKEN"
	defaultAddress = "http://127.0.0.1:4646"

	// maxTokenFile is more than any token has: a workload identity is a JWT of
	// about a kilobyte.
	maxTokenFile = 16 << 10
)

// Config says how to reach Nomad's HTTP API. The zero value is the agent on this
// machine.
type Config struct {
	// Address is http://host:port, https://host:port or unix:///path. Default:
	// NOMAD_ADDR, or else http://127.0.0.1:4646.
	Address string
	// Region to ask. Default: the agent's own.
	Region string
	// TokenFile holds an ACL token. It is read again for every request, so that
	// a token can be renewed. Default: the token in NOMAD_TOKEN, or else none.
	TokenFile string
	// CAFile holds the certificates, in PEM, of the authorities to trust.
	// Default: the system's.
	CAFile string
	// CertFile and KeyFile are this client's certificate and its key, in PEM.
	// They are read again for every connection.
	CertFile, KeyFile string
	// TLSServerName is the name in the server's certificate, for example
	// "client.global.nomad". Default: the host of Address.
	TLSServerName string
}

// address checks the address. Only the user information of a URL is secret, and
// no error prints it.
func (c Config) address() (*url.URL, error) {
	raw, field := c.Address, "nomad.address"
	if raw == "" {
		raw, field = os.Getenv(envAddress), "nomad.address (from "+envAddress+")"
	}
	if raw == "" {
		raw = defaultAddress
	}
	shown := fmt.Sprintf("%q", clean(raw))
	if strings.Contains(raw, "@") {
		shown = "it"
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" {
		return nil, fmt.Errorf("%s: %s is not a URL; write http://host:port, https://host:port or unix:///path", field, shown)
	}
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("%s: it names a user; put a token into nomad.token_file instead", field)
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return nil, fmt.Errorf("%s: %s has more than a scheme, a host and a port", field, shown)
	case u.Scheme == "unix" && (u.Host != "" || !path.IsAbs(u.Path)):
		return nil, fmt.Errorf("%s: %s has no absolute path; write unix:///path", field, shown)
	case u.Scheme != "unix" && u.Hostname() == "":
		return nil, fmt.Errorf("%s: %s has no host; write %s://host:port", field, shown, u.Scheme)
	case u.Scheme != "unix" && u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("%s: %s has a path; write %s://%s", field, shown, u.Scheme, u.Host)
	}
	return u, nil
}

// tls returns the settings for connections to u, nil if they are not encrypted.
func (c Config) tls(u *url.URL) (*tls.Config, error) {
	if u.Scheme != "https" {
		for _, field := range [][2]string{
			{"ca_file", c.CAFile}, {"cert_file", c.CertFile}, {"key_file", c.KeyFile}, {"tls_server_name", c.TLSServerName},
		} {
			if field[1] != "" {
				return nil, fmt.Errorf("nomad.%s: it is set, but the address is not https; make it https or remove this", field[0])
			}
		}
		return nil, nil //nolint:nilnil // no TLS
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("nomad.ca_file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("nomad.ca_file: %s holds no certificate in PEM", c.CAFile)
		}
	}
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		return nil, errors.New("nomad.key_file: it is missing; nomad.cert_file needs it")
	case c.CertFile == "" && c.KeyFile != "":
		return nil, errors.New("nomad.cert_file: it is missing; nomad.key_file needs it")
	case c.CertFile != "":
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("nomad.cert_file, nomad.key_file: %w", err)
			}
			return &cert, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return t, nil
}

// tokens gives the ACL token, "" if there is none.
type tokens struct {
	file  string // "" means that last never changes
	mu    sync.Mutex
	last  string // guarded by mu
	field string
}

func (c Config) tokens() (*tokens, error) {
	if c.TokenFile == "" {
		t := &tokens{last: strings.TrimSpace(os.Getenv(envToken)), field: envToken}
		return t, t.check(t.last)
	}
	t := &tokens{file: c.TokenFile, field: "nomad.token_file"}
	_, err := t.get()
	return t, err
}

// get returns the token as the file has it now. A file that is empty is being
// written, so the last token stands in.
func (t *tokens) get() (string, error) {
	if t.file == "" {
		return t.last, nil
	}
	text, err := readSmall(t.file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", t.field, err)
	}
	token := strings.TrimSpace(text)
	if err := t.check(token); err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if token == "" && t.last == "" {
		return "", fmt.Errorf("%s: %s is empty", t.field, t.file)
	}
	if token != "" {
		t.last = token
	}
	return t.last, nil
}

// check refuses what cannot be sent in a header. The error does not have it.
func (t *tokens) check(token string) error {
	for i := range len(token) {
		if token[i] <= ' ' || token[i] >= 0x7f {
			return fmt.Errorf("%s: it holds more than a token: a space, a line end or a character that is not ASCII", t.field)
		}
	}
	return nil
}

// readSmall reads a small regular file. Anything else, a named pipe for one,
// could make a stop wait.
func readSmall(name string) (text string, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxTokenFile {
		return "", fmt.Errorf("%s has more than %d bytes", name, maxTokenFile)
	}
	return string(b), nil
}
