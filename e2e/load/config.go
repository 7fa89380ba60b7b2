package load

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Defaults of [Config].
const (
	DefaultRefresh     = time.Second
	DefaultTimeout     = 5 * time.Second
	DefaultMaxInFlight = 512
)

// Discover returns the addresses ("host:port") of the instances that may be sent
// requests now. It has to return when ctx ends.
type Discover func(ctx context.Context) ([]string, error)

// Config says what is sent where.
type Config struct {
	// Discover finds the instances. Required.
	Discover Discover

	// Streams are the requests to send, each at its own rate. At least one.
	Streams []Stream

	// Refresh is how long an answer of Discover is used before it is asked again.
	// Longer means that a stopped instance is sent requests for longer.
	// Default: DefaultRefresh.
	Refresh time.Duration

	// MaxInFlight bounds the requests that run at the same time, over all streams.
	// A request that is due when the bound is reached fails with ReasonOverload.
	// Default: DefaultMaxInFlight.
	MaxInFlight int
}

// Stream is a steady series of equal requests.
type Stream struct {
	// Name tells the stream from the others in the results. Required, unique.
	Name string

	// Path is the path (and query) of the request, beginning with a slash.
	Path string

	// Rate is the number of requests per second, above 0.
	Rate float64

	// Timeout bounds one request from its sending to the last byte of the body.
	// Default: DefaultTimeout.
	Timeout time.Duration

	// BodyBytes is the length the body must have. 0: not checked.
	BodyBytes int64

	// BodySHA256 is the hash the body must have, in hexadecimal. Empty: not checked.
	BodySHA256 string
}

// withDefaults returns a copy of c that is complete, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.Discover == nil {
		return c, errors.New("load: no discovery function")
	}
	if len(c.Streams) == 0 {
		return c, errors.New("load: no stream of requests")
	}
	if c.Refresh == 0 {
		c.Refresh = DefaultRefresh
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = DefaultMaxInFlight
	}
	if c.Refresh < 0 {
		return c, fmt.Errorf("load: refresh %s is negative", c.Refresh)
	}
	if c.MaxInFlight < 0 {
		return c, fmt.Errorf("load: bound of %d requests in flight is negative", c.MaxInFlight)
	}

	streams := make([]Stream, len(c.Streams))
	seen := make(map[string]bool, len(c.Streams))
	for i, s := range c.Streams {
		if s.Timeout == 0 {
			s.Timeout = DefaultTimeout
		}
		switch {
		case s.Name == "":
			return c, fmt.Errorf("load: stream %d has no name", i)
		case seen[s.Name]:
			return c, fmt.Errorf("load: two streams are named %q", s.Name)
		case len(s.Path) == 0 || s.Path[0] != '/':
			return c, fmt.Errorf("load: path %q of stream %q does not begin with a slash", s.Path, s.Name)
		case !(s.Rate > 0): // also refuses NaN
			return c, fmt.Errorf("load: rate %v of stream %q is not above 0", s.Rate, s.Name)
		case s.Timeout < 0:
			return c, fmt.Errorf("load: timeout %s of stream %q is negative", s.Timeout, s.Name)
		case s.BodyBytes < 0:
			return c, fmt.Errorf("load: body length %d of stream %q is negative", s.BodyBytes, s.Name)
		}
		seen[s.Name] = true
		streams[i] = s
	}
	c.Streams = streams
	return c, nil
}
