// Package worker_test runs the agents queue and worker in processes, against a real
// Consul, and lets workers die and freeze.
package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/cluster/clustertest"
	"github.com/nomad-patterns/nomad-patterns/e2e/queue/rig"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

// patience bounds one test.
const patience = 3 * time.Minute

// scene is a queue "q" with a broker, and directories for inputs and outputs.
type scene struct {
	*queue.Client
	t       *testing.T
	ctx     context.Context
	consul  *cluster.Consul
	broker  *rig.Broker
	queue   string // its name; workers find its brokers in Consul by it
	binary  string
	in, out string
}

func newScene(t *testing.T, c *cluster.Consul, bin string, cfg rig.BrokerConfig, stage queue.Stage) *scene {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := &scene{t: t, ctx: ctx, consul: c, queue: "q", binary: filepath.Join(bin, "worker"), in: t.TempDir(), out: t.TempDir()}
	var err error
	cfg.Consul, cfg.Binary, cfg.ID, cfg.Agent = c, filepath.Join(bin, "queue"), "b", c.ServerAddr(0)
	s.broker, err = rig.NewBroker(cfg)
	must.NoError(t, err)
	must.NoError(t, s.broker.Start())
	t.Cleanup(func() { must.NoError(t, s.broker.Close()) })
	must.NoError(t, s.broker.AwaitReady(ctx))
	s.Client, err = queue.NewClient(queue.ClientConfig{Addresses: []string{s.broker.Address()}})
	must.NoError(t, err)
	t.Cleanup(s.Close)
	stage.Name, stage.Lease, stage.Backoff = "work", queue.Duration(time.Second), queue.Duration(50*time.Millisecond)
	_, err = s.Create(ctx, "q", queue.Config{Retention: queue.Duration(time.Hour), Stages: []queue.Stage{stage}})
	must.NoError(t, err)
	return s
}

// worker starts a worker that runs a script.
func (s *scene) worker(name, script string, flags ...string) *rig.Worker {
	s.t.Helper()
	args := append([]string{
		"-queue=q", "-id=" + name, "-queue-addr=" + s.broker.Address(), "-drain-timeout=5s",
		"-input-dir=" + s.in, "-output=" + s.out, "-work-dir=" + s.t.TempDir(),
	}, flags...)
	w := rig.NewProgram(s.consul, strings.ReplaceAll(s.t.Name(), "/", "-")+"-"+name, func() *exec.Cmd {
		return exec.Command(s.binary, append(args, "--", "/bin/sh", "-c", script)...)
	})
	must.NoError(s.t, w.Start())
	s.t.Cleanup(func() { must.NoError(s.t, w.Close()) })
	return w
}

// storeDown works with inputs and outputs on S3 that is away for a while: items wait, and
// do not fail.
func storeDown(s *scene) {
	backend := s3mem.New()
	must.NoError(s.t, backend.CreateBucket("b"))
	put := func(name string) queue.ID {
		_, err := backend.PutObject("b", "in/"+name, nil, strings.NewReader(name), int64(len(name)), nil)
		must.NoError(s.t, err)
		out, err := s.Enqueue(s.ctx, "q", []queue.Item{{Input: "s3://b/in/" + name}})
		must.NoError(s.t, err)
		return out[0].ID
	}
	var down atomic.Bool
	refused := make(chan struct{}, 1)
	api := gofakes3.New(backend).Server()
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !down.Load() {
			api.ServeHTTP(w, r)
			return
		}
		select {
		case refused <- struct{}{}:
		default:
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	s.t.Cleanup(store.Close)
	query := "?region=us-east-1&use_path_style=true&endpoint=" + store.URL
	w := rig.NewProgram(s.consul, "s3-worker", func() *exec.Cmd {
		cmd := exec.Command(s.binary, "-queue=q", "-id=s3", "-queue-addr="+s.broker.Address(), "-drain-timeout=5s", "-work-dir="+s.t.TempDir(),
			"-input-url=s3://b/in/"+query, "-output=s3://b/out"+query, "--", "/bin/sh", "-c", quick)
		cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret", "AWS_MAX_ATTEMPTS=1", "AWS_EC2_METADATA_DISABLED=true")
		return cmd
	})
	must.NoError(s.t, w.Start())
	s.t.Cleanup(func() { must.NoError(s.t, w.Close()) })
	done := func(name string) func(queue.ItemStatus) bool {
		return func(st queue.ItemStatus) bool {
			o, err := backend.GetObject("b", "out/"+name, nil)
			if err != nil {
				return false
			}
			text, err := io.ReadAll(o.Contents)
			return errors.Join(err, o.Contents.Close()) == nil && st.State == "done" && string(text) == name+" quick\n"
		}
	}
	s.until(put("x"), done("x"))
	down.Store(true)
	id := put("y")
	<-refused // it was claimed; then it is given back, as the store is found to be down
	s.until(id, func(st queue.ItemStatus) bool { return st.State == "ready" })
	down.Store(false)
	st := s.until(id, done("y"))
	must.Eq(s.t, 0, st.Failed)
}

// put enqueues a file.
func (s *scene) put(name string) queue.ID {
	s.t.Helper()
	must.NoError(s.t, os.WriteFile(filepath.Join(s.in, name), []byte(name), 0o600))
	out, err := s.Enqueue(s.ctx, "q", []queue.Item{{Input: name, Key: name}})
	must.NoError(s.t, err)
	return out[0].ID
}

// until waits until an item, and what is published of it, are so.
func (s *scene) until(id queue.ID, is func(queue.ItemStatus) bool) queue.ItemStatus {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := s.Item(s.ctx, s.queue, id)
		if err == nil && is(st) {
			return st
		}
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("not within %s: %+v %v", patience, st, err)
		case <-tick.C:
		}
	}
}

func (s *scene) published(name string) string {
	b, _ := os.ReadFile(filepath.Join(s.out, name))
	return string(b)
}

// working says that the script of a worker has begun.
func (s *scene) working(worker string) func(queue.ItemStatus) bool {
	return func(st queue.ItemStatus) bool { return st.Worker == worker && st.Progress > 0 }
}

// onGo is a script that begins, and writes its output when it is let.
func (s *scene) onGo(text string) string {
	return `echo 0.5 >"$WQ_PROGRESS"; while [ ! -e ` + s.in + `/go ]; do sleep 0.05; done; echo ` + text + ` >"$WQ_OUTPUT"`
}

func (s *scene) let() {
	must.NoError(s.t, os.WriteFile(filepath.Join(s.in, "go"), nil, 0o600))
}

const (
	// draining is what a worker says when it claims nothing more.
	draining = "draining: nothing more is claimed"
	// endless begins, and never ends.
	endless = `echo 0.5 >"$WQ_PROGRESS"; exec sleep 600`
	quick   = `cat "$WQ_INPUT" >"$WQ_OUTPUT"; echo " quick" >>"$WQ_OUTPUT"`
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWorker(t *testing.T) {
	bin := t.TempDir()
	for _, pkg := range []string{"agents/queue", "agents/worker"} {
		_, err := rig.Build(t.Context(), bin, pkg)
		must.NoError(t, err)
	}
	consul := clustertest.StartConsul(t, cluster.ConsulConfig{})
	for i, c := range []struct {
		name  string
		stage queue.Stage
		run   func(*scene)
	}{
		{"killed", queue.Stage{MaxLost: 5}, killed},
		{"frozen", queue.Stage{MaxLost: 5}, frozen},
		{"blob store down", queue.Stage{MaxFailed: 1}, storeDown},
		{"kills every worker", queue.Stage{MaxLost: 2}, killsEvery},
		{"stopped", queue.Stage{MaxFailed: 1, MaxLost: 1}, stopped},
		{"gives back", queue.Stage{MaxFailed: 1, MaxLost: 1}, givesBack},
		{"prestop hook", queue.Stage{MaxFailed: 1, MaxLost: 1}, prestop},
		{"disk full", queue.Stage{MaxFailed: 1}, diskFull},
		{"publish", queue.Stage{MaxFailed: 1, MaxLost: 1}, publish},
		{"secure", queue.Stage{}, secure},
		{"consul away", queue.Stage{MaxFailed: 1}, consulAway},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(newScene(t, consul, bin, rig.BrokerConfig{Prefix: fmt.Sprintf("w%d", i), Plain: c.name != "consul away"}, c.stage))
		})
	}
}

// While Consul is away for a minute nothing is promised, and nobody is left waiting. The
// worker goes on with what it has, and its item is done when Consul is back.
func consulAway(s *scene) {
	id := s.put("x")
	s.worker("first", s.onGo("done"))
	first := s.until(id, s.working("first"))
	impatient, err := queue.NewClient(queue.ClientConfig{Addresses: []string{s.broker.Address()}, Patience: time.Second})
	must.NoError(s.t, err)
	defer impatient.Close()
	s.broker.Consul().Drop()
	s.let()
	n := 0
	for begin := time.Now(); time.Since(begin) < time.Minute; n++ {
		ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
		_, err := impatient.Enqueue(ctx, "q", []queue.Item{{Input: "x", Key: fmt.Sprint(n)}})
		must.Error(s.t, err)
		must.NoError(s.t, ctx.Err(), must.Sprint("nobody has answered"))
		cancel()
	}
	must.Greater(s.t, 3, n)
	must.Eq(s.t, "", s.published("x"))
	s.broker.Consul().Pass()
	done := s.until(id, func(st queue.ItemStatus) bool { return st.State == "done" && s.published("x") == "done\n" })
	must.Eq(s.t, first.Claim, done.Claim)
	for i := range n {
		_, err := s.Enqueue(s.ctx, "q", []queue.Item{{Input: "x", Key: fmt.Sprint(i)}})
		must.NoError(s.t, err)
	}
	st, err := s.Status(s.ctx, "q")
	must.NoError(s.t, err)
	must.Eq(s.t, n+1, int(st.Enqueued))
}

// An output that could not be moved to its place is published by hand.
func publish(s *scene) {
	place := filepath.Join(s.out, "dir")
	must.NoError(s.t, os.WriteFile(place, nil, 0o600)) // where a directory has to be
	id := s.put("x")
	w := s.worker("first", quick, "-name=dir/{path}")
	s.until(id, func(st queue.ItemStatus) bool { return st.State == "done" && w.Says("publish or remove the output") })
	must.NoError(s.t, w.Close())
	must.NoError(s.t, os.Remove(place))
	command := func(queue string) (string, error) {
		out, err := exec.CommandContext(s.ctx, s.binary, "publish", "-queue="+queue, "-queue-addr="+s.broker.Address(), "-output="+s.out).CombinedOutput()
		return string(out), err
	}
	said, err := command("nope")
	must.Error(s.t, err)
	must.StrContains(s.t, said, `queue "nope"`)
	must.Eq(s.t, "", s.published("dir/x"))
	said, err = command("q")
	must.NoError(s.t, err, must.Sprint(said))
	must.Eq(s.t, "1 published, 0 removed\n", said)
	must.Eq(s.t, "x quick\n", s.published("dir/x"))
	said, err = command("q")
	must.NoError(s.t, err)
	must.Eq(s.t, "0 published, 0 removed\n", said)
}

// The item of a worker that is killed is done by another one.
func killed(s *scene) {
	id := s.put("x")
	w := s.worker("first", endless)
	s.until(id, s.working("first"))
	must.NoError(s.t, w.Kill())
	s.worker("second", quick)
	s.until(id, func(st queue.ItemStatus) bool { return st.State == "done" && s.published("x") == "x quick\n" })
}

// A worker that wakes after another one has done its item does no harm.
func frozen(s *scene) {
	id := s.put("x")
	w := s.worker("first", s.onGo("wrong"))
	first := s.until(id, s.working("first"))
	must.NoError(s.t, w.Pause())
	second := s.worker("second", quick)
	done := s.until(id, func(st queue.ItemStatus) bool { return st.State == "done" && s.published("x") == "x quick\n" })
	must.Greater(s.t, first.Claim, done.Claim)
	must.NoError(s.t, second.Close())
	s.let()
	must.NoError(s.t, w.Resume())
	// When it does the next item it has dealt with this one.
	next := s.put("y")
	s.until(next, func(st queue.ItemStatus) bool { return st.State == "done" && s.published("y") == "wrong\n" })
	must.Eq(s.t, "x quick\n", s.published("x"))
	st, err := s.Item(s.ctx, "q", id)
	must.NoError(s.t, err)
	must.Eq(s.t, done.Output, st.Output)
}

// An item by which workers die is given up.
func killsEvery(s *scene) {
	id := s.put("x")
	for i := range 2 {
		name := fmt.Sprint("w", i)
		w := s.worker(name, endless)
		s.until(id, s.working(name))
		must.NoError(s.t, w.Kill())
	}
	s.worker("last", quick)
	st := s.until(id, func(st queue.ItemStatus) bool { return st.State == "dead" })
	must.Eq(s.t, 2, st.Lost)
	must.Eq(s.t, 0, st.Failed)
	must.Eq(s.t, "", s.published("x"))
	dead, err := s.Dead(s.ctx, "q", "")
	must.NoError(s.t, err)
	must.Len(s.t, 1, dead.Dead)
}

// A worker that is asked to end finishes what it is at, and claims nothing more.
func stopped(s *scene) {
	id := s.put("x")
	w := s.worker("first", s.onGo("done"))
	s.until(id, s.working("first"))
	must.NoError(s.t, syscall.Kill(w.PID(), syscall.SIGTERM))
	s.until(id, func(queue.ItemStatus) bool { return w.Says(draining) })
	next := s.put("y")
	s.let()
	s.until(id, func(st queue.ItemStatus) bool { return st.State == "done" && s.published("x") == "done\n" })
	must.NoError(s.t, w.Wait())
	st, err := s.Item(s.ctx, "q", next)
	must.NoError(s.t, err)
	must.Eq(s.t, "ready", st.State)
}

// What a worker cannot finish goes to others, and has not failed.
func givesBack(s *scene) {
	id := s.put("x")
	w := s.worker("first", endless, "-drain-timeout=1s")
	s.until(id, s.working("first"))
	must.NoError(s.t, syscall.Kill(w.PID(), syscall.SIGTERM))
	st := s.until(id, func(st queue.ItemStatus) bool { return st.State == "ready" })
	must.Eq(s.t, 0, st.Failed+st.Lost)
	s.worker("second", quick)
	s.until(id, func(st queue.ItemStatus) bool { return st.State == "done" && s.published("x") == "x quick\n" })
}

// The prestop hook is answered when the worker is done.
func prestop(s *scene) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(s.t, err)
	root := "http://" + l.Addr().String()
	must.NoError(s.t, l.Close())
	id := s.put("x")
	w := s.worker("first", s.onGo("done"), "-listen="+strings.TrimPrefix(root, "http://"))
	s.until(id, s.working("first"))
	ask := func(method, path string) (int, error) {
		req, err := http.NewRequestWithContext(s.ctx, method, root+path, nil)
		if err != nil {
			return 0, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	type answer struct {
		code int
		err  error
	}
	hook := make(chan answer, 1)
	go func() {
		code, err := ask(http.MethodPost, "/lifecycle/prestop")
		hook <- answer{code, err}
	}()
	s.until(id, func(queue.ItemStatus) bool {
		code, err := ask(http.MethodGet, "/v1/health")
		return err == nil && code == http.StatusServiceUnavailable && w.Says(draining)
	})
	next := s.put("y")
	s.let()
	a := <-hook
	must.NoError(s.t, a.err)
	must.Between(s.t, 200, a.code, 299)
	must.Eq(s.t, "done\n", s.published("x"))
	st, err := s.Item(s.ctx, "q", next)
	must.NoError(s.t, err)
	must.Eq(s.t, "ready", st.State)
}

// A disk that is full fails the items whose outputs have no room, says so, and publishes
// nothing of them.
func diskFull(s *scene) {
	must.NoError(s.t, unix.Mount("tmpfs", s.out, "tmpfs", 0, "size=64k"))
	s.t.Cleanup(func() { must.NoError(s.t, unix.Unmount(s.out, unix.MNT_DETACH)) })
	id := s.put("x")
	s.worker("first", `head -c 200000 /dev/zero >"$WQ_OUTPUT"`)
	st := s.until(id, func(st queue.ItemStatus) bool { return st.State == "dead" })
	must.StrContains(s.t, st.Reason, "No space left on device")
	must.Eq(s.t, "", s.published("x"))
	must.NoError(s.t, unix.Mount("tmpfs", s.out, "tmpfs", unix.MS_REMOUNT, "size=4m"))
	n, err := s.Redrive(s.ctx, "q", nil)
	must.NoError(s.t, err)
	must.Eq(s.t, 1, n)
	s.until(id, func(queue.ItemStatus) bool { return len(s.published("x")) == 200000 })
}
