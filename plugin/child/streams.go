package child

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	bstructs "github.com/hashicorp/nomad/plugins/base/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
	"google.golang.org/grpc/status"
)

// TaskStats implements drivers.DriverPlugin. The stream ends with the child;
// Nomad asks again.
func (d *Driver) TaskStats(ctx context.Context, id string, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	return call(d, id, 1, func(s *session) (<-chan *drivers.TaskResourceUsage, error) {
		return s.driver.TaskStats(ctx, id, interval)
	})
}

// TaskEvents implements drivers.DriverPlugin. The stream goes on over the end
// of a child, until ctx or the driver ends.
func (d *Driver) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	out := make(chan *drivers.TaskEvent)
	err := d.stream(func() {
		defer close(out)
		for {
			s, err := d.await(ctx, "", 0)
			if err != nil {
				return
			}
			in, err := s.driver.TaskEvents(ctx)
			if err == nil {
				err = forward(ctx, d.ctx, in, func(ev *drivers.TaskEvent) (*drivers.TaskEvent, error) { return ev, ev.Err }, out)
			}
			if !d.resume(ctx, s, "task events", err) {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Fingerprint implements drivers.DriverPlugin. The stream goes on over the end
// of a child, until ctx or the driver ends; in the gap it says unhealthy, with
// the attributes of the last report, so that nothing moves away for it.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	out := make(chan *drivers.Fingerprint)
	err := d.stream(func() {
		defer close(out)
		d.mu.Lock()
		gap, down := d.session == nil, d.down
		d.mu.Unlock()
		if gap && !send(ctx, d.ctx, out, unhealthy(&unavailableError{d.path, down}, nil)) {
			return
		}
		var last map[string]*pstructs.Attribute
		for {
			s, err := d.await(ctx, "", 0)
			if err != nil {
				return
			}
			in, err := s.driver.Fingerprint(ctx)
			if err == nil {
				err = forward(ctx, d.ctx, in, func(f *drivers.Fingerprint) (*drivers.Fingerprint, error) {
					switch {
					case ofStream(f.Err):
						return nil, f.Err
					case f.Err != nil:
						return f, nil
					}
					f = d.label(s, f)
					last = f.Attributes
					return f, nil
				}, out)
			}
			if err == nil {
				err = drivers.ErrChannelClosed
			}
			if ctx.Err() != nil || d.ctx.Err() != nil {
				return
			}
			if d.died(s, err) {
				err = fmt.Errorf("it ended (%s) and is being started again", s.proc.state)
			}
			if !send(ctx, d.ctx, out, unhealthy(&unavailableError{d.path, plain(err)}, last)) || !d.resume(ctx, s, "fingerprints", err) {
				return
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func unhealthy(err error, attributes map[string]*pstructs.Attribute) *drivers.Fingerprint {
	return &drivers.Fingerprint{Health: drivers.HealthStateUnhealthy, HealthDescription: err.Error(), Attributes: attributes}
}

// ofStream reports whether err is about the stream that it came by, and not the
// driver's own report.
func ofStream(err error) bool {
	_, ok := status.FromError(err)
	return err != nil && (ok || errors.Is(err, bstructs.ErrPluginShutdown) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// label adds to a report what is known of the binary. The decorator gives the
// attributes its own name.
func (d *Driver) label(s *session, f *drivers.Fingerprint) *drivers.Fingerprint {
	g := *f
	g.Attributes = maps.Clone(f.Attributes)
	if g.Attributes == nil {
		g.Attributes = make(map[string]*pstructs.Attribute)
	}
	prefix := "driver." + s.info.Name + ".plugin."
	g.Attributes[prefix+"version"] = pstructs.NewStringAttribute(s.info.PluginVersion)
	if s.replaced() {
		g.Attributes[prefix+"replaced"] = pstructs.NewBoolAttribute(true)
		s.note.Do(func() {
			d.logger.Warn("the driver plugin's file was replaced; the new one is used when the running one ends, and tasks go on over that",
				"path", d.path, "pid", s.proc.pid(), "version", s.info.PluginVersion)
		})
	}
	return &g
}

// forward hands on what comes from a child, as change makes it, until the
// stream ends. It returns the error that change made of the last item, nil if
// it made none.
func forward[T any](ctx, driver context.Context, in <-chan *T, change func(*T) (*T, error), out chan<- *T) (err error) {
	wanted := true
	for v := range in {
		if !wanted || v == nil {
			continue // the client's goroutine ends only when it is rid of what it has
		}
		var made *T
		if made, err = change(v); err == nil {
			wanted = send(ctx, driver, out, made)
		}
	}
	return err
}

// send reports whether v was taken before one of the contexts ended.
func send[T any](ctx, driver context.Context, out chan<- *T, v *T) bool {
	select {
	case out <- v:
		return true
	case <-ctx.Done():
	case <-driver.Done():
	}
	return false
}

func ended(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// resume waits until a stream of s that has ended with err may be asked for
// again: from the next child if that one has ended, or else a little later. It
// reports whether there is still somebody who wants it.
func (d *Driver) resume(ctx context.Context, s *session, what string, err error) bool {
	if ctx.Err() != nil || d.ctx.Err() != nil {
		return false
	}
	if ended(s.gone) || err != nil && d.died(s, err) {
		return true
	}
	d.logger.Warn("driver plugin has ended a stream, asking again", "stream", what, "error", plain(err), "in", d.limits.again)
	limit := time.NewTimer(d.limits.again)
	defer limit.Stop()
	select {
	case <-limit.C:
	case <-s.gone:
	case <-ctx.Done():
	case <-d.ctx.Done():
	}
	return true
}
