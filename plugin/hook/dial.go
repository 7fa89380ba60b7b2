package hook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

// Port is a port label of the group as a hook reaches it.
type Port struct {
	Host string // host:port on the node
	To   int    // port inside the group's network namespace, 0 if there is none
}

// Dialer connects HTTP hooks to one task.
type Dialer struct {
	// TaskDir is the task's directory on the host; sockets are looked up in
	// its local/ directory.
	TaskDir string
	// Netns is the path of the group's network namespace, "" if the group uses
	// the host's network.
	Netns string
	// GroupIP is the group's own address inside Netns, "" if unknown.
	GroupIP string
	// Ports are the group's port labels.
	Ports map[string]Port
	// AllowURLs, if not empty, are the only URL prefixes that url hooks may use.
	AllowURLs []string
}

type dialFunc func(ctx context.Context, addr string) (net.Conn, error)

// Check reports whether h's place exists for this task, as far as it can be
// known before anything is sent. The error names the field.
func (d *Dialer) Check(h *Hook) error {
	if h.HTTP == nil {
		return nil
	}
	if err := d.check(h.HTTP); err != nil {
		return fmt.Errorf("%s.http%w", h.Field(), err)
	}
	return nil
}

func (d *Dialer) check(c *HTTPSpec) error {
	switch {
	case c.Port != "":
		if _, ok := d.Ports[c.Port]; ok {
			return nil
		}
		labels := make([]string, 0, len(d.Ports))
		for l := range d.Ports {
			labels = append(labels, l)
		}
		slices.Sort(labels)
		have := "it has none"
		if len(labels) > 0 {
			have = "it has " + strings.Join(labels, ", ")
		}
		return fmt.Errorf(".port: the group's network has no port labelled %q; %s", c.Port, have)
	case c.URL != "":
		if c.Network == NetworkGroup && d.Netns == "" {
			return fmt.Errorf(".network: %q, but the group has no network of its own; give the group a network with mode \"bridge\", or use %q", NetworkGroup, NetworkHost)
		}
		if len(d.AllowURLs) > 0 && !allowed(d.AllowURLs, c.URL) {
			return fmt.Errorf(".url: %s is not among the allow_urls of this client's plugin configuration", Redact(c.URL))
		}
	}
	return nil
}

// Dial connects to a port or socket of the task.
func (d *Dialer) Dial(ctx context.Context, c *HTTPSpec) (net.Conn, error) {
	_, dial, err := d.place(c)
	if err != nil {
		return nil, err
	}
	host := ""
	if c.Port != "" {
		host = d.Ports[c.Port].Host
	}
	return dial(ctx, host)
}

// allowed compares parsed parts, not text: "http://a:1@evil" begins like
// "http://a:1", and "/v1/../x" is not below "/v1/".
func allowed(prefixes []string, raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.User != nil {
		return false
	}
	p := path.Clean("/" + u.Path)
	if strings.HasSuffix(u.Path, "/") && p != "/" {
		p += "/"
	}
	for _, prefix := range prefixes {
		a, err := url.Parse(prefix)
		if err != nil || a.Scheme != u.Scheme || !strings.EqualFold(a.Host, u.Host) {
			continue
		}
		base := strings.TrimSuffix(a.Path, "/")
		if p == base || strings.HasPrefix(p, base+"/") {
			return true
		}
	}
	return false
}

// place returns the URL to request and how to connect for it.
func (d *Dialer) place(c *HTTPSpec) (string, dialFunc, error) {
	if err := d.check(c); err != nil {
		return "", nil, err
	}
	switch {
	case c.Socket != "":
		return "http://localhost" + c.Path, func(ctx context.Context, _ string) (net.Conn, error) {
			return dialSocket(ctx, d.TaskDir, path.Join("local", c.Socket))
		}, nil
	case c.Port != "":
		p := d.Ports[c.Port]
		if d.Netns == "" || p.To == 0 {
			return "http://" + p.Host + c.Path, dialHost, nil
		}
		inside := net.JoinHostPort("127.0.0.1", strconv.Itoa(p.To))
		return "http://" + inside + c.Path, func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := dialNetns(ctx, d.Netns, inside)
			// An app may listen on the group's address only.
			if err != nil && d.GroupIP != "" && ctx.Err() == nil {
				return dialNetns(ctx, d.Netns, net.JoinHostPort(d.GroupIP, strconv.Itoa(p.To)))
			}
			return conn, err
		}, nil
	case c.Network == NetworkGroup:
		return c.URL, func(ctx context.Context, addr string) (net.Conn, error) {
			return dialNetns(ctx, d.Netns, addr)
		}, nil
	default:
		return c.URL, dialHost, nil
	}
}

func dialHost(ctx context.Context, addr string) (net.Conn, error) {
	return timeoutDialer().DialContext(ctx, "tcp", addr)
}

// dialNetns connects from inside the network namespace at nsPath. The name in
// addr is looked up on the host before: the resolver would leave the thread
// that has entered the namespace.
func dialNetns(ctx context.Context, nsPath, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if net.ParseIP(host) == nil {
		addrs, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			return nil, err
		}
		host = addrs[0]
	}
	netns, err := ns.GetNS(nsPath)
	if err != nil {
		return nil, fmt.Errorf("open the group's network namespace: %w", err)
	}
	defer func() { _ = netns.Close() }() // only a file descriptor
	var conn net.Conn
	err = netns.Do(func(ns.NetNS) error {
		var err error
		conn, err = timeoutDialer().DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		return err
	})
	return conn, err
}

// dialSocket connects to the unix socket at name below dir. The task owns
// what lies there, so no symbolic link is followed: one to the Docker socket
// would turn a hook into root. Connecting through /proc/self/fd also lifts the
// limit of 108 bytes on a socket's path.
func dialSocket(ctx context.Context, dir, name string) (net.Conn, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := unix.Openat2(root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return nil, fmt.Errorf("%s is or passes a symbolic link, which is not followed", name)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("%s is not a unix socket", name)
	}
	return timeoutDialer().DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
}
