package checkpoint

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// fakeConsul answers as Consul 1.22 does.
type fakeConsul struct {
	server *httptest.Server

	mu       sync.Mutex // guards the fields below
	kv       map[string][]byte
	requests []string // that have arrived
	token    string   // that has to be sent
	filtered bool     // answers are cut down by missing rights
	answer   func(w http.ResponseWriter, r *http.Request) bool
	after    bool // the answer replaces that of a request that was carried out
}

func newFakeConsul(t *testing.T) *fakeConsul {
	t.Helper()
	f := &fakeConsul{kv: map[string][]byte{}}
	f.server = httptest.NewServer(f)
	t.Cleanup(func() {
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return f
}

func newConsul(t *testing.T, f *fakeConsul, cfg ConsulConfig) *Consul {
	t.Helper()
	for _, name := range []string{"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_CACERT"} {
		t.Setenv(name, "") // whatever the machine has
	}
	if cfg.Address == "" {
		cfg.Address = f.server.URL
	}
	c, err := NewConsul(cfg)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, c.Close()) })
	return c
}

func (f *fakeConsul) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.RequestURI())
	if f.answer != nil && !f.after && f.answer(w, r) {
		return
	}
	if got := r.Header.Get("X-Consul-Token"); got != f.token {
		http.Error(w, "Permission denied", http.StatusForbidden)
		return
	}
	key := strings.TrimPrefix(r.URL.Path, "/v1/kv/")
	if err := validKey(key); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	reply := func(v any) {
		if f.answer != nil && f.after && f.answer(w, r) {
			return
		}
		if err := json.NewEncoder(w).Encode(v); err != nil {
			panic(err)
		}
	}
	q := r.URL.Query()
	switch r.Method {
	case http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if len(body) > consulLimit {
			http.Error(w, "Request body too large", http.StatusRequestEntityTooLarge)
			return
		}
		if q.Get("cas") != "0" {
			http.Error(w, "not a create", http.StatusBadRequest)
			return
		}
		_, there := f.kv[key]
		if !there {
			f.kv[key] = body
		}
		reply(!there)
	case http.MethodDelete:
		delete(f.kv, key)
		reply(true)
	case http.MethodGet:
		w.Header().Set("X-Consul-Index", "7") // without them the client library reads no others
		w.Header().Set("X-Consul-LastContact", "0")
		w.Header().Set("X-Consul-KnownLeader", "true")
		if !q.Has("consistent") {
			http.Error(w, "not consistent", http.StatusBadRequest)
			return
		}
		if f.filtered {
			w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
		}
		if q.Has("keys") {
			names := []string{}
			for name := range f.kv {
				if strings.HasPrefix(name, key) && !f.filtered {
					names = append(names, name)
				}
			}
			if len(names) == 0 {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			reply(names)
			return
		}
		value, ok := f.kv[key]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		reply([]map[string]any{{"Key": key, "Value": value, "ModifyIndex": 7}})
	}
}

// validKey is what Consul 1.22 asks of a key.
func validKey(key string) error {
	clean := path.Clean(key)
	if strings.HasSuffix(key, "/") {
		clean += "/"
	}
	if clean != key {
		return errors.New("the key would be cleaned")
	}
	if decoded, err := url.PathUnescape(key); err == nil && decoded != key && (strings.Contains(decoded, "..") || strings.Contains(decoded, " ")) {
		return errors.New("invalid key name")
	}
	return nil
}

func (f *fakeConsul) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func TestConsulRequests(t *testing.T) {
	f := newFakeConsul(t)
	c := newConsul(t, f, ConsulConfig{})
	must.NoError(t, c.Create(t.Context(), "lifecycle/checkpoints/a~2Fb/x", []byte("me")))
	_, err := c.Get(t.Context(), "lifecycle/checkpoints/a~2Fb/x", 100)
	must.NoError(t, err)
	_, err = c.List(t.Context(), "lifecycle/checkpoints/a~2Fb/")
	must.NoError(t, err)
	must.NoError(t, c.Delete(t.Context(), "lifecycle/checkpoints/a~2Fb/x"))
	must.Eq(t, []string{
		"PUT /v1/kv/lifecycle/checkpoints/a~2Fb/x?cas=0",
		"GET /v1/kv/lifecycle/checkpoints/a~2Fb/x?consistent=",
		"GET /v1/kv/lifecycle/checkpoints/a~2Fb/?consistent=&keys=",
		"DELETE /v1/kv/lifecycle/checkpoints/a~2Fb/x",
	}, f.requests)
}

func TestConsulLimit(t *testing.T) {
	f := newFakeConsul(t)
	c := newConsul(t, f, ConsulConfig{})
	must.NoError(t, c.Create(t.Context(), "k", make([]byte, consulLimit)))
	n := len(f.requests)
	err := c.Create(t.Context(), "k2", make([]byte, consulLimit+1))
	must.EqError(t, err, "checkpoint of 513 KiB compressed is above Consul's limit of 512 KiB; use a blob store or save less")
	must.True(t, permanent(err))
	must.SliceLen(t, n, f.requests) // it was not sent

	state := make([]byte, 1<<20) // that cannot be compressed
	_, err = rand.Read(state)
	must.NoError(t, err)
	s := claim(t, open(t, c, Options{MaxSize: 2 << 20}), "a")
	_, err = s.Save(t.Context(), state, "interval")
	var tooLarge *TooLargeError
	must.True(t, errors.As(err, &tooLarge))
	must.Eq(t, consulLimit, tooLarge.Limit)
}

func TestConsulErrors(t *testing.T) {
	cases := map[int]bool{ // whether another try is of no use
		301: true, 400: true, 403: true, 404: false, 408: false, 413: true, 429: false, 500: false, 503: false,
	}
	for status, permanently := range cases {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			f := newFakeConsul(t)
			c := newConsul(t, f, ConsulConfig{})
			f.answer = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Location", "http://127.0.0.1:9/elsewhere")
				w.WriteHeader(status)
				return true
			}
			errs := []error{c.Create(t.Context(), "k", nil), c.Delete(t.Context(), "k")}
			if status == 404 { // of a read it says that there is nothing
				must.True(t, permanent(errs[0]))
				return
			}
			errs = append(errs, errOf(c.Get(t.Context(), "k", 100)), errOf(c.List(t.Context(), "k/")))
			for _, err := range errs {
				must.Error(t, err)
				must.Eq(t, permanently, permanent(err), must.Sprint(err))
			}
		})
	}
	t.Run("cut down by missing rights", func(t *testing.T) {
		f := newFakeConsul(t)
		c := newConsul(t, f, ConsulConfig{})
		must.NoError(t, c.Create(t.Context(), prefix+"00000001/owner", nil))
		f.set(func() { f.filtered = true })
		_, err := open(t, c, Options{}).Latest(t.Context())
		must.ErrorIs(t, err, ErrRefused)
		must.ErrorContains(t, err, `key_prefix "lifecycle/checkpoints/" { policy = "write" }`)
	})
	t.Run("an answer without end", func(t *testing.T) {
		f := newFakeConsul(t)
		c := newConsul(t, f, ConsulConfig{})
		f.answer = func(w http.ResponseWriter, _ *http.Request) bool {
			for {
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<20)); err != nil {
					return true
				}
			}
		}
		_, err := c.List(t.Context(), "k/")
		must.ErrorContains(t, err, "answer has more than")
	})
	t.Run("not there", func(t *testing.T) {
		f := newFakeConsul(t)
		c := newConsul(t, f, ConsulConfig{})
		f.server.Close()
		must.False(t, permanent(c.Create(t.Context(), "k", nil)))
	})
	t.Run("answers lost", func(t *testing.T) {
		f := newFakeConsul(t)
		c := newConsul(t, f, ConsulConfig{})
		lost := 0
		f.after = true
		f.answer = func(http.ResponseWriter, *http.Request) bool {
			if lost++; lost%2 == 1 {
				panic(http.ErrAbortHandler)
			}
			return false
		}
		chain := open(t, c, Options{})
		s := claim(t, chain, "a")
		must.Eq(t, 1, s.Epoch())
		saved, err := s.Save(t.Context(), []byte("state"), "interval")
		must.NoError(t, err)
		must.Eq(t, 1, saved.Seq)
		must.Eq(t, "state", latest(t, chain))
	})
}

func TestConsulToken(t *testing.T) {
	f := newFakeConsul(t)
	f.token = "first"
	file := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(file, []byte("first\n"), 0o600))
	c := newConsul(t, f, ConsulConfig{TokenFile: file})
	must.NoError(t, c.Create(t.Context(), "k", nil))

	// One that has changed is used at once.
	f.set(func() { f.token = "second" })
	err := c.Create(t.Context(), "k2", nil)
	must.ErrorIs(t, err, ErrRefused)
	must.NoError(t, os.WriteFile(file, []byte("second"), 0o600))
	must.NoError(t, c.Create(t.Context(), "k2", nil))
	_, err = c.Get(t.Context(), "k2", 10)
	must.NoError(t, err)

	must.NoError(t, os.WriteFile(file, []byte(" \n"), 0o600))
	must.ErrorContains(t, c.Delete(t.Context(), "k2"), "token_file: it is empty")
	must.NoError(t, os.Remove(file))
	err = errOf(c.List(t.Context(), "k/"))
	must.ErrorContains(t, err, "token_file")
	must.False(t, permanent(err)) // it may be being replaced

	// From the environment, if the configuration has none.
	t.Setenv("CONSUL_HTTP_TOKEN", "second")
	t.Setenv("CONSUL_HTTP_ADDR", f.server.URL)
	env, err := NewConsul(ConsulConfig{})
	must.NoError(t, err)
	defer func() { must.NoError(t, env.Close()) }()
	must.NoError(t, env.Create(t.Context(), "k3", nil))
}

// The token goes nowhere else.
func TestConsulRedirects(t *testing.T) {
	elsewhere := newFakeConsul(t)
	f := newFakeConsul(t)
	f.answer = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, elsewhere.server.URL+"/v1/kv/k", http.StatusTemporaryRedirect)
		return true
	}
	c := newConsul(t, f, ConsulConfig{})
	must.ErrorIs(t, c.Create(t.Context(), "k", nil), ErrRefused)
	must.SliceEmpty(t, elsewhere.requests)
}

func TestConsulSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "ck") // short, as paths of sockets must be
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	must.NoError(t, err)
	f := &fakeConsul{kv: map[string][]byte{}}
	f.server = httptest.NewUnstartedServer(f)
	must.NoError(t, f.server.Listener.Close())
	f.server.Listener = l
	f.server.Start()
	t.Cleanup(f.server.Close)
	c := newConsul(t, f, ConsulConfig{Address: "unix://" + socket})
	must.NoError(t, c.Create(t.Context(), "k", []byte("v")))
	data, err := c.Get(t.Context(), "k", 10)
	must.NoError(t, err)
	must.Eq(t, "v", string(data))
}

// selfSigned writes a certificate of its own issuing, and its key.
func selfSigned(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	must.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must.NoError(t, err)
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return certFile, keyFile
}

func TestConsulTLS(t *testing.T) {
	serverCert, serverKey := selfSigned(t, t.TempDir(), "server.dc1.consul")
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	must.NoError(t, err)
	dir := t.TempDir()
	clientCert, clientKey := selfSigned(t, dir, "first")

	var mu sync.Mutex
	shown := "" // name in the client's certificate
	f := &fakeConsul{kv: map[string][]byte{}}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		shown = r.TLS.PeerCertificates[0].Subject.CommonName
		mu.Unlock()
		f.ServeHTTP(w, r)
	}))
	f.server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	f.server.StartTLS()
	t.Cleanup(f.server.Close)

	cfg := ConsulConfig{CAFile: serverCert, CertFile: clientCert, KeyFile: clientKey, TLSServerName: "server.dc1.consul"}
	c := newConsul(t, f, cfg)
	must.NoError(t, c.Create(t.Context(), "k", nil))
	must.Eq(t, "first", shown)
	// A certificate that has been replaced is shown by the next connection.
	selfSigned(t, dir, "second")
	must.NoError(t, c.Close())
	must.NoError(t, c.Create(t.Context(), "k2", nil))
	must.Eq(t, "second", shown)

	cfg.TLSServerName = "other"
	must.ErrorContains(t, newConsul(t, f, cfg).Create(t.Context(), "k3", nil), "other")
	cfg.CAFile = clientCert
	must.ErrorContains(t, newConsul(t, f, cfg).Create(t.Context(), "k3", nil), "certificate")
}

func TestConsulConfigRefused(t *testing.T) {
	cert, key := selfSigned(t, t.TempDir(), "x")
	cases := map[string]struct {
		cfg  ConsulConfig
		want string
	}{
		"scheme":     {ConsulConfig{Address: "ftp://hunter2"}, "is not host:port"},
		"password":   {ConsulConfig{Address: "http://user:hunter2@host:1"}, "without user and password"},
		"no host":    {ConsulConfig{Address: "https://"}, "is not host:port"},
		"relative":   {ConsulConfig{Address: "unix://hunter2"}, "is not host:port"},
		"no CA":      {ConsulConfig{CAFile: key + "x"}, "ca_file"},
		"no key":     {ConsulConfig{CertFile: cert}, "both client cert and client key"},
		"not a pair": {ConsulConfig{CertFile: key, KeyFile: cert}, "cert_file"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := NewConsul(tc.cfg)
			must.ErrorContains(t, err, tc.want)
			must.StrNotContains(t, err.Error(), "hunter2")
		})
	}
}
