package checkpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// consulLimit is the size of a value that Consul takes by default, in bytes.
	consulLimit = 512 << 10
	// consulTimeout bounds one request, so that a connection that has silently
	// died does not take all the time there is.
	consulTimeout = 5 * time.Second
	// consulBody bounds an answer, in bytes.
	consulBody = 16 << 20
	// consulConns bounds the connections to the agent.
	consulConns = 4
)

// ConsulConfig says where Consul is. What is empty comes from the environment as
// for Consul's own tools, or is their default.
type ConsulConfig struct {
	Address       string // host:port, http://…, https://… or unix:///path
	TokenFile     string // read anew for each request
	CAFile        string
	CertFile      string // read anew for each connection
	KeyFile       string // likewise
	TLSServerName string // name in Consul's certificate
}

// Consul is a Store in Consul's key-value store. Writes go through its leader,
// and so do reads: they are consistent. A value has at most 512 KiB.
type Consul struct {
	kv        *api.KV
	transport *http.Transport
	token     string
	tokenFile string
}

// NewConsul returns the store. It reads the certificates, but does not speak to
// Consul. The token needs key_prefix "lifecycle/checkpoints/" { policy =
// "write" }, and "list" where acl.enable_key_list_policy is set.
func NewConsul(cfg ConsulConfig) (*Consul, error) {
	c := api.DefaultConfig() // with the environment
	for _, v := range []struct {
		dst *string
		src string
	}{
		{&c.Address, cfg.Address}, {&c.TLSConfig.CAFile, cfg.CAFile}, {&c.TLSConfig.CertFile, cfg.CertFile},
		{&c.TLSConfig.KeyFile, cfg.KeyFile}, {&c.TLSConfig.Address, cfg.TLSServerName},
	} {
		if v.src != "" {
			*v.dst = v.src
		}
	}
	// The address is not shown: there may be a password in it.
	scheme, rest, found := strings.Cut(c.Address, "://")
	if !found {
		scheme, rest = "http", c.Address
	}
	u, err := url.Parse(scheme + "://" + rest)
	switch {
	case scheme != "http" && scheme != "https" && scheme != "unix":
		return nil, errors.New("consul: address is not host:port, http://…, https://… or unix:///path")
	case err != nil || u.User != nil || u.Host == "" && scheme != "unix" || scheme == "unix" && !strings.HasPrefix(rest, "/"):
		return nil, errors.New("consul: address is not host:port, http://…, https://… or unix:///path, without user and password")
	}

	s := &Consul{token: c.Token, tokenFile: c.TokenFile}
	if cfg.TokenFile != "" {
		s.tokenFile = cfg.TokenFile
	}
	c.Token, c.TokenFile = "", ""

	tlsConfig, err := api.SetupTLSConfig(&c.TLSConfig)
	if err != nil {
		return nil, fmt.Errorf("consul: ca_file, cert_file, key_file: %w", err)
	}
	tlsConfig.MinVersion = tls.VersionTLS12
	if cert, key := c.TLSConfig.CertFile, c.TLSConfig.KeyFile; cert != "" {
		tlsConfig.Certificates = nil
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return nil, fmt.Errorf("consul: cert_file, key_file: %w", err)
			}
			return &pair, nil
		}
	}
	dialer := &net.Dialer{Timeout: consulTimeout}
	s.transport = &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: tlsConfig,
		TLSHandshakeTimeout: consulTimeout, IdleConnTimeout: 90 * time.Second,
		MaxConnsPerHost: consulConns, MaxIdleConnsPerHost: consulConns,
		// HTTP/1, where a request that is given up closes its connection: the next
		// one does not try one that has died.
	}
	if scheme == "unix" {
		// The client library would take a transport of its own for that.
		c.Address, s.transport.Proxy = "localhost", nil
		s.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", rest)
		}
	}
	c.Transport = s.transport
	c.HttpClient = &http.Client{
		Transport: bounded{s.transport},
		// The token would go to wherever a redirect leads.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	client, err := api.NewClient(c)
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	s.kv = client.KV()
	return s, nil
}

// bounded limits the bodies of answers.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{resp.Body, consulBody}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("answer has more than %d bytes", consulBody)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// auth reads the token.
func (s *Consul) auth() (string, error) {
	if s.tokenFile == "" {
		return s.token, nil
	}
	data, err := os.ReadFile(s.tokenFile)
	if err != nil {
		return "", fmt.Errorf("consul: token_file: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", errors.New("consul: token_file: it is empty")
	}
	return token, nil
}

func (s *Consul) query(ctx context.Context) (*api.QueryOptions, context.CancelFunc, error) {
	token, err := s.auth()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, consulTimeout)
	return (&api.QueryOptions{RequireConsistent: true, Token: token}).WithContext(ctx), cancel, nil
}

func (s *Consul) write(ctx context.Context) (*api.WriteOptions, context.CancelFunc, error) {
	token, err := s.auth()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, consulTimeout)
	return (&api.WriteOptions{Token: token}).WithContext(ctx), cancel, nil
}

// Create implements Store.
func (s *Consul) Create(ctx context.Context, name string, data []byte) error {
	if n := int64(len(data)); n > consulLimit {
		return &TooLargeError{n, consulLimit, fmt.Sprintf(
			"checkpoint of %s compressed is above Consul's limit of %s; use a blob store or save less", kib(n), kib(consulLimit))}
	}
	opts, cancel, err := s.write(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	// An index of 0 means: only if it is not there.
	ok, _, err := s.kv.CAS(&api.KVPair{Key: name, Value: data}, opts)
	if err != nil {
		return consulErr(err)
	}
	if !ok {
		return ErrExists
	}
	return nil
}

// Get implements Store.
func (s *Consul) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	opts, cancel, err := s.query(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	pair, _, err := s.kv.Get(name, opts)
	switch {
	case err != nil:
		return nil, consulErr(err)
	case pair == nil:
		return nil, ErrNotFound
	case int64(len(pair.Value)) > limit:
		return nil, tooLargeToRead(name, int64(len(pair.Value)), limit)
	}
	return pair.Value, nil
}

// List implements Store.
func (s *Consul) List(ctx context.Context, prefix string) ([]string, error) {
	opts, cancel, err := s.query(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	names, meta, err := s.kv.Keys(prefix, "", opts)
	switch {
	case err != nil:
		return nil, consulErr(err)
	case meta.ResultsFilteredByACLs:
		// Consul leaves out what the token may not read, down to an answer that
		// looks as if there were nothing.
		return nil, fmt.Errorf(`%w: Consul has left out keys that the token may not read; it needs key_prefix %q { policy = "write" }`, ErrRefused, Prefix)
	case len(names) > maxNames:
		return nil, tooMany(prefix)
	}
	return names, nil
}

// Delete implements Store.
func (s *Consul) Delete(ctx context.Context, name string) error {
	opts, cancel, err := s.write(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if _, err := s.kv.Delete(name, opts); err != nil {
		return consulErr(err)
	}
	return nil
}

// Close implements Store.
func (s *Consul) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// consulErr marks errors that another try does not change: all that say that the
// request is wrong. That there are too many, and 5xx, pass.
func consulErr(err error) error {
	var status api.StatusError
	if errors.As(err, &status) && status.Code < 500 && status.Code != http.StatusTooManyRequests && status.Code != http.StatusRequestTimeout {
		return fmt.Errorf("consul: %w: %w", ErrRefused, err)
	}
	return fmt.Errorf("consul: %w", err)
}
