package proxy_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/election/proxy"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that sends everything back, and notes what came.
func echo(t *testing.T) (addr string, got <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	lines := make(chan string, 100)
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 1024)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					lines <- string(buf[:n])
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	t.Cleanup(func() {
		must.NoError(t, l.Close())
		<-accepted
	})
	return l.Addr().String(), lines
}

// start starts a proxy for an echo server and connects through it.
func start(t *testing.T) (p *proxy.Proxy, c net.Conn, got <-chan string) {
	t.Helper()
	addr, got := echo(t)
	p, err := proxy.Start(addr)
	must.NoError(t, err)
	c, err = net.Dial("tcp", p.Addr())
	must.NoError(t, err)
	t.Cleanup(func() {
		_ = c.Close()
		must.NoError(t, p.Close())
	})
	say(t, c, "hello")
	must.Eq(t, "hello", hear(t, c))
	must.Eq(t, "hello", <-got)
	must.Eq(t, 1, p.Conns())
	return p, c, got
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_, err := c.Write([]byte(text))
	must.NoError(t, err)
}

func hear(t *testing.T, c net.Conn) string {
	t.Helper()
	must.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	buf := make([]byte, 1024)
	n, err := c.Read(buf)
	must.NoError(t, err)
	return string(buf[:n])
}

// silent says that nothing can be read for a moment.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	must.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := c.Read(make([]byte, 1))
	must.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestProxy_Drop(t *testing.T) {
	p, c, got := start(t)
	p.Drop()
	say(t, c, "held")
	silent(t, c)
	must.SliceEmpty(t, drain(got))
	p.Pass()
	must.Eq(t, "held", hear(t, c))
}

func TestProxy_DropAnswers(t *testing.T) {
	p, c, got := start(t)
	p.DropAnswers()
	say(t, c, "done")
	must.Eq(t, "done", <-got)
	silent(t, c)
	p.Pass()
	must.Eq(t, "done", hear(t, c))
}

func TestProxy_Delay(t *testing.T) {
	p, c, _ := start(t)
	p.Delay(60 * time.Millisecond)
	begin := time.Now()
	say(t, c, "late")
	must.Eq(t, "late", hear(t, c))
	must.GreaterEq(t, 120*time.Millisecond, time.Since(begin))
}

func TestProxy_ResetAndRefuse(t *testing.T) {
	p, c, _ := start(t)
	p.Reset()
	broken(t, c)

	c, err := net.Dial("tcp", p.Addr())
	must.NoError(t, err)
	say(t, c, "again")
	must.Eq(t, "again", hear(t, c))
	p.Refuse()
	broken(t, c)

	refused(t, p)
	p.Pass()
	c, err = net.Dial("tcp", p.Addr())
	must.NoError(t, err)
	say(t, c, "back")
	must.Eq(t, "back", hear(t, c))
	must.NoError(t, c.Close())
}

func TestProxy_NoServer(t *testing.T) {
	p, err := proxy.Start("127.0.0.1:1")
	must.NoError(t, err)
	refused(t, p)
	must.NoError(t, p.Close())
	must.NoError(t, p.Close())
}

// A connection that is dropped ends with the proxy.
func TestProxy_CloseWhileDropped(t *testing.T) {
	p, c, _ := start(t)
	p.Drop()
	say(t, c, "held")
	must.NoError(t, p.Close())
	must.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := c.Read(make([]byte, 1))
	must.True(t, errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET))
}

// broken says that the connection has been reset.
func broken(t *testing.T, c net.Conn) {
	t.Helper()
	must.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := c.Read(make([]byte, 1))
	must.ErrorIs(t, err, syscall.ECONNRESET)
	must.NoError(t, c.Close())
}

// refused says that a new connection comes to nothing.
func refused(t *testing.T, p *proxy.Proxy) {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err == nil {
		broken(t, c)
		return
	}
	must.ErrorIs(t, err, syscall.ECONNRESET)
}

func drain(c <-chan string) (all []string) {
	for {
		select {
		case s := <-c:
			all = append(all, s)
		default:
			return all
		}
	}
}
