package queue

import (
	"encoding/json"
	"time"

	"github.com/hashicorp/cronexpr"
)

// Recurring is an item that is enqueued again and again.
type Recurring struct {
	Name string `json:"name"`
	// Cron says when, in five fields, in UTC. Or Every.
	Cron string `json:"cron,omitempty"`
	// Every is the time between two of them, a second at least.
	Every Duration `json:"every,omitempty"`
	Item  Item     `json:"item"`
}

// Schedule is a Recurring with the next time; zero: it never comes again.
type Schedule struct {
	Recurring
	Next time.Time `json:"next,omitzero"`
}

// Schedules is a list of them.
type Schedules struct {
	Recurring []Schedule `json:"recurring"`
}

// recurring is a Recurring with its next time. What was missed, because nobody led the
// queue, is made up for once.
type recurring struct {
	Recurring
	Next time.Time `json:"next"`
	item prepared
	cron *cronexpr.Expression
}

// newRecurring checks it. The error is a *FieldError.
func newRecurring(r Recurring, next time.Time) (*recurring, error) {
	if err := CheckName("name", r.Name); err != nil {
		return nil, err
	}
	if r.Item.Key != "" || !r.Item.NotBefore.IsZero() {
		return nil, fieldErrorf("item", "key and not_before are for items that come once")
	}
	out := &recurring{Recurring: r, Next: next}
	var err error
	switch {
	case (r.Cron == "") == (r.Every == 0):
		return nil, fieldErrorf("cron", "give either cron or every")
	case r.Every != 0:
		err = within("every", r.Every, Duration(time.Second), Duration(366*24*time.Hour))
	default:
		if out.cron, err = cronexpr.Parse(r.Cron); err != nil {
			err = fieldErrorf("cron", "%v", err)
		}
	}
	if err != nil {
		return nil, err
	}
	out.item, err = prepare(r.Item)
	return out, err
}

// after is the next time.
func (r *recurring) after(t time.Time) time.Time {
	if r.cron != nil {
		return r.cron.Next(t.UTC())
	}
	return t.Add(time.Duration(r.Every))
}

// maxRecurring bounds those of a shard.
const maxRecurring = 1000

// setRecurring adds or changes one; nil removes it.
func (s *shardState) setRecurring(name string, r *recurring) error {
	if r == nil {
		if s.recurs[name] == nil {
			return fieldErrorf("name", "there is no recurring item %q", name)
		}
		delete(s.recurs, name)
	} else {
		if _, err := s.stage(r.Item.Stage); err != nil {
			return err
		}
		if s.recurs[name] == nil && len(s.recurs) == maxRecurring {
			return fieldErrorf("name", "there are %d recurring items already", maxRecurring)
		}
		r.Next = r.after(time.UnixMilli(s.now).UTC())
		s.recurs[name] = r
	}
	s.markRecurring(name)
	return nil
}

func (s *shardState) markRecurring(name string) {
	s.change()
	if _, ok := s.recursDirty[name]; !ok {
		s.recursDirty[name] = struct{}{}
		s.ops++
	}
	s.bytes += maxAttrs + 4*maxInput
}

// recur enqueues what is due. It returns false if there was no room.
func (s *shardState) recur() bool {
	now := time.UnixMilli(s.now).UTC()
	for name, r := range s.recurs {
		if r.Next.IsZero() || r.Next.After(now) || s.head.Sealed {
			continue
		}
		if !s.room(1, 4096) || !s.roomFor(1, len(r.item.raw)) {
			return false
		}
		if s.items() < s.cfg.MaxItems {
			stage, _ := s.stage(r.Item.Stage)
			s.head.Enqueued++
			s.put(&r.item, stage)
		}
		// From now on, so that a long absence is made up for once.
		next := r.after(r.Next)
		if !next.After(now) {
			next = r.after(now)
		}
		r.Next = next
		s.markRecurring(name)
	}
	return true
}

// decodePrepared reads an item as it was stored.
func decodePrepared(raw []byte) (prepared, error) {
	var it Item
	if err := json.Unmarshal(raw, &it); err != nil {
		return prepared{}, err
	}
	return prepare(it)
}
