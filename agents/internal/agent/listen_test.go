package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

func given(v string) Value[string] { return Value[string]{V: v, From: "a.hcl:1:1"} }

func TestListenCheck(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "file", "x")
	cert, key := certificate(t, dir)
	for name, c := range map[string]struct {
		listen Listen
		want   string // a part of the error; "" if there is none
	}{
		"loopback":            {Listen{Address: given("127.0.0.1:4040")}, ""},
		"loopback by name":    {Listen{Address: given("localhost:0")}, ""},
		"loopback v6":         {Listen{Address: given("[::1]:4040")}, ""},
		"socket":              {Listen{Address: given("unix:///run/a.sock"), SocketMode: given("0660")}, ""},
		"all, with a token":   {Listen{Address: given(":4040"), TokenFile: given(file)}, ""},
		"all, with TLS":       {Listen{Address: given("0.0.0.0:4040"), CertFile: given(cert), KeyFile: given(key)}, ""},
		"management":          {Listen{Address: given("127.0.0.1:1"), Management: given("127.0.0.1:2")}, ""},
		"all":                 {Listen{Address: given(":4040")}, `a.hcl:1:1: address: ":4040" can be reached from other machines; give cert_file and key_file, or token_file, or`},
		"all v6":              {Listen{Address: given("[::]:4040")}, "can be reached from other machines"},
		"another address":     {Listen{Address: given("192.0.2.1:4040")}, "can be reached from other machines"},
		"none":                {Listen{}, `"" is not host:port or unix:///path`},
		"no port":             {Listen{Address: given("127.0.0.1")}, "is not host:port"},
		"port name":           {Listen{Address: given("127.0.0.1:x")}, `the port of "127.0.0.1:x" is not a number`},
		"relative socket":     {Listen{Address: given("unix://a.sock")}, "is not unix:// and an absolute path"},
		"long socket":         {Listen{Address: given("unix:///" + strings.Repeat("a", 107))}, "at most 107 bytes"},
		"mode":                {Listen{Address: given("unix:///a"), SocketMode: given("rw")}, `socket_mode: "rw" is not an octal mode`},
		"mode without owner":  {Listen{Address: given("unix:///a"), SocketMode: given("0066")}, "is not an octal mode"},
		"certificate alone":   {Listen{Address: given("127.0.0.1:1"), CertFile: given(file)}, "belong together"},
		"client CA alone":     {Listen{Address: given("127.0.0.1:1"), ClientCAFile: given(file)}, "client_ca_file: needs"},
		"missing token":       {Listen{Address: given("127.0.0.1:1"), TokenFile: given("/nope")}, "token_file: open /nope"},
		"no certificate":      {Listen{Address: given("127.0.0.1:1"), CertFile: given(file), KeyFile: given(key)}, "a.hcl:1:1: cert_file: tls: failed to find any PEM data"},
		"no client CA":        {Listen{Address: given("127.0.0.1:1"), CertFile: given(cert), KeyFile: given(key), ClientCAFile: given(file)}, "client_ca_file: " + file + " has no certificate"},
		"management for all":  {Listen{Address: given("127.0.0.1:1"), Management: given(":2")}, `management: ":2" is not on loopback`},
		"management nonsense": {Listen{Address: given("127.0.0.1:1"), Management: given("x")}, `management: "x" is not host:port`},
	} {
		t.Run(name, func(t *testing.T) {
			var p Problems
			c.listen.Check(&p)
			if c.want == "" {
				must.NoError(t, p.Err())
				return
			}
			must.ErrorContains(t, p.Err(), c.want)
			_, err := New(t.Context(), Options{Name: "x", Listen: c.listen})
			must.Eq(t, ExitConfig, ExitCode(err))
		})
	}
}

func TestOpenSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "sock")
	address := "unix://" + path

	l, err := open(t.Context(), address, 0o660)
	must.NoError(t, err)
	info, err := os.Stat(path)
	must.NoError(t, err)
	must.Eq(t, os.ModeSocket|0o660, info.Mode())

	_, err = open(t.Context(), address, 0o600)
	must.ErrorContains(t, err, "another process listens at "+path)

	// What a killed process leaves.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	must.NoError(t, l.Close())
	must.FileExists(t, path)
	l, err = open(t.Context(), address, 0o600)
	must.NoError(t, err)
	info, err = os.Stat(path)
	must.NoError(t, err)
	must.Eq(t, os.ModeSocket|0o600, info.Mode())
	must.NoError(t, l.Close())
	must.FileNotExists(t, path)

	write(t, filepath.Dir(path), "sock", "precious")
	_, err = open(t.Context(), address, 0o600)
	must.ErrorContains(t, err, "is no socket")
	must.FileExists(t, path)
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	defer func() { must.NoError(t, l.Close()) }()
	_, err = New(t.Context(), Options{Name: "x", Listen: Listen{Address: given(l.Addr().String())}})
	must.ErrorIs(t, err, syscall.EADDRINUSE)
	must.Eq(t, ExitRuntime, ExitCode(err))
	// The first listener is given back when the second fails.
	free := "unix://" + filepath.Join(shortDir(t), "sock")
	_, err = New(t.Context(), Options{Name: "x", Listen: Listen{Address: given(free), Management: given(l.Addr().String())}})
	must.ErrorIs(t, err, syscall.EADDRINUSE)
	a, err := New(t.Context(), Options{Name: "x", Listen: Listen{Address: given(free)}})
	must.NoError(t, err)
	must.NoError(t, a.Close())
}

func TestToken(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "token", "secret\n")
	r := start(t, Options{Listen: Listen{TokenFile: given(file)}}, map[string]http.HandlerFunc{
		"GET /x": func(w http.ResponseWriter, _ *http.Request) { httpapi.WriteJSON(w, 200, "x") },
	})
	status := func(path string, header ...string) int {
		code, _, _ := r.do(t, "GET", path, "", header...)
		return code
	}
	must.Eq(t, 200, status("/x", "Authorization", "Bearer secret"))
	must.Eq(t, 401, status("/x"))
	must.Eq(t, 401, status("/x", "Authorization", "Bearer secre"))
	must.Eq(t, 401, status("/nothing"))
	must.Eq(t, 401, status("/metrics"))
	must.Eq(t, 200, status("/v1/health"))
	_, h, body := r.do(t, "GET", "/x", "")
	must.Eq(t, "Bearer", h.Get("WWW-Authenticate"))
	must.StrNotContains(t, body, "secret")

	// SIGHUP reads it again; a file that cannot be used changes nothing.
	write(t, dir, "token", " \n")
	must.ErrorContains(t, r.access.load(&r.opts.Listen), "token_file: "+file+" is empty")
	must.Eq(t, 200, status("/x", "Authorization", "Bearer secret"))
	write(t, dir, "token", "other")
	must.NoError(t, r.access.load(&r.opts.Listen))
	must.Eq(t, 401, status("/x", "Authorization", "Bearer secret"))
	must.Eq(t, 200, status("/x", "Authorization", "Bearer other"))
}

func TestForeignPage(t *testing.T) {
	r := start(t, Options{}, map[string]http.HandlerFunc{
		"/x": func(w http.ResponseWriter, _ *http.Request) { httpapi.WriteJSON(w, 200, "x") },
	})
	for _, method := range []string{"POST", "GET"} {
		code, _, _ := r.do(t, method, "/x", "", "Sec-Fetch-Site", "cross-site")
		must.Eq(t, 403, code)
		code, _, _ = r.do(t, method, "/x", "")
		must.Eq(t, 200, code)
		code, _, _ = r.do(t, method, "/x", "", "Sec-Fetch-Site", "none") // typed in
		must.Eq(t, 200, code)
	}
}

// certificate makes a certificate for 127.0.0.1 that is its own CA.
func certificate(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must.NoError(t, err)
	return write(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	r := start(t, Options{Listen: Listen{
		Address: given("127.0.0.1:0"), CertFile: given(cert), KeyFile: given(key), ClientCAFile: given(cert),
	}}, nil)
	r.url = "https://" + r.Addr().String()
	get := func(withCert bool) (int, error) {
		roots, err := readCAs(cert)
		must.NoError(t, err)
		config := &tls.Config{RootCAs: roots}
		if withCert {
			pair, err := tls.LoadX509KeyPair(cert, key)
			must.NoError(t, err)
			config.Certificates = []tls.Certificate{pair}
		}
		transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(r.url + "/v1/health")
		if err != nil {
			return 0, err
		}
		must.NoError(t, resp.Body.Close())
		must.Eq(t, 2, resp.ProtoMajor)
		return resp.StatusCode, nil
	}
	code, err := get(true)
	must.NoError(t, err)
	must.Eq(t, 200, code)
	_, err = get(false)
	must.Error(t, err)

	// A new certificate counts from the next connection on.
	certificate(t, dir)
	_, err = get(true)
	var unknown *tls.CertificateVerificationError
	must.True(t, errors.As(err, &unknown), must.Sprintf("%v", err))
	must.NoError(t, r.access.load(&r.opts.Listen))
	_, err = get(true)
	must.NoError(t, err)

	write(t, dir, "cert.pem", "no certificate")
	err = r.access.load(&r.opts.Listen)
	must.ErrorContains(t, err, "cert_file: tls: failed to find any PEM data")
	must.ErrorContains(t, err, "client_ca_file: "+cert+" has no certificate")
}

func TestConsul(t *testing.T) {
	token := write(t, t.TempDir(), "token", "from-file\n")
	for name, c := range map[string]struct {
		consul  *Consul
		env     map[string]string
		want    func(*api.Config) // makes the expected configuration from a bare one
		problem string
	}{
		"nothing": {want: func(c *api.Config) { c.Address = "localhost:8500" }},
		"file": {
			consul: &Consul{Address: given("https://c:1"), TokenFile: given(token), Namespace: given("n"), TLS: &ConsulTLS{CAFile: given("ca"), ServerName: given("s")}},
			want: func(c *api.Config) {
				c.Address, c.Token, c.Namespace, c.TLSConfig.CAFile, c.TLSConfig.Address = "https://c:1", "from-file", "n", "ca", "s"
			},
		},
		"environment over file": {
			consul: &Consul{Address: given("c:1"), TokenFile: given("/nope")},
			env:    map[string]string{"CONSUL_HTTP_ADDR": "e:2", "CONSUL_HTTP_TOKEN": "from-env"},
			want:   func(c *api.Config) { c.Address, c.Token = "e:2", "from-env" },
		},
		"flag over environment": {
			consul: &Consul{Address: Value[string]{"f:3", "-consul-address"}, TokenFile: Value[string]{token, "-consul-token-file"}},
			env:    map[string]string{"CONSUL_HTTP_ADDR": "e:2", "CONSUL_HTTP_TOKEN": "from-env", "CONSUL_HTTP_TOKEN_FILE": "/nope"},
			want:   func(c *api.Config) { c.Address, c.Token = "f:3", "from-file" },
		},
		"token file of the environment": {
			env:  map[string]string{"CONSUL_HTTP_TOKEN_FILE": token},
			want: func(c *api.Config) { c.Address, c.Token = "localhost:8500", "from-file" },
		},
		"socket": {
			consul: &Consul{Address: given("unix:///run/consul.sock")},
			want:   func(c *api.Config) { c.Address = "unix:///run/consul.sock" },
		},
		"missing token file": {consul: &Consul{TokenFile: given("/nope")}, problem: "a.hcl:1:1: token_file: open /nope: no such file or directory"},
		"missing in environment": {
			env:     map[string]string{"CONSUL_HTTP_TOKEN_FILE": "/nope"},
			problem: "CONSUL_HTTP_TOKEN_FILE: token_file: open /nope: no such file or directory",
		},
		"scheme":   {consul: &Consul{Address: given("tcp://c:1")}, problem: `a.hcl:1:1: address: tcp:// is not http, https or unix; give host:port or such a URL`},
		"password": {consul: &Consul{Address: given("http://u:p@c:1")}, problem: "a.hcl:1:1: address: is not host:port, and not a URL without user and password"},
		"environment's address": {
			env:     map[string]string{"CONSUL_HTTP_ADDR": "http://"},
			problem: "CONSUL_HTTP_ADDR: address: is not host:port, and not a URL without user and password",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, v := range []string{"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_NAMESPACE"} {
				t.Setenv(v, c.env[v])
			}
			var p Problems
			got := c.consul.Client(&p)
			if c.problem != "" {
				must.EqError(t, p.Err(), c.problem)
				return
			}
			must.NoError(t, p.Err())
			want := api.Config{Scheme: "http"}
			c.want(&want)
			got.Transport = nil
			must.Eq(t, want, *got)
		})
	}
}
