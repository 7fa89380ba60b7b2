package rig

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
)

// Client sends updates to one place of a job, one after the other, for as long as
// it runs. It goes on with an allocation until that one refuses, whatever others
// there are.
type Client struct {
	recorder   *Recorder
	job, index string
	http       *http.Client

	mu    sync.Mutex // guards all fields below
	acked int64
	total int64 // acknowledgements
	lost  int64
	notes []string
}

// NewClient makes a client of the place with this index.
func (r *Rig) NewClient(job string, index int) *Client {
	return &Client{
		recorder: r.Recorder, job: job, index: strconv.Itoa(index),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 30 * time.Second},
	}
}

// Run sends updates until ctx ends.
func (c *Client) Run(ctx context.Context) {
	defer c.http.CloseIdleConnections()
	at := ""
	for ctx.Err() == nil {
		if at != "" && c.send(ctx, at) {
			continue
		}
		at = ""
		starts := c.recorder.All(OfJob(c.job), Of(journal.Started), func(e journal.Entry) bool { return e.Index == c.index })
		for i := len(starts) - 1; i >= max(0, len(starts)-3) && at == ""; i-- { // older ones have ended
			if c.send(ctx, starts[i].Addr) {
				at = starts[i].Addr
			}
		}
		if at == "" {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// send sends the next update. It reports false if there is no answer to be had
// at that address.
func (c *Client) send(ctx context.Context, addr string) bool {
	id := c.Acked() + 1
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s/inc?id=%d", addr, id), nil)
	if err != nil {
		return false
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }() // the status is all that counts
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	c.mu.Lock()
	defer c.mu.Unlock()
	switch resp.StatusCode {
	case http.StatusOK:
		c.acked = id
		c.total++
		return true
	case http.StatusConflict:
		last, err := strconv.ParseInt(resp.Header.Get("Last"), 10, 64)
		if err != nil {
			return false
		}
		c.lost += c.acked - last
		c.notes = append(c.notes, fmt.Sprintf("%s %s[%s] at %s has %d, acknowledged was %d", time.Now().Format("15:04:05.000"), c.job, c.index, addr, last, c.acked))
		c.acked = last
		return true
	}
	return false
}

// Acked is the number of the newest acknowledged update.
func (c *Client) Acked() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked
}

// Lost returns how many updates were acknowledged, how many of them were lost,
// and when.
func (c *Client) Lost() (total, lost int64, notes []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total, c.lost, append([]string(nil), c.notes...)
}

// Advance waits until an update has been acknowledged that was not yet.
func (c *Client) Advance(ctx context.Context) error {
	c.mu.Lock()
	total := c.total
	c.mu.Unlock()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c.mu.Lock()
		more := c.total > total
		c.mu.Unlock()
		if more {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("no update of place %s is acknowledged any more: %w", c.index, ctx.Err())
		}
	}
}
