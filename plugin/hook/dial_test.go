package hook

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func socketHook(t *testing.T, socket string) *Hook {
	t.Helper()
	return mustNew(t, Prestop, Spec{HTTP: &HTTPSpec{Socket: socket, Path: "/stop"}, Timeout: "5s"})
}

func TestSocket_BelowLocal(t *testing.T) {
	// Each part may be 255 bytes long; together they are far more than the 108
	// of a socket's path. net.Listen has the same limit, so it is given a
	// relative path from inside.
	deep := strings.Repeat("d", 120) + "/" + strings.Repeat("e", 120)
	cases := map[string]string{
		"directly":         "m.sock",
		"in a directory":   "run/m.sock",
		"a path too long":  deep + "/m.sock",
		"blanks and signs": "a b/%41?#.sock",
	}
	for name, socket := range cases {
		t.Run(name, func(t *testing.T) {
			dir := taskDir(t)
			path := filepath.Join(dir, "local", socket)
			must.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			t.Chdir(filepath.Dir(path))
			r := &recorder{}
			serveOn(t, listenUnix(t, filepath.Base(path)), r)

			o := run(t, t.Context(), socketHook(t, socket), Event{Task: "web"}, Target{Dial: &Dialer{TaskDir: dir}})
			must.NoError(t, o.Err)
			must.Len(t, 1, r.requests())
			must.Eq(t, "/stop", r.requests()[0].path)
			must.Eq(t, "localhost", r.requests()[0].host)
			must.Eq(t, http.MethodPost, r.requests()[0].method)
		})
	}
}

// The task owns local/ and the plugin is root: whatever link lies there, no
// socket outside is reached through it, such as the Docker engine's.
func TestSocket_LinksAreNotFollowed(t *testing.T) {
	cases := map[string]struct {
		socket string
		plant  func(t *testing.T, dir, outside string)
	}{
		"link to a socket": {"m.sock", func(t *testing.T, dir, outside string) {
			must.NoError(t, os.Symlink(filepath.Join(outside, "real.sock"), filepath.Join(dir, "local", "m.sock")))
		}},
		"relative link to a socket": {"m.sock", func(t *testing.T, dir, outside string) {
			rel, err := filepath.Rel(filepath.Join(dir, "local"), filepath.Join(outside, "real.sock"))
			must.NoError(t, err)
			must.NoError(t, os.Symlink(rel, filepath.Join(dir, "local", "m.sock")))
		}},
		"link to a directory": {"run/real.sock", func(t *testing.T, dir, outside string) {
			must.NoError(t, os.Symlink(outside, filepath.Join(dir, "local", "run")))
		}},
		"local itself is a link": {"real.sock", func(t *testing.T, dir, outside string) {
			must.NoError(t, os.Remove(filepath.Join(dir, "local")))
			must.NoError(t, os.Symlink(outside, filepath.Join(dir, "local")))
		}},
		"link through /proc": {"root/real.sock", func(t *testing.T, dir, outside string) {
			must.NoError(t, os.Symlink("/proc/self/root"+outside, filepath.Join(dir, "local", "root")))
		}},
		"link inside local": {"m.sock", func(t *testing.T, dir, _ string) {
			listenUnix(t, filepath.Join(dir, "local", "real.sock"))
			must.NoError(t, os.Symlink("real.sock", filepath.Join(dir, "local", "m.sock")))
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir, outside := taskDir(t), taskDir(t)
			r := &recorder{}
			serveOn(t, listenUnix(t, filepath.Join(outside, "real.sock")), r)
			tc.plant(t, dir, outside)

			o := run(t, t.Context(), socketHook(t, tc.socket), Event{}, Target{Dial: &Dialer{TaskDir: dir}})
			must.ErrorContains(t, o.Err, "symbolic link, which is not followed")
			must.SliceEmpty(t, r.requests())
		})
	}
}

// New refuses such paths. Should one get past it, dialling does as well.
func TestSocket_ParentIsNotReached(t *testing.T) {
	dir := taskDir(t)
	r := &recorder{}
	serveOn(t, listenUnix(t, filepath.Join(dir, "real.sock")), r)
	for _, name := range []string{"local/../../" + filepath.Base(dir) + "/real.sock", filepath.Join(dir, "real.sock")} {
		_, err := dialSocket(t.Context(), filepath.Join(dir, "local"), name)
		must.Error(t, err)
	}
	must.SliceEmpty(t, r.requests())
}

func TestSocket_NotASocket(t *testing.T) {
	cases := map[string]struct {
		plant func(t *testing.T, path string)
		want  string
	}{
		"nothing": {func(*testing.T, string) {}, "no such file"},
		"a file": {func(t *testing.T, path string) {
			must.NoError(t, os.WriteFile(path, nil, 0o600))
		}, "local/m.sock is not a unix socket"},
		"a directory": {func(t *testing.T, path string) {
			must.NoError(t, os.Mkdir(path, 0o700))
		}, "local/m.sock is not a unix socket"},
		"nobody listens": {func(t *testing.T, path string) {
			l := listenUnix(t, path)
			must.NoError(t, os.Link(path, path+".kept"))
			must.NoError(t, l.Close())
			must.NoError(t, os.Rename(path+".kept", path))
		}, "connection refused"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := taskDir(t)
			tc.plant(t, filepath.Join(dir, "local", "m.sock"))
			o := run(t, t.Context(), socketHook(t, "m.sock"), Event{}, Target{Dial: &Dialer{TaskDir: dir}})
			must.ErrorContains(t, o.Err, tc.want)
		})
	}
}

func TestDialer_Check(t *testing.T) {
	ports := map[string]Port{"http": {}, "admin": {}}
	cases := map[string]struct {
		dialer Dialer
		spec   Spec
		want   string // "" if it is in order
	}{
		"port there":         {Dialer{Ports: ports}, Spec{HTTP: &HTTPSpec{Port: "http"}}, ""},
		"port not there":     {Dialer{Ports: ports}, Spec{HTTP: &HTTPSpec{Port: "web"}}, `lifecycle.prestop[0].http.port: the group's network has no port labelled "web"; it has admin, http`},
		"no ports":           {Dialer{}, Spec{HTTP: &HTTPSpec{Port: "web"}}, `no port labelled "web"; it has none`},
		"group network":      {Dialer{Netns: "/proc/1/ns/net"}, web(func(c *HTTPSpec) { c.Network = NetworkGroup }), ""},
		"no group network":   {Dialer{}, web(func(c *HTTPSpec) { c.Network = NetworkGroup }), `lifecycle.prestop[0].http.network: "group", but the group has no network of its own`},
		"url allowed":        {Dialer{AllowURLs: []string{"http://127.0.0.1"}}, web(nil), ""},
		"url not allowed":    {Dialer{AllowURLs: []string{"http://127.0.0.2"}}, web(nil), "lifecycle.prestop[0].http.url: http://127.0.0.1/stop is not among the allow_urls"},
		"allowed, but group": {Dialer{AllowURLs: []string{"http://127.0.0.1"}}, web(func(c *HTTPSpec) { c.Network = NetworkGroup }), ".http.network: "},
		"socket":             {Dialer{AllowURLs: []string{"http://a"}}, Spec{HTTP: &HTTPSpec{Socket: "m.sock"}}, ""},
		"sleep":              {Dialer{AllowURLs: []string{"http://a"}}, Spec{Sleep: "1s"}, ""},
		"exec":               {Dialer{}, Spec{Exec: &ExecSpec{[]string{"a"}}}, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := tc.dialer.Check(mustNew(t, Prestop, tc.spec))
			if tc.want == "" {
				must.NoError(t, err)
			} else {
				must.ErrorContains(t, err, tc.want)
			}
		})
	}
}

func TestAllowed(t *testing.T) {
	prefixes := []string{"http://hooks.internal:8080/v1", "https://open.example", "http://slash.example/a/"}
	cases := map[string]struct {
		url  string
		want bool
	}{
		"the prefix itself":           {"http://hooks.internal:8080/v1", true},
		"below it":                    {"http://hooks.internal:8080/v1/x/y?q=1", true},
		"with a slash":                {"http://hooks.internal:8080/v1/", true},
		"host in capitals":            {"http://HOOKS.internal:8080/v1/x", true},
		"scheme in capitals":          {"HTTP://hooks.internal:8080/v1/x", true},
		"dots that stay below":        {"http://hooks.internal:8080/v1/a/../b", true},
		"a host alone allows all":     {"https://open.example/any", true},
		"a host alone, no path":       {"https://open.example", true},
		"prefix ends with a slash":    {"http://slash.example/a/b", true},
		"and without it":              {"http://slash.example/a", true},
		"no slash boundary":           {"http://hooks.internal:8080/v10", false},
		"beside it":                   {"http://hooks.internal:8080/v2", false},
		"above it":                    {"http://hooks.internal:8080/", false},
		"dots that leave":             {"http://hooks.internal:8080/v1/../admin", false},
		"escaped dots that leave":     {"http://hooks.internal:8080/v1/%2e%2e/admin", false},
		"escaped slash that leaves":   {"http://hooks.internal:8080/v1/..%2fadmin", false},
		"path in capitals":            {"http://hooks.internal:8080/V1", false},
		"other scheme":                {"https://hooks.internal:8080/v1", false},
		"other port":                  {"http://hooks.internal:8081/v1", false},
		"no port":                     {"http://hooks.internal/v1", false},
		"the host as user":            {"http://hooks.internal:8080@evil.example/v1", false},
		"any user":                    {"http://u:p@hooks.internal:8080/v1", false},
		"the host as a subdomain":     {"https://open.example.evil.example/", false},
		"a subdomain of the host":     {"https://x.open.example/", false},
		"the host in the query":       {"http://evil.example/?http://hooks.internal:8080/v1", false},
		"the host in the fragment":    {"http://evil.example/#http://hooks.internal:8080/v1", false},
		"a host that ends with a dot": {"https://open.example./", false},
		"unreadable":                  {"http://hooks.internal:8080/%zz", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) { must.Eq(t, tc.want, allowed(prefixes, tc.url)) })
	}
}

// A URL that is not allowed is not requested either, should Check be left out.
func TestAllowed_IsHeededByRun(t *testing.T) {
	r := &recorder{}
	s := web(func(c *HTTPSpec) { c.URL = serve(t, r).URL })
	o := run(t, t.Context(), mustNew(t, Prestop, s), Event{}, Target{Dial: &Dialer{AllowURLs: []string{"http://example.org"}}})
	must.ErrorContains(t, o.Err, "not among the allow_urls")
	must.SliceEmpty(t, r.requests())
}
