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
		"-client-cert-file: open /nope: no such file or directory\n"+
		"-address: is not host:port, http://…, https://… or unix:///path\n"+
		"-token-file: open /nope: no such file or directory")
}
