package server

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/consul/api"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

const (
	maxOps    = 100
	maxTxnOps = 126       // that election.Leadership.KV takes
	maxKey    = 512       // bytes of a key as the client names it
	maxBody   = 512 << 10 // bytes of a request
	maxTxn    = 500 << 10 // bytes of the values in base64 and the keys: Consul takes 512 KiB in all
	fieldOps  = "ops"
)

// kvRequest is the body of a kv request.
type kvRequest struct {
	Token *uint64 `json:"token"` // nil: that of the present term, whatever it is
	Ops   []kvOp  `json:"ops"`
}

// kvOp is one operation.
type kvOp struct {
	Verb        string  `json:"verb"`
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	ValueBase64 *string `json:"value_base64"`
	Index       *uint64 `json:"index"`
}

// kvResult is a key after the transaction. A value is text if it can be.
type kvResult struct {
	Key         string  `json:"key"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 *string `json:"value_base64,omitempty"`
	Index       uint64  `json:"index"`
}

// verb says what an operation takes, and what Consul calls it.
type verb struct {
	name         api.KVOp
	value, index bool
}

// verbOf finds a verb.
func verbOf(name string) (verb, bool) {
	switch name {
	case "set":
		return verb{name: api.KVSet, value: true}, true
	case "get":
		return verb{name: api.KVGet}, true
	case "get-or-empty":
		return verb{name: api.KVGetOrEmpty}, true
	case "delete":
		return verb{name: api.KVDelete}, true
	case "cas":
		return verb{name: api.KVCAS, value: true, index: true}, true
	case "delete-cas":
		return verb{name: api.KVDeleteCAS, index: true}, true
	}
	return verb{}, false
}

// kv runs operations in one transaction that fails if this process does not lead.
func (s *Server) kv(w http.ResponseWriter, r *http.Request, name string) {
	q := agent.NewQuery(r)
	if q.Err() != nil {
		fail(w, q.Err())
		return
	}
	var req kvRequest
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		fail(w, httpapi.Errorf(http.StatusBadRequest, "", "read the body: %v", err))
		return
	case len(body) > maxBody:
		fail(w, httpapi.Errorf(http.StatusRequestEntityTooLarge, "", "the body is larger than %d KiB", maxBody>>10))
		return
	case !utf8.Valid(body): // which the decoder would replace
		fail(w, httpapi.Errorf(http.StatusBadRequest, "", "the body is not UTF-8; use value_base64 for bytes"))
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := httpapi.ReadJSON(r.Body, &req); err != nil {
		fail(w, err)
		return
	}
	prefix := s.dataPrefix + "/" + name + "/"
	ops, err := req.ops(prefix)
	if err != nil {
		fail(w, err)
		return
	}
	j, err := s.joined(name)
	if err != nil {
		fail(w, err)
		return
	}
	l := j.candidate.Leadership()
	switch {
	case l == nil:
		s.refuse(w, name, "not the leader")
		return
	case req.Token != nil && *req.Token != l.Token():
		s.refuse(w, name, "token %d is not that of the present term, %d", *req.Token, l.Token())
		return
	}
	pairs, err := l.KV(r.Context(), ops)
	switch {
	case errors.Is(err, election.ErrConflict):
		fail(w, req.conflict(err))
		return
	case errors.Is(err, election.ErrNotLeader), err != nil && l.Err() != nil:
		s.refuse(w, name, "not the leader: %v", err)
		return
	case err != nil:
		fail(w, err)
		return
	}
	httpapi.WriteJSON(w, http.StatusOK, struct {
		Results []kvResult `json:"results"`
		Token   uint64     `json:"token"`
	}{req.results(pairs, prefix), l.Token()})
}

// ops checks the request and makes the operations of Consul. The error is an answer.
func (r kvRequest) ops(prefix string) (api.KVTxnOps, error) {
	if n := len(r.Ops); n < 1 || n > maxOps {
		return nil, httpapi.Errorf(http.StatusBadRequest, fieldOps, "%d operations; 1 to %d are possible", n, maxOps)
	}
	ops := make(api.KVTxnOps, 0, 2*len(r.Ops))
	size := 0
	for i, o := range r.Ops {
		op, field, problem := o.parse(prefix)
		if problem != "" {
			return nil, httpapi.Errorf(http.StatusBadRequest, opField(i, field), "%s", problem)
		}
		if size += base64.StdEncoding.EncodedLen(len(op.Value)) + len(op.Key); size > maxTxn {
			return nil, httpapi.Errorf(http.StatusRequestEntityTooLarge, opField(i, "value"),
				"keys and values up to here have more than %d KiB in base64, which is what fits into one transaction", maxTxn>>10)
		}
		if op.Verb == api.KVDeleteCAS {
			// Consul's own delete-cas succeeds if there is no such key at all, so that
			// what was done twice looks like a success.
			ops = append(ops, &api.KVTxnOp{Verb: api.KVCheckIndex, Key: op.Key, Index: op.Index})
			op = &api.KVTxnOp{Verb: api.KVDelete, Key: op.Key}
		}
		ops = append(ops, op)
	}
	if len(ops) > maxTxnOps {
		return nil, httpapi.Errorf(http.StatusBadRequest, fieldOps, "delete-cas counts twice, and in all there are %d operations, more than %d", len(ops), maxTxnOps)
	}
	return ops, nil
}

// conflict is the answer when an operation was refused. It names that operation as the
// client counts.
func (r kvRequest) conflict(err error) error {
	var n int
	if _, serr := fmt.Sscanf(err.Error(), "operation %d:", &n); serr == nil {
		for i, o := range r.Ops {
			if n -= o.count(); n < 0 {
				return httpapi.Errorf(http.StatusConflict, fieldOps+"["+strconv.Itoa(i)+"]", "%s of %q was refused, and nothing was written: %v", o.Verb, o.Key, err)
			}
		}
	}
	return httpapi.Errorf(http.StatusConflict, fieldOps, "nothing was written: %v", err)
}

// count is how many operations of Consul it is.
func (o kvOp) count() int {
	if o.Verb == "delete-cas" {
		return 2
	}
	return 1
}

// parse checks one operation. An empty problem means that there is none.
func (o kvOp) parse(prefix string) (op *api.KVTxnOp, field, problem string) {
	v, ok := verbOf(o.Verb)
	switch {
	case !ok:
		return nil, "verb", `is not one of "set", "get", "get-or-empty", "delete", "cas", "delete-cas"`
	case o.Value != nil && o.ValueBase64 != nil:
		return nil, "value", "is given beside value_base64; one of them is possible"
	case !v.value && (o.Value != nil || o.ValueBase64 != nil):
		return nil, "value", o.Verb + " takes no value"
	case v.value && o.Value == nil && o.ValueBase64 == nil:
		return nil, "value", "is missing, as value or value_base64"
	case v.index && o.Index == nil:
		return nil, "index", "is missing: the index of the key as it was read; 0 in cas means that there is no key yet"
	case !v.index && o.Index != nil:
		return nil, "index", o.Verb + " takes no index"
	case o.Verb == "delete-cas" && *o.Index == 0:
		return nil, "index", "must be that of the key as it was read, not 0"
	}
	if problem := checkKey(o.Key); problem != "" {
		return nil, "key", problem
	}
	op = &api.KVTxnOp{Verb: v.name, Key: prefix + o.Key}
	switch {
	case o.Value != nil:
		op.Value = []byte(*o.Value)
	case o.ValueBase64 != nil:
		b, err := base64.StdEncoding.DecodeString(*o.ValueBase64)
		if err != nil {
			return nil, "value_base64", "is not base64: " + err.Error()
		}
		op.Value = b
	}
	if o.Index != nil {
		op.Index = *o.Index
	}
	return op, "", ""
}

// checkKey says what is wrong with a key; empty: nothing.
func checkKey(key string) string {
	if key == "" || len(key) > maxKey {
		return "must have 1 to 512 bytes"
	}
	if !utf8.ValidString(key) {
		return "is not UTF-8"
	}
	for _, r := range key {
		if r < ' ' || r == 0x7f {
			return "has a control character"
		}
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return `has an empty segment, or "." or ".."; keys are relative to the election's own prefix`
		}
	}
	return ""
}

// opField names a field of an operation.
func opField(i int, field string) string { return fieldOps + "[" + strconv.Itoa(i) + "]." + field }

// results are the keys that were read or written, as the client named them. What is
// deleted has none.
func (r kvRequest) results(pairs []*api.KVPair, prefix string) []kvResult {
	list := make([]kvResult, 0, len(pairs))
	for _, o := range r.Ops {
		if o.Verb == "delete" || len(pairs) == 0 {
			continue
		}
		p := pairs[0]
		pairs = pairs[1:]
		if o.Verb == "delete-cas" {
			continue // the check that goes before it
		}
		res := kvResult{Key: strings.TrimPrefix(p.Key, prefix), Index: p.ModifyIndex}
		switch {
		case p.ModifyIndex == 0, o.Verb != "get" && o.Verb != "get-or-empty":
			// There is no such key, or Consul does not say its value again.
		case utf8.Valid(p.Value):
			text := string(p.Value)
			res.Value = &text
		default:
			text := base64.StdEncoding.EncodeToString(p.Value)
			res.ValueBase64 = &text
		}
		list = append(list, res)
	}
	return list
}
