package manage

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/shoenig/test/must"
)

const token = "0123456789abcdef"

func write(t *testing.T, path, text string) string {
	t.Helper()
	must.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// certFiles makes a certificate for 127.0.0.1.
func certFiles(t *testing.T, dir string, serial int64) (cert, key string, parsed *x509.Certificate) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	template := x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	must.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(private)
	must.NoError(t, err)
	parsed, err = x509.ParseCertificate(der)
	must.NoError(t, err)
	cert = write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})))
	return cert, key, parsed
}

func TestConfig_Validate(t *testing.T) {
	dir := t.TempDir()
	good := write(t, filepath.Join(dir, "token"), token+"\n")
	short := write(t, filepath.Join(dir, "short"), "secret\n")
	cert, key, _ := certFiles(t, dir, 1)
	for name, c := range map[string]struct {
		config Config
		want   string // in the error; "" for none
	}{
		"default":                       {Config{}, ""},
		"socket only":                   {Config{Dir: "/run/x"}, ""},
		"loopback with token":           {Config{Listen: "127.0.0.1:4690", TokenFile: good}, ""},
		"loopback 6 with token":         {Config{Listen: "[::1]:4690", TokenFile: good}, ""},
		"loopback with all":             {Config{Listen: "127.0.0.1:4690", TokenFile: good, CertFile: cert, KeyFile: key}, ""},
		"everywhere with all":           {Config{Listen: "0.0.0.0:4690", TokenFile: good, CertFile: cert, KeyFile: key}, ""},
		"relative directory":            {Config{Dir: "run"}, `endpoint.dir: "run" is not the absolute path`},
		"root":                          {Config{Dir: "/x/.."}, "endpoint.dir: "},
		"loopback without token":        {Config{Listen: "127.0.0.1:4690"}, "endpoint.token_file: missing"},
		"TLS without token":             {Config{Listen: "127.0.0.1:4690", CertFile: cert, KeyFile: key}, "endpoint.token_file: missing"},
		"everywhere without TLS":        {Config{Listen: "0.0.0.0:4690", TokenFile: good}, `endpoint.listen: "0.0.0.0:4690" can be reached from other machines`},
		"all interfaces":                {Config{Listen: ":4690", TokenFile: good}, "can be reached from other machines"},
		"a name":                        {Config{Listen: "localhost:4690", TokenFile: good}, "can be reached from other machines"},
		"no port":                       {Config{Listen: "127.0.0.1", TokenFile: good}, "endpoint.listen: \"127.0.0.1\" is not host:port"},
		"odd port":                      {Config{Listen: "127.0.0.1:http", TokenFile: good}, "is not a number up to 65535"},
		"certificate without key":       {Config{Listen: "127.0.0.1:4690", TokenFile: good, CertFile: cert}, "endpoint.cert_file: cert_file and key_file belong together"},
		"key without certificate":       {Config{Listen: "127.0.0.1:4690", TokenFile: good, KeyFile: key}, "endpoint.cert_file: cert_file and key_file belong together"},
		"token without listen":          {Config{TokenFile: good}, "endpoint.listen: missing"},
		"token missing":                 {Config{Listen: "127.0.0.1:4690", TokenFile: filepath.Join(dir, "no")}, "endpoint.token_file: stat "},
		"token short":                   {Config{Listen: "127.0.0.1:4690", TokenFile: short}, "has not 16 to 4096 bytes"},
		"certificate is something else": {Config{Listen: "127.0.0.1:4690", TokenFile: good, CertFile: good, KeyFile: key}, "endpoint.cert_file: "},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.config.Validate()
			if c.want == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, c.want)
			must.StrNotContains(t, err.Error(), "secret")
			_, err = NewNode(NodeOptions{Config: c.config, Driver: "x", Registry: NewRegistry(), Metrics: prometheus.NewRegistry()})
			must.ErrorContains(t, err, c.want)
		})
	}
}

func TestNewNode_Driver(t *testing.T) {
	for _, driver := range []string{"", "node", "../x", "a/b", ".hidden"} {
		_, err := NewNode(NodeOptions{Driver: driver, Registry: NewRegistry(), Metrics: prometheus.NewRegistry()})
		must.ErrorContains(t, err, "a name of letters")
	}
}

// freePort is an address on loopback that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	defer func() { must.NoError(t, ln.Close()) }()
	return ln.Addr().String()
}

func TestNode_Token(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "token"), token)
	dir := filepath.Join(t.TempDir(), "run")
	address := freePort(t)
	startNode(t, Config{Dir: dir, Listen: address, TokenFile: file}, "a")
	c := client(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	})
	code := func(path, header string) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "http://"+address+path, nil)
		must.NoError(t, err)
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		var status int
		eventually(t, func() error { // it may not listen yet
			resp, err := c.Do(req)
			if err != nil {
				return err
			}
			status = resp.StatusCode
			if status == http.StatusUnauthorized {
				must.Eq(t, "Bearer", resp.Header.Get("WWW-Authenticate"))
			}
			return resp.Body.Close()
		})
		return status
	}
	for _, path := range []string{"/v1/tasks", "/v1/health", "/metrics", "/nothing"} {
		must.Eq(t, 401, code(path, ""))
	}
	must.Eq(t, 401, code("/v1/tasks", "Bearer "+token+"x"))
	must.Eq(t, 200, code("/v1/tasks", "Bearer "+token))

	// A new token counts at once, and without one nobody has it.
	write(t, file, "another-token-0123456789\n")
	must.Eq(t, 401, code("/v1/tasks", "Bearer "+token))
	must.Eq(t, 200, code("/v1/tasks", "Bearer another-token-0123456789"))
	must.NoError(t, os.Remove(file))
	must.Eq(t, 503, code("/v1/tasks", "Bearer another-token-0123456789"))
	write(t, file, "short")
	must.Eq(t, 503, code("/v1/tasks", "Bearer short"))

	// The socket is the user's own and needs none.
	status, _ := get(t, atSocket(filepath.Join(dir, nodeSocket)), "/v1/tasks")
	must.Eq(t, 200, status)
}

func TestNode_TLS(t *testing.T) {
	files := t.TempDir()
	file := write(t, filepath.Join(files, "token"), token)
	cert, key, first := certFiles(t, files, 1)
	address := freePort(t)
	startNode(t, Config{Dir: filepath.Join(t.TempDir(), "run"), Listen: address, TokenFile: file, CertFile: cert, KeyFile: key}, "a")
	pool := x509.NewCertPool()
	pool.AddCert(first)
	serial := func() (n int64) {
		t.Helper()
		c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
		req, err := http.NewRequest(http.MethodGet, "https://"+address+"/v1/health", nil)
		must.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		eventually(t, func() error {
			resp, err := c.Do(req)
			if err != nil {
				return err
			}
			must.Eq(t, 200, resp.StatusCode)
			n = resp.TLS.PeerCertificates[0].SerialNumber.Int64()
			return resp.Body.Close()
		})
		return n
	}
	must.Eq(t, 1, serial())
	_, _, second := certFiles(t, files, 2)
	pool.AddCert(second)
	must.Eq(t, 2, serial())
	write(t, key, "half written") // what was good is used on
	must.Eq(t, 2, serial())

	resp, err := http.Get("http://" + address + "/v1/health") // no plain HTTP
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	must.Eq(t, 400, resp.StatusCode)
}
