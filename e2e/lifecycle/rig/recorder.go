package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
)

// Recorder collects what the applications tell and what hooks with a url say.
//
//	POST /entry        an entry of an application
//	POST /hook/NAME    a hook of the plugin; ?slow=2s takes its time, ?fail=1 fails
type Recorder struct {
	url string
	srv *http.Server

	mu      sync.Mutex
	entries []journal.Entry
	added   chan struct{} // closed when there is a new entry
}

// Record starts a recorder on a port of loopback.
func Record() (*Recorder, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Recorder{url: "http://" + l.Addr().String(), added: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /entry", func(w http.ResponseWriter, req *http.Request) {
		var e journal.Entry
		if err := json.NewDecoder(req.Body).Decode(&e); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.add(e)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /hook/{name}", r.hook)
	r.srv = &http.Server{Handler: mux}
	go func() { _ = r.srv.Serve(l) }() // until Close
	return r, nil
}

// Close ends the recorder.
func (r *Recorder) Close() error { return r.srv.Close() }

// URL is where it listens.
func (r *Recorder) URL() string { return r.url }

func (r *Recorder) hook(w http.ResponseWriter, req *http.Request) {
	var t journal.Told
	if err := json.NewDecoder(req.Body).Decode(&t); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.add(journal.Entry{
		What: journal.Hook, Name: req.PathValue("name"), At: time.Now(),
		Job: t.Job, Group: t.Group, Task: t.Task, Alloc: t.AllocID, Told: t,
	})
	if d, err := time.ParseDuration(req.URL.Query().Get("slow")); err == nil {
		select {
		case <-time.After(d):
		case <-req.Context().Done():
		}
	}
	if req.URL.Query().Get("fail") != "" {
		http.Error(w, "as it was asked to", http.StatusInternalServerError)
	}
}

func (r *Recorder) add(e journal.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
	close(r.added)
	r.added = make(chan struct{})
}

// Filter says which entries are meant. It must not use the recorder.
type Filter func(journal.Entry) bool

// All returns the entries that satisfy all filters, oldest first.
func (r *Recorder) All(filters ...Filter) []journal.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return pick(r.entries, filters)
}

func pick(entries []journal.Entry, filters []Filter) (list []journal.Entry) {
	for _, e := range entries {
		if !slices.ContainsFunc(filters, func(f Filter) bool { return !f(e) }) {
			list = append(list, e)
		}
	}
	return list
}

// Await waits for the first entry, also an old one, that satisfies all filters.
func (r *Recorder) Await(ctx context.Context, what string, filters ...Filter) (journal.Entry, error) {
	for {
		r.mu.Lock()
		list, added := pick(r.entries, filters), r.added
		r.mu.Unlock()
		if len(list) > 0 {
			return list[0], nil
		}
		select {
		case <-added:
		case <-ctx.Done():
			return journal.Entry{}, fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

// OfAlloc means entries of an allocation.
func OfAlloc(id string) Filter { return func(e journal.Entry) bool { return e.Alloc == id } }

// OfJob means entries of a job.
func OfJob(id string) Filter { return func(e journal.Entry) bool { return e.Job == id } }

// OfTask means entries of a task.
func OfTask(name string) Filter { return func(e journal.Entry) bool { return e.Task == name } }

// After means entries that are later.
func After(t time.Time) Filter { return func(e journal.Entry) bool { return e.At.After(t) } }

// Of means entries about something. A name may follow: Of(journal.Hook, "prestop").
func Of(what string, name ...string) Filter {
	return func(e journal.Entry) bool { return e.What == what && (len(name) == 0 || slices.Contains(name, e.Name)) }
}

// Lines renders entries for a person and for comparison.
func Lines(entries []journal.Entry) []string {
	var list []string
	for _, e := range entries {
		list = append(list, strings.TrimSpace(strings.Join([]string{e.What, e.Name, e.Told.Reason}, " ")))
	}
	return list
}
