package driver

import (
	"context"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"github.com/nomad-patterns/nomad-patterns/plugin/manage"
)

// Fingerprint forwards the inner driver's reports. It asks the inner driver
// once for each call: docker starts its container reaper there.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	info, err := d.inner.PluginInfo()
	if err != nil {
		return nil, err
	}
	in, err := d.inner.Fingerprint(ctx)
	if err != nil {
		return nil, err
	}
	d.serveEndpoint()
	d.sweepOrphans()
	out := make(chan *drivers.Fingerprint)
	go func() {
		defer close(out)
		for {
			select {
			case f, ok := <-in:
				if !ok || f == nil {
					return
				}
				select {
				case out <- rename(f, info.Name, d.name):
				case <-ctx.Done():
					go drain(in)
					return
				case <-d.ctx.Done():
					go drain(in)
					return
				}
			case <-ctx.Done():
				go drain(in)
				return
			case <-d.ctx.Done():
				go drain(in)
				return
			}
		}
	}()
	return out, nil
}

// serveEndpoint serves the node's management endpoint, if the operator has asked
// for one, until the driver ends. Nomad asks for fingerprints when it begins to
// use the driver, and not when it only reads its schema.
func (d *Driver) serveEndpoint() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config.Endpoint == nil || d.serving {
		return
	}
	d.serving = true
	node, err := manage.NewNode(manage.NodeOptions{
		Options: manage.Options{Logger: d.logger, Now: d.now}, Config: d.config.endpointConfig(),
		Driver: d.name, Registry: d.registry, Metrics: d.metrics.registry,
	})
	if err != nil {
		d.logger.Error("no management endpoint", "error", err)
		return
	}
	d.background.Go(func() {
		if err := node.Run(d.ctx); err != nil {
			d.logger.Error("the management endpoint has failed", "error", err)
		}
	})
}

// drain lets an inner driver finish that sends without looking at its context.
// The inner driver closes the channel when its context has ended.
func drain(in <-chan *drivers.Fingerprint) {
	for range in {
		continue // nothing is to be done with them
	}
}

// rename gives the inner driver's node attributes the decorator's name. All
// drivers write into one map of the node, so two with the same keys would
// overwrite each other.
func rename(f *drivers.Fingerprint, from, to string) *drivers.Fingerprint {
	g := *f
	g.Attributes = make(map[string]*pstructs.Attribute, len(f.Attributes)+1)
	for k, v := range f.Attributes {
		if k == "driver."+from || strings.HasPrefix(k, "driver."+from+".") {
			k = "driver." + to + strings.TrimPrefix(k, "driver."+from)
		}
		g.Attributes[k] = v
	}
	if f.Health != drivers.HealthStateUndetected {
		g.Attributes["driver."+to+".lifecycle.version"] = pstructs.NewStringAttribute(Version)
	}
	return &g
}
