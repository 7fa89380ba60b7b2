package graceful

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/jobs"
)

// Variant is a way to stop the instances of the service.
type Variant string

const (
	// Ours is the template as it is, with a lifecycle driver.
	Ours Variant = "lifecycle driver"
	// StockDelay is the stock driver with shutdown_delay, which Nomad waits for
	// between the deregistration and the kill signal, except on a restart.
	StockDelay Variant = "stock + shutdown_delay"
	// Stock is the stock driver and nothing else.
	Stock Variant = "stock driver"
)

// pluginPrefix makes the name of our driver out of the name of the inner one.
const pluginPrefix = "lifecycle-"

// Options say what is run.
type Options struct {
	Name       string        // of the job and of the service in Consul
	Driver     string        // inner driver: "raw_exec" or "docker"
	Variant    Variant       // default Ours
	Count      int           // instances, at least 2
	DrainWait  time.Duration // whole seconds, see the template
	LongestGet time.Duration // longest_request of the template, whole seconds
	ConsulAddr string        // URL
	Content    Content       // what is served
	Memory     int           // MB of an instance; 0: as the template has it
}

// Job returns the job of a release. Releases that differ are different versions of
// the job and nothing more.
func (o Options) Job(release int) (*api.Job, error) {
	vars := map[string]string{
		"job_name":         o.Name,
		"service_name":     o.Name,
		"driver":           o.Driver,
		"count":            strconv.Itoa(o.Count),
		"release":          strconv.Itoa(release),
		"drain_wait":       seconds(o.DrainWait),
		"longest_request":  seconds(o.LongestGet),
		"consul_addr":      o.ConsulAddr,
		"min_healthy_time": "1s",
		"healthy_deadline": "60s",
		"auto_revert":      "false", // a failure has to show, not to be undone
	}
	maps.Copy(vars, o.Content.vars(o.Driver))
	if o.Memory > 0 {
		vars["memory"] = strconv.Itoa(o.Memory)
	}
	job, err := jobs.Parse(jobs.GracefulService, vars)
	if err != nil {
		return nil, err
	}
	switch o.Variant {
	case Ours, "":
		return job, nil
	case StockDelay:
		return job, toStock(job, o.DrainWait)
	case Stock:
		return job, toStock(job, 0)
	}
	return nil, fmt.Errorf("no variant %q", o.Variant)
}

func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(d/time.Second), 10) + "s"
}

// toStock changes a job to the stock drivers: the lifecycle block goes, and the wait
// that its hooks did is left to Nomad's shutdown_delay.
func toStock(job *api.Job, delay time.Duration) error {
	changed := 0
	for _, group := range job.TaskGroups {
		for _, task := range group.Tasks {
			stock, ok := strings.CutPrefix(task.Driver, pluginPrefix)
			if !ok {
				continue
			}
			task.Driver = stock
			task.ShutdownDelay = delay
			delete(task.Config, "lifecycle")
			changed++
		}
	}
	if changed == 0 {
		return errors.New("no task of the job has a lifecycle driver")
	}
	return nil
}
