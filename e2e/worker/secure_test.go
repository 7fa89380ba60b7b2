package worker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const secret = "a-token-that-nobody-may-see"

// secrets are a certificate for 127.0.0.1 that is its own CA, its key, and a token.
type secrets struct{ cert, key, token string }

func newSecrets(t *testing.T) (s secrets, client *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	s = secrets{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "token")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(s.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must.NoError(t, os.WriteFile(s.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	must.NoError(t, os.WriteFile(s.token, []byte(secret+"\n"), 0o600))
	parsed, err := x509.ParseCertificate(der)
	must.NoError(t, err)
	client = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	client.RootCAs.AddCert(parsed)
	return s, client
}

// secure lets two brokers, a worker and a person speak TLS with certificates on both
// sides, and a token.
func secure(s *scene) {
	files, client := newSecrets(s.t)
	s.queue = "secured" // the other brokers have "q", and the worker must not find them
	var brokers []*rig.Broker
	for i := range 2 {
		b, err := rig.NewBroker(rig.BrokerConfig{
			Consul: s.consul, Binary: filepath.Join(filepath.Dir(s.binary), "queue"), ID: fmt.Sprint(i), Prefix: "secure", Agent: s.consul.ServerAddr(0),
			Plain: true, TLS: client, Flags: []string{
				"-listen-cert-file=" + files.cert, "-listen-key-file=" + files.key, "-listen-client-ca-file=" + files.cert, "-listen-token-file=" + files.token,
				"-peer-ca-file=" + files.cert, "-peer-cert-file=" + files.cert, "-peer-key-file=" + files.key,
			},
		})
		must.NoError(s.t, err)
		must.NoError(s.t, b.Start())
		s.t.Cleanup(func() { must.NoError(s.t, b.Close()) })
		must.NoError(s.t, b.AwaitReady(s.ctx))
		brokers = append(brokers, b)
	}
	// One of them leads, and the other one has to ask it.
	for i, b := range brokers {
		transport := &http.Transport{TLSClientConfig: client}
		defer transport.CloseIdleConnections()
		c, err := queue.NewClient(queue.ClientConfig{Addresses: []string{b.Address()}, Token: secret, Transport: transport})
		must.NoError(s.t, err)
		defer c.Close()
		_, err = c.Create(s.ctx, s.queue, queue.Config{Retention: queue.Duration(time.Hour)})
		must.NoError(s.t, err)
		name := fmt.Sprint("input", i)
		must.NoError(s.t, os.WriteFile(filepath.Join(s.in, name), []byte(name), 0o600))
		_, err = c.Enqueue(s.ctx, s.queue, []queue.Item{{Input: name}})
		must.NoError(s.t, err)
		s.Client = c
	}
	// Whoever lacks something of it is refused.
	ask := func(url string, config *tls.Config, token string) (int, error) {
		req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, url+"/v1/queues", nil)
		must.NoError(s.t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}).Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	url := brokers[0].Address()
	code, err := ask(url, client, secret)
	must.NoError(s.t, err)
	must.Eq(s.t, http.StatusOK, code)
	code, err = ask(url, client, "other")
	must.NoError(s.t, err)
	must.Eq(s.t, http.StatusUnauthorized, code)
	_, err = ask(url, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: client.RootCAs}, secret)
	must.ErrorContains(s.t, err, "certificate required")
	_, err = ask(url, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: client.Certificates}, secret)
	must.ErrorContains(s.t, err, "unknown authority")
	code, err = ask("http"+strings.TrimPrefix(url, "https"), nil, secret)
	must.NoError(s.t, err)
	must.Eq(s.t, http.StatusBadRequest, code)
	// A person uses the program.
	out, err := exec.CommandContext(s.ctx, filepath.Join(filepath.Dir(s.binary), "queue"), "status", "-address="+url, "-token-file="+files.token,
		"-ca-file="+files.cert, "-client-cert-file="+files.cert, "-client-key-file="+files.key, s.queue).CombinedOutput()
	must.NoError(s.t, err, must.Sprint(string(out)))
	must.StrContains(s.t, string(out), "work")
	// A worker finds the brokers in Consul.
	args := []string{
		"-queue=" + s.queue, "-id=secure", "-drain-timeout=5s", "-input-dir=" + s.in, "-output=" + s.out, "-work-dir=" + s.t.TempDir(),
		"-queue-token-file=" + files.token, "-queue-ca-file=" + files.cert, "-queue-cert-file=" + files.cert, "-queue-key-file=" + files.key, "--", "/bin/sh", "-c", quick,
	}
	w := rig.NewProgram(s.consul, "secure-worker", func() *exec.Cmd {
		cmd := exec.Command(s.binary, args...)
		cmd.Env = append(os.Environ(), s.consul.Env(s.consul.ServerAddr(0))...)
		return cmd
	})
	must.NoError(s.t, w.Start())
	s.t.Cleanup(func() { must.NoError(s.t, w.Close()) })
	for i := range brokers {
		s.until(queue.ID{Seq: uint64(i)}, func(st queue.ItemStatus) bool { return st.State == "done" && s.published(fmt.Sprint("input", i)) != "" })
	}
	must.False(s.t, w.Says(secret))
	for _, b := range brokers {
		must.False(s.t, b.Says(secret))
	}
	pairs, _, err := s.consul.Server(0).KV().List("secure/", nil)
	must.NoError(s.t, err)
	must.SliceNotEmpty(s.t, pairs)
	for _, p := range pairs {
		must.StrNotContains(s.t, string(p.Value), secret)
	}
}
