package proxy

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// chunkBytes is read and forwarded at once.
	chunkBytes = 32 << 10
	// maxHeld bounds the chunks that one direction of a connection holds back.
	// What exceeds it waits in the buffers of the sockets.
	maxHeld = 64
	// dialTimeout bounds the connection to the server.
	dialTimeout = 5 * time.Second
)

// fault is what happens to the connections now. The zero value is nothing.
type fault struct {
	dropRequests bool // from the client to the server
	dropAnswers  bool // from the server to the client
	delay        time.Duration
	refuse       bool
}

// Proxy forwards connections to one server. Its methods may be called from
// several goroutines.
type Proxy struct {
	target   string
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex
	fault   fault
	changed chan struct{} // closed at each change of fault, and then replaced
	conns   map[*pair]struct{}
	closed  bool
}

// pair is a connection from the client with the one to the server. Whatever
// ends one side ends both.
type pair struct {
	client, server net.Conn
	once           sync.Once
	done           chan struct{}
}

// end closes both sides; with reset, so that both see an error.
func (p *pair) end(reset bool) {
	p.once.Do(func() {
		close(p.done)
		for _, c := range []net.Conn{p.client, p.server} {
			if tcp, ok := c.(*net.TCPConn); ok && reset {
				_ = tcp.SetLinger(0) // a connection that is gone needs no reset
			}
			_ = c.Close() // nothing is done with it any more
		}
	})
}

// Start listens on a free port of loopback for a server at host:port, which
// need not run yet.
func Start(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start proxy for %s: %w", target, err)
	}
	p := &Proxy{target: target, listener: l, changed: make(chan struct{}), conns: map[*pair]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where clients connect, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Pass ends every fault.
func (p *Proxy) Pass() { p.set(fault{}) }

// Drop loses everything in both directions. Connections stay open.
func (p *Proxy) Drop() { p.set(fault{dropRequests: true, dropAnswers: true}) }

// DropAnswers loses what the server sends: requests take effect, and the client
// does not learn it. Connections stay open.
func (p *Proxy) DropAnswers() { p.set(fault{dropAnswers: true}) }

// Delay holds everything back for so long in each direction.
func (p *Proxy) Delay(d time.Duration) { p.set(fault{delay: d}) }

// Refuse breaks all connections, and each new one at once.
func (p *Proxy) Refuse() {
	p.set(fault{refuse: true})
	p.Reset()
}

// Reset breaks the connections that are open. New ones work.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.end(true)
	}
}

// Conns is the number of open connections.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Close ends all connections and stops listening.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.end(false)
	}
	p.mu.Unlock()
	err := p.listener.Close()
	p.wg.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close proxy for %s: %w", p.target, err)
	}
	return nil
}

// set changes the fault and wakes all that wait for its end.
func (p *Proxy) set(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
	close(p.changed)
	p.changed = make(chan struct{})
}

// now is the present fault, and what is closed when it changes.
func (p *Proxy) now() (fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault, p.changed
}

// accept takes connections until the listener is closed.
func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

// serve forwards one connection.
func (p *Proxy) serve(client net.Conn) {
	server, err := p.dial()
	if err != nil {
		// As if nobody listened.
		(&pair{client: client, server: client, done: make(chan struct{})}).end(true)
		return
	}
	c := &pair{client: client, server: server, done: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		c.end(false)
		return
	}
	p.conns[c] = struct{}{}
	p.mu.Unlock()

	p.wg.Go(func() { p.forward(c, client, server, func(f fault) bool { return f.dropRequests }) })
	p.forward(c, server, client, func(f fault) bool { return f.dropAnswers })
	<-c.done
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// dial connects to the server.
func (p *Proxy) dial() (net.Conn, error) {
	if f, _ := p.now(); f.refuse {
		return nil, errors.New("refused")
	}
	return net.DialTimeout("tcp", p.target, dialTimeout)
}

// chunk is what was read at once.
type chunk struct {
	data []byte
	due  time.Time
}

// forward copies one direction. It returns when the connection has ended.
func (p *Proxy) forward(c *pair, from, to net.Conn, dropped func(fault) bool) {
	chunks := make(chan chunk, maxHeld)
	p.wg.Go(func() {
		defer close(chunks)
		for {
			buf := make([]byte, chunkBytes)
			n, err := from.Read(buf)
			if n > 0 {
				f, _ := p.now()
				select {
				case chunks <- chunk{data: buf[:n], due: time.Now().Add(f.delay)}:
				case <-c.done:
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	for k := range chunks {
		if !p.hold(c, k.due, dropped) {
			break
		}
		if _, err := to.Write(k.data); err != nil {
			break
		}
	}
	c.end(false)
	for range chunks { // lets the reader go
	}
}

// hold waits until a chunk may pass, and says whether the connection is still
// there.
func (p *Proxy) hold(c *pair, due time.Time, dropped func(fault) bool) bool {
	if wait := time.Until(due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.done:
			return false
		}
	}
	for {
		f, changed := p.now()
		if !dropped(f) {
			return true
		}
		select {
		case <-changed:
		case <-c.done:
			return false
		}
	}
}
