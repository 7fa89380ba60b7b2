package agent

import (
	"flag"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

func TestBaseURL(t *testing.T) {
	for address, want := range map[string]string{
		"h:1":              "http://h:1",
		"http://h:1/":      "http://h:1",
		"https://h":        "https://h",
		"unix:///a":        "http://2f61.socket",
		"ftp://h":          "",
		"http://":          "",
		"http://u:p@h":     "",
		"http://h\x00":     "",
		"https://[::1]:80": "https://[::1]:80",
	} {
		got, err := BaseURL(address)
		must.Eq(t, want, got)
		must.Eq(t, want == "", err != nil)
	}
}

// A target at a unix socket is reached with its token.
func TestTarget(t *testing.T) {
	dir, err := os.MkdirTemp("", "agent") // sockets need short paths
	must.NoError(t, err)
	defer func() { must.NoError(t, os.RemoveAll(dir)) }()
	token := filepath.Join(dir, "token")
	must.NoError(t, os.WriteFile(token, []byte("secret\n"), 0o600))
	t.Setenv("PROG_ADDR", "unix://"+filepath.Join(dir, "s"))
	t.Setenv("PROG_TOKEN_FILE", token)
	var f ClientFlags
	fs := flag.NewFlagSet("x", flag.ContinueOnError)
	f.Declare(fs, "prog", "127.0.0.1:1")
	must.NoError(t, fs.Parse(nil))
	target, err := f.Target()
	must.NoError(t, err)
	must.Eq(t, "secret", target.Token)

	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	must.NoError(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	transport := ClientTransport(target.TLS)
	base, err := BaseURL(target.Address)
	must.NoError(t, err)
	resp, err := (&http.Client{Transport: transport}).Get(base + "/x")
	must.NoError(t, err)
	must.NoError(t, resp.Body.Close())
	must.Eq(t, http.StatusTeapot, resp.StatusCode)
	transport.CloseIdleConnections()
	must.NoError(t, srv.Close())
	must.ErrorIs(t, <-done, http.ErrServerClosed)
}

func TestTargetProblems(t *testing.T) {
	var f ClientFlags
	fs := flag.NewFlagSet("x", flag.ContinueOnError)
	f.Declare(fs, "prog", "127.0.0.1:1")
	must.NoError(t, fs.Parse([]string{"-address=ftp://x", "-token-file=/nope", "-ca-file=/dev/null", "-client-cert-file=/nope"}))
	_, err := f.Target()
	must.EqError(t, err, "-ca-file: /dev/null has no certificate in PEM form\n"+
		"-client-cert-file: a certificate and its key belong together; give the file of the key too\n"+
		"-address: is not host:port, http://…, https://… or unix:///path\n"+
		"-token-file: open /nope: no such file or directory")
}

// Neither an empty file is a token, nor is a password shown.
func TestTargetSecrets(t *testing.T) {
	for address, want := range map[string]string{
		"http://me:hunter2@h": "must be without user and password",
		"me:hunter2@h:1":      "must be without user and password",
		"ftp://me:hunter2@h":  "is not host:port, http://…, https://… or unix:///path",
		"http://me:hunter2@%": "is not host:port, http://…, https://… or unix:///path",
	} {
		var f ClientFlags
		fs := flag.NewFlagSet("x", flag.ContinueOnError)
		f.Declare(fs, "prog", "127.0.0.1:1")
		must.NoError(t, fs.Parse([]string{"-address=" + address, "-token-file=/dev/null"}))
		_, err := f.Target()
		must.EqError(t, err, "-address: "+want+"\n-token-file: /dev/null is empty")
	}
}

// The problem is at the file that is missing.
func TestClientTLSProblems(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must.NoError(t, os.WriteFile(file, nil, 0o600))
	cert := func(path string) Value[string] { return Value[string]{V: path, From: "c"} }
	key := func(path string) Value[string] { return Value[string]{V: path, From: "k"} }
	for name, c := range map[string]struct {
		cert, key Value[string]
		want      string
	}{
		"key alone":      {Value[string]{}, key(file), "k: client-key-file: a certificate and its key belong together; give the file of the certificate too"},
		"empty setting":  {cert(""), key(file), "k: client-key-file: a certificate and its key belong together; give the file of the certificate too"},
		"cert alone":     {cert(file), Value[string]{}, "c: client-cert-file: a certificate and its key belong together; give the file of the key too"},
		"no certificate": {cert("/nope"), key(file), "c: client-cert-file: open /nope: no such file or directory"},
		"no key":         {cert(file), key("/nope"), "k: client-key-file: open /nope: no such file or directory"},
		"not PEM":        {cert(file), key(file), "c: client-cert-file: tls: failed to find any PEM data in certificate input"},
	} {
		t.Run(name, func(t *testing.T) {
			var p Problems
			ClientTLS(&p, Value[string]{}, c.cert, c.key)
			must.EqError(t, p.Err(), c.want)
		})
	}
}
