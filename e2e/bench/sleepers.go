package bench

import (
	"context"
	"fmt"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
)

const taskName = "sleeper"

// sleepers is a job of count tasks that do nothing. Their logs are off: Nomad's log
// collector is a process for each task, and not what is measured.
func sleepers(name, driver string, count int) *nomadapi.Job {
	job := nomadapi.NewServiceJob(name, name, "global", 50)
	job.Datacenters = []string{"*"}
	group := nomadapi.NewTaskGroup("bench", count)
	group.RestartPolicy = &nomadapi.RestartPolicy{Attempts: ptr(0), Mode: ptr("fail")}
	group.ReschedulePolicy = &nomadapi.ReschedulePolicy{Attempts: ptr(0), Unlimited: ptr(false)}
	group.EphemeralDisk = &nomadapi.EphemeralDisk{SizeMB: ptr(10)}
	task := nomadapi.NewTask(taskName, driver)
	task.SetConfig("command", "/bin/sleep")
	task.SetConfig("args", []string{"3600"})
	task.KillTimeout = ptr(5 * time.Second)
	task.LogConfig = &nomadapi.LogConfig{Disabled: ptr(true), MaxFiles: ptr(1), MaxFileSizeMB: ptr(1)}
	task.Resources = &nomadapi.Resources{CPU: ptr(10), MemoryMB: ptr(10)}
	group.AddTask(task)
	job.AddTaskGroup(group)
	job.Update = &nomadapi.UpdateStrategy{MaxParallel: ptr(0)} // no deployment to wait for
	return job
}

func register(ctx context.Context, nomad *nomadapi.Client, job *nomadapi.Job) error {
	if _, _, err := nomad.Jobs().Register(job, (&nomadapi.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("register job %s: %w", *job.ID, err)
	}
	return nil
}

// awaitAllocs waits until count allocations of the job have a task in the wanted
// state, and returns them.
func awaitAllocs(ctx context.Context, nomad *nomadapi.Client, job string, count int, ok func(*nomadapi.TaskState) bool) (allocs []*nomadapi.AllocationListStub, err error) {
	err = cluster.Watch(ctx, "the tasks of "+job+" are as wanted", func(q *nomadapi.QueryOptions) (bool, *nomadapi.QueryMeta, error) {
		var meta *nomadapi.QueryMeta
		var err error
		allocs, meta, err = nomad.Jobs().Allocations(job, false, q)
		n := 0
		for _, a := range allocs {
			s := a.TaskStates[taskName]
			if s != nil && s.Failed {
				return false, meta, fmt.Errorf("task of allocation %s failed: %s", a.ID, s.Events[len(s.Events)-1].DisplayMessage)
			}
			if s != nil && ok(s) {
				n++
			}
		}
		return n >= count, meta, err
	})
	return allocs, err
}

func ptr[T any](v T) *T { return &v }
