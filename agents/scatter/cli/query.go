package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/gather"
	"github.com/nomad-patterns/nomad-patterns/agents/scatter/server"
)

// lateness is how much later than asked for an answer may come.
const lateness = 5 * time.Second

// query is what a route is asked.
type query struct {
	method, data string
	hasData      bool
	timeout      time.Duration
	coverage     string
}

func newQuery(p *agent.Program) *agent.Command {
	c := p.Command("query [flags] <path>", "Ask a route", `
Asks a route, such as '/search?q=x'. The merged answer goes to the standard output, and the
headers that tell its coverage to the standard error.

Exit codes: 0 all leaves are in the answer, 1 bad arguments, 2 the agent was not reached or
has no answer, 3 some leaves are missing in the answer.`)
	where := declare(c)
	var q query
	c.Flags.StringVar(&q.method, "method", "", "HTTP `method` (default GET, with -data POST)")
	c.Flags.StringVar(&q.data, "data", "", "`body` of the request")
	c.Flags.DurationVar(&q.timeout, "timeout", 0, "`time` for the answer (default that of the route)")
	c.Flags.StringVar(&q.coverage, "min-coverage", "", "`share` of leaves, above 0 and up to 1, that has to be in the answer (default that of the route)")
	c.Do = func(args []string) error {
		if err := agent.Arguments(args, "a path such as '/search?q=x'"); err != nil {
			return err
		}
		q.hasData = c.IsGiven("data")
		if err := q.check(args[0]); err != nil {
			return err
		}
		if c.IsGiven("timeout") && q.timeout <= 0 {
			return agent.UsageErrorf("-timeout: %s is no time for an answer", q.timeout)
		}
		client, err := newClient(where)
		if err != nil {
			return err
		}
		ctx, cancel := agent.UntilSignal()
		defer cancel()
		return q.ask(ctx, p, client, args[0])
	}
	return c
}

// check finds what no agent would accept, and fills in what is not given.
func (q *query) check(path string) error {
	if !strings.HasPrefix(path, "/") {
		return agent.UsageErrorf("%q is not a path such as '/search?q=x'", path)
	}
	if q.coverage != "" {
		if share, err := strconv.ParseFloat(q.coverage, 64); err != nil || !(share > 0 && share <= 1) {
			return agent.UsageErrorf("-min-coverage: %q is not a number above 0 and up to 1", q.coverage)
		}
	}
	if q.method == "" {
		q.method = http.MethodGet
		if q.hasData {
			q.method = http.MethodPost
		}
	}
	return nil
}

// ask shows the answer. The error is an *agent.ExitError if something is missing in it.
func (q *query) ask(ctx context.Context, p *agent.Program, c *client, path string) error {
	if q.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.timeout+lateness)
		defer cancel()
	}
	defer c.http.CloseIdleConnections()
	var body io.Reader
	if q.hasData {
		body = strings.NewReader(q.data)
	}
	req, err := c.request(ctx, q.method, path, body)
	if err != nil {
		return agent.UsageErrorf("%v", err)
	}
	if q.hasData {
		req.Header.Set("Content-Type", contentType(q.data))
	}
	if q.timeout > 0 {
		req.Header.Set(gather.TimeoutHeader, q.timeout.String())
	}
	if q.coverage != "" {
		req.Header.Set(server.CoverageWantedHeader, q.coverage)
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it is read only
	if !succeeded(resp) {
		if err := showCoverage(p.Err, resp.Header); err != nil {
			return err
		}
		return c.refused(resp)
	}
	if _, err := io.Copy(p.Out, resp.Body); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("the answer was cut: the root has given up, or has ended")
		}
		return fmt.Errorf("pass the answer on: %w", err)
	}
	// An answer that streams has these behind it.
	told := resp.Header
	if len(resp.Trailer.Values(gather.CoverageHeader)) > 0 {
		told = resp.Trailer
	}
	if err := showCoverage(p.Err, told); err != nil {
		return err
	}
	whole, err := isWhole(told)
	if err != nil {
		return err
	}
	if !whole {
		return &agent.ExitError{Code: exitPartial}
	}
	return nil
}

// contentType is JSON's for what is JSON.
func contentType(data string) string {
	if json.Valid([]byte(data)) {
		return "application/json"
	}
	return "application/octet-stream"
}

// showCoverage writes the headers that tell it.
func showCoverage(out io.Writer, h http.Header) error {
	for _, name := range []string{gather.CoverageHeader, gather.MissingHeader} {
		if text := h.Get(name); text != "" {
			if _, err := fmt.Fprintf(out, "%s: %s\n", name, printable(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// isWhole says whether all leaves are in an answer.
func isWhole(h http.Header) (bool, error) {
	text := h.Get(gather.CoverageHeader)
	if text == "" {
		return false, errors.New("the answer does not tell its coverage; is the path that of a route?")
	}
	var ok, total int
	if _, err := fmt.Sscanf(text, "ok=%d, total=%d", &ok, &total); err != nil {
		return false, fmt.Errorf("%s: %q is not what a root says", gather.CoverageHeader, printable(text))
	}
	return ok == total, nil
}
