package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
)

// lastHeader tells a client which update the counter has, if not the one that
// comes before the client's.
const lastHeader = "Last"

type app struct {
	journal string
	sync    bool
	byFile  bool
	fault   string
	addr    string

	mu      sync.Mutex // guards all fields below
	last    int64      // number of the newest update
	durable int64      // of the newest that is in a checkpoint
	ballast []byte
	waiting bool // for a checkpoint that is to come
	given   bool // the state has been given away for the last time
	loaded  bool // a checkpoint has been taken
}

// header is the first line of a state; the ballast follows.
type header struct {
	Last   int64  `json:"last"`
	SHA256 string `json:"sha256"` // of the ballast
}

// begin makes the first state.
func (a *app) begin(ballast int) error {
	a.ballast = make([]byte, ballast)
	if _, err := rand.Read(a.ballast); err != nil {
		return err
	}
	file := os.Getenv("LIFECYCLE_CHECKPOINT_FILE")
	data, err := os.ReadFile(file)
	switch {
	case file == "" || errors.Is(err, fs.ErrNotExist):
		return nil // a cold start
	case err != nil:
		return err
	case a.byFile:
		return a.load(data)
	}
	a.waiting = true
	return nil
}

func (a *app) value() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// snapshot returns the state. a.mu is held.
func (a *app) snapshot() []byte {
	sum := sha256.Sum256(a.ballast)
	line, err := json.Marshal(header{a.last, hex.EncodeToString(sum[:])})
	if err != nil {
		log.Fatal(err) // a number and a text always can be
	}
	return append(append(line, '\n'), a.ballast...)
}

func (a *app) load(state []byte) error {
	line, ballast, found := bytes.Cut(state, []byte("\n"))
	var h header
	err := json.Unmarshal(line, &h)
	sum := sha256.Sum256(ballast)
	if err != nil || !found || h.SHA256 != hex.EncodeToString(sum[:]) {
		return errors.Join(fmt.Errorf("a state of %d bytes is not one of this app's", len(state)), err,
			a.tell(journal.Entry{What: journal.Corrupt}))
	}
	a.mu.Lock()
	// A hook may come twice: after the first time there may be newer updates.
	again := a.loaded
	if !again {
		a.last, a.durable, a.ballast, a.waiting, a.loaded = h.Last, h.Last, ballast, false, true
	}
	a.mu.Unlock()
	if again {
		return a.tell(journal.Entry{What: journal.Again, Value: h.Last})
	}
	return a.tell(journal.Entry{What: journal.Restored, Value: h.Last})
}

// increment takes the update with the number in the query.
func (a *app) increment(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.URL.Query().Get("id"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	switch {
	case a.waiting || a.given:
		a.mu.Unlock()
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	case id > a.last+1:
		w.Header().Set(lastHeader, strconv.FormatInt(a.last, 10))
		a.mu.Unlock()
		http.Error(w, "there are updates that I do not have", http.StatusConflict)
		return
	}
	a.last = max(a.last, id)
	durable := a.durable >= id
	a.mu.Unlock()
	if !a.sync || durable {
		return
	}
	if err := saveNow(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	a.mu.Lock()
	a.durable = max(a.durable, id)
	a.mu.Unlock()
}

// saveNow has the plugin save a checkpoint.
func saveNow(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/v1/save", nil)
	if err != nil {
		return err
	}
	c := control()
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it matters
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return errors.Join(fmt.Errorf("save: status %d: %s", resp.StatusCode, text), err)
	}
	return nil
}

func (a *app) get(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, a.value()) }

// save answers with the state. At a stop it is the last time: what came later
// would be in no checkpoint.
func (a *app) save(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	said := told(body)
	a.mu.Lock()
	a.given = a.given || said.Reason != ""
	state, last := a.snapshot(), a.last
	a.mu.Unlock()
	if err := a.tell(journal.Entry{What: journal.Saving, Value: last, Told: said}); err != nil {
		log.Print(err)
	}
	switch a.fault {
	case "never":
		<-r.Context().Done()
		return
	case "slow":
		time.Sleep(time.Second)
	case "fail":
		http.Error(w, "I do not feel like it", http.StatusInternalServerError)
		return
	case "cut":
		w.Header().Set("Content-Length", strconv.Itoa(len(state)+100))
	}
	_, _ = w.Write(state) // the plugin notices if it gets less
}

func (a *app) restore(w http.ResponseWriter, r *http.Request) {
	state, err := io.ReadAll(r.Body)
	if err == nil {
		err = a.load(state)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	}
}

func (a *app) hook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = a.tell(journal.Entry{What: journal.Hook, Name: r.PathValue("name"), Value: a.value(), Told: told(body)})
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// command is a hook's command: it finds the event in a file.
func (a *app) command(name string) error {
	body, err := os.ReadFile(os.Getenv("LIFECYCLE_EVENT_FILE"))
	if err != nil {
		return err
	}
	return a.tell(journal.Entry{What: journal.Hook, Name: name, Told: told(body)})
}

// saveToFile is a save's command: it has the app give its state.
func saveToFile() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	event, err := os.ReadFile(os.Getenv("LIFECYCLE_EVENT_FILE"))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://app/state", bytes.NewReader(event))
	if err != nil {
		return err
	}
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket())
	}}}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	state, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(os.Getenv("LIFECYCLE_CHECKPOINT_FILE"), state, 0o600)
}

// told reads what a hook or an event says; what is no JSON says nothing.
func told(body []byte) (t journal.Told) {
	if err := json.Unmarshal(body, &t); err != nil {
		return journal.Told{}
	}
	return t
}
