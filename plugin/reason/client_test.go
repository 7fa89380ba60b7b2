package reason

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// write makes a file of this text.
func write(t *testing.T, name, text string) string {
	t.Helper()
	must.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func TestNew_Errors(t *testing.T) {
	dir := t.TempDir()
	junk := write(t, filepath.Join(dir, "junk"), "junk")
	none := filepath.Join(dir, "none")
	const https = "https://127.0.0.1:4646"
	cases := map[string]struct {
		cfg  Config
		env  string
		want []string
	}{
		"no scheme":          {cfg: Config{Address: "127.0.0.1:4646"}, want: []string{"nomad.address:", `"127.0.0.1:4646"`, "http://host:port"}},
		"a name, no scheme":  {cfg: Config{Address: "localhost:4646"}, want: []string{"nomad.address:", "http://host:port"}},
		"another scheme":     {cfg: Config{Address: "tcp://127.0.0.1"}, want: []string{"nomad.address:", "unix:///path"}},
		"no host":            {cfg: Config{Address: "http://"}, want: []string{"nomad.address:", "has no host"}},
		"a path":             {cfg: Config{Address: "http://h:1/v1/"}, want: []string{"nomad.address:", "write http://h:1"}},
		"a query":            {cfg: Config{Address: "http://h:1?token=x"}, want: []string{"nomad.address:"}},
		"relative socket":    {cfg: Config{Address: "unix://run/nomad.sock"}, want: []string{"nomad.address:", "unix:///path"}},
		"a user":             {cfg: Config{Address: "http://me:secret@h:1"}, want: []string{"nomad.address:", "nomad.token_file"}},
		"a user, no URL":     {cfg: Config{Address: "me:secret@h:1"}, want: []string{"nomad.address:"}},
		"from the env":       {env: "nonsense", want: []string{"nomad.address (from NOMAD_ADDR):"}},
		"CA without TLS":     {cfg: Config{CAFile: junk}, want: []string{"nomad.ca_file:", "not https"}},
		"name without TLS":   {cfg: Config{TLSServerName: "x"}, want: []string{"nomad.tls_server_name:", "not https"}},
		"TLS over a socket":  {cfg: Config{Address: "unix:///run/n", CertFile: junk}, want: []string{"nomad.cert_file:", "not https"}},
		"no such CA":         {cfg: Config{Address: https, CAFile: none}, want: []string{"nomad.ca_file:", "no such file"}},
		"CA is junk":         {cfg: Config{Address: https, CAFile: junk}, want: []string{"nomad.ca_file:", "PEM"}},
		"cert without key":   {cfg: Config{Address: https, CertFile: junk}, want: []string{"nomad.key_file:", "missing"}},
		"key without cert":   {cfg: Config{Address: https, KeyFile: junk}, want: []string{"nomad.cert_file:", "missing"}},
		"cert is junk":       {cfg: Config{Address: https, CertFile: junk, KeyFile: junk}, want: []string{"nomad.cert_file, nomad.key_file:"}},
		"no such token file": {cfg: Config{TokenFile: none}, want: []string{"nomad.token_file:", "no such file"}},
		"token file is a directory": {
			cfg: Config{TokenFile: dir}, want: []string{"nomad.token_file:", "not a regular file"},
		},
		"token file is empty": {
			cfg: Config{TokenFile: write(t, filepath.Join(dir, "empty"), "\n")}, want: []string{"nomad.token_file:", "empty"},
		},
		"token file has two lines": {
			cfg: Config{TokenFile: write(t, filepath.Join(dir, "two"), "secret\nsecret")}, want: []string{"nomad.token_file:", "more than a token"},
		},
		"token file is huge": {
			cfg: Config{TokenFile: write(t, filepath.Join(dir, "huge"), strings.Repeat("secret", maxTokenFile))}, want: []string{"nomad.token_file:", "more than 16384 bytes"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Setenv(envAddress, tc.env)
			t.Setenv(envToken, "")
			_, err := New(tc.cfg)
			must.Error(t, err)
			for _, want := range tc.want {
				must.StrContains(t, err.Error(), want)
			}
			must.StrNotContains(t, err.Error(), "secret")
		})
	}
}

func TestNew_Env(t *testing.T) {
	t.Setenv(envToken, "two words")
	_, err := New(Config{})
	must.ErrorContains(t, err, "NOMAD_TOKEN: it holds more than a token")
	must.StrNotContains(t, err.Error(), "words")

	t.Setenv(envToken, "")
	t.Setenv(envAddress, "")
	c, err := New(Config{})
	must.NoError(t, err)
	must.Eq(t, "http://127.0.0.1:4646", c.API().Address())

	t.Setenv(envAddress, "http://[::1]:4647/")
	c, err = New(Config{})
	must.NoError(t, err)
	must.Eq(t, "http://[::1]:4647/", c.API().Address())
}

// witness answers for allocation "a" and keeps the tokens that came.
type witness struct{ tokens []string }

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.tokens = append(w.tokens, r.Header.Get("X-Nomad-Token"))
	_, _ = io.WriteString(rw, `{"ID":"a"}`)
}

func TestClient_Token(t *testing.T) {
	w := &witness{}
	s := httptest.NewServer(w)
	t.Cleanup(s.Close)
	name := write(t, filepath.Join(t.TempDir(), "token"), "one\n")
	t.Setenv(envToken, "not this one")
	c, err := New(Config{Address: s.URL, TokenFile: name})
	must.NoError(t, err)
	t.Cleanup(c.Close)
	ask := func() error {
		_, err := c.Allocation(t.Context(), "ns", "a")
		return err
	}
	must.NoError(t, ask())
	write(t, name, "two")
	must.NoError(t, ask())
	write(t, name, "") // it is being written
	must.NoError(t, ask())
	must.NoError(t, os.Remove(name))
	must.ErrorContains(t, ask(), "nomad.token_file:")
	write(t, name, "three")
	must.NoError(t, ask())
	must.Eq(t, []string{"one", "two", "two", "three"}, w.tokens)

	t.Setenv(envToken, "from-env")
	c, err = New(Config{Address: s.URL})
	must.NoError(t, err)
	t.Cleanup(c.Close)
	must.NoError(t, ask())
	must.Eq(t, "from-env", w.tokens[4])
}

// The token is for the configured host only, and no proxy is asked.
func TestClient_TokenStays(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:9")
	t.Setenv("http_proxy", "http://127.0.0.1:9")
	w, other := &witness{}, &witness{}
	s, o := httptest.NewServer(w), httptest.NewServer(other)
	t.Cleanup(s.Close)
	t.Cleanup(o.Close)
	t.Setenv(envToken, "secret")
	c, err := New(Config{Address: s.URL})
	must.NoError(t, err)
	t.Cleanup(c.Close)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, o.URL, nil)
	must.NoError(t, err)
	resp, err := c.API().Raw().Do(req)
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	must.Eq(t, []string{""}, other.tokens)
	must.Len(t, 0, w.tokens)
}

func TestClient_Unix(t *testing.T) {
	w := &witness{}
	dir, err := os.MkdirTemp("", "reason") // a socket's path has at most 107 bytes
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	l, err := net.Listen("unix", filepath.Join(dir, "nomad.sock"))
	must.NoError(t, err)
	s := httptest.NewUnstartedServer(w)
	must.NoError(t, s.Listener.Close())
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	t.Setenv(envToken, "secret")
	c, err := New(Config{Address: "unix://" + filepath.Join(dir, "nomad.sock")})
	must.NoError(t, err)
	t.Cleanup(c.Close)
	_, err = c.Allocation(t.Context(), "ns", "a")
	must.NoError(t, err)
	must.Eq(t, []string{"secret"}, w.tokens)
}

func TestClient_Refused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	addr := l.Addr().String()
	must.NoError(t, l.Close())
	t.Setenv(envToken, "secret")
	c, err := New(Config{Address: "http://" + addr})
	must.NoError(t, err)
	v, err := c.Why(t.Context(), "ns", "a", "app")
	must.ErrorContains(t, err, "connection refused")
	must.StrNotContains(t, err.Error(), "secret")
	must.Eq(t, Verdict{Reason: Unknown}, v)
}

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // the certificate
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.sign(t, "ca", true)
	a.file = write(t, filepath.Join(dir, "ca.pem"), pemOf("CERTIFICATE", a.cert.Raw))
	return a
}

// sign makes a certificate for this name, by the authority if it has one.
func (a *authority) sign(t *testing.T, name string, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	must.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	must.NoError(t, err)
	return cert, key
}

// files makes the files of a certificate and its key.
func (a *authority) files(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	cert, key := a.sign(t, name, false)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must.NoError(t, err)
	return write(t, filepath.Join(dir, name+".pem"), pemOf("CERTIFICATE", cert.Raw)),
		write(t, filepath.Join(dir, name+".key"), pemOf("PRIVATE KEY", der))
}

func pemOf(typ string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
}

func TestClient_TLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	serverCert, serverKey := ca.files(t, dir, "server.global.nomad")
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	must.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)

	var peers []string
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peers = append(peers, r.TLS.PeerCertificates[0].Subject.CommonName)
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, `{"ID":"a"}`)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of the clients that it refuses
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12,
	}
	s.StartTLS()
	t.Cleanup(s.Close)

	certFile, keyFile := ca.files(t, dir, "first")
	ask := func(cfg Config) error {
		cfg.Address = s.URL
		c, err := New(cfg)
		must.NoError(t, err)
		defer c.Close()
		_, err = c.Allocation(t.Context(), "ns", "a")
		return err
	}
	full := Config{CAFile: ca.file, CertFile: certFile, KeyFile: keyFile, TLSServerName: "server.global.nomad"}
	must.NoError(t, ask(full))
	for name, break1 := range map[string]func(*Config){
		"unknown authority":                         func(c *Config) { c.CAFile = "" },
		"cannot validate certificate for 127.0.0.1": func(c *Config) { c.TLSServerName = "" },
		"tls: ": func(c *Config) { c.CertFile, c.KeyFile = "", "" },
	} {
		cfg := full
		break1(&cfg)
		must.ErrorContains(t, ask(cfg), name)
	}
	must.Eq(t, []string{"first"}, peers)

	// A renewed certificate is taken without a restart.
	c, err := New(Config{Address: s.URL, CAFile: ca.file, CertFile: certFile, KeyFile: keyFile, TLSServerName: "server.global.nomad"})
	must.NoError(t, err)
	t.Cleanup(c.Close)
	newCert, newKey := ca.files(t, dir, "second")
	must.NoError(t, os.Rename(newCert, certFile))
	must.NoError(t, os.Rename(newKey, keyFile))
	_, err = c.Allocation(t.Context(), "ns", "a")
	must.NoError(t, err)
	must.Eq(t, []string{"first", "second"}, peers)
}
