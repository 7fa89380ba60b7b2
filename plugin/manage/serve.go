package manage

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
	"github.com/nomad-patterns/nomad-patterns/plugin/lifecycle"
)

const (
	saveLimit      = 2 * time.Minute  // for a checkpoint to be durable, whatever the App's own limit is
	replicateLimit = 30 * time.Second // for Nomad to take a new count
	heartbeat      = 15 * time.Second // between comments in a stream without events
)

// Options are what a server needs besides its tasks. Both may be nil.
type Options struct {
	Logger hclog.Logger
	Now    func() time.Time // the clock of the deadlines in lifecycle.Stop
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Serve answers the application at its socket until ctx ends, and closes the
// listener. Streams of a destroyed task get their last event if the task is
// destroyed before ctx ends. The error is nil unless the listener has failed.
func Serve(ctx context.Context, ln net.Listener, app App, opts Options) error {
	return newDownward(app, opts.withDefaults()).serve(ctx, ln)
}

func newDownward(app App, opts Options) *downward {
	d := &downward{server: newServer(opts.Logger), app: app, now: opts.Now}
	d.Mux.HandleFunc("GET /v1/{$}", d.index)
	d.Mux.HandleFunc("GET /v1/state", d.state)
	d.Mux.HandleFunc("GET /v1/events", d.events)
	d.Mux.HandleFunc("POST /v1/save", d.save)
	d.Mux.HandleFunc("POST /v1/replicate", d.replicate)
	return d
}

// downward is the API of one task for its application.
type downward struct {
	*server
	app App
	now func() time.Time
}

// index lists what there is, and what the job does not let the task do.
func (d *downward) index(w http.ResponseWriter, _ *http.Request) {
	type endpoint struct {
		Method  string `json:"method"`
		Path    string `json:"path"`
		Does    string `json:"does"`
		Min     int64  `json:"min,omitempty"`
		Max     int64  `json:"max,omitempty"`
		Refused string `json:"refused,omitempty"`
	}
	save := endpoint{Method: "POST", Path: "/v1/save", Does: "save a checkpoint now"}
	replicate := endpoint{Method: "POST", Path: "/v1/replicate", Does: `{"delta":1}: ask Nomad for one more of this task's group`}
	info := d.app.Info()
	if !info.Saves {
		save.Refused = noCheckpoint
	}
	if b := info.Replicate; b != nil {
		replicate.Min, replicate.Max = b.Min, b.Max
	} else {
		replicate.Refused = noReplicate
	}
	httpapi.WriteJSON(w, http.StatusOK, struct {
		Info
		Endpoints []endpoint `json:"endpoints"`
	}{info, []endpoint{
		{Method: "GET", Path: "/v1/state", Does: "the task's state, why it stops and by when"},
		{Method: "GET", Path: "/v1/events", Does: "the same as server-sent events, one for each change"},
		save, replicate,
	}})
}

func (d *downward) state(w http.ResponseWriter, _ *http.Request) {
	s, _ := d.app.Status()
	httpapi.WriteJSON(w, http.StatusOK, statusOf(d.app, s, d.now()))
}

func (d *downward) events(w http.ResponseWriter, r *http.Request) {
	done, refusal := d.stream()
	if refusal != nil {
		httpapi.WriteError(w, refusal)
		return
	}
	defer done()
	sendEvents(w, r, d.app, func(s lifecycle.Status) status { return statusOf(d.app, s, d.now()) })
}

const (
	noCheckpoint = "the task has no checkpoint: its job's lifecycle block has no checkpoint block"
	noReplicate  = "the job does not let its tasks replicate themselves: its lifecycle block has no manage { replicate { max = … } }"
)

func (d *downward) save(w http.ResponseWriter, r *http.Request) { saveNow(w, r, d.app) }

// saveNow saves a checkpoint for whoever asks.
func saveNow(w http.ResponseWriter, r *http.Request, app App) {
	if err := emptyRequest(r.Body); err != nil {
		httpapi.WriteError(w, err)
		return
	}
	if !app.Info().Saves {
		httpapi.WriteError(w, httpapi.Errorf(http.StatusConflict, "", noCheckpoint))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), saveLimit)
	defer cancel()
	c, err := app.Save(ctx)
	if err != nil {
		httpapi.WriteError(w, appError(err))
		return
	}
	httpapi.WriteJSON(w, http.StatusOK, c)
}

func (d *downward) replicate(w http.ResponseWriter, r *http.Request) {
	delta, refusal := replicateRequest(r.Body)
	if refusal == nil && d.app.Info().Replicate == nil {
		refusal = httpapi.Errorf(http.StatusForbidden, "", noReplicate)
	}
	if refusal != nil {
		httpapi.WriteError(w, refusal)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), replicateLimit)
	defer cancel()
	out, err := d.app.Replicate(ctx, delta)
	if err != nil {
		httpapi.WriteError(w, appError(err))
		return
	}
	httpapi.WriteJSON(w, http.StatusOK, out)
}
