package child

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

// limits are the times that the driver keeps.
type limits struct {
	// start is for a child to start, say what it is and take its
	// configuration. Nomad waits a minute for this process to do the same.
	start time.Duration
	// stop is for a child to end in good order. Nomad kills this process 2 s
	// after it has asked it to end.
	stop time.Duration
	// gap is for how long a call waits for a child that is being started again.
	gap time.Duration
	// recovery is for a child to recover one task.
	recovery time.Duration
	// pauseMin and pauseMax are between two starts. The pause doubles with each
	// child that did not live for steady.
	pauseMin, pauseMax, steady time.Duration
	// again is between the end of a stream and the next try with the same child.
	again time.Duration
}

var defaultLimits = limits{
	start: 20 * time.Second, stop: time.Second, gap: 30 * time.Second, recovery: 30 * time.Second,
	pauseMin: 100 * time.Millisecond, pauseMax: 30 * time.Second, steady: time.Minute,
	again: 5 * time.Second,
}

const (
	// maxTries is how often something is asked that may be asked again.
	maxTries = 3
	// maxCrashes is how many children in a row may end while they recover one
	// and the same task, before it is taken for the cause.
	maxCrashes = 5
)

// Driver is a driver plugin in a process of its own. Its methods may be called
// by many at once.
type Driver struct {
	path   string
	args   []string
	logger hclog.Logger
	limits limits

	ctx    context.Context // ends with the driver
	cancel context.CancelFunc
	done   chan struct{} // closed when the last child has ended

	configuring sync.Mutex // held by the one SetConfig that is under way

	mu      sync.Mutex // guards all fields below
	changed chan struct{}
	session *session // the child to ask; nil if there is none
	down    error    // why there is none
	info    *base.PluginInfoResponse
	config  *base.Config // the last one that a child has accepted
	tasks   map[string]*task
	closed  bool
	streams sync.WaitGroup
}

// task is what is needed to have a new child take a task up.
type task struct {
	handle *drivers.TaskHandle // never changed
	// home is the child that knows the task. If that is not the driver's
	// session, the task waits for its recovery.
	home    *session
	lost    *lostError // set if it cannot be recovered
	crashes int        // children in a row that ended during the recovery
}

// Nomad's packages look for these when they want exec and networks. Whether
// the child has them is known by its answers only.
var (
	_ drivers.DriverPlugin               = (*Driver)(nil)
	_ drivers.ExecTaskStreamingRawDriver = (*Driver)(nil)
	_ drivers.DriverNetworkManager       = (*Driver)(nil)
)

// New starts the driver plugin at path, which has to be absolute, with args.
// It returns when the child has said what it is, after at most 20 s; the error
// names the path and what is wrong.
//
// Nothing but the child's own start happens before the first task or
// fingerprint, so that the short launches by which Nomad asks for names and
// schemas stay without effect. The driver ends when ctx does; [Driver.Close]
// waits for that.
func New(ctx context.Context, path string, args []string, logger hclog.Logger) (*Driver, error) {
	return newDriver(ctx, path, args, logger, defaultLimits)
}

func newDriver(ctx context.Context, path string, args []string, logger hclog.Logger, limits limits) (*Driver, error) {
	ctx, cancel := context.WithCancel(ctx)
	d := &Driver{
		path: path, args: slices.Clone(args), limits: limits, logger: logger.Named("child"),
		ctx: ctx, cancel: cancel, done: make(chan struct{}),
		changed: make(chan struct{}), tasks: make(map[string]*task),
	}
	first := make(chan error, 1)
	go d.supervise(first)
	if err := <-first; err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close ends the child and returns when nothing of the driver is left, after
// at most some two seconds. Tasks go on. A process that is about to exit has to
// call it, or the child is killed instead.
func (d *Driver) Close() {
	d.cancel()
	<-d.done
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.streams.Wait()
}

// Name is what the decorated driver is called: the child's own name behind
// "lifecycle-".
func (d *Driver) Name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return "lifecycle-" + d.info.Name
}

// update changes what is guarded by mu and wakes all that wait for it.
func (d *Driver) update(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
	close(d.changed)
	d.changed = make(chan struct{})
}

// stream runs f on a goroutine that Close waits for.
func (d *Driver) stream(f func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return d.over()
	}
	d.streams.Go(f)
	return nil
}

func (d *Driver) over() error {
	return &unavailableError{path: d.path, err: context.Canceled}
}

// await returns the child to ask about the task with the given ID, which is ""
// for what belongs to no task. While there is none, or it has not recovered the
// task yet, it waits for at most limit, 0 being no limit. The error is a
// [lostError] if there will never be one.
func (d *Driver) await(ctx context.Context, id string, limit time.Duration) (*session, error) {
	var timeout <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		timeout = timer.C
	}
	for {
		d.mu.Lock()
		s, down, changed, t := d.session, d.down, d.changed, d.tasks[id]
		var home *session
		var lost *lostError
		if t != nil {
			home, lost = t.home, t.lost
		}
		d.mu.Unlock()

		switch {
		case d.ctx.Err() != nil:
			return nil, d.over()
		case lost != nil:
			return nil, lost
		case s != nil && (t == nil || home == s):
			return s, nil
		case s != nil:
			down = fmt.Errorf("task %q is still being recovered", id)
		}
		select {
		case <-changed:
		case <-timeout:
			return nil, &unavailableError{path: d.path, err: down}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-d.ctx.Done():
		}
	}
}

// call asks the child, and asks the next one if the child ends over it, up to
// the given number of tries.
func call[T any](d *Driver, id string, tries int, ask func(*session) (T, error)) (T, error) {
	var zero T
	for {
		s, err := d.await(d.ctx, id, d.limits.gap)
		if err != nil {
			return zero, err
		}
		v, err := ask(s)
		if err == nil {
			return v, nil
		}
		if !d.died(s, err) {
			return zero, plain(err)
		}
		if tries--; tries == 0 {
			return zero, &unavailableError{path: d.path, err: fmt.Errorf("it ended (%s) over this call", s.proc.state)}
		}
	}
}

// do is call for what has no answer.
func (d *Driver) do(id string, tries int, ask func(*session) error) error {
	_, err := call(d, id, tries, func(s *session) (struct{}, error) { return struct{}{}, ask(s) })
	return err
}

// PluginInfo implements base.BasePlugin. It is the child's that was started
// last.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	info := *d.info
	return &info, nil
}

// ConfigSchema implements base.BasePlugin.
func (d *Driver) ConfigSchema() (*hclspec.Spec, error) {
	return call(d, "", maxTries, func(s *session) (*hclspec.Spec, error) { return s.driver.ConfigSchema() })
}

// SetConfig implements base.BasePlugin. A configuration that the child has
// accepted is given to all that come after it.
func (d *Driver) SetConfig(cfg *base.Config) error {
	c := *cfg
	c.PluginConfig = slices.Clone(cfg.PluginConfig)

	d.configuring.Lock()
	defer d.configuring.Unlock()
	for {
		by, err := call(d, "", maxTries, func(s *session) (*session, error) { return s, s.driver.SetConfig(&c) })
		if err != nil {
			return err
		}
		// A child that has come up meanwhile has the configuration before.
		same := false
		d.update(func() {
			d.config = &c
			same = d.session == by
		})
		if same {
			return nil
		}
	}
}

// TaskConfigSchema implements drivers.DriverPlugin.
func (d *Driver) TaskConfigSchema() (*hclspec.Spec, error) {
	return call(d, "", maxTries, func(s *session) (*hclspec.Spec, error) { return s.driver.TaskConfigSchema() })
}

// Capabilities implements drivers.DriverPlugin. Those of docker depend on its
// configuration, so the child is asked each time.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) {
	return call(d, "", maxTries, func(s *session) (*drivers.Capabilities, error) { return s.driver.Capabilities() })
}
