package hook

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// newNetns makes a network namespace with a loopback of its own and returns its
// path. It lives as long as the thread that is in it, so nothing has to be
// mounted. Needs root, as the plugin does.
func newNetns(t *testing.T) string {
	t.Helper()
	type answer struct {
		path string
		err  error
	}
	made, release, done := make(chan answer), make(chan struct{}), make(chan struct{})
	var hold func()
	hold = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The namespace of the main thread is that of the process to those who look
			// from outside, and this thread never ends: another one has to do it.
			defer runtime.UnlockOSThread()
			other := make(chan struct{})
			go func() { defer close(other); hold() }()
			<-other
			return
		}
		// Never unlocked: the thread ends with the goroutine, and so does the
		// namespace.
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- answer{err: fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		made <- answer{fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()), loopbackUp()}
		<-release
	}
	go func() { defer close(done); hold() }()
	a := <-made
	t.Cleanup(func() { close(release); <-done })
	must.NoError(t, a.err)
	return a.path
}

// loopbackUp switches on the loopback of the calling thread's namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written to it
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// listenIn listens on a free port inside the namespace.
func listenIn(t *testing.T, path, host string) (net.Listener, int) {
	t.Helper()
	netns, err := ns.GetNS(path)
	must.NoError(t, err)
	defer func() { must.NoError(t, netns.Close()) }()
	var l net.Listener
	must.NoError(t, netns.Do(func(ns.NetNS) error {
		var err error
		l, err = net.Listen("tcp4", net.JoinHostPort(host, "0"))
		return err
	}))
	return l, l.Addr().(*net.TCPAddr).Port
}

func TestNetns_InsideIsReached(t *testing.T) {
	cases := map[string]struct {
		listen string // address inside
		spec   func(port int) HTTPSpec
		group  string // GroupIP
		want   string // "" is success
	}{
		"url in the group's network": {"127.0.0.1", func(p int) HTTPSpec {
			return HTTPSpec{URL: fmt.Sprintf("http://127.0.0.1:%d/", p), Network: NetworkGroup}
		}, "", ""},
		"url with the name localhost": {"127.0.0.1", func(p int) HTTPSpec {
			return HTTPSpec{URL: fmt.Sprintf("http://localhost:%d/", p), Network: NetworkGroup}
		}, "", ""},
		"url on the host does not get in": {"127.0.0.1", func(p int) HTTPSpec {
			return HTTPSpec{URL: fmt.Sprintf("http://127.0.0.1:%d/", p)}
		}, "", "connection refused"},
		"port": {"127.0.0.1", func(int) HTTPSpec {
			return HTTPSpec{Port: "http"}
		}, "", ""},
		// All of 127/8 is on the loopback; the second one stands for the
		// group's address on its bridge.
		"port on the group's address only": {"127.0.0.2", func(int) HTTPSpec {
			return HTTPSpec{Port: "http"}
		}, "127.0.0.2", ""},
		"port on an address not known": {"127.0.0.2", func(int) HTTPSpec {
			return HTTPSpec{Port: "http"}
		}, "", "connection refused"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			path := newNetns(t)
			l, port := listenIn(t, path, tc.listen)
			r := &recorder{}
			serveOn(t, l, r)
			spec := tc.spec(port)
			h := mustNew(t, Prestop, Spec{HTTP: &spec, Timeout: "10s"})
			target := Target{Dial: &Dialer{
				Netns: path, GroupIP: tc.group,
				Ports: map[string]Port{"http": {Host: "127.0.0.1:1", To: port}},
			}}
			must.NoError(t, target.Dial.Check(h))
			o := run(t, t.Context(), h, Event{}, target)
			if tc.want != "" {
				must.ErrorContains(t, o.Err, tc.want)
				must.SliceEmpty(t, r.requests())
				return
			}
			must.NoError(t, o.Err)
			must.Len(t, 1, r.requests())
		})
	}
}

// A port that is not mapped into the namespace is reached on the host.
func TestNetns_PortWithoutMapping(t *testing.T) {
	r := &recorder{}
	host := hostPort(serve(t, r).URL)
	target := Target{Dial: &Dialer{Netns: newNetns(t), Ports: map[string]Port{"http": {Host: host}}}}
	h := mustNew(t, Prestop, Spec{HTTP: &HTTPSpec{Port: "http"}})
	must.NoError(t, run(t, t.Context(), h, Event{}, target).Err)
	must.Len(t, 1, r.requests())
}

func TestNetns_Gone(t *testing.T) {
	target := Target{Dial: &Dialer{Netns: "/proc/self/ns/none", Ports: map[string]Port{"http": {To: 80}}}}
	h := mustNew(t, Prestop, Spec{HTTP: &HTTPSpec{Port: "http"}})
	o := run(t, t.Context(), h, Event{}, target)
	must.ErrorContains(t, o.Err, "open the group's network namespace")
}

// Dialling leaves no thread behind in the group's namespace: what the plugin
// opens next is on the host.
func TestNetns_ThreadsComeBack(t *testing.T) {
	path := newNetns(t)
	l, port := listenIn(t, path, "127.0.0.1")
	serveOn(t, l, &recorder{})
	target := Target{Dial: &Dialer{Netns: path, Ports: map[string]Port{"http": {To: port}}}}
	h := mustNew(t, Prestop, Spec{HTTP: &HTTPSpec{Port: "http"}})
	host, err := os.Readlink("/proc/self/ns/net")
	must.NoError(t, err)
	inside, err := os.Readlink(path)
	must.NoError(t, err)
	must.NotEq(t, host, inside)
	for range 50 {
		must.NoError(t, run(t, t.Context(), h, Event{}, target).Err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	must.NoError(t, err)
	count := 0
	for _, task := range tasks {
		if namespaceOf(t, "/proc/self/task/"+task.Name()) == inside {
			count++
		}
	}
	must.Eq(t, 1, count, must.Sprint("only the thread that keeps the namespace is in it"))
}

// namespaceOf is the network namespace of a thread, "" if it has ended. While it ends the
// kernel refuses to tell.
func namespaceOf(t *testing.T, thread string) string {
	t.Helper()
	for t.Context().Err() == nil {
		link, err := os.Readlink(thread + "/ns/net")
		if err == nil {
			return link
		}
		if _, gone := os.Stat(thread); os.IsNotExist(gone) {
			return ""
		}
		runtime.Gosched()
	}
	t.Fatal("not told: ", thread)
	return ""
}
