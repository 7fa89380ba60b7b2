package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// engine is the little that is needed of a Docker engine's API, on its unix
// socket. The API version is left out of the paths: the engine takes its own.
type engine struct {
	http      *http.Client
	transport *http.Transport
}

// engineTimeout bounds one call.
const engineTimeout = 30 * time.Second

// errNotFound means that the engine does not know the object.
var errNotFound = errors.New("not found")

// dialEngine finds the engine (DOCKER_HOST if it is a unix socket, else the
// usual one) and checks that it answers this user.
func dialEngine(ctx context.Context) (*engine, error) {
	socket := "/var/run/docker.sock"
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		path, ok := strings.CutPrefix(host, "unix://")
		if !ok {
			return nil, errors.New("DOCKER_HOST is not a unix socket, and tasks have to share the network of this machine")
		}
		socket = path
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "unix", socket)
		},
	}
	e := &engine{http: &http.Client{Transport: t, Timeout: engineTimeout}, transport: t}
	if err := e.call(ctx, http.MethodGet, "/_ping", nil, nil, nil); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// close gives the connections back.
func (e *engine) close() { e.transport.CloseIdleConnections() }

// call makes one request. A result other than nil is decoded from JSON.
func (e *engine) call(ctx context.Context, method, path string, query url.Values, body io.Reader, result any) error {
	what := "docker " + method + " " + path
	u := url.URL{Scheme: "http", Host: "docker", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%s: %w: %s", what, errNotFound, bytes.TrimSpace(b))
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s: %s: %s", what, resp.Status, bytes.TrimSpace(b))
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(b, result); err != nil {
		return fmt.Errorf("%s: decode answer: %w", what, err)
	}
	return nil
}

// container is one line of the list of containers.
type container struct {
	ID     string            `json:"Id"`
	Names  []string          `json:"Names"`
	Labels map[string]string `json:"Labels"`
	State  string            `json:"State"`
	Mounts []struct {
		Source string `json:"Source"`
	} `json:"Mounts"`
}

// String is how a leftover is reported.
func (c container) String() string {
	return fmt.Sprintf("container %.12s %s (%s)", c.ID, strings.Join(c.Names, ","), c.State)
}

// allocLabel is what Nomad's docker driver writes on each container.
const allocLabel = "com.hashicorp.nomad.alloc_id"

// belongsTo says whether Nomad made the container for one of the allocations,
// or for any allocation whose directory lies below dir.
func (c container) belongsTo(dir string, allocs []string) bool {
	for _, id := range allocs {
		if c.Labels[allocLabel] == id {
			return true
		}
		for _, name := range c.Names {
			if strings.Contains(name, id) { // the pause container: nomad_init_<alloc>
				return true
			}
		}
	}
	for _, m := range c.Mounts {
		if under(m.Source, dir) {
			return true
		}
	}
	return false
}

// containers lists the containers of a cluster, stopped ones too.
func (e *engine) containers(ctx context.Context, dir string, allocs []string) ([]container, error) {
	var all, ours []container
	if err := e.call(ctx, http.MethodGet, "/containers/json", url.Values{"all": {"1"}}, nil, &all); err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.belongsTo(dir, allocs) {
			ours = append(ours, c)
		}
	}
	return ours, nil
}

// removeContainer kills and removes a container with its anonymous volumes.
func (e *engine) removeContainer(ctx context.Context, id string) error {
	err := e.call(ctx, http.MethodDelete, "/containers/"+id, url.Values{"force": {"1"}, "v": {"1"}}, nil, nil)
	if errors.Is(err, errNotFound) || err != nil && strings.Contains(err.Error(), "already in progress") {
		return nil
	}
	return err
}

// imageLabels are the labels of an image, or errNotFound.
func (e *engine) imageLabels(ctx context.Context, tag string) (map[string]string, error) {
	var image struct {
		Config struct {
			Labels map[string]string `json:"Labels"`
		} `json:"Config"`
	}
	if err := e.call(ctx, http.MethodGet, "/images/"+tag+"/json", nil, nil, &image); err != nil {
		return nil, err
	}
	return image.Config.Labels, nil
}

// importImage makes an image of one layer from a tar archive. The changes are
// lines as in a Dockerfile.
func (e *engine) importImage(ctx context.Context, tag string, changes []string, tar io.Reader) error {
	repo, version, ok := strings.Cut(tag, ":")
	if !ok {
		return fmt.Errorf("image tag %q has no version", tag)
	}
	q := url.Values{"fromSrc": {"-"}, "repo": {repo}, "tag": {version}, "changes": changes}
	return e.call(ctx, http.MethodPost, "/images/create", q, tar, nil)
}
