package rig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

// MemoryMB is the memory that each node has for Nomad, so that a test knows what
// fills it.
const MemoryMB = 4000

// Rig is a cluster with the plugin, the application and the recorder.
type Rig struct {
	*cluster.Cluster
	Recorder *Recorder
	App      string // path of the application
	dir      string
}

// AppPackage is the application.
const AppPackage = "github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/app"

// BuildApp builds the application into a directory that every user may read.
func BuildApp(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "app")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, AppPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // it also runs in an image without libraries
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the application: %w: %s", err, out)
	}
	return path, nil
}

// Config is what a cluster of the rig has, beside what the rig itself needs.
type Config struct {
	Clients  int
	Docker   cluster.DockerMode
	Progress io.Writer
	// Extra is merged into the configuration of Nomad's agents.
	Extra string
	// Start starts the cluster. Default cluster.Start.
	Start func(context.Context, cluster.Config) (*cluster.Cluster, error)
}

// Start builds the plugin and the application and starts the cluster. Preemption
// of services is on.
func Start(ctx context.Context, cfg Config) (r *Rig, err error) {
	r = &Rig{}
	if r.dir, err = os.MkdirTemp("", "np-life-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if err := os.Chmod(r.dir, 0o755); err != nil { // the exec driver's user passes through
		return r, err
	}
	if r.App, err = BuildApp(ctx, r.dir); err != nil {
		return r, err
	}
	plugin, err := cluster.BuildPlugin(ctx, cfg.Progress)
	if err != nil {
		return r, err
	}
	if err := cluster.Require(ctx, cfg.Progress, cluster.Busybox()); err != nil {
		return r, err
	}
	if r.Recorder, err = Record(); err != nil {
		return r, err
	}
	if cfg.Start == nil {
		cfg.Start = cluster.Start
	}
	r.Cluster, err = cfg.Start(ctx, cluster.Config{
		Clients: cfg.Clients, PluginBinary: plugin, Docker: cfg.Docker, Progress: cfg.Progress,
		ExtraNomadConfig: fmt.Sprintf(`client {
  memory_total_mb = %d
  chroot_env {
    %q = "/bin/app"
    "/bin/busybox" = "/bin/busybox"
  }
}
%s`, MemoryMB, r.App, cfg.Extra),
	})
	if err != nil {
		return r, err
	}
	if r.HasDriver("docker") {
		files := map[string]string{"/bin/app": r.App, "/bin/busybox": "/bin/busybox"}
		if err := cluster.BuildImage(ctx, AppImage, files, cluster.ImageOptions{}); err != nil {
			return r, err
		}
	}
	_, _, err = r.Nomad().Operator().SchedulerSetConfiguration(&nomadapi.SchedulerConfiguration{
		SchedulerAlgorithm: nomadapi.SchedulerAlgorithmSpread,
		PreemptionConfig:   nomadapi.PreemptionConfig{SystemSchedulerEnabled: true, ServiceSchedulerEnabled: true, BatchSchedulerEnabled: true},
	}, write(ctx))
	return r, err
}

// Close ends what Start has begun, the cluster included.
func (r *Rig) Close() error {
	var errs []error
	if r.Cluster != nil {
		errs = append(errs, r.Stop())
	}
	if r.Recorder != nil {
		errs = append(errs, r.Recorder.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// Until waits until the job's allocations, newest first, satisfy ok.
func (r *Rig) Until(ctx context.Context, job, what string, ok func([]*nomadapi.Allocation) bool) (allocs []*nomadapi.Allocation, err error) {
	err = cluster.Watch(ctx, "job "+job+" is "+what, func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		stubs, meta, err := r.Nomad().Jobs().Allocations(job, true, q)
		if err != nil {
			return false, meta, err
		}
		allocs = allocs[:0]
		for _, s := range stubs {
			a, _, err := r.Nomad().Allocations().Info(s.ID, query(q.Context()))
			if err != nil {
				return false, meta, err
			}
			allocs = append(allocs, a)
		}
		slices.SortStableFunc(allocs, func(a, b *nomadapi.Allocation) int { return cmp.Compare(b.CreateIndex, a.CreateIndex) })
		return ok(allocs), meta, nil
	})
	if err != nil {
		var b strings.Builder
		for _, a := range allocs {
			fmt.Fprintf(&b, "\n%s", Describe(a))
		}
		err = fmt.Errorf("%w%s", err, b.String())
	}
	return allocs, err
}

// Describe tells the story of an allocation.
func Describe(a *nomadapi.Allocation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "alloc %.8s %s on %s: desired %s (%s), client %s", a.ID, a.Name, a.NodeName, a.DesiredStatus, a.DesiredDescription, a.ClientStatus)
	for name, s := range a.TaskStates {
		fmt.Fprintf(&b, "\n  %s %s", name, s.State)
		for _, e := range s.Events {
			fmt.Fprintf(&b, "\n    %s %s: %s", time.Unix(0, e.Time).Format("05.000"), e.Type, e.DisplayMessage)
		}
	}
	return b.String()
}

// Up reports whether all tasks of the allocation run and it is to run.
func Up(a *nomadapi.Allocation) bool {
	for _, s := range a.TaskStates {
		if s.State != "running" {
			return false
		}
	}
	return len(a.TaskStates) > 0 && a.DesiredStatus == nomadapi.AllocDesiredStatusRun && a.ClientStatus == nomadapi.AllocClientStatusRunning
}

// Running waits until exactly n allocations of the job are up, and returns them.
func (r *Rig) Running(ctx context.Context, job string, n int) (up []*nomadapi.Allocation, err error) {
	_, err = r.Until(ctx, job, fmt.Sprintf("up %d times", n), func(as []*nomadapi.Allocation) bool {
		up = up[:0]
		for _, a := range as {
			if Up(a) {
				up = append(up, a)
			}
		}
		return len(up) == n
	})
	return up, err
}

// Alloc reads an allocation.
func (r *Rig) Alloc(ctx context.Context, id string) (*nomadapi.Allocation, error) {
	a, _, err := r.Nomad().Allocations().Info(id, query(ctx))
	return a, err
}

// Over waits until the client says that the allocation has ended.
func (r *Rig) Over(ctx context.Context, id string) (a *nomadapi.Allocation, err error) {
	err = cluster.Watch(ctx, "allocation "+id+" is over", func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		var meta *nomadapi.QueryMeta
		var err error
		a, meta, err = r.Nomad().Allocations().Info(id, q)
		return err == nil && a.ClientTerminalStatus() && a.ClientStatus != nomadapi.AllocClientStatusLost, meta, err
	})
	if err != nil && a != nil {
		err = fmt.Errorf("%w\n%s", err, Describe(a))
	}
	return a, err
}

// Client is the number of the client with this node.
func (r *Rig) Client(nodeID string) int {
	return slices.IndexFunc(r.Nodes(), func(n cluster.Node) bool { return n.ID == nodeID })
}

// Deployed waits until the job's newest deployment is no longer under way: until
// then Nomad lets nobody scale it.
func (r *Rig) Deployed(ctx context.Context, job string) error {
	return cluster.Watch(ctx, "job "+job+" is deployed", func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		d, meta, err := r.Nomad().Jobs().LatestDeployment(job, q)
		return err == nil && (d == nil || d.Status != nomadapi.DeploymentStatusRunning), meta, err
	})
}
