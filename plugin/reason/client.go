package reason

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
)

const (
	// WhyLimit is the most time that Why takes, of the time that a task has to
	// stop. It is more than a client takes to send its events.
	WhyLimit = 2 * time.Second

	// answerLimit is how long Why waits for an answer. Who has none by then has
	// none soon, and the task's time runs.
	answerLimit = time.Second

	// askAgain is how long Why waits for the node's events to reach the servers.
	// Clients look every 200 ms and send at once if an allocation's status has
	// changed; what changes nothing but events, such as a restart, they send only
	// a second after what they have sent before.
	askAgain = 250 * time.Millisecond

	// askSiblings is how often Why must have asked before it takes the end of a
	// task beside this one for the cause: by then the servers know if that one is
	// restarted, or if this one is.
	askSiblings = 5

	// maxSeen is more allocations than a node runs at once.
	maxSeen = 4096

	// requestTimeout bounds a single request, if the caller's context does not
	// end before.
	requestTimeout = 5 * time.Second
)

// ErrNotFound says that the servers do not know what was asked for.
var ErrNotFound = errors.New("not found")

// Client asks Nomad's servers, through any agent's HTTP API. Its methods may be
// called from several goroutines.
type Client struct {
	api       *api.Client
	transport *transport

	// seen has what matters of the allocations that were read: one that the
	// servers have forgotten means something only if they knew it. Else the
	// address may be that of another cluster.
	mu   sync.Mutex                 // guards seen
	seen map[string]*api.Allocation // by ID; at most maxSeen
}

// New returns a client. The error names the field that is wrong; nothing is
// asked of the server.
func New(cfg Config) (*Client, error) { return newClient(cfg, nil) }

// newClient is New with the way to connect, nil for the usual one.
func newClient(cfg Config, dial dialFunc) (*Client, error) {
	u, err := cfg.address()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tls(u)
	if err != nil {
		return nil, err
	}
	tokens, err := cfg.tokens()
	if err != nil {
		return nil, err
	}
	c := &Client{transport: newTransport(u, tlsConfig, tokens, dial), seen: make(map[string]*api.Allocation)}
	c.api, err = api.NewClient(&api.Config{
		Address: u.String(),
		Region:  cfg.Region,
		HttpClient: &http.Client{
			Transport: c.transport,
			// A redirect would lead the request, and what it carries, elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	})
	if err != nil {
		return nil, fmt.Errorf("nomad.address: %w", err)
	}
	return c, nil
}

// API returns the client of Nomad's API that this one uses, with its token, for
// other requests. Answers are bounded, but time is not: give every request a
// context with a deadline. It cannot open websockets (alloc exec), and its own
// SetSecretID must not be used.
func (c *Client) API() *api.Client { return c.api }

// Close closes connections that nobody uses. The client can be used again.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Allocation returns an allocation, or ErrNotFound. It takes at most 5 s.
func (c *Client) Allocation(ctx context.Context, namespace, id string) (*api.Allocation, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	a, _, err := c.api.Allocations().Info(url.PathEscape(id), query(ctx, namespace))
	if err != nil {
		err = explain(err)
		if errors.Is(err, ErrNotFound) { // which is also what Nomad says to those who may not know
			err = fmt.Errorf("%w; or the token lacks read-job in namespace %q", err, clean(namespace))
		}
		return nil, fmt.Errorf("read allocation %s: %w", clean(id), err)
	}
	if a.ID != id {
		return nil, fmt.Errorf("read allocation %s: the answer is about %q; is the address Nomad's?", clean(id), clean(a.ID))
	}
	c.remember(a)
	return a, nil
}

func (c *Client) remember(a *api.Allocation) {
	if a.Job == nil {
		return
	}
	short := &api.Allocation{
		ID: a.ID, Namespace: a.Namespace, JobID: a.JobID, TaskGroup: a.TaskGroup, Name: a.Name,
		Job: &api.Job{CreateIndex: a.Job.CreateIndex, Type: a.Job.Type},
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) >= maxSeen && c.seen[a.ID] == nil {
		for id := range c.seen { // any
			delete(c.seen, id)
			break
		}
	}
	c.seen[a.ID] = short
}

// recall returns what matters of an allocation that was read before, or nil.
func (c *Client) recall(id string) *api.Allocation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[id]
}

// Job returns a job as it is now, or ErrNotFound. It takes at most 5 s.
func (c *Client) Job(ctx context.Context, namespace, id string) (*api.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	j, _, err := c.api.Jobs().Info(id, query(ctx, namespace))
	if err != nil {
		return nil, fmt.Errorf("read job %s: %w", clean(id), explain(err))
	}
	if value(j.ID) != id {
		return nil, fmt.Errorf("read job %s: the answer is about %q; is the address Nomad's?", clean(id), clean(value(j.ID)))
	}
	return j, nil
}

// node returns a node, or ErrNotFound.
func (c *Client) node(ctx context.Context, id string) (*api.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	n, _, err := c.api.Nodes().Info(url.PathEscape(id), query(ctx, ""))
	if err != nil {
		return nil, fmt.Errorf("read node %s: %w", clean(id), explain(err))
	}
	if n.ID != id {
		return nil, fmt.Errorf("read node %s: the answer is about %q; is the address Nomad's?", clean(id), clean(n.ID))
	}
	return n, nil
}

// Why tells why a task of the allocation stops. It returns within [WhyLimit], and
// within a second if the servers do not answer.
//
// It is meant for the moment when Nomad asks the driver to stop the task: there
// is a cause, so while none can be seen it asks again until the time is over.
//
// A stop that the servers do not want and that no task beside this one explains
// is taken for a restart: on a node there is no other cause, but the event that
// says so can take longer than the limit to reach the servers.
//
// An allocation that the servers do not know any more was purged with its job, if
// they knew it before: it was read by Why, [Client.Allocation] or a [Watcher].
//
// If the error is not nil then the verdict is what can be told without the
// answer that is missing: Unknown if the allocation cannot be read.
func (c *Client) Why(ctx context.Context, namespace, allocID, task string) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, WhyLimit)
	defer cancel()
	var last Observation // that was answered
	for asked := 0; ; asked++ {
		asking, stop := context.WithTimeout(ctx, answerLimit)
		o, err := c.observe(asking, Observation{Task: task, Stopping: asked >= askSiblings}, namespace, allocID)
		late := errors.Is(asking.Err(), context.DeadlineExceeded)
		stop()
		v := Classify(o)
		if asked > 0 && o.Alloc == nil && late {
			err = nil // the servers did answer before, and saw no cause
		}
		if v.Decided || err != nil {
			return v, err
		}
		if o.Alloc != nil {
			if o.alone() {
				return o.restart(), nil
			}
			last = o
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return last.restart(), nil
		}
	}
}

// observe asks for the allocation and for what else it takes to judge it.
func (c *Client) observe(ctx context.Context, o Observation, namespace, allocID string) (Observation, error) {
	var err error
	o.Alloc, err = c.Allocation(ctx, namespace, allocID)
	if errors.Is(err, ErrNotFound) {
		if o.Alloc = c.recall(allocID); o.Alloc != nil {
			o.AllocGone, err = true, nil
		}
	}
	if err != nil {
		return o, err
	}
	job, node := o.needs()
	if job {
		o.Job, err = c.Job(ctx, namespace, o.Alloc.JobID)
		if errors.Is(err, ErrNotFound) {
			o.JobGone, err = true, nil
		}
	}
	if node {
		o.Node, err = c.node(ctx, o.Alloc.NodeID)
	}
	return o, err
}

func query(ctx context.Context, namespace string) *api.QueryOptions {
	return (&api.QueryOptions{Namespace: namespace}).WithContext(ctx)
}

// answerError is an answer of Nomad that is no success.
type answerError struct {
	code int
	text string // cleaned
}

func (e *answerError) Error() string {
	text := fmt.Sprintf("HTTP %d: %s", e.code, e.text)
	if e.code == http.StatusForbidden {
		text += "; the token needs read-job in the task's namespace, and node read"
	}
	return text
}

// Is makes errors.Is find ErrNotFound.
func (e *answerError) Is(target error) bool {
	return target == ErrNotFound && e.code == http.StatusNotFound
}

// explain makes an error of package api fit to be shown: it has the whole
// answer in it.
func explain(err error) error {
	var u api.UnexpectedResponseError
	if !errors.As(err, &u) || !u.HasStatusCode() {
		return err
	}
	text := clean(u.Body())
	if text == "" {
		text = http.StatusText(u.StatusCode())
	}
	return &answerError{code: u.StatusCode(), text: text}
}
