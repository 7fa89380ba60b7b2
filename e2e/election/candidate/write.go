package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/nomad-patterns/nomad-patterns/election"
)

// writePatience bounds one fenced write.
const writePatience = 2 * time.Second

// writer makes the fenced writes of all terms.
type writer struct {
	ctx      context.Context
	wg       *sync.WaitGroup
	opts     options
	journal  *journal.Writer
	http     *http.Client
	sequence atomic.Uint64
}

func newWriter(ctx context.Context, wg *sync.WaitGroup, o options, j *journal.Writer) *writer {
	return &writer{ctx: ctx, wg: wg, opts: o, journal: j, http: &http.Client{Timeout: writePatience, Transport: &http.Transport{}}}
}

// close lets the connections go.
func (w *writer) close() {
	if w != nil {
		w.http.CloseIdleConnections()
	}
}

// begin writes until the term is over, and, as a leader does that has not
// noticed it, a little longer.
func (w *writer) begin(l *election.Leadership) {
	if w.opts.every <= 0 {
		return
	}
	w.wg.Go(func() { w.loop(l, journal.TargetKV, w.kv) })
	if w.opts.register != "" {
		w.wg.Go(func() { w.loop(l, journal.TargetRegister, w.post) })
	}
}

// loop makes one write after the other.
func (w *writer) loop(l *election.Leadership, target string, write func(*election.Leadership, string) (string, error)) {
	const late = 3 // writes that come too late
	for after := 0; after < late; {
		if !l.Valid() {
			after++
		}
		e := journal.Event{
			Kind: journal.Begun, Election: l.Election(), Token: l.Token(), Target: target,
			Value: fmt.Sprintf("%s.%d.%d", w.opts.id, l.Token(), w.sequence.Add(1)),
		}
		w.journal.Write(e)
		result, err := write(l, e.Value)
		e.Kind, e.At, e.Result = journal.Ended, 0, result
		if err != nil {
			e.Error = err.Error()
		}
		w.journal.Write(e)
		timer := time.NewTimer(w.opts.every/2 + rand.N(w.opts.every))
		select {
		case <-w.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// kv writes to Consul.
func (w *writer) kv(l *election.Leadership, value string) (string, error) {
	ctx, cancel := context.WithTimeout(w.ctx, writePatience)
	defer cancel()
	_, err := l.KV(ctx, api.KVTxnOps{{Verb: api.KVSet, Key: w.opts.prefix + "-register/" + l.Election(), Value: []byte(value)}})
	switch {
	case err == nil:
		return journal.OK, nil
	case errors.Is(err, election.ErrNotLeader), errors.Is(err, election.ErrConflict):
		return journal.Refused, err
	default:
		return journal.Unknown, err
	}
}

// post writes to the register of the test.
func (w *writer) post(l *election.Leadership, value string) (string, error) {
	form := url.Values{"token": {strconv.FormatUint(l.Token(), 10)}, "value": {value}}
	resp, err := w.http.PostForm(w.opts.register+"/"+l.Election(), form)
	if err != nil {
		return journal.Unknown, err
	}
	err = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return journal.OK, err
	case http.StatusConflict:
		return journal.Refused, err
	default:
		return journal.Unknown, errors.Join(err, errors.New(resp.Status))
	}
}
