package queue_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
	"github.com/nomad-patterns/nomad-patterns/queue"
	"github.com/shoenig/test/must"
)

// What an operator can do to the keys of a queue by hand. Where it shows, the broker
// says what is wrong and answers nothing that is not stored, and goes on by itself when
// the key is as it was. A segment or its state that is gone altogether does not show.
func TestOperator(t *testing.T) {
	consul := oneServer(t)
	items, state := "segment/00000000/000000000000/items", "segment/00000000/000000000000/state"
	for name, c := range map[string]struct {
		key  string
		do   func(*scene, *api.KVPair)
		says string // in the error of a broker that has to read the shard
	}{
		"head deleted":             {"head", deleteKey, "segment"},
		"head overwritten":         {"head", overwriteKey("no JSON"), "head"},
		"head of an empty queue":   {"head", overwriteKey(`{"flush":1,"next":0,"claim":0,"stages":{}}`), "segment"},
		"items deleted":            {items, deleteKey, "segment"},
		"items overwritten":        {items, overwriteKey("[]"), "segment"},
		"items of another segment": {items, overwriteKey(`{"first":99,"at":0,"items":[{}]}`), "segment"},
		"state overwritten":        {state, overwriteKey(`{"items":[{"items":"0","state":"eaten"}]}`), "state"},
		"state about other items":  {state, overwriteKey(`{"items":[{"items":"0-300","state":"done"}]}`), "range"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, consul, queue.Config{})
			s.put("done", "claimed", "ready")
			s.accept(s.claimOne("w"), queue.Ack{Output: "out"})
			claimed := s.claimOne("w")
			kv := consul.Server(0).KV()
			saved, _, err := kv.List(s.key(c.key), nil)
			must.NoError(t, err)
			must.SliceNotEmpty(t, saved)
			for _, p := range saved {
				c.do(s, p)
			}
			// The next broker has to read what is there.
			b := s.broker("b")
			s.until(func() error { _, err := b.Config("q"); return err })
			s.close(s.Broker)
			s.Broker = b
			s.until(func() error {
				_, err := b.Status(s.ctx, "q", 0)
				must.Error(t, err, must.Sprint("the broker leads, as if nothing were wrong"))
				if !strings.Contains(err.Error(), c.says) {
					return fmt.Errorf("the error does not tell of %q: %w", c.says, err)
				}
				return nil
			})
			_, err = s.Enqueue(s.ctx, "q", 0, []queue.Item{{Input: "x"}})
			must.Error(t, err)
			// And when the operator has put it back, all is as it was.
			for _, p := range saved {
				_, err := kv.Put(&api.KVPair{Key: p.Key, Value: p.Value}, nil)
				must.NoError(t, err)
			}
			st := s.leads(b)
			must.Eq(t, 2, st.Items)
			must.Eq(t, 1, st.Stages[0].Done)
			s.accept(claimed, queue.Ack{})
			must.Eq(t, []string{"ready"}, s.inputs(s.claimFor("w", "", 10).Items))
		})
	}
	// The broker that leads notices with its next write, before it answers.
	for name, do := range map[string]func(*scene, *api.KVPair){
		"head deleted while led":     deleteKey,
		"head overwritten while led": overwriteKey("no JSON"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, consul, queue.Config{})
			s.put("a")
			kv := consul.Server(0).KV()
			head, _, err := kv.Get(s.key("head"), nil)
			must.NoError(t, err)
			do(s, head)
			_, err = s.Enqueue(s.ctx, "q", 0, []queue.Item{{Input: "not stored"}})
			must.ErrorIs(t, err, queue.ErrNotLeader)
			s.until(func() error {
				_, err := s.Status(s.ctx, "q", 0)
				must.Error(t, err)
				if !strings.Contains(err.Error(), "head") && !strings.Contains(err.Error(), "segment") {
					return fmt.Errorf("the error does not tell why: %w", err)
				}
				return nil
			})
			_, err = kv.Put(&api.KVPair{Key: head.Key, Value: head.Value}, nil)
			must.NoError(t, err)
			must.Eq(t, 1, s.leads(s.Broker).Items)
			s.put("b")
			must.Eq(t, []string{"a", "b"}, s.inputs(s.claimFor("w", "", 10).Items))
		})
	}
	// A write that changes nothing does no harm.
	t.Run("head written as it was while led", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, consul, queue.Config{})
		s.put("a")
		kv := consul.Server(0).KV()
		head, _, err := kv.Get(s.key("head"), nil)
		must.NoError(t, err)
		_, err = kv.Put(&api.KVPair{Key: head.Key, Value: append(head.Value, '\n')}, nil)
		must.NoError(t, err)
		s.until(func() error {
			_, err := s.Enqueue(s.ctx, "q", 0, []queue.Item{{Input: "b", Key: "b"}})
			return err
		})
		must.Eq(t, []string{"a", "b"}, s.inputs(s.claimFor("w", "", 10).Items))
	})
	t.Run("bad configuration", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, consul, queue.Config{})
		kv := consul.Server(0).KV()
		key := s.prefix() + "/config/q"
		good, _, err := kv.Get(key, nil)
		must.NoError(t, err)
		_, err = kv.Put(&api.KVPair{Key: key, Value: []byte(`{"shards":7}`)}, nil)
		must.NoError(t, err)
		// Another queue, so that the bad one has certainly been seen.
		_, err = s.Create(s.ctx, "other", queue.Config{})
		must.NoError(t, err)
		s.put("a")
		_, err = kv.Put(&api.KVPair{Key: key, Value: good.Value}, nil)
		must.NoError(t, err)
		must.Eq(t, []string{"a"}, s.inputs(s.claimFor("w", "", 10).Items))
	})
}

func deleteKey(s *scene, p *api.KVPair) {
	_, err := s.consul.Server(0).KV().Delete(p.Key, nil)
	must.NoError(s.t, err)
}

func overwriteKey(value string) func(*scene, *api.KVPair) {
	return func(s *scene, p *api.KVPair) {
		_, err := s.consul.Server(0).KV().Put(&api.KVPair{Key: p.Key, Value: []byte(value)}, nil)
		must.NoError(s.t, err)
	}
}

// A session or a lock key that is gone costs a broker its shard, and nothing else.
func TestLockLost(t *testing.T) {
	consul := oneServer(t)
	for name, do := range map[string]func(*scene, *api.KVPair) error{
		"session destroyed": func(s *scene, p *api.KVPair) error {
			_, err := s.consul.Server(0).Session().Destroy(p.Session, nil)
			return err
		},
		"lock deleted": func(s *scene, p *api.KVPair) error {
			_, err := s.consul.Server(0).KV().Delete(p.Key, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, consul, queue.Config{})
			s.put("a")
			pairs, _, err := consul.Server(0).KV().List(s.prefix()+"/leader/leader/", nil)
			must.NoError(t, err)
			must.Len(t, 1, pairs)
			must.NoError(t, do(s, pairs[0]))
			s.until(func() error {
				_, err := s.Enqueue(s.ctx, "q", 0, []queue.Item{{Input: "b", Key: "b"}})
				if err != nil && !errors.Is(err, queue.ErrNotLeader) {
					must.NoError(t, err)
				}
				return err
			})
			s.until(func() error {
				got, err := s.Claim(s.ctx, "q", queue.ClaimRequest{Worker: "w", Max: 10})
				if err == nil {
					must.Eq(t, []string{"a", "b"}, s.inputs(got.Items))
				}
				return err
			})
		})
	}
}
