package queue

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// A request is made again only where that cannot do it twice.
func TestClient_Unavailable(t *testing.T) {
	claim := func(ctx context.Context, c *Client) error {
		_, err := c.Claim(ctx, "q", ClaimRequest{Worker: "w"})
		return err
	}
	enqueue := func(key string) func(context.Context, *Client) error {
		return func(ctx context.Context, c *Client) error {
			_, err := c.Enqueue(ctx, "q", []Item{{Input: "x", Key: key}})
			return err
		}
	}
	for name, c := range map[string]struct {
		undone bool // says the first answer, with Retry-After
		call   func(context.Context, *Client) error
		asked  int64
	}{
		"claim that was not done":           {true, claim, 2},
		"claim that may have been done":     {false, claim, 1},
		"items that were not stored":        {true, enqueue(""), 2},
		"items that may be stored":          {false, enqueue(""), 1},
		"items that may be, and have a key": {false, enqueue("k"), 2},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			broker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				body := "{}"
				if asked.Add(1) == 1 {
					if c.undone {
						w.Header().Set("Retry-After", "1")
					}
					w.WriteHeader(http.StatusServiceUnavailable)
					body = `{"error":"not now"}`
				}
				_, _ = w.Write([]byte(body)) // the client notices
			}))
			defer broker.Close()
			client, err := NewClient(ClientConfig{Addresses: []string{broker.URL}, Patience: time.Minute})
			must.NoError(t, err)
			defer client.Close()
			err = c.call(t.Context(), client)
			must.Eq(t, c.asked, asked.Load())
			if c.asked == 1 {
				must.ErrorContains(t, err, "not now")
			} else {
				must.NoError(t, err)
			}
		})
	}
}
