package manage

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

const (
	minToken     = 16      // bytes
	maxTokenFile = 4 << 10 // bytes
)

// access is who may use the API on TCP.
type access struct {
	file string

	mu    sync.Mutex        // guards the fields below
	stamp stamp             // of the file when it was read
	hash  [sha256.Size]byte // of the token
}

// newAccess reads the token.
func newAccess(file string) (*access, error) {
	a := &access{file: file}
	_, err := a.token()
	return a, err
}

// token returns the hash of the token that is in the file now.
func (a *access) token() ([sha256.Size]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, err := stampOf(a.file)
	if err != nil {
		return a.hash, err
	}
	if now == a.stamp {
		return a.hash, nil
	}
	token, err := readToken(a.file)
	if err != nil {
		return a.hash, err
	}
	a.stamp, a.hash = now, sha256.Sum256(token)
	return a.hash, nil
}

func readToken(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return nil, err
	}
	token := bytes.TrimSpace(data)
	if len(token) < minToken || len(data) > maxTokenFile {
		return nil, fmt.Errorf("the token in %s has not %d to %d bytes", file, minToken, maxTokenFile)
	}
	return token, nil
}

// check refuses requests without the token. If the file cannot be read any more
// then nobody has it.
func (a *access) check(r *http.Request) *httpapi.Error {
	want, err := a.token()
	if err != nil {
		return httpapi.Errorf(http.StatusServiceUnavailable, "", "this endpoint's token_file is unreadable")
	}
	if !httpapi.HasToken(r, want) {
		return httpapi.Errorf(http.StatusUnauthorized, "", "send the token of this endpoint's token_file as Authorization: Bearer")
	}
	return nil
}

// certificate is one in files that may be renewed.
type certificate struct {
	certFile, keyFile string

	mu     sync.Mutex // guards the fields below
	stamps [2]stamp
	cert   *tls.Certificate
}

// newCertificate reads the files.
func newCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	return c, c.load()
}

// load reads the files if they have changed. If they cannot be read, or do not
// belong together, everything stays as it was.
func (c *certificate) load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err1 := stampOf(c.certFile)
	key, err2 := stampOf(c.keyFile)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	now := [2]stamp{cert, key}
	if now == c.stamps {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.stamps, c.cert = now, &pair
	return nil
}

// config is that of a server. Each connection gets what is in the files then.
func (c *certificate) config(log hclog.Logger) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if err := c.load(); err != nil { // perhaps between the writing of the two files
				log.Warn("certificate not read again, the one before is used", "error", err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.cert, nil
		},
	}
}

// stamp tells whether a file has changed.
type stamp struct {
	size    int64
	changed time.Time
}

func stampOf(file string) (stamp, error) {
	st, err := os.Stat(file)
	if err != nil {
		return stamp{}, err
	}
	return stamp{st.Size(), st.ModTime()}, nil
}
