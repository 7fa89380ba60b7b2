package hook

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// Kind is the point of a task's life at which a hook runs.
type Kind string

// The kinds, in the order of a task's life.
const (
	Prestart  Kind = "prestart"  // before the task's own process, in its image and environment
	Poststart Kind = "poststart" // the process runs; Nomad does not call the task running yet
	Ready     Kind = "ready"     // polled until it succeeds; only then is the task running
	Prestop   Kind = "prestop"   // a stop was asked for; the process still runs
	Poststop  Kind = "poststop"  // the process has ended, for whatever reason
)

// The two halves of a checkpoint. Each is one hook, and moves data: see [Run].
const (
	Restore Kind = "restore" // the process runs and is given its last checkpoint, before poststart
	Save    Kind = "save"    // the process still runs and gives its state, after prestop
)

// The points of a whole allocation's life.
const (
	GroupCreated  Kind = "created"  // before the first process
	GroupRunning  Kind = "running"  // all tasks run
	GroupStopping Kind = "stopping" // before the first task is stopped
	GroupStopped  Kind = "stopped"  // the last process has ended
)

// Kinds lists the kinds of a task's own hooks in the order of its life.
func Kinds() []Kind { return []Kind{Prestart, Poststart, Ready, Prestop, Poststop} }

// GroupKinds lists the kinds of group hooks in the order of an allocation's life.
func GroupKinds() []Kind {
	return []Kind{GroupCreated, GroupRunning, GroupStopping, GroupStopped}
}

// group reports whether hooks of this kind are those of a whole allocation.
// They are run by whichever process is the first or last of it, so they reach
// only what every process can reach.
func (k Kind) group() bool { return slices.Contains(GroupKinds(), k) }

// canFail reports whether a failure can be the task's: only before it runs.
func (k Kind) canFail() bool {
	return slices.Contains([]Kind{Prestart, Poststart, Ready, Restore, GroupCreated}, k)
}

// running reports whether something of the task can listen when hooks of this
// kind run.
func (k Kind) running() bool {
	return !slices.Contains([]Kind{Prestart, Poststop, GroupCreated, GroupStopped}, k)
}

// defaultMethod is the HTTP method of hooks that do not say.
func (k Kind) defaultMethod() string {
	switch k {
	case Ready:
		return http.MethodGet
	case Restore:
		return http.MethodPut
	}
	return http.MethodPost
}

// What a failed hook means for the task.
const (
	Ignore = "ignore" // the failure is reported and the lifecycle goes on
	Fail   = "fail"   // the task does not start
)

// Network in which an absolute URL is reached.
const (
	NetworkHost  = "host"  // the client node's
	NetworkGroup = "group" // the group's own network namespace
)

// Limits of one task's hooks. They keep a job file from making the plugin hold
// large requests or wait without end.
const (
	MaxPerKind    = 16        // hooks of one kind
	MaxTimeout    = time.Hour // timeout and sleep
	MaxRetries    = 100       // tries after the first
	MaxHeaders    = 32        // HTTP headers
	MaxHeaderSize = 8 << 10   // bytes of all header names and values
	MaxURLSize    = 4 << 10   // bytes of url, path or socket
	MaxCommand    = 128       // words of a command
	MaxCommandLen = 64 << 10  // bytes of a command

	minInterval = 10 * time.Millisecond
	minPollTry  = time.Second // a poll's single try is not cut shorter than this
	maxStatus   = 599         // largest HTTP status code
)

const (
	defaultTimeout  = 10 * time.Second
	defaultInterval = time.Second
	restoreInterval = 50 * time.Millisecond
)

// Spec is a hook as the job file has it: all durations still text, nothing
// checked.
type Spec struct {
	HTTP  *HTTPSpec
	Exec  *ExecSpec
	Sleep string // a duration; "" is no sleep action

	Timeout   string // limit of the whole hook, all tries included; default 10s
	Retries   int    // tries after the first one; a ready hook retries until its timeout
	Interval  string // pause between tries; default 1s
	OnFailure string // "ignore" or "fail"
}

// HTTPSpec is the http action. Exactly one of URL, Port and Socket says where.
type HTTPSpec struct {
	URL     string // absolute, http or https
	Network string // for URL: "host" (default) or "group"
	Port    string // a port label of the group
	Socket  string // a unix socket, relative to the task's local/ directory
	Path    string // for Port and Socket; default "/"
	Method  string // default POST, for ready hooks GET
	Headers map[string]string
	Status  []int // what counts as success; default any of 200..299
}

// ExecSpec is the exec action: a command in the task's container.
type ExecSpec struct {
	Command []string // program and arguments; no shell
}

// Hook is a checked hook.
type Hook struct {
	Kind  Kind
	Index int // place among the hooks of its kind, from 0

	HTTP  *HTTPSpec
	Exec  *ExecSpec
	Sleep time.Duration

	Timeout  time.Duration
	Interval time.Duration
	Retries  int
	Fail     bool // a failure fails the task
}

// Field names the hook as the job file does, for example "lifecycle.prestop[1]".
func (h *Hook) Field() string { return field(h.Kind, h.Index) }

func field(k Kind, i int) string {
	switch {
	case k == Save || k == Restore:
		return fmt.Sprintf("lifecycle.checkpoint.%s", k)
	case k.group():
		return fmt.Sprintf("lifecycle.group.%s[%d]", k, i)
	}
	return fmt.Sprintf("lifecycle.%s[%d]", k, i)
}

// Action names the hook's action: "http", "exec" or "sleep".
func (h *Hook) Action() string {
	switch {
	case h.HTTP != nil:
		return "http"
	case h.Exec != nil:
		return "exec"
	default:
		return "sleep"
	}
}

// New checks one hook. The error names the field by its path in the job file
// and says what would be right.
func New(kind Kind, index int, s Spec) (*Hook, error) {
	h := &Hook{Kind: kind, Index: index, HTTP: s.HTTP, Exec: s.Exec, Retries: s.Retries}
	if err := h.check(s); err != nil {
		return nil, fmt.Errorf("%s%w", field(kind, index), err)
	}
	return h, nil
}

func (h *Hook) check(s Spec) error {
	actions := 0
	for _, set := range []bool{s.HTTP != nil, s.Exec != nil, s.Sleep != ""} {
		if set {
			actions++
		}
	}
	if actions != 1 {
		return fmt.Errorf(": %d actions; give exactly one of http, exec and sleep", actions)
	}
	var err error
	if s.Sleep != "" {
		if h.Kind == Save || h.Kind == Restore {
			return errors.New(".sleep: moves no data; use http or exec")
		}
		if h.Sleep, err = duration(".sleep", s.Sleep, 0); err != nil {
			return err
		}
	}
	// A sleep is its own limit: asking for both numbers would only let them disagree.
	fallback := defaultTimeout
	if h.Sleep > 0 {
		fallback = h.Sleep + time.Second
	}
	if h.Timeout, err = duration(".timeout", s.Timeout, fallback); err != nil {
		return err
	}
	if h.Sleep >= h.Timeout {
		return fmt.Errorf(".sleep: %s is not shorter than the hook's timeout of %s; leave timeout out", h.Sleep, h.Timeout)
	}
	pause := defaultInterval
	if h.Kind == Restore { // until the process listens
		pause = restoreInterval
	}
	if h.Interval, err = duration(".interval", s.Interval, pause); err != nil {
		return err
	}
	if h.Interval < minInterval {
		return fmt.Errorf(".interval: %s is shorter than %s", h.Interval, minInterval)
	}
	if h.Retries < 0 || h.Retries > MaxRetries {
		return fmt.Errorf(".retries: %d is not within 0 and %d", h.Retries, MaxRetries)
	}
	if h.Kind == Ready && h.Retries != 0 {
		return errors.New(".retries: a ready hook is tried again until its timeout; set timeout and interval instead")
	}
	if err := h.checkOnFailure(s.OnFailure); err != nil {
		return err
	}
	if h.HTTP != nil {
		if err := h.checkHTTP(); err != nil {
			return fmt.Errorf(".http%w", err)
		}
	}
	if h.Exec != nil {
		if err := h.checkExec(); err != nil {
			return fmt.Errorf(".exec%w", err)
		}
	}
	return nil
}

func (h *Hook) checkOnFailure(v string) error {
	if v != "" && (h.Kind == Save || h.Kind == Restore) {
		return errors.New(".on_failure: a failed save never prevents a stop, and of a failed restore lifecycle.checkpoint.on_restore_failure decides")
	}
	switch v {
	case "":
		h.Fail = h.Kind.canFail()
	case Ignore:
	case Fail:
		if !h.Kind.canFail() {
			return fmt.Errorf(".on_failure: %q is not possible here: a failing %s hook never prevents the stop; use %q", Fail, h.Kind, Ignore)
		}
		h.Fail = true
	default:
		return fmt.Errorf(".on_failure: %q is neither %q nor %q", v, Ignore, Fail)
	}
	return nil
}

func (h *Hook) checkHTTP() error {
	c := *h.HTTP // the caller's spec stays as it was
	h.HTTP = &c
	places := 0
	for _, v := range []string{c.URL, c.Port, c.Socket} {
		if v != "" {
			places++
		}
	}
	if places != 1 {
		return fmt.Errorf(": %d places; give exactly one of url, port and socket", places)
	}
	if len(c.URL) > MaxURLSize || len(c.Path) > MaxURLSize || len(c.Socket) > MaxURLSize {
		return fmt.Errorf(": url, path or socket is longer than %d bytes", MaxURLSize)
	}
	if err := h.checkPlace(&c); err != nil {
		return err
	}
	if c.Method == "" {
		c.Method = h.Kind.defaultMethod()
	}
	c.Method = strings.ToUpper(c.Method)
	methods := []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	if !slices.Contains(methods, c.Method) {
		return fmt.Errorf(".method: %q is none of %s", c.Method, strings.Join(methods, ", "))
	}
	if c.Method == http.MethodHead && h.Kind == Save {
		return errors.New(".method: the answer to HEAD has no state in it; use POST or GET")
	}
	if (c.Method == http.MethodHead || c.Method == http.MethodGet) && h.Kind == Restore {
		return fmt.Errorf(".method: %s has no body for the checkpoint; use PUT, POST or PATCH", c.Method)
	}
	for _, code := range c.Status {
		if code < 100 || code > maxStatus {
			return fmt.Errorf(".valid_status_codes: %d is not an HTTP status code", code)
		}
	}
	return checkHeaders(c.Headers)
}

// checkPlace checks where the request goes, and that something can listen
// there when this kind of hook runs.
func (h *Hook) checkPlace(c *HTTPSpec) error {
	if c.URL != "" {
		if h.Kind == Save || h.Kind == Restore {
			return errors.New(".url: a checkpoint is the task's own; use port or socket")
		}
		if c.Path != "" {
			return errors.New(".path: belongs to port or socket; write it into url")
		}
		u, err := url.Parse(c.URL)
		if err != nil {
			return fmt.Errorf(".url: %q is not a URL", Redact(c.URL))
		}
		if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return fmt.Errorf(".url: %q is not an absolute http or https URL", Redact(c.URL))
		}
		switch c.Network {
		case "":
			c.Network = NetworkHost
		case NetworkHost, NetworkGroup:
		default:
			return fmt.Errorf(".network: %q is neither %q nor %q", c.Network, NetworkHost, NetworkGroup)
		}
		return nil
	}
	if c.Network != "" {
		return errors.New(".network: belongs to url; a port or socket is always the task's own")
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if !strings.HasPrefix(c.Path, "/") {
		return fmt.Errorf(".path: %q does not begin with a slash", c.Path)
	}
	if _, err := url.ParseRequestURI(c.Path); err != nil {
		return fmt.Errorf(".path: %q is not the path of a URL", c.Path)
	}
	if c.Socket != "" && h.Kind.group() {
		return errors.New(".socket: belongs to one task; use port or url for a hook of the group")
	}
	if !h.Kind.running() {
		return fmt.Errorf(": the task does not run at %s, so its port and socket do not answer; use url", h.Kind)
	}
	if c.Socket != "" {
		clean := path.Clean(c.Socket)
		if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
			return fmt.Errorf(".socket: %q leaves the task's local/ directory; give a path relative to it", c.Socket)
		}
		c.Socket = clean
	}
	return nil
}

func checkHeaders(headers map[string]string) error {
	if len(headers) > MaxHeaders {
		return fmt.Errorf(".headers: %d headers; at most %d", len(headers), MaxHeaders)
	}
	size := 0
	for k, v := range headers {
		size += len(k) + len(v)
		if k == "" || strings.ContainsAny(k, " \t\r\n:") || strings.ContainsAny(v, "\r\n") {
			return fmt.Errorf(".headers: %q is not a header name, or its value has a line break", k)
		}
	}
	if size > MaxHeaderSize {
		return fmt.Errorf(".headers: %d bytes; at most %d", size, MaxHeaderSize)
	}
	return nil
}

func (h *Hook) checkExec() error {
	if h.Kind.group() {
		return errors.New(": belongs to one task; use http for a hook of the group")
	}
	if h.Kind == Poststop {
		return errors.New(": the task has ended at poststop, nothing can be run in it; use http or sleep, or a prestop hook")
	}
	if len(h.Exec.Command) == 0 || h.Exec.Command[0] == "" {
		return errors.New(".command: empty; give the program and its arguments")
	}
	if len(h.Exec.Command) > MaxCommand {
		return fmt.Errorf(".command: %d words; at most %d", len(h.Exec.Command), MaxCommand)
	}
	size := 0
	for _, w := range h.Exec.Command {
		size += len(w)
	}
	if size > MaxCommandLen {
		return fmt.Errorf(".command: %d bytes; at most %d", size, MaxCommandLen)
	}
	return nil
}

func duration(name, text string, fallback time.Duration) (time.Duration, error) {
	if text == "" {
		return fallback, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf(`%s: %q is not a duration; write for example "500ms", "10s" or "2m"`, name, text)
	}
	if d <= 0 || d > MaxTimeout {
		return 0, fmt.Errorf("%s: %s is not within 0 and %s", name, d, MaxTimeout)
	}
	return d, nil
}

// Redact returns raw without what may be secret in a URL: user, password and
// query.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(unreadable URL)"
	}
	u.User = nil
	if u.Opaque != "" {
		u.Opaque = "…" // "http:user:password@host", two slashes forgotten
	}
	if u.RawQuery != "" {
		u.RawQuery = "…"
	}
	u.Fragment = ""
	return u.String()
}
