package election

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

// Mode says what stands between two leaders that both believe to lead. Candidates of
// one election should use the same mode; if they do not, each respects the window of
// the leader before it.
type Mode string

const (
	// Strict binds the leadership to a session with a TTL of its own, which Consul
	// never ends before that TTL: a slow agent or a failed check does not cost the
	// leadership. After a crash the next leader comes after up to two TTLs and a
	// window, some 30 s.
	Strict Mode = "strict"
	// Balanced binds the leadership to a TTL check on the local Consul agent, and the
	// next leader waits until the window of the one before it is over: about 3 s after
	// a crash. It is the default.
	Balanced Mode = "balanced"
	// Fenced is balanced without the wait: about 1.5 s after a crash. For up to a
	// window the old leader may still trust that it leads, so whatever the leader
	// writes to has to check the fencing token.
	Fenced Mode = "fenced"
)

// ParseMode reads a mode. The error lists the modes.
func ParseMode(s string) (Mode, error) {
	if m := Mode(s); m.Valid() {
		return m, nil
	}
	return "", fmt.Errorf("%q is not one of %q, %q, %q", s, Strict, Balanced, Fenced)
}

// Valid says whether the mode is one of the three.
func (m Mode) Valid() bool { return m == Strict || m == Balanced || m == Fenced }

// Limits of the configuration.
const (
	MinTTL        = time.Second
	MaxTTL        = time.Minute // Consul's longest lock-delay, which the window must fit
	DefaultTTL    = 1500 * time.Millisecond
	MinSessionTTL = 10 * time.Second // Consul's own floor
	MaxSessionTTL = time.Minute

	MinLease = 200 * time.Millisecond
	MaxLease = time.Hour

	// MaxPriority is the most preferred candidate's priority, and -MaxPriority the
	// least preferred one's.
	MaxPriority = 100

	// maxInfoBytes bounds what a candidate says of itself: it is in the value of
	// every key that it holds.
	maxInfoBytes = 4096
	// MaxElections is how many elections one Elector can join.
	MaxElections = 5000
	// maxRegistration bounds a candidate's key with all its elections. Consul takes
	// requests of 512 KiB, and a value grows by a third in them.
	maxRegistration = 360 << 10
)

// Config says who takes part. The zero value is a candidate named after the host and
// the process, at the local Consul agent.
type Config struct {
	// Consul says where the agent is and with which token and TLS it is spoken to.
	// Default: api.DefaultConfig, which reads the CONSUL_* environment. The
	// transport is the Elector's own; Transport and HttpClient are not used.
	// A token in TokenFile is read once.
	Consul *api.Config

	// Prefix of all keys in Consul's KV. All elections under one prefix are watched
	// together, so groups of processes that have nothing to do with each other
	// should have prefixes of their own. Default "election".
	Prefix string

	// ID is the name of this candidate, and unique under the prefix: a second live
	// candidate with the same ID does not take part and says so. Default: host name
	// and process ID.
	ID string

	// Address and Meta are told to whoever asks for the leader.
	Address string
	Meta    map[string]string

	// Mode of the elections that do not choose their own. Default Balanced.
	Mode Mode

	// TTL of the check that stands for this process in the modes balanced and
	// fenced: how long after its last heartbeat Consul gives the process up. It is
	// also the window of balanced and fenced. Default 1.5 s.
	TTL time.Duration

	// SessionTTL is TTL's counterpart in mode strict. Default 10 s.
	SessionTTL time.Duration

	// Service is the Consul service that carries the check, so that candidates are
	// seen in the catalog. Default "elector".
	Service     string
	ServicePort int
	ServiceTags []string

	// Logger gets a line for each change and for each new trouble. Default: none.
	Logger hclog.Logger
}

// Options say how to take part in one election.
type Options struct {
	// Mode of this election. Default: that of the Config.
	Mode Mode

	// Priority among candidates, from -100 to 100, higher is preferred. It decides
	// who takes a free leadership; a leader is not pushed out by a better candidate.
	// Candidates of equal priority are ranked by a hash of election and candidate,
	// which spreads many elections evenly.
	Priority int

	// Lease is the application's own: if Renew is not called for so long, the
	// candidate leaves. Zero: no lease.
	Lease time.Duration

	// Grace ends the leadership so long before the trust window does, to leave the
	// application time to stop while nobody else can lead yet. At most half of the
	// trust window.
	Grace time.Duration

	// OnGain and OnLoss are called at the beginning and at the end of each term, one
	// after the other, on a goroutine of the candidate. After a resignation the lock
	// is released only when OnLoss has returned. Neither may wait for a method of
	// the same Candidate.
	OnGain func(*Leadership)
	OnLoss func(*Leadership, error)
}

// FieldError says which field of a Config or of Options cannot be, and why.
type FieldError struct {
	Field   string // as it is spelled in JSON and HCL, for example "session_ttl"
	Problem string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

var (
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	prefixForm = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)
)

// CheckName says whether an election can have this name: 1 to 128 letters, digits,
// dots, underscores and dashes, the first one a letter or digit.
func CheckName(name string) error { return checkForm("election", name) }

// CheckID says whether a candidate can have this name. The rule is that of CheckName.
func CheckID(id string) error { return checkForm("id", id) }

// CheckPrefix says whether keys in Consul can have this prefix.
func CheckPrefix(prefix string) error {
	if !prefixForm.MatchString(prefix) {
		return fieldErrorf("prefix", "%q is not a path of letters, digits, dots, underscores and dashes without a slash at its ends", prefix)
	}
	return nil
}

func checkForm(field, s string) error {
	if !nameForm.MatchString(s) {
		return fieldErrorf(field, "%q is not 1 to 128 letters, digits, dots, underscores and dashes beginning with a letter or digit", s)
	}
	return nil
}

// within checks a duration's range.
func within(field string, d, least, most time.Duration) error {
	if d < least || d > most {
		return fieldErrorf(field, "%s is not between %s and %s", d, least, most)
	}
	return nil
}

// Validate says whether New would take the configuration. The error is a *FieldError.
func (c Config) Validate() error {
	_, err := c.withDefaults()
	return err
}

// withDefaults returns the configuration with all defaults filled in. The error is a
// *FieldError.
func (c Config) withDefaults() (Config, error) {
	if c.Consul == nil {
		c.Consul = api.DefaultConfig()
	}
	if c.Prefix == "" {
		c.Prefix = "election"
	}
	if c.ID == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fieldErrorf("id", "none is given and the host has no name: %v", err)
		}
		c.ID = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	if c.Mode == "" {
		c.Mode = Balanced
	}
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.SessionTTL == 0 {
		c.SessionTTL = MinSessionTTL
	}
	if c.Service == "" {
		c.Service = "elector"
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if _, err := ParseMode(string(c.Mode)); err != nil {
		return c, fieldErrorf("mode", "%v", err)
	}
	size := len(c.Address)
	for k, v := range c.Meta {
		size += len(k) + len(v)
	}
	if size > maxInfoBytes {
		return c, fieldErrorf("meta", "address and meta have %d bytes, more than %d", size, maxInfoBytes)
	}
	if strings.TrimSpace(c.Service) != c.Service || strings.ContainsAny(c.Service, "/ ") {
		return c, fieldErrorf("service", "%q is not the name of a service", c.Service)
	}
	for _, err := range []error{
		CheckPrefix(c.Prefix),
		CheckID(c.ID),
		within("ttl", c.TTL, MinTTL, MaxTTL),
		within("session_ttl", c.SessionTTL, MinSessionTTL, MaxSessionTTL),
	} {
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// withDefaults returns the options with all defaults filled in, for an election of an
// Elector with this configuration. The error is a *FieldError.
func (o Options) withDefaults(c Config) (Options, error) {
	if o.Mode == "" {
		o.Mode = c.Mode
	}
	if _, err := ParseMode(string(o.Mode)); err != nil {
		return o, fieldErrorf("mode", "%v", err)
	}
	if o.Priority < -MaxPriority || o.Priority > MaxPriority {
		return o, fieldErrorf("priority", "%d is not between -%d and %d", o.Priority, MaxPriority, MaxPriority)
	}
	if o.Lease != 0 {
		if err := within("lease", o.Lease, MinLease, MaxLease); err != nil {
			return o, err
		}
	}
	if most := c.timing(o.Mode).trust / 2; o.Grace < 0 || o.Grace > most {
		return o, fieldErrorf("grace", "%s is not between 0 and %s, half of the trust window", o.Grace, most)
	}
	return o, nil
}

// timing is what follows from a mode and its TTL.
type timing struct {
	window  time.Duration // nobody else leads for so long after the lock was lost
	trust   time.Duration // from the start of the last consistent read; less than window
	delay   time.Duration // lock-delay of the session
	confirm time.Duration // between two consistent reads
}

// timing of a mode. The trust window is a tenth shorter than what the others wait, so
// clocks may differ in rate by a tenth before two leaders trust themselves at once.
func (c Config) timing(m Mode) timing {
	w := c.TTL
	if m == Strict {
		w = c.SessionTTL
	}
	t := timing{window: w, trust: w - w/10, delay: w, confirm: w * 3 / 10}
	if m == Fenced {
		// Zero cannot be sent: the client library leaves it out and the agent takes
		// 15 s instead.
		t.window, t.delay = 0, time.Millisecond
	}
	return t
}
