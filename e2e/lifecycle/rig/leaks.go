package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
)

// Process is a process on this machine.
type Process struct {
	PID     int
	Command string
}

// Processes lists the processes of an allocation: those that have its ID in their
// environment, and its executors, which have its directory in theirs.
func Processes(allocID string) ([]Process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var list []Process
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // it has ended, or is the kernel's
		}
		cmd, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(cmd) == 0 {
			continue // ended, and not waited for yet
		}
		if bytes.Contains(env, []byte("NOMAD_ALLOC_ID="+allocID)) || bytes.Contains(cmd, []byte(allocID)) {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				return nil, err
			}
			list = append(list, Process{pid, string(bytes.ReplaceAll(bytes.TrimRight(cmd, "\x00"), []byte{0}, []byte(" ")))})
		}
	}
	return list, nil
}

// Containers lists the containers of an allocation, also those that have ended.
func Containers(ctx context.Context, allocID string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "docker", "ps", "-aq", "--filter", "label=com.hashicorp.nomad.alloc_id="+allocID).Output()
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// KillPlugin kills the plugin process of a driver on a client, as a crash would. It
// reports false if there is none at the moment.
func (r *Rig) KillPlugin(client int, driver string) (bool, error) {
	pids, err := r.PluginPIDs(client, driver)
	if err != nil || len(pids) == 0 {
		return false, err
	}
	err = syscall.Kill(pids[0], syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return false, nil
	}
	return err == nil, err
}

// Managed asks the endpoint of a client's node.
func (r *Rig) Managed(ctx context.Context, client int, method, path string) (code int, body []byte, err error) {
	return Ask(ctx, filepath.Join(r.EndpointDir(client), "node.sock"), method, path, nil)
}

// Ask makes a request at a unix socket.
func Ask(ctx context.Context, socket, method, path string, in []byte) (code int, body []byte, err error) {
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://plugin"+path, bytes.NewReader(in))
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	return resp.StatusCode, b.Bytes(), err
}

// ManagedTask is a task in the list of a node's endpoint.
type ManagedTask struct {
	Job     string `json:"job"`
	Task    string `json:"task"`
	AllocID string `json:"alloc_id"`
	State   string `json:"state"`
	Driver  string `json:"driver"`
}

// ManagedTasks lists what the endpoint of a client's node knows. After the death of
// a plugin process it waits until all answer.
func (r *Rig) ManagedTasks(ctx context.Context, client int) (list []ManagedTask, err error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if list, err = r.managedTasks(ctx, client); err == nil {
			return list, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("endpoint of client %d: %w", client, err)
		}
	}
}

func (r *Rig) managedTasks(ctx context.Context, client int) ([]ManagedTask, error) {
	code, body, err := r.Managed(ctx, client, http.MethodGet, "/v1/tasks")
	if err != nil {
		return nil, err
	}
	var list struct {
		Tasks   []ManagedTask
		Drivers []struct{ Driver, Error string }
	}
	if err := json.Unmarshal(body, &list); err != nil || code != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("the endpoint answers %d: %s", code, body), err)
	}
	for _, d := range list.Drivers {
		if d.Error != "" {
			return list.Tasks, fmt.Errorf("the process of %s does not answer: %s", d.Driver, d.Error)
		}
	}
	return list.Tasks, nil
}

// Left lists in plain words what there still is of allocations that are over.
func (r *Rig) Left(ctx context.Context, allocs []*nomadapi.Allocation) ([]string, error) {
	var left []string
	for _, a := range allocs {
		ps, err := Processes(a.ID)
		if err != nil {
			return nil, err
		}
		for _, p := range ps {
			left = append(left, fmt.Sprintf("process %d of %s: %s", p.PID, a.ID, p.Command))
		}
		if r.HasDriver("docker") {
			cs, err := Containers(ctx, a.ID)
			if err != nil {
				return nil, err
			}
			for _, c := range cs {
				left = append(left, fmt.Sprintf("container %s of %s", c, a.ID))
			}
		}
	}
	return left, nil
}
