package driver

import (
	"context"
	"fmt"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// TaskEvents merges the inner driver's events with the decorator's own.
func (d *Driver) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	inner, err := d.inner.TaskEvents(ctx)
	if err != nil {
		return nil, err
	}
	own, err := d.events.TaskEvents(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan *drivers.TaskEvent)
	go func() {
		// Nomad takes a nil event for the end of the stream, so the channel is
		// closed only when there is nobody to read it.
		defer close(out)
		for {
			var ev *drivers.TaskEvent
			var ok bool
			select {
			case ev, ok = <-inner:
				if !ok {
					inner = nil
				}
			case ev, ok = <-own:
				if !ok {
					own = nil
				}
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			}
			if !ok || ev == nil {
				continue
			}
			select {
			case out <- ev:
			case <-ctx.Done():
				return
			case <-d.ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// emit makes a task event, shown by `nomad alloc status`. Nomad keeps ten for
// a task, so there is one for each kind of hook and no more.
func (d *Driver) emit(cfg *drivers.TaskConfig, annotations map[string]string, format string, args ...any) {
	ev := &drivers.TaskEvent{
		TaskID: cfg.ID, TaskName: cfg.Name, AllocID: cfg.AllocID,
		Timestamp: d.now(), Annotations: annotations, Message: fmt.Sprintf(format, args...),
	}
	if err := d.events.EmitEvent(ev); err != nil {
		d.logger.Warn("task event lost", "alloc_id", cfg.AllocID, "task", cfg.Name, "message", ev.Message, "error", err)
	}
}
