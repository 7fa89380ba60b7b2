package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/elector/config"
	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
)

const (
	requestTimeout = 15 * time.Second // an answer of the agent; it gives up earlier
	silence        = 15 * time.Second // an event comes every 5 s
	maxAnswer      = 64 << 20         // bytes
	maxEvent       = 1 << 20          // bytes of an event's line
)

// clientFlags say where the agent is.
type clientFlags struct {
	address, tokenFile, caFile, certFile, keyFile agent.Value[string]
}

func (f *clientFlags) declare(fs *flag.FlagSet) {
	f.address.Flag(fs, "address", "agent: `host:port`, http://…, https://… or unix:///path (ELECTOR_ADDR; default http://"+config.DefaultListen+")")
	f.tokenFile.Flag(fs, "token-file", "`file` with the agent's token (ELECTOR_TOKEN_FILE)")
	f.caFile.Flag(fs, "ca-file", "`file` with the CA of the agent's certificate (ELECTOR_CACERT)")
	f.certFile.Flag(fs, "client-cert-file", "`file` with our certificate (ELECTOR_CLIENT_CERT)")
	f.keyFile.Flag(fs, "client-key-file", "`file` with our key (ELECTOR_CLIENT_KEY)")
}

// client talks to an agent.
type client struct {
	address string // as it was given
	base    string // for example http://127.0.0.1:4040
	token   string
	http    *http.Client
}

// client uses the flags. The error is an *agent.ConfigError.
func (f *clientFlags) client() (*client, error) {
	var p agent.Problems
	f.address.Env(&p, "ELECTOR_ADDR")
	f.tokenFile.Env(&p, "ELECTOR_TOKEN_FILE")
	f.caFile.Env(&p, "ELECTOR_CACERT")
	f.certFile.Env(&p, "ELECTOR_CLIENT_CERT")
	f.keyFile.Env(&p, "ELECTOR_CLIENT_KEY")
	f.address.Default("http://" + config.DefaultListen)

	transport := &http.Transport{TLSClientConfig: f.tls(&p)}
	address := f.address.V
	c := &client{address: address, http: &http.Client{Transport: transport}}
	if path, is := strings.CutPrefix(address, "unix://"); is {
		c.base = "http://elector"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	} else {
		if !strings.Contains(address, "://") {
			address = "http://" + address
		}
		u, err := url.Parse(address)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
			p.Addf(f.address.From, "address", "is not host:port, http://…, https://… or unix:///path")
		}
		c.base = strings.TrimRight(address, "/")
	}
	if file := f.tokenFile; file.V != "" {
		token, err := os.ReadFile(file.V)
		if err != nil {
			p.Addf(file.From, "token-file", "%v", err)
		}
		c.token = strings.TrimSpace(string(token))
	}
	return c, p.Err()
}

func (f *clientFlags) tls(p *agent.Problems) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := f.caFile; file.V != "" {
		config.RootCAs = x509.NewCertPool()
		pem, err := os.ReadFile(file.V)
		if err == nil && !config.RootCAs.AppendCertsFromPEM(pem) {
			err = fmt.Errorf("%s has no certificate in PEM form", file.V)
		}
		if err != nil {
			p.Addf(file.From, "ca-file", "%v", err)
		}
	}
	if f.certFile.V != "" || f.keyFile.V != "" {
		pair, err := tls.LoadX509KeyPair(f.certFile.V, f.keyFile.V)
		if err != nil {
			p.Addf(f.certFile.From, "client-cert-file", "%v", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// electionPath is the path of an election, with more path and query behind it.
func electionPath(name, rest string) string { return "/v1/elections/" + url.PathEscape(name) + rest }

// open makes a request. The answer is one of success, or the error says what the agent
// said.
func (c *client) open(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err // the rest is said here
	}
	if err != nil {
		return nil, fmt.Errorf("ask the agent (is it running at %s?): %w", c.address, err)
	}
	if resp.StatusCode < http.StatusMultipleChoices {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
	}
	var refusal struct {
		agent.HTTPError
		Status *election.Status `json:"status"`
	}
	if json.Unmarshal(body, &refusal) != nil || refusal.Message == "" {
		return nil, fmt.Errorf("the agent at %s answered %s", c.address, resp.Status)
	}
	if st := refusal.Status; st != nil && st.Leader != nil {
		return nil, fmt.Errorf("%w; the leader is %s", &refusal.HTTPError, st.Leader.ID)
	}
	return nil, &refusal.HTTPError
}

// do returns the body of an answer.
func (c *client) do(ctx context.Context, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	defer c.http.CloseIdleConnections()
	resp, err := c.open(ctx, method, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
	}
	return body, nil
}

// errSilent ends a stream that says nothing any more.
var errSilent = fmt.Errorf("the agent said nothing for %s", silence)

// follow calls each with the data of each event until it returns an error, the
// context ends or the agent closes the stream, which is an error too.
func (c *client) follow(ctx context.Context, path string, each func(data []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.http.CloseIdleConnections()
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	resp, err := c.open(ctx, http.MethodGet, path)
	if err != nil {
		return because(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		watchdog.Reset(silence)
		// Our events have one line of data each.
		if data, is := strings.CutPrefix(lines.Text(), "data: "); is {
			if err := each([]byte(data)); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return because(ctx, fmt.Errorf("read events: %w", err))
	}
	return because(ctx, errors.New("the agent ended the stream"))
}

// because returns why the context has ended, if it has.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
