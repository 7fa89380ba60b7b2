package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/shared/eventer"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-patterns/nomad-patterns/plugin/dockerguard"
	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
)

// Version is the plugin's version. Nomad lets a plugin replace a built-in
// driver only if its version is not below the built-in's 0.1.0.
const Version = "0.1.0"

// Driver is a task driver around another one. Its methods are called by Nomad
// over gRPC, many at once.
type Driver struct {
	name  string // what jobs call it, for example "lifecycle-docker"
	inner drivers.DriverPlugin

	ctx    context.Context // ends with the plugin process
	logger hclog.Logger
	events *eventer.Eventer
	now    func() time.Time

	storeLimit time.Duration // of a try to reach a store of checkpoints

	metrics  *metrics
	registry *manage.Registry

	background sync.WaitGroup // goroutines that end with ctx, or with a task
	orphans    sync.Mutex     // held while left-over processes are ended, and while a start is noted

	mu     sync.Mutex // guards all fields below
	tasks  map[string]*task
	allocs map[string]*allocation
	config agentBlock // as it was set last
	guard  dockerguard.Policy
	shared *surroundings

	serving bool // the endpoint
	swept   bool // what processes before have left
}

// Nomad looks for these when it asks for exec and for networks.
var (
	_ drivers.DriverPlugin               = (*Driver)(nil)
	_ drivers.ExecTaskStreamingRawDriver = (*Driver)(nil)
	_ drivers.DriverNetworkManager       = (*Driver)(nil)
)

// New decorates inner under the given driver name. ctx ends the driver's
// goroutines; neither files nor processes are touched before the first task.
func New(ctx context.Context, name string, inner drivers.DriverPlugin, logger hclog.Logger) *Driver {
	logger = logger.Named("lifecycle")
	d := &Driver{
		name: name, inner: inner, ctx: ctx, logger: logger, now: time.Now, storeLimit: storeLimit,
		events:  eventer.NewEventer(ctx, logger),
		metrics: newMetrics(), registry: manage.NewRegistry(),
		tasks: make(map[string]*task), allocs: make(map[string]*allocation),
	}
	// The defaults are valid, whatever the environment says is checked by SetConfig.
	d.shared, _ = d.newSurroundings(agentBlock{})
	return d
}

// PluginInfo implements base.BasePlugin.
func (d *Driver) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{
		Type:              base.PluginTypeDriver,
		PluginApiVersions: []string{drivers.ApiVersion010},
		PluginVersion:     Version,
		Name:              d.name,
	}, nil
}

// ConfigSchema is the inner driver's, plus the lifecycle block.
func (d *Driver) ConfigSchema() (*hclspec.Spec, error) {
	inner, err := d.inner.ConfigSchema()
	if err != nil {
		return nil, err
	}
	return withBlock(inner, agentSpec())
}

// SetConfig hands the configuration to the inner driver and keeps the
// lifecycle block. Nomad calls it more than once.
func (d *Driver) SetConfig(cfg *base.Config) error {
	var own agentConfig
	if len(cfg.PluginConfig) != 0 {
		if err := base.MsgPackDecode(cfg.PluginConfig, &own); err != nil {
			return fmt.Errorf("decode plugin config: %w", err)
		}
	}
	var block agentBlock
	if own.Lifecycle != nil {
		block = *own.Lifecycle
	}
	if err := block.check(); err != nil {
		return fmt.Errorf("%s.%w", blockName, err)
	}
	shared, err := d.newSurroundings(block)
	if err != nil {
		return fmt.Errorf("%s.%w", blockName, err)
	}
	var guard dockerguard.Policy
	if d.innerName() == "docker" { // others call their options what they like
		if guard, err = dockerguard.Parse(cfg.PluginConfig, block.AllowHostNamespaces); err != nil {
			return err
		}
	}
	if err := d.inner.SetConfig(cfg); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config, d.guard, d.shared = block, guard, shared
	return nil
}

// TaskConfigSchema is the inner driver's, plus the lifecycle block.
func (d *Driver) TaskConfigSchema() (*hclspec.Spec, error) {
	inner, err := d.inner.TaskConfigSchema()
	if err != nil {
		return nil, err
	}
	return withBlock(inner, taskSpec())
}

// Capabilities are the inner driver's. The docker driver changes its own while
// Nomad holds them, hence the copy.
func (d *Driver) Capabilities() (*drivers.Capabilities, error) {
	caps, err := d.inner.Capabilities()
	if err != nil || caps == nil {
		return caps, err
	}
	c := *caps
	return &c, nil
}

// task returns the task with the given ID, or drivers.ErrTaskNotFound.
func (d *Driver) task(id string) (*task, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tasks[id]
	if !ok {
		return nil, drivers.ErrTaskNotFound
	}
	return t, nil
}

func (d *Driver) addTask(t *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tasks[t.cfg.ID] = t
}

func (d *Driver) removeTask(t *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tasks[t.cfg.ID] == t {
		delete(d.tasks, t.cfg.ID)
	}
}

// innerName is the inner driver's own name, "" if it does not say.
func (d *Driver) innerName() string {
	info, err := d.inner.PluginInfo()
	if err != nil {
		return ""
	}
	return info.Name
}

// notFound reports whether err says that the inner driver does not know the
// task. Over gRPC the sentinel would be lost, but the inner driver is in this
// process.
func notFound(err error) bool { return errors.Is(err, drivers.ErrTaskNotFound) }

// InspectTask returns the inner driver's status, with the attribute
// lifecycle.state beside its own.
func (d *Driver) InspectTask(id string) (*drivers.TaskStatus, error) {
	status, err := d.inner.InspectTask(id)
	if err != nil {
		return nil, err
	}
	if t, err := d.task(id); err == nil {
		s := *status
		s.DriverAttributes = maps.Clone(status.DriverAttributes)
		if s.DriverAttributes == nil {
			s.DriverAttributes = make(map[string]string)
		}
		s.DriverAttributes["lifecycle.state"] = t.machine.State().String()
		status = &s
	}
	return status, nil
}

// TaskStats implements drivers.DriverPlugin.
func (d *Driver) TaskStats(ctx context.Context, id string, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	return d.inner.TaskStats(ctx, id, interval)
}

// SignalTask implements drivers.DriverPlugin.
func (d *Driver) SignalTask(id, signal string) error { return d.inner.SignalTask(id, signal) }
