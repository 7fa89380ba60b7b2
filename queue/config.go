package queue

import (
	"fmt"
	"regexp"
	"time"
)

// Limits of the configuration.
const (
	MaxShards    = 64
	MaxStages    = 16
	MinLease     = time.Second
	MaxLease     = time.Hour
	DefaultLease = 15 * time.Second
	MaxCollect   = 1000
	MaxPriority  = 9 // and the least is 0

	// DefaultStage is the stage of a queue that names none.
	DefaultStage = "work"
)

// Config is what a queue is like. It is stored in Consul as it is written here.
type Config struct {
	// Shards is how many parts the queue has, each with a broker of its own that
	// leads it. It cannot be changed. Default 1.
	Shards int `json:"shards"`

	// Stages an item goes through. Default: one, DefaultStage. Stages can be added at
	// the end and changed, not removed.
	Stages []Stage `json:"stages"`

	// Retention is how long a finished item can still be looked up, and its
	// idempotency key be recognised. At most 100,000 of a shard are kept, about.
	// Default one minute.
	Retention Duration `json:"retention"`

	// MaxItems bounds the unfinished items of a shard: beyond it nothing is
	// accepted until some are done. Default 2,000,000.
	MaxItems int `json:"max_items"`

	// MaxDead bounds the dead letters of a shard: beyond it no item is handed out
	// until somebody has looked at them. Default 10,000.
	MaxDead int `json:"max_dead"`
}

// Stage is a step of work and its rules.
type Stage struct {
	Name string `json:"name"`

	// Lease is how long a worker may be silent before its items go to others.
	// Workers renew it, so it says nothing about how long work may take. Default
	// 15 s.
	Lease Duration `json:"lease"`
	// MaxRuntime is how long work on one item may take; workers enforce it. Zero: as
	// long as it wants.
	MaxRuntime Duration `json:"max_runtime,omitempty"`

	// MaxFailed is how often an item may fail before it is a dead letter. Default 5.
	MaxFailed int `json:"max_failed"`
	// MaxLost is how often workers may vanish over an item before it is a dead
	// letter. It is counted apart, since it says something about machines at least as
	// often as about the item. Default 3.
	MaxLost int `json:"max_lost"`
	// Backoff is the wait after the first failure. It doubles up to MaxBackoff, and
	// half of it is random. Defaults 1 s and 5 min.
	Backoff    Duration `json:"backoff"`
	MaxBackoff Duration `json:"max_backoff"`

	// MaxInFlight bounds the items of a shard that are being worked on. Zero: no
	// bound.
	MaxInFlight int `json:"max_in_flight,omitempty"`
	// Rate bounds the items of a shard that are handed out in a second. Zero: no
	// bound.
	Rate float64 `json:"rate,omitempty"`

	// Next is the stage that gets what is done here: one item for each that is done,
	// with this one's output as input, or as many as the worker emits.
	Next string `json:"next,omitempty"`
	// Collect makes this stage a merge: instead of one item for each output of the
	// stage before, it gets one for so many of them, with all as inputs. What is
	// left when the queue is sealed and the stage before is empty makes a smaller
	// one. It needs a queue of one shard. Zero: no merge.
	Collect int `json:"collect,omitempty"`

	// Scale starts workers for this stage. Nil: somebody else does.
	Scale *Scale `json:"scale,omitempty"`
}

// Scale says how many workers a stage should have. They are started by dispatching a
// parameterized job of Nomad, once for each worker, and end by themselves when they find
// nothing to do; no worker is ever stopped.
type Scale struct {
	// Job to dispatch. Its meta gets queue and stage.
	Job string `json:"job"`
	// Namespace of the job. Default "default".
	Namespace string `json:"namespace"`
	// Min and Max bound the workers. Defaults 0 and 10.
	Min int `json:"min"`
	Max int `json:"max"`
	// ItemsPerWorker is how many unfinished items one worker is started for. Default
	// 10.
	ItemsPerWorker int `json:"items_per_worker"`
}

// Duration is a time.Duration that is written as "1.5s" in JSON.
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write for example \"1.5s\" or \"200ms\"", text)
	}
	*d = Duration(v)
	return nil
}

// FieldError says which field of what was given cannot be, and why.
type FieldError struct {
	Field   string // as it is spelled in JSON, for example "stages[1].lease"
	Problem string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// CheckName says whether a queue or a stage can have this name: 1 to 63 small letters,
// digits, dashes and underscores, the first one a letter or digit. It is part of keys
// and of a service's name.
func CheckName(field, name string) error {
	if !nameForm.MatchString(name) {
		return fieldErrorf(field, "%q is not 1 to 63 small letters, digits, dashes and underscores beginning with a letter or digit", name)
	}
	return nil
}

// WithDefaults returns the configuration with all defaults filled in. The error is a
// *FieldError.
func (c Config) WithDefaults() (Config, error) {
	setDefault(&c.Shards, 1)
	setDefault(&c.Retention, Duration(time.Minute))
	setDefault(&c.MaxItems, 2_000_000)
	setDefault(&c.MaxDead, 10_000)
	if len(c.Stages) == 0 {
		c.Stages = []Stage{{Name: DefaultStage}}
	}
	for _, err := range []error{
		within("shards", c.Shards, 1, MaxShards),
		within("stages", len(c.Stages), 1, MaxStages),
		within("retention", c.Retention, 0, Duration(30*24*time.Hour)),
		within("max_items", c.MaxItems, 1, 10_000_000),
		within("max_dead", c.MaxDead, 1, 100_000),
	} {
		if err != nil {
			return c, err
		}
	}
	stages := make([]Stage, len(c.Stages))
	place := map[string]int{}
	for i, s := range c.Stages {
		at := fmt.Sprintf("stages[%d].", i)
		s, err := s.withDefaults(at)
		if err != nil {
			return c, err
		}
		if _, twice := place[s.Name]; twice {
			return c, fieldErrorf(at+"name", "there are two stages %q", s.Name)
		}
		if s.Collect > 0 && c.Shards > 1 {
			return c, fieldErrorf(at+"collect", "a merge needs a queue with one shard, this one has %d", c.Shards)
		}
		place[s.Name] = i
		stages[i] = s
	}
	for i, s := range stages {
		if s.Next == "" {
			continue
		}
		// Only forward, so that no item can go in circles.
		if next, ok := place[s.Next]; !ok || next <= i {
			return c, fieldErrorf(fmt.Sprintf("stages[%d].next", i), "%q is not a later stage", s.Next)
		}
	}
	c.Stages = stages
	return c, nil
}

func (s Stage) withDefaults(at string) (Stage, error) {
	setDefault(&s.Lease, Duration(DefaultLease))
	setDefault(&s.MaxFailed, 5)
	setDefault(&s.MaxLost, 3)
	setDefault(&s.Backoff, Duration(time.Second))
	setDefault(&s.MaxBackoff, max(s.Backoff, Duration(5*time.Minute)))
	if s.Scale != nil {
		sc := *s.Scale
		setDefault(&sc.Namespace, "default")
		setDefault(&sc.Max, max(10, sc.Min))
		setDefault(&sc.ItemsPerWorker, 10)
		if sc.Job == "" || len(sc.Job) > 200 {
			return s, fieldErrorf(at+"scale.job", "%q is not the ID of a job", sc.Job)
		}
		for _, err := range []error{
			within(at+"scale.max", sc.Max, 1, 10_000),
			within(at+"scale.min", sc.Min, 0, sc.Max),
			within(at+"scale.items_per_worker", sc.ItemsPerWorker, 1, 1_000_000),
		} {
			if err != nil {
				return s, err
			}
		}
		s.Scale = &sc
	}
	for _, err := range []error{
		CheckName(at+"name", s.Name),
		within(at+"lease", s.Lease, Duration(MinLease), Duration(MaxLease)),
		within(at+"max_runtime", s.MaxRuntime, 0, Duration(30*24*time.Hour)),
		within(at+"max_failed", s.MaxFailed, 1, 1000),
		within(at+"max_lost", s.MaxLost, 1, 1000),
		within(at+"backoff", s.Backoff, Duration(time.Millisecond), Duration(24*time.Hour)),
		within(at+"max_backoff", s.MaxBackoff, s.Backoff, Duration(24*time.Hour)),
		within(at+"max_in_flight", s.MaxInFlight, 0, 1_000_000),
		within(at+"rate", s.Rate, 0, 1e6),
		within(at+"collect", s.Collect, 0, MaxCollect),
	} {
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// changeable says whether a queue with this configuration can get another one.
func (c Config) changeable(to Config) error {
	if c.Shards != to.Shards {
		return fieldErrorf("shards", "the queue has %d, which cannot be changed", c.Shards)
	}
	for i, s := range c.Stages {
		if i >= len(to.Stages) || to.Stages[i].Name != s.Name {
			return fieldErrorf("stages", "stage %d is %q, which cannot be removed or renamed", i, s.Name)
		}
	}
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// within checks a value's range.
func within[T int | float64 | Duration](field string, v, least, most T) error {
	if !(v >= least && v <= most) { //nolint:staticcheck // NaN is between nothing
		return fieldErrorf(field, "%v is not between %v and %v", v, least, most)
	}
	return nil
}
