package merge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/nomad-patterns/nomad-patterns/agents/scatter/merge"
)

// counter is a merge container that counts the bytes of all shards. One that is to stay
// up should also forget requests that it has not heard of for a while.
type counter struct {
	mu    sync.Mutex
	bytes map[string]int // by request
}

func (c *counter) add(w http.ResponseWriter, r *http.Request) {
	parts, err := merge.NewReader(r.Body, merge.ReaderConfig{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for {
		part, err := parts.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		c.bytes[r.PathValue("id")] += len(part.Body)
		c.mu.Unlock()
	}
}

// end takes what there is of a request.
func (c *counter) end(r *http.Request) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := r.PathValue("id")
	defer delete(c.bytes, id)
	return c.bytes[id]
}

// A merge container in Go, and an answer that it merges.
func ExampleContainer() {
	c := &counter{bytes: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{id}", c.add)
	mux.HandleFunc("POST /{id}/finish", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s: %d bytes", r.Header.Get("Scatter-Request"), c.end(r))
	})
	mux.HandleFunc("DELETE /{id}", func(_ http.ResponseWriter, r *http.Request) { c.end(r) })
	server := httptest.NewServer(mux)
	defer server.Close()

	container, err := merge.NewContainer(merge.ContainerConfig{URL: server.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = container.Close() }()
	show(container, "aaa", "bbbb")
	// Output: GET /search?q=x: 7 bytes
}

// The two best of all shards.
func ExampleTopK() {
	best, err := merge.NewTopK(merge.TopKConfig{K: 2, Field: "score", Items: "hits"})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(best, `{"hits":[{"id":"a","score":7},{"id":"b","score":1}]}`, `{"hits":[{"id":"c","score":9}]}`)
	// Output: {"hits":[{"id":"c","score":9},{"id":"a","score":7}]}
}

// Counts of all shards.
func ExampleSum() {
	sum, err := merge.NewSum(merge.SumConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	show(sum, `{"total":3,"by_hour":[1,2]}`, `{"total":5,"by_hour":[5,0]}`)
	// Output: {"by_hour":[6,2],"total":8}
}

// show merges the answers of shards and prints what comes of it.
func show(m merge.Merger, bodies ...string) {
	client := httptest.NewRequest(http.MethodGet, "/search?q=x", nil)
	w := httptest.NewRecorder()
	one, err := m.Begin(context.Background(), merge.Request{ID: "r1", HTTP: client, Shards: len(bodies)}, w)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, body := range bodies {
		err := one.Add(merge.Partial{Shard: fmt.Sprint(i), Body: []byte(body)})
		if err != nil && !errors.Is(err, merge.ErrGarbage) {
			one.Abort()
			fmt.Println(err)
			return
		}
	}
	if err := one.Finish(); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(strings.TrimSpace(w.Body.String()))
}
