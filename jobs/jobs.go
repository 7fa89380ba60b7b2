package jobs

import (
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/jobspec2"
)

// Names of templates.
const (
	// GracefulService is a web service that is stopped without losing requests.
	GracefulService = "graceful-service"
	// LeaderElection is instances of which one leads.
	LeaderElection = "leader-election"
	// WorkQueue is a queue with brokers, and workers that run a program on each item.
	WorkQueue = "work-queue"
	// Pipeline is a queue of three stages.
	Pipeline = "pipeline"
	// ScatterGather is a root, shards that it asks, and perhaps parents in between.
	ScatterGather = "scatter-gather"
	// StatefulWorker is a worker whose state outlives it.
	StatefulWorker = "stateful-worker"
	// Autoreplicate is workers that ask for more or fewer of themselves.
	Autoreplicate = "autoreplicate"
)

const suffix = ".nomad.hcl"

//go:embed *.nomad.hcl
var files embed.FS

// Names returns the names of the templates, sorted. The file of a template has the
// ending ".nomad.hcl" besides.
func Names() []string {
	// The pattern is a constant, and the only error is a malformed pattern.
	paths, _ := fs.Glob(files, "*"+suffix)
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = strings.TrimSuffix(path, suffix)
	}
	slices.Sort(names)
	return names
}

// Source returns the text of a template. The error for an unknown name lists the
// known ones.
func Source(name string) ([]byte, error) {
	src, err := files.ReadFile(name + suffix)
	if err != nil {
		return nil, fmt.Errorf("no job template %q; there are %s", name, strings.Join(Names(), ", "))
	}
	return src, nil
}

// Parse returns the job of a template, as `nomad job run -var key=value …` would
// submit it. Values of list, map and object variables are HCL expressions, those of
// string variables are taken as they are. Functions that read files are refused, and
// so are variables that the template does not declare. The environment is not read.
func Parse(name string, vars map[string]string) (*api.Job, error) {
	src, err := Source(name)
	if err != nil {
		return nil, err
	}
	args := make([]string, 0, len(vars))
	for _, key := range slices.Sorted(maps.Keys(vars)) {
		args = append(args, key+"="+vars[key])
	}
	job, err := jobspec2.ParseWithConfig(&jobspec2.ParseConfig{
		Path:    name + suffix,
		Body:    src,
		ArgVars: args,
		Strict:  true,
	})
	if err != nil {
		return nil, fmt.Errorf("parse job template %q: %w", name, err)
	}
	return job, nil
}
