package driver

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"github.com/zclconf/go-cty/cty"

	"github.com/nomad-patterns/nomad-patterns/plugin/group"
)

// planOf reads the group as the job has it.
func (d *Driver) planOf(alloc *api.Allocation, env map[string]string) group.Plan {
	if alloc.Job == nil {
		return nil
	}
	for _, g := range alloc.Job.TaskGroups {
		if g.Name == nil || *g.Name != alloc.TaskGroup {
			continue
		}
		plan := make(group.Plan, len(g.Tasks))
		for _, t := range g.Tasks {
			p := group.PlanTask{Driver: t.Driver, Leader: t.Leader}
			if t.Lifecycle != nil {
				p.Hook, p.Sidecar = t.Lifecycle.Hook, t.Lifecycle.Sidecar
			}
			if _, has := t.Config[blockName]; has { // no other driver takes it
				p.Managed = true
				block, err := decodeBlock(t.Config[blockName], env)
				if err != nil { // the task itself will publish what it has
					d.logger.Debug("lifecycle block of another task is not understood yet", "alloc_id", alloc.ID, "task", t.Name, "error", err)
				} else if block != nil {
					p.StopAfter, p.Hooks = block.StopAfter, block.Group.encode()
				}
			}
			plan[t.Name] = p
		}
		return plan
	}
	return nil
}

// decodeBlock reads a lifecycle block as the job in Nomad's API has it, which
// is before interpolation: the variables of the group are put in here, and one
// that only the task itself has is an error.
func decodeBlock(raw any, env map[string]string) (*taskBlock, error) {
	spec, diags := hclspecutils.Convert(hclspec.NewObject(map[string]*hclspec.Spec{blockName: taskSpec()}))
	if diags.HasErrors() {
		return nil, diags
	}
	vars := make(map[string]cty.Value)
	for k, v := range env {
		if ofGroup(k) {
			vars[k] = cty.StringVal(v)
		}
	}
	value, diags, errs := hclutils.ParseHclInterface(map[string]any{blockName: raw}, spec, vars)
	if diags.HasErrors() {
		return nil, errors.Join(errs...)
	}
	var cfg drivers.TaskConfig
	if err := cfg.EncodeDriverConfig(value); err != nil {
		return nil, err
	}
	var own taskConfig
	if err := cfg.DecodeDriverConfig(&own); err != nil {
		return nil, err
	}
	return own.Lifecycle, nil
}

// ofGroup reports whether a variable is the same for all tasks of a group.
func ofGroup(name string) bool {
	if name == "NOMAD_ALLOC_DIR" { // as each task sees it
		return false
	}
	return slices.ContainsFunc([]string{
		"NOMAD_ALLOC_", "NOMAD_SHORT_ALLOC_ID", "NOMAD_GROUP_NAME", "NOMAD_JOB_", "NOMAD_DC", "NOMAD_REGION", "NOMAD_NAMESPACE",
		"NOMAD_ADDR_", "NOMAD_HOST_", "NOMAD_IP_", "NOMAD_PORT_", "NOMAD_UPSTREAM_",
	}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// encode returns the group hooks as package group carries them.
func (b *groupBlock) encode() map[group.Event]json.RawMessage {
	if b == nil {
		return nil
	}
	all := make(map[group.Event]json.RawMessage)
	for event, one := range map[group.Event]groupBlock{
		group.OnCreated: {Created: b.Created}, group.OnRunning: {Running: b.Running},
		group.OnStopping: {Stopping: b.Stopping}, group.OnStopped: {Stopped: b.Stopped},
	} {
		if len(one.Created)+len(one.Running)+len(one.Stopping)+len(one.Stopped) == 0 {
			continue
		}
		if data, err := json.Marshal(one); err == nil { // texts and numbers always can be
			all[event] = data
		}
	}
	return all
}
