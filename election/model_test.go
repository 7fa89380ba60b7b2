package election

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// model is Consul as far as elections can tell: a KV store with locks, sessions with
// checks or a TTL, lock-delay, tombstones, snapshots. It follows agent/consul/state of
// Consul 1.22, and has no clock of its own. It is not safe for concurrent use.
type model struct {
	now func() time.Duration

	raft     uint64 // index of the last write, which never goes back
	table    uint64 // index of the whole KV store
	kv       map[string]modelKey
	tombs    map[string]uint64
	sessions map[string]modelSession
	delays   map[string]time.Duration // lock-delay of a key; not part of a snapshot
	checks   map[string]bool          // checks of the agents, and whether they pass; not part of a snapshot
	serial   int

	// changed is called after each change, and restored after a snapshot was restored.
	changed, restored func()
}

type modelKey struct {
	create, modify, lock uint64
	session              string
	value                []byte
}

type modelSession struct {
	id, name, check string
	ttl, delay      time.Duration
	renewed         time.Duration
}

func newModel(now func() time.Duration) *model {
	return &model{
		now: now, raft: 10, kv: map[string]modelKey{}, tombs: map[string]uint64{}, sessions: map[string]modelSession{},
		delays: map[string]time.Duration{}, checks: map[string]bool{}, changed: func() {}, restored: func() {},
	}
}

// prefixIndex is the index of a prefix: of its youngest key or tombstone, and that of
// the whole store if it has neither.
func (m *model) prefixIndex(prefix string) uint64 {
	var index uint64
	for k, e := range m.kv {
		if strings.HasPrefix(k, prefix) {
			index = max(index, e.modify)
		}
	}
	for k, i := range m.tombs {
		if strings.HasPrefix(k, prefix) {
			index = max(index, i)
		}
	}
	return max(1, cmp.Or(index, m.table))
}

// list returns all keys under a prefix.
func (m *model) list(prefix string) (pairs api.KVPairs) {
	for _, k := range slices.Sorted(maps.Keys(m.kv)) {
		if strings.HasPrefix(k, prefix) {
			pairs = append(pairs, m.kv[k].pair(k))
		}
	}
	return pairs
}

func (e modelKey) pair(key string) *api.KVPair {
	return &api.KVPair{
		Key: key, CreateIndex: e.create, ModifyIndex: e.modify, LockIndex: e.lock, Session: e.session, Value: bytes.Clone(e.value),
	}
}

// set writes a key as kvsSetTxn does: an equal write does not move the index.
func (m *model) set(key string, e modelKey) modelKey {
	old, ok := m.kv[key]
	e.create, e.modify = m.raft, m.raft
	if ok {
		e.create = old.create
		if old.session == e.session && old.lock == e.lock && bytes.Equal(old.value, e.value) {
			return old
		}
	}
	m.kv[key], m.table = e, m.raft
	return e
}

func (m *model) remove(key string) {
	if _, ok := m.kv[key]; ok {
		delete(m.kv, key)
		m.tombs[key], m.table = m.raft, m.raft
	}
}

// txn carries out a transaction, all of it or nothing.
func (m *model) txn(ops []*api.KVTxnOp) (api.TxnResults, api.TxnErrors) {
	var errs api.TxnErrors
	for i, op := range ops {
		if op.Verb == api.KVLock && m.delays[op.Key] > m.now() {
			errs = append(errs, &api.TxnError{OpIndex: i, What: "due to lock delay until later"})
		}
	}
	if errs != nil {
		return nil, errs // before Raft
	}
	m.raft++
	kv, tombs, table := maps.Clone(m.kv), maps.Clone(m.tombs), m.table
	var results api.TxnResults
	for i, op := range ops {
		e, err := m.apply(op)
		switch {
		case err != nil:
			errs = append(errs, &api.TxnError{OpIndex: i, What: err.Error()})
		case op.Verb != api.KVDelete && op.Verb != api.KVDeleteCAS:
			p := e.pair(op.Key)
			if op.Verb != api.KVGet {
				p.Value = nil
			}
			results = append(results, &api.TxnResult{KV: p})
		}
	}
	if errs != nil {
		m.kv, m.tombs, m.table = kv, tombs, table
		return nil, errs
	}
	m.changed()
	return results, nil
}

// apply carries out one operation of a transaction.
func (m *model) apply(op *api.KVTxnOp) (modelKey, error) {
	e, ok := m.kv[op.Key]
	switch op.Verb {
	case api.KVSet:
		e.value = op.Value
		return m.set(op.Key, e), nil
	case api.KVCAS:
		if ok != (op.Index != 0) || ok && e.modify != op.Index {
			return e, fmt.Errorf("failed to set key %q, index is stale", op.Key)
		}
		e.value = op.Value
		return m.set(op.Key, e), nil
	case api.KVLock:
		if _, lives := m.sessions[op.Session]; !lives {
			return e, fmt.Errorf("invalid session %q", op.Session)
		}
		if e.session != op.Session {
			if e.session != "" {
				return e, fmt.Errorf("failed to lock key %q, lock is already held", op.Key)
			}
			e.lock++
		}
		e.session, e.value = op.Session, op.Value
		return m.set(op.Key, e), nil
	case api.KVUnlock:
		if !ok || e.session != op.Session {
			return e, fmt.Errorf("failed to unlock key %q, lock isn't held, or is held by another session", op.Key)
		}
		e.session, e.value = "", op.Value
		return m.set(op.Key, e), nil
	case api.KVGet, api.KVCheckIndex, api.KVCheckSession:
		switch {
		case !ok:
			return e, fmt.Errorf("key %q doesn't exist", op.Key)
		case op.Verb == api.KVCheckIndex && e.modify != op.Index:
			return e, fmt.Errorf("failed index check for key %q, current modify index %d != %d", op.Key, e.modify, op.Index)
		case op.Verb == api.KVCheckSession && e.session != op.Session:
			return e, fmt.Errorf("failed session check for key %q, current session %q != %q", op.Key, e.session, op.Session)
		}
		return e, nil
	case api.KVDeleteCAS:
		if ok && e.modify != op.Index {
			return e, fmt.Errorf("failed to delete key %q, index is stale", op.Key)
		}
		m.remove(op.Key)
		return e, nil
	case api.KVDelete:
		m.remove(op.Key)
		return e, nil
	}
	return e, fmt.Errorf("unknown verb %q", op.Verb)
}

// newSession makes a session. It cannot be bound to a check that does not pass.
func (m *model) newSession(s modelSession) (string, error) {
	if s.check != "" && !m.checks[s.check] {
		return "", fmt.Errorf("Check '%s' is in critical state", s.check)
	}
	m.raft++
	m.serial++
	s.id, s.renewed = fmt.Sprintf("%08d-0000-0000-0000-000000000000", m.serial), m.now()
	m.sessions[s.id] = s
	return s.id, nil
}

// renew says whether the session lives.
func (m *model) renew(id string) bool {
	s, ok := m.sessions[id]
	if ok {
		s.renewed = m.now()
		m.sessions[id] = s
	}
	return ok
}

// destroy ends a session and releases what it holds, with a lock-delay.
func (m *model) destroy(id string) {
	s, ok := m.sessions[id]
	if !ok {
		return
	}
	m.raft++
	delete(m.sessions, id)
	for _, k := range slices.Sorted(maps.Keys(m.kv)) {
		if e := m.kv[k]; e.session == id {
			e.session = ""
			m.set(k, e)
			if s.delay > 0 {
				m.delays[k] = m.now() + s.delay
			}
		}
	}
	m.changed()
}

// check sets whether a check passes, and ends the sessions of one that does not.
func (m *model) check(id string, passing bool) {
	m.checks[id] = passing
	if passing {
		return
	}
	for _, sid := range slices.Sorted(maps.Keys(m.sessions)) {
		if m.sessions[sid].check == id {
			m.destroy(sid)
		}
	}
}

// orphans ends the sessions that a snapshot brought back without their check, which the
// agents' anti-entropy does after a while.
func (m *model) orphans() {
	for _, id := range slices.Sorted(maps.Keys(m.sessions)) {
		if s := m.sessions[id]; s.check != "" && !m.checks[s.check] {
			m.destroy(id)
		}
	}
}

// put writes over a key, held or not.
func (m *model) put(key string, value []byte) {
	m.raft++
	e := m.kv[key]
	e.value = value
	m.set(key, e)
	m.changed()
}

// release lets go of a key by hand.
func (m *model) release(key string, value []byte) {
	if e, ok := m.kv[key]; ok && e.session != "" {
		m.raft++
		e.session, e.value = "", value
		m.set(key, e)
		m.changed()
	}
}

func (m *model) deleteKey(key string) {
	m.raft++
	m.remove(key)
	m.changed()
}

// reap forgets the deletions so far.
func (m *model) reap() {
	m.raft++
	clear(m.tombs)
}

// snapshot is what restore brings back.
type snapshot struct {
	kv       map[string]modelKey
	tombs    map[string]uint64
	sessions map[string]modelSession
}

func (m *model) snapshot() snapshot {
	return snapshot{maps.Clone(m.kv), maps.Clone(m.tombs), maps.Clone(m.sessions)}
}

// restore goes back to a snapshot. The index of Raft goes on, lock-delays are gone, and
// the TTLs of sessions begin anew. Blocking queries return what they had.
func (m *model) restore(s snapshot) {
	m.restored()
	m.raft += 2
	m.kv, m.tombs, m.sessions = maps.Clone(s.kv), maps.Clone(s.tombs), maps.Clone(s.sessions)
	clear(m.delays)
	m.table = 0
	for _, e := range m.kv {
		m.table = max(m.table, e.modify)
	}
	for _, i := range m.tombs {
		m.table = max(m.table, i)
	}
	for id, e := range m.sessions {
		e.renewed = m.now()
		m.sessions[id] = e
	}
	m.changed()
}
