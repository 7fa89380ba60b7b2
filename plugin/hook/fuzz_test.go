package hook

import (
	"strings"
	"testing"
	"time"
)

// New is given what a job's author has written. It must not panic, and what it
// accepts must end: no timeout is zero or without bound.
func FuzzNew(f *testing.F) {
	f.Add("prestop", "", "10s", "", "1s", 2, "ignore", "http://user:pw@h:1/x?y=z", "host", "", "", "", "post", "Host", "a", 204)
	f.Add("ready", "", "", "", "", 0, "fail", "", "", "http", "", "/ready?a=b", "", "", "", 0)
	f.Add("prestop", "", "", "", "", 0, "", "", "", "", "a/../../x.sock", "/x", "GET", "A\n", "b\r\n", 700)
	f.Add("prestart", "1h", "", "/bin/migrate", "", 0, "", "", "", "", "", "", "", "", "", 0)
	f.Add("poststop", "0.5s", "-1s", "a b", "9ms", -1, "x", "%zz", "group", "p", "/abs", "no", "X", "", "", -1)
	f.Add("save", "", "1m", "/bin/save", "", 3, "ignore", "", "", "", "", "", "", "", "", 0)
	f.Add("restore", "", "", "", "", 0, "fail", "", "", "", "app.sock", "/state", "put", "", "", 204)
	f.Add("created", "", "", "", "", 0, "", "http://a", "", "", "", "", "", "", "", 0)
	f.Add("stopped", "1s", "", "", "", 0, "", "", "", "", "", "", "", "", "", 0)
	f.Fuzz(func(t *testing.T, kind, sleep, timeout, command, interval string, retries int, onFailure,
		rawURL, network, port, socket, path, method, header, value string, status int,
	) {
		s := Spec{Sleep: sleep, Timeout: timeout, Retries: retries, Interval: interval, OnFailure: onFailure}
		if rawURL+network+port+socket+path+method != "" {
			s.HTTP = &HTTPSpec{
				URL: rawURL, Network: network, Port: port, Socket: socket, Path: path, Method: method,
				Headers: map[string]string{header: value}, Status: []int{status},
			}
		}
		if command != "" {
			s.Exec = &ExecSpec{Command: strings.Fields(command)}
		}
		h, err := New(Kind(kind), 1, s)
		if err != nil {
			if !strings.HasPrefix(err.Error(), field(Kind(kind), 1)) {
				t.Fatalf("error does not name its field: %v", err)
			}
			return
		}
		if h.Timeout <= 0 || h.Timeout > MaxTimeout+time.Second {
			t.Fatalf("accepted a timeout of %s", h.Timeout)
		}
		if h.Interval < minInterval || h.Retries < 0 || h.Retries > MaxRetries {
			t.Fatalf("accepted interval %s, retries %d", h.Interval, h.Retries)
		}
		if h.Kind.group() && (h.Exec != nil || h.HTTP != nil && h.HTTP.Socket != "") {
			t.Fatal("accepted a hook of the group that only one task can run")
		}
		if (h.Kind == Save || h.Kind == Restore) && (h.Sleep > 0 || h.HTTP != nil && h.HTTP.URL != "") {
			t.Fatal("accepted a checkpoint that is not the task's own")
		}
		if h.HTTP != nil && h.HTTP.Socket != "" && (strings.HasPrefix(h.HTTP.Socket, "/") || strings.HasPrefix(h.HTTP.Socket+"/", "../")) {
			t.Fatalf("accepted socket %q", h.HTTP.Socket)
		}
	})
}
