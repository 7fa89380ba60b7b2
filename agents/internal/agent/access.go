package agent

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// healthPath needs no token, so that Consul's checks and load balancers can ask.
const healthPath = "/v1/health"

// access is who may use the HTTP API. It can be loaded again while in use.
type access struct {
	token atomic.Pointer[[sha256.Size]byte] // its hash; nil: no token is asked for
	tls   atomic.Pointer[tls.Config]        // nil: no TLS
	cross http.CrossOriginProtection        // web pages may not use what listens on a user's loopback
}

// load reads the files that the settings name. If one cannot be read, everything stays
// as it was.
func (a *access) load(l *Listen) error {
	var problems Problems
	var token *[sha256.Size]byte
	if file := l.TokenFile; file.V != "" {
		secret, err := readSecret(file.V)
		if err != nil {
			problems.Addf(file.From, "token_file", "%v", err)
		}
		sum := sha256.Sum256([]byte(secret))
		token = &sum
	}
	var config *tls.Config
	if l.CertFile.V != "" && l.KeyFile.V != "" {
		cert, err := tls.LoadX509KeyPair(l.CertFile.V, l.KeyFile.V)
		if err != nil {
			problems.Addf(l.CertFile.From, "cert_file", "%v", err)
		}
		config = &tls.Config{
			MinVersion:   tls.VersionTLS12,
			NextProtos:   []string{"h2", "http/1.1"},
			Certificates: []tls.Certificate{cert},
		}
		if file := l.ClientCAFile; file.V != "" {
			pool, err := readCAs(file.V)
			if err != nil {
				problems.Addf(file.From, "client_ca_file", "%v", err)
			}
			config.ClientCAs, config.ClientAuth = pool, tls.RequireAndVerifyClientCert
		}
	}
	if err := problems.Err(); err != nil {
		return err
	}
	a.token.Store(token)
	a.tls.Store(config)
	return nil
}

func readCAs(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM form", file)
	}
	return pool, nil
}

// serverTLS is the configuration of the listener; each connection gets what was
// loaded last.
func (a *access) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return a.tls.Load(), nil
		},
	}
}

// check refuses requests without the token and those of foreign web pages.
func (a *access) check(r *http.Request) *httpapi.Error {
	// As if each request changed something: it lets GET pass, and streams have effects.
	asPost := *r
	asPost.Method = http.MethodPost
	if err := a.cross.Check(&asPost); err != nil {
		return httpapi.Errorf(http.StatusForbidden, "", "%v", err)
	}
	want := a.token.Load()
	if want != nil && r.URL.Path != healthPath && !httpapi.HasToken(r, *want) {
		return httpapi.Errorf(http.StatusUnauthorized, "", "send the token of this agent's token_file as Authorization: Bearer")
	}
	return nil
}
