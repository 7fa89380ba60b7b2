package gather

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Headers of requests to leaves.
const (
	// TimeoutHeader is how long the answer is waited for: "250ms".
	TimeoutHeader = "Scatter-Timeout"
	// AttemptHeader is 2 or more if another leaf was, or perhaps was, asked before.
	AttemptHeader = "Scatter-Attempt"
)

// maxTries bounds the leaves of a shard that are asked after a failure.
const maxTries = 3

// try is one attempt to ask.
type try struct {
	leaf   *leaf
	answer *answer
	reason Reason
	detail string
	refuse *Refusal
	sent   bool // the leaf may have been asked
}

// ask asks the replicas of a shard one after the other, as long as there are retries, and
// tells what has come of it.
func (f *flight) ask(i int) {
	st := &f.states[i]
	first := st.shard.pick(nil, f.typical)
	st.first.Store(first)
	f.tell(f.persist(i, []*leaf{first}, 1))
}

// persist asks the last of some leaves, and others after it if that fails.
func (f *flight) persist(i int, asked []*leaf, number int) result {
	for ; ; number++ {
		l := asked[len(asked)-1]
		t := f.try(f.ctx, l, number)
		if t.answer != nil {
			return result{shard: i, answer: t.answer}
		}
		next := f.next(f.states[i].shard, asked, &t)
		if next == nil {
			return result{shard: i, reason: t.reason, detail: t.detail, refuse: t.refuse}
		}
		asked = append(asked, next)
	}
}

// tell gives a result to who gathers, if it is still wanted.
func (f *flight) tell(r result) {
	if !f.inbox.put(r) && r.answer != nil {
		r.answer.free()
	}
}

// next is another leaf to be asked after a failure; nil: there is none, or none may be.
func (f *flight) next(s *shard, asked []*leaf, t *try) *leaf {
	if f.ctx.Err() != nil || t.refuse != nil || t.reason == TooLarge || len(asked) >= maxTries || t.sent && !f.req.Again {
		return nil
	}
	next := s.pick(asked, f.typical)
	if next == nil {
		return nil
	}
	if !f.g.retries.spend(true) {
		f.g.counts.retryDenied.Add(1)
		return nil
	}
	f.g.counts.retried.Add(1)
	return next
}

// maxHedges bounds the leaves that help one out. Two of them cut what one leaves: of the
// requests to a hundred leaves that are slow one time in a hundred, one in a hundred meets
// a leaf and a helper that are slow.
const maxHedges = 2

// help asks another leaf of a shard that has not answered in time, if there is one and the
// budget allows it.
func (f *flight) help(i int) {
	st := &f.states[i]
	first := st.first.Load()
	if first == nil {
		return // this process is so busy that it has not been asked itself
	}
	asked := []*leaf{first}
	if st.helpers > 0 {
		asked = append(asked, st.helper)
	}
	other := st.shard.pick(asked, f.typical)
	if other == nil && st.helpers > 0 {
		other = first // the slowness of a request is often its own
	}
	if other == nil {
		return
	}
	// Most leaves that are a little late answer soon. The last tokens are for those that are
	// later, and for those whose helper is late as well.
	late := st.helpers > 0 || time.Since(f.began) > 5*f.typical/2
	if !f.g.hedges.spend(late) {
		f.g.counts.hedgeDenied.Add(1)
		return
	}
	f.g.counts.hedged.Add(1)
	st.helpers++
	st.helper = other
	st.underway++
	number := st.helpers + 1
	f.g.work.Go(func() {
		t := f.try(f.ctx, other, number)
		f.tell(result{shard: i, helper: true, answer: t.answer, reason: t.reason, detail: t.detail, refuse: t.refuse})
	})
}

// try asks a leaf.
func (f *flight) try(ctx context.Context, l *leaf, number int) (t try) {
	t = try{leaf: l}
	l.asked.Add(1)
	l.inFlight.Add(1)
	defer l.inFlight.Add(-1)
	began := time.Now()
	header := f.req.Header
	if number > 1 || f.req.Trace != nil {
		header = header.Clone()
	}
	if number > 1 {
		header.Set(AttemptHeader, strconv.Itoa(number))
		header.Set(TimeoutHeader, time.Until(f.deadline).Round(time.Millisecond).String())
	}
	if f.req.Trace != nil {
		end := f.req.Trace(l.Leaf, number, header)
		defer func() { end(t.reason, t.detail) }()
	}
	waited, err := f.exchange(ctx, &t, header)
	took := time.Since(began) - waited
	switch {
	case err == nil && t.reason == "":
		l.took(took)
		f.g.latencies.add(took)
		return t
	case err == nil:
		// It has answered, and what is wrong is said already.
	case errors.Is(f.ctx.Err(), context.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		t.reason, t.detail = Timeout, "no answer within "+took.Round(time.Millisecond).String()
		if took > f.g.latencies.quantile() {
			f.g.latencies.add(took) // it would have taken longer still
		}
		if took < f.g.cfg.Timeout/2 {
			return t // a client in such a hurry must not have leaves ejected
		}
	case ctx.Err() != nil:
		t.reason = Skipped // another one has won, or the client has gone
		return t
	default:
		t.reason, t.detail = reasonOf(err), err.Error()
	}
	if t.refuse == nil && t.reason != TooLarge && l.wrong() {
		f.g.counts.ejected.Add(1)
		f.g.log.Warn("leaf is not asked for a while", "service", f.g.cfg.Name, "leaf", l.ID, "address", l.Address, "shard", l.Shard, "reason", t.reason, "detail", t.detail)
	}
	return t
}

// reasonOf says what an error of the transport means.
func reasonOf(err error) Reason {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return Refused
	case errors.As(err, &op), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Reset
	}
	return Garbage
}

// exchange sends the request to the leaf of a try and reads the answer. Waited is how long
// the answer has waited for memory.
func (f *flight) exchange(ctx context.Context, t *try, header http.Header) (waited time.Duration, err error) {
	u := *f.req.URL
	u.Scheme, u.Host = "http", t.leaf.Address
	req := (&http.Request{
		Method: f.req.Method, URL: &u, Host: t.leaf.Address,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
	}).WithContext(ctx)
	if len(f.req.Body) > 0 {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(f.req.Body)), int64(len(f.req.Body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(f.req.Body)), nil }
	}
	resp, err := f.g.cfg.Transport.RoundTrip(req)
	if err != nil {
		t.sent = reasonOf(err) != Refused
		return 0, err
	}
	t.sent = true
	waited, err = f.read(ctx, t, resp)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	return waited, err
}

// read reads an answer. What is wrong with one that is whole is said in the try.
func (f *flight) read(ctx context.Context, t *try, resp *http.Response) (waited time.Duration, err error) {
	a := &answer{leaf: t.leaf, header: resp.Header, group: f.g}
	switch {
	case resp.ContentLength > f.g.cfg.MaxPartial:
		t.reason, t.detail = TooLarge, fmt.Sprintf("%d bytes, and %d are the limit", resp.ContentLength, f.g.cfg.MaxPartial)
		return 0, nil
	case resp.ContentLength > small:
		waited, err = a.readLarge(ctx, resp.Body, resp.ContentLength)
	default:
		waited, err = a.readSmall(ctx, resp.Body, max(resp.ContentLength, 0), f.g.cfg.MaxPartial)
	}
	switch {
	case errors.Is(err, errTooLarge):
		t.reason, t.detail = TooLarge, fmt.Sprintf("more than %d bytes", f.g.cfg.MaxPartial)
		err = nil
	case err != nil:
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		t.answer = a
		return waited, nil
	default:
		t.reason, t.detail = BadStatus, resp.Status
		if resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			t.refuse = &Refusal{Status: resp.StatusCode, Header: resp.Header, Body: bytes.Clone(a.body[:min(len(a.body), small)])}
		}
	}
	a.free()
	return waited, err
}
