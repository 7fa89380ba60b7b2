package election

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

// Bounds of the requests to Consul.
const (
	// maxTxns is how many transactions are on their way at a time.
	maxTxns = 3
	// txnTimeout bounds a write. A lock that took longer than its trust window is
	// not believed anyway.
	txnTimeout = 2 * time.Second
	// callTimeout bounds a call about sessions and the service.
	callTimeout = 3 * time.Second
	// lastTimeout bounds the sign-off of a Close that has run out of time.
	lastTimeout = time.Second
	// pingAfter is the silence on an HTTP/2 connection after which a ping is sent, and
	// pingTimeout how long its answer may take.
	pingAfter   = 300 * time.Millisecond
	pingTimeout = 400 * time.Millisecond
	// watchWait is how long Consul holds the blocking query, plus a sixteenth.
	watchWait = time.Minute
)

// consul is the edge to Consul. Its two pools of connections keep the traffic that an
// Elector's life hangs on apart from its writes, so that a burst of elections does not
// stand in the way of heartbeats; together they have at most seven connections.
type consul struct {
	vital *api.Client // watch, heartbeat, consistent reads, sessions
	bulk  *api.Client // transactions

	pools    []*http.Transport
	requests atomic.Uint64
	failures atomic.Uint64
}

func newConsul(cfg *api.Config, transport http.RoundTripper) (*consul, error) {
	c := &consul{}
	var err error
	if c.vital, err = c.client(cfg, transport, 4); err != nil {
		return nil, err
	}
	if c.bulk, err = c.client(cfg, transport, maxTxns); err != nil {
		return nil, err
	}
	return c, nil
}

// client makes a client with its own connections. Over TLS they are HTTP/2, and one is
// enough.
func (c *consul) client(cfg *api.Config, transport http.RoundTripper, conns int) (*api.Client, error) {
	own := *cfg
	if transport != nil {
		own.HttpClient = &http.Client{Transport: transport}
		return api.NewClient(&own)
	}
	own.HttpClient = nil
	own.Transport = &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: callTimeout, KeepAlive: 15 * time.Second}).DialContext,
		MaxConnsPerHost:     conns,
		MaxIdleConns:        conns,
		MaxIdleConnsPerHost: conns,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		// Over TLS everything shares a connection, which a deadline does not close: one
		// that has silently died has to be found out before the session is lost.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	if path, ok := strings.CutPrefix(own.Address, "unix://"); ok {
		// The client library would take a transport of its own for that.
		own.Address, own.Transport.Proxy = "localhost", nil
		own.Transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: callTimeout}).DialContext(ctx, "unix", path)
		}
	}
	client, err := api.NewClient(&own)
	if err != nil {
		return nil, fieldErrorf("consul", "%v", err)
	}
	c.pools = append(c.pools, own.Transport)
	return client, nil
}

// close gives the connections back.
func (c *consul) close() {
	for _, p := range c.pools {
		p.CloseIdleConnections()
	}
}

// note counts a request and passes its error on.
func (c *consul) note(ctx context.Context, err error) error {
	c.requests.Add(1)
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		c.failures.Add(1)
	}
	return err
}

// list waits for a change under the prefix, or returns at once with index 0.
func (c *consul) list(ctx context.Context, root string, index uint64) (api.KVPairs, uint64, error) {
	timeout := callTimeout
	if index > 0 {
		timeout += watchWait + watchWait/16
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	opts := &api.QueryOptions{WaitIndex: index, WaitTime: watchWait}
	pairs, meta, err := c.vital.KV().List(root, opts.WithContext(ctx))
	if c.note(ctx, err) != nil {
		return nil, 0, fmt.Errorf("watch %s: %w", root, err)
	}
	return pairs, meta.LastIndex, nil
}

// index reads the prefix's index from the Consul leader, which has a quorum agree that
// it is still the leader. The separator keeps the answer short.
func (c *consul) index(ctx context.Context, root string) (uint64, error) {
	opts := &api.QueryOptions{RequireConsistent: true}
	_, meta, err := c.vital.KV().Keys(root, "/", opts.WithContext(ctx))
	if c.note(ctx, err) != nil {
		return 0, fmt.Errorf("read the index of %s: %w", root, err)
	}
	return meta.LastIndex, nil
}

// txn carries out a transaction. The error is a *refused if Consul said no, and
// anything else if nobody knows.
func (c *consul) txn(ctx context.Context, ops ...*api.KVTxnOp) ([]*api.KVPair, error) {
	ctx, cancel := context.WithTimeout(ctx, txnTimeout)
	defer cancel()
	all := make(api.TxnOps, len(ops))
	for i, op := range ops {
		all[i] = &api.TxnOp{KV: op}
	}
	// A transaction without a write is a read to Consul, and a stale one unless it is told.
	ok, resp, _, err := c.bulk.Txn().Txn(all, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if c.note(ctx, err) != nil {
		return nil, fmt.Errorf("transaction: %w", err)
	}
	if !ok {
		no := &refused{what: map[int]string{}}
		for _, e := range resp.Errors {
			if e.OpIndex < 0 || e.OpIndex >= len(ops) {
				return nil, fmt.Errorf("transaction: %s", e.What)
			}
			if no.what[e.OpIndex] == "" {
				no.what[e.OpIndex] = e.What
			}
		}
		if len(no.what) == 0 {
			return nil, errors.New("transaction: refused without a reason")
		}
		return nil, no
	}
	pairs := make([]*api.KVPair, len(resp.Results))
	for i, r := range resp.Results {
		pairs[i] = r.KV
	}
	return pairs, nil
}

// batch carries out transactions together: those that Consul would not refuse are one
// transaction, which is one Raft entry. The outcomes are in the order of the given ones.
func (c *consul) batch(ctx context.Context, all [][]*api.KVTxnOp) []outcome {
	outs := make([]outcome, len(all))
	left := make([]int, len(all))
	for i := range left {
		left[i] = i
	}
	for len(left) > 0 {
		var ops []*api.KVTxnOp
		var owner []int
		for _, i := range left {
			ops = append(ops, all[i]...)
			for range all[i] {
				owner = append(owner, i)
			}
		}
		pairs, err := c.txn(ctx, ops...)
		if no := (*refused)(nil); errors.As(err, &no) {
			for op, what := range no.what {
				i := owner[op]
				outs[i].err = &refused{what: map[int]string{0: what}}
				left = slices.DeleteFunc(left, func(j int) bool { return j == i })
			}
			continue // without those; each round leaves out one at least
		}
		for n, op := range ops {
			i := owner[n]
			switch {
			case err != nil:
				outs[i].err = err
			case op.Verb == api.KVDeleteCAS: // has no result
			case len(pairs) == 0:
				outs[i].err = errors.New("transaction: consul answered with too few results")
			default:
				outs[i].last, pairs = pairs[0], pairs[1:]
			}
		}
		return outs
	}
	return outs
}

// outcome of one transaction.
type outcome struct {
	last *api.KVPair // the result of its last operation; nil for a delete
	err  error       // a *refused if it was not carried out for certain
}

// ops are the operations of an action.
func (a action) ops() []*api.KVTxnOp {
	check := &api.KVTxnOp{Verb: api.KVCheckIndex, Key: a.key, Index: a.check}
	switch a.kind {
	case doCreate:
		return []*api.KVTxnOp{{Verb: api.KVCAS, Key: a.key, Index: 0, Value: a.value}}
	case doLock:
		return []*api.KVTxnOp{check, {Verb: api.KVLock, Key: a.key, Session: a.session, Value: a.value}}
	case doUnlock:
		// Without the check, a release that was long under way could end a later term.
		return []*api.KVTxnOp{check, {Verb: api.KVUnlock, Key: a.key, Session: a.session, Value: a.value}}
	case doRegister:
		return []*api.KVTxnOp{{Verb: api.KVLock, Key: a.key, Session: a.session, Value: a.value}}
	case doForget:
		// It succeeds if the key is missing, which is as good.
		return []*api.KVTxnOp{{Verb: api.KVDeleteCAS, Key: a.key, Index: a.check}}
	default:
		panic(fmt.Sprintf("election: %v is not a transaction", a.kind))
	}
}

// remove deletes a key that a session holds.
func (c *consul) remove(ctx context.Context, key, session string) error {
	_, err := c.txn(ctx,
		&api.KVTxnOp{Verb: api.KVCheckSession, Key: key, Session: session},
		&api.KVTxnOp{Verb: api.KVDelete, Key: key})
	return err
}

// destroy ends a session.
func (c *consul) destroy(ctx context.Context, id string) error {
	_, err := c.vital.Session().Destroy(id, (&api.WriteOptions{}).WithContext(ctx))
	if c.note(ctx, err) != nil {
		return fmt.Errorf("destroy session: %w", err)
	}
	return nil
}

// fencedKV carries out transactions for a leader.
type fencedKV interface {
	fenced(ctx context.Context, l *Leadership, ops api.KVTxnOps) ([]*api.KVPair, error)
}

// fencing does so with the Elector's own connections.
type fencing struct{ consul *consul }

func (f fencing) fenced(ctx context.Context, l *Leadership, ops api.KVTxnOps) ([]*api.KVPair, error) {
	all := append(l.Fence(), ops...)
	fence := len(all) - len(ops)
	res, err := f.consul.txn(ctx, all...)
	if no := (*refused)(nil); errors.As(err, &no) {
		op, why := no.first()
		if op < fence {
			return nil, fmt.Errorf("election %q, token %d: %w (%s)", l.election, l.token, ErrNotLeader, why)
		}
		return nil, fmt.Errorf("operation %d: %w: %s", op-fence, ErrConflict, why)
	}
	if err != nil {
		return nil, fmt.Errorf("election %q: fenced transaction, which may have been carried out: %w", l.election, err)
	}
	return res[min(fence, len(res)):], nil
}
