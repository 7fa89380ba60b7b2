package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ClientConfig says where brokers are. All of them answer: a broker that does not lead
// what a request is about passes it on to the one that does.
type ClientConfig struct {
	// Addresses of brokers: host:port, http://…, https://… or unix:///path.
	Addresses []string
	// Resolve finds addresses in place of Addresses, for example in Consul's catalog.
	// It is asked again when none of those it gave answers.
	Resolve func(ctx context.Context) ([]string, error)
	// Token that brokers ask for.
	Token string
	// Transport of requests. Default: one of its own.
	Transport *http.Transport
	// Patience is for how long a request is tried again when no broker can be
	// reached or the shard has no leader. Default 30 s.
	Patience time.Duration
}

// Client talks to brokers over HTTP. Its methods may be called from any goroutine.
type Client struct {
	cfg  ClientConfig
	http *http.Client
	own  *http.Transport

	mu        sync.Mutex
	addresses []string
	good      int // of addresses: the one that answered last
}

// RefusedError is what a broker said.
type RefusedError struct {
	Status  int // of HTTP
	Message string
	Field   string
	// Undone: the broker says that it has certainly done nothing, and that the same
	// request can succeed later.
	Undone bool
}

func (e *RefusedError) Error() string {
	if e.Field != "" {
		return e.Field + ": " + e.Message
	}
	return e.Message
}

// NewClient makes a client. It does not connect yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	if len(cfg.Addresses) == 0 && cfg.Resolve == nil {
		return nil, fieldErrorf("addresses", "there are none")
	}
	setDefault(&cfg.Patience, 30*time.Second)
	c := &Client{cfg: cfg, addresses: cfg.Addresses}
	transport := cfg.Transport
	if transport == nil {
		transport = &http.Transport{
			MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 5 * time.Second, ForceAttemptHTTP2: true,
		}
		c.own = transport
	}
	dialer := &net.Dialer{Timeout: 3 * time.Second}
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		// Paths of sockets travel as names of hosts; see base.
		if host, _, err := net.SplitHostPort(addr); err == nil {
			if path, is := strings.CutSuffix(host, socketSuffix); is {
				raw, err := url.PathUnescape(strings.ReplaceAll(path, "_", "%"))
				if err != nil {
					return nil, err
				}
				return dialer.DialContext(ctx, "unix", raw)
			}
		}
		return dialer.DialContext(ctx, network, addr)
	}
	c.http = &http.Client{Transport: transport}
	for _, a := range cfg.Addresses {
		if _, err := base(a); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Close gives idle connections back.
func (c *Client) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

const socketSuffix = ".socket"

// base is the beginning of URLs for an address.
func base(address string) (string, error) {
	if path, unix := strings.CutPrefix(address, "unix://"); unix {
		hex := &strings.Builder{}
		for _, b := range []byte(path) {
			fmt.Fprintf(hex, "_%02x", b)
		}
		return "http://" + hex.String() + socketSuffix, nil
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return "", fieldErrorf("addresses", "%q is not host:port, http://…, https://… or unix:///path", address)
	}
	return strings.TrimRight(address, "/"), nil
}

// pick returns an address to try: the last good one first, then the others in turn.
func (c *Client) pick(ctx context.Context, try int) (string, error) {
	c.mu.Lock()
	n := len(c.addresses)
	c.mu.Unlock()
	if c.cfg.Resolve != nil && (n == 0 || try > 0 && try%n == 0) {
		found, err := c.cfg.Resolve(ctx)
		if err != nil {
			return "", fmt.Errorf("find brokers: %w", err)
		}
		c.mu.Lock()
		if len(found) > 0 {
			c.addresses, c.good = found, 0
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.addresses) == 0 {
		return "", errors.New("no broker is known")
	}
	return c.addresses[(c.good+try)%len(c.addresses)], nil
}

// keep remembers that an address has answered.
func (c *Client) keep(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, a := range c.addresses {
		if a == address {
			c.good = i
		}
	}
}

// retry says whether a request is made again after an answer that says "not now".
type retry int

const (
	never   retry = iota // it may have been done, and must not be done twice
	refused              // if it was certainly not done
	always               // doing it twice does no harm
)

// call makes a request with a JSON body, until a broker has answered it.
func (c *Client) call(ctx context.Context, again retry, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(c.cfg.Patience)
	var last error
	for try := 0; ; try++ {
		address, err := c.pick(ctx, try)
		if err == nil {
			var sent bool
			if sent, err = c.once(ctx, address, method, path, body, out); err == nil {
				c.keep(address)
				return nil
			}
			var no *RefusedError
			answered := errors.As(err, &no)
			switch {
			case answered && no.Status != http.StatusServiceUnavailable && no.Status != http.StatusTooManyRequests && no.Status != http.StatusMisdirectedRequest:
				return err // it will not get better
			case answered && no.Status == http.StatusServiceUnavailable && !no.Undone && again != always:
				return err // it may have been done
			case !answered && sent && again != always:
				return fmt.Errorf("%s: it may have been done: %w", address, err)
			}
		}
		last = err
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		}
		wait := min(time.Second, 20*time.Millisecond<<min(try, 10))
		wait = wait/2 + rand.N(wait/2+1) //nolint:gosec // spreads load, and hides nothing
		if again == never || time.Now().Add(wait).After(deadline) {
			return last
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		}
	}
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// once makes a request. sent is false if it certainly has not reached anybody.
func (c *Client) once(ctx context.Context, address, method, path string, body []byte, out any) (sent bool, err error) {
	root, err := base(address)
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, method, root+path, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	if c.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var dial *net.OpError
		return !errors.As(err, &dial) || dial.Op != "dial", err
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return true, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		no := &RefusedError{Status: resp.StatusCode, Undone: resp.Header.Get("Retry-After") != ""}
		var said struct{ Error, Field string }
		if json.Unmarshal(answer, &said) == nil {
			no.Message, no.Field = said.Error, said.Field
		}
		if no.Message == "" {
			no.Message = "the broker answered " + resp.Status
		}
		return true, no
	}
	if out == nil {
		return true, nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return true, fmt.Errorf("read the answer: %w", err)
	}
	return true, nil
}

func queuePath(queue, rest string) string { return "/v1/queues/" + url.PathEscape(queue) + rest }

// Create makes a queue, or changes it.
func (c *Client) Create(ctx context.Context, queue string, cfg Config) (Config, error) {
	err := c.call(ctx, always, http.MethodPut, queuePath(queue, ""), cfg, &cfg)
	return cfg, err
}

// Delete removes a queue with everything in it.
func (c *Client) Delete(ctx context.Context, queue string) error {
	return c.call(ctx, always, http.MethodDelete, queuePath(queue, ""), nil, nil)
}

// Batch is what is enqueued at once.
type Batch struct {
	Items []Item `json:"items"`
}

// EnqueuedBatch is what became of it.
type EnqueuedBatch struct {
	Items []Enqueued `json:"items"`
}

// Enqueue adds items, up to MaxBatch and MaxBatchBytes. If all of them have keys it is
// tried again until it is known that they are stored; otherwise an error can mean that
// they are or not.
func (c *Client) Enqueue(ctx context.Context, queue string, items []Item) ([]Enqueued, error) {
	again := always
	for i := range items {
		if items[i].Key == "" {
			again = refused
		}
	}
	var out EnqueuedBatch
	err := c.call(ctx, again, http.MethodPost, queuePath(queue, "/items"), Batch{items}, &out)
	return out.Items, err
}

// Claim asks for items.
func (c *Client) Claim(ctx context.Context, queue string, req ClaimRequest) (ClaimResponse, error) {
	var out ClaimResponse
	// What an answer that did not arrive had in it is lost when its lease ends.
	err := c.call(ctx, refused, http.MethodPost, queuePath(queue, "/claim"), req, &out)
	return out, err
}

// Acks end attempts.
type Acks struct {
	Acks []Ack `json:"acks"`
}

// AckResults are their verdicts.
type AckResults struct {
	Results []AckResult `json:"results"`
}

// Ack ends attempts. Saying it twice does no harm.
func (c *Client) Ack(ctx context.Context, queue string, acks []Ack) ([]AckResult, error) {
	var out AckResults
	err := c.call(ctx, always, http.MethodPost, queuePath(queue, "/ack"), Acks{acks}, &out)
	return out.Results, err
}

// Extend renews leases.
func (c *Client) Extend(ctx context.Context, queue string, e Extend) (Extended, error) {
	var out Extended
	err := c.call(ctx, always, http.MethodPost, queuePath(queue, "/extend"), e, &out)
	return out, err
}

// Item tells about an item.
func (c *Client) Item(ctx context.Context, queue string, id ID) (ItemStatus, error) {
	var out ItemStatus
	err := c.call(ctx, always, http.MethodGet, queuePath(queue, "/items/"+id.String()), nil, &out)
	return out, err
}

// IDs name items.
type IDs struct {
	IDs []ID `json:"ids"`
}

// Cancel ends items that are not finished.
func (c *Client) Cancel(ctx context.Context, queue string, ids []ID) ([]AckResult, error) {
	var out AckResults
	err := c.call(ctx, always, http.MethodPost, queuePath(queue, "/cancel"), IDs{ids}, &out)
	return out.Results, err
}

// Set turns a switch of all shards.
func (c *Client) Set(ctx context.Context, queue string, f Flag) error {
	return c.call(ctx, always, http.MethodPost, queuePath(queue, "/"+string(f)), nil, nil)
}

// Count is how many items something was done to.
type Count struct {
	Items int `json:"items"`
}

// Purge cancels all items that nobody works on.
func (c *Client) Purge(ctx context.Context, queue string) (int, error) {
	var out Count
	err := c.call(ctx, always, http.MethodPost, queuePath(queue, "/purge"), nil, &out)
	return out.Items, err
}

// DeadLetters are a part of the list; Next goes into the request for the next part, and
// is empty at the end.
type DeadLetters struct {
	Dead []DeadLetter `json:"dead"`
	Next string       `json:"next,omitempty"`
}

// Dead lists dead letters from one on; "" is the first.
func (c *Client) Dead(ctx context.Context, queue, from string) (DeadLetters, error) {
	var out DeadLetters
	path := queuePath(queue, "/dead")
	if from != "" {
		path += "?from=" + url.QueryEscape(from)
	}
	err := c.call(ctx, always, http.MethodGet, path, nil, &out)
	return out, err
}

// Redrive enqueues dead letters again: those that are named, or all.
func (c *Client) Redrive(ctx context.Context, queue string, ids []ID) (int, error) {
	var out Count
	var in any = struct{}{}
	if ids != nil {
		in = IDs{ids}
	}
	err := c.call(ctx, refused, http.MethodPost, queuePath(queue, "/dead/redrive"), in, &out)
	return out.Items, err
}

// Recurring lists what is enqueued again and again, in the order of the names.
func (c *Client) Recurring(ctx context.Context, queue string) ([]Schedule, error) {
	var out Schedules
	err := c.call(ctx, always, http.MethodGet, queuePath(queue, "/recurring"), nil, &out)
	return out.Recurring, err
}

// SetRecurring adds or changes an item that is enqueued again and again.
func (c *Client) SetRecurring(ctx context.Context, queue string, r Recurring) error {
	return c.call(ctx, always, http.MethodPut, queuePath(queue, "/recurring/"+url.PathEscape(r.Name)), r, nil)
}

// DeleteRecurring ends one.
func (c *Client) DeleteRecurring(ctx context.Context, queue, name string) error {
	return c.call(ctx, always, http.MethodDelete, queuePath(queue, "/recurring/"+url.PathEscape(name)), nil, nil)
}

// Overview tells about a queue and its shards.
type Overview struct {
	Status
	Config Config        `json:"config"`
	Shards []ShardStatus `json:"shards"`
}

// ShardStatus tells who leads a shard.
type ShardStatus struct {
	Shard  int    `json:"shard"`
	Leader string `json:"leader,omitempty"` // its address
	Error  string `json:"error,omitempty"`  // why it is not counted
}

// Status tells about a queue.
func (c *Client) Status(ctx context.Context, queue string) (Overview, error) {
	var out Overview
	err := c.call(ctx, always, http.MethodGet, queuePath(queue, ""), nil, &out)
	return out, err
}

// Overviews is all queues.
type Overviews struct {
	Queues []Overview `json:"queues"`
}

// List tells about all queues.
func (c *Client) List(ctx context.Context) (Overviews, error) {
	var out Overviews
	err := c.call(ctx, always, http.MethodGet, "/v1/queues", nil, &out)
	return out, err
}

// Wait returns when nothing is left in the queue, and with done also only when it is
// sealed.
func (c *Client) Wait(ctx context.Context, queue string, done bool) error {
	state := "empty"
	if done {
		state = "done"
	}
	path := queuePath(queue, "/wait?state="+state+"&timeout="+strconv.Itoa(int(waitSlice/time.Second))+"s")
	for {
		var out struct {
			Reached bool `json:"reached"`
		}
		if err := c.call(ctx, always, http.MethodGet, path, nil, &out); err != nil || out.Reached {
			return err
		}
	}
}

// waitSlice is how long one request of Wait is held.
const waitSlice = 30 * time.Second
