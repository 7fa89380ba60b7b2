package config

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"gocloud.dev/blob"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/files"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/httpmode"
	"github.com/nomad-patterns/nomad-patterns/queue"
)

const (
	maxSlots            = 1000
	maxDrainTimeout     = 24 * time.Hour
	defaultDrainTimeout = 30 * time.Second
	// maxID is how long a worker's name may be at a broker, in bytes.
	maxID = 64
	// resolveTimeout bounds a look into Consul's catalog.
	resolveTimeout = 5 * time.Second
)

// Worker is the configuration of a worker. It is checked.
type Worker struct {
	Files  files.Config
	Client queue.ClientConfig
	Queue  string
	Stage  string
	ID     string
	Slots  int

	// One of them says how items are done.
	Command   []string
	HTTP      string
	Dispatch  string
	HTTPReady string // goes with HTTP

	NoOutput      bool
	UntilFinished bool
	IdleExit      time.Duration
	DrainTimeout  time.Duration
	Listen        *agent.Listen // nil: there is no API
	Log           agent.LogConfig
}

// Source declares the flags of the worker. The function that it returns is called after
// they have been parsed, with the command; its error is an *agent.ConfigError. Publish
// leaves out what does not matter to the command of this name.
func Source(fs *flag.FlagSet, publish bool) func(command []string) (*Worker, error) {
	f := newFile()
	var paths agent.Value[[]string]
	paths.Flag(fs, "config", "HCL or JSON `file`, or directory of such; may be given several times")
	f.flags(fs, publish)
	return func(command []string) (*Worker, error) {
		var p agent.Problems
		f.env(&p)
		p.Add(agent.Load(paths.V, f))
		if err := p.Err(); err != nil {
			return nil, err // to check what could not be read would only add noise
		}
		if len(command) > 0 {
			f.Command = agent.Value[[]string]{V: command, From: "the command"}
		}
		w := f.worker(&p, publish)
		return w, p.Err()
	}
}

// worker checks everything.
func (f *file) worker(p *agent.Problems, publish bool) *Worker {
	if !f.ID.IsSet() {
		id, err := agent.DefaultID()
		if err != nil {
			p.Addf("", "id", "%v", err)
		}
		f.ID.Default(id[:min(len(id), maxID)])
	}
	f.Slots.Default(1)
	f.DrainTimeout.Default(defaultDrainTimeout)
	f.Name.Default(files.DefaultName)
	f.WorkDir.Default(cmp.Or(os.Getenv("NOMAD_TASK_DIR"), os.TempDir()))

	if !f.Queue.IsSet() {
		p.Addf("", "queue", "is missing; give -queue or WORKER_QUEUE")
	} else {
		checkField(p, f.Queue.From, queue.CheckName("queue", f.Queue.V))
	}
	if f.Stage.V != "" {
		checkField(p, f.Stage.From, queue.CheckName("stage", f.Stage.V))
	}
	if f.ID.V == "" || len(f.ID.V) > maxID {
		p.Addf(f.ID.From, "id", "%q does not have 1 to %d bytes", f.ID.V, maxID)
	}
	agent.Between(p, "slots", f.Slots, 1, maxSlots)
	agent.Between(p, "idle_exit", f.IdleExit, 0, maxDrainTimeout)
	agent.Between(p, "drain_timeout", f.DrainTimeout, 0, maxDrainTimeout)
	f.checkWay(p, publish)
	f.checkFiles(p)
	f.checkListen(p, publish)
	level, err := agent.ParseLevel(f.LogLevel.V)
	if err != nil {
		p.Addf(f.LogLevel.From, "log_level", "%v", err)
	}
	w := &Worker{
		Files: files.Config{
			Queue: f.Queue.V, InputDirs: f.InputDirs.V, InputURLs: f.InputURLs.V, Output: f.Output.V, Name: f.Name.V,
			WorkDir: f.WorkDir.V, Remote: f.Dispatch.V != "",
		},
		Client: f.client(p), Queue: f.Queue.V, Stage: f.Stage.V, ID: f.ID.V, Slots: f.Slots.V,
		Command: f.Command.V, HTTP: f.HTTP.V, HTTPReady: f.HTTPReady.V, Dispatch: f.Dispatch.V,
		NoOutput: f.NoOutput.V, UntilFinished: f.UntilFinished.V, IdleExit: f.IdleExit.V, DrainTimeout: f.DrainTimeout.V,
		Log: agent.LogConfig{Level: level, JSON: f.LogJSON.V},
	}
	if f.Listen.Address.V != "" {
		w.Listen = f.Listen
	}
	return w
}

// checkWay checks that there is exactly one way to do items.
func (f *file) checkWay(p *agent.Problems, publish bool) {
	if publish {
		return
	}
	ways := 0
	for _, given := range []bool{len(f.Command.V) > 0, f.HTTP.V != "", f.Dispatch.V != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		p.Addf("", "", "give one of a command after --, -http and -dispatch; there are %d", ways)
	}
	if f.HTTP.V != "" {
		if err := httpmode.CheckURL(f.HTTP.V); err != nil {
			p.Addf(f.HTTP.From, "http", "%v", err)
		}
	}
	if f.HTTPReady.V != "" {
		if err := httpmode.CheckURL(f.HTTPReady.V); err != nil {
			p.Addf(f.HTTPReady.From, "http_ready", "%v", err)
		}
		if f.HTTP.V == "" {
			p.Addf(f.HTTPReady.From, "http_ready", "goes with -http only")
		}
	}
	if f.Output.V == "" && !f.NoOutput.V {
		p.Addf(f.Output.From, "output", "is missing; say where outputs go, or -no-output if there are none")
	}
}

func (f *file) checkFiles(p *agent.Problems) {
	if err := files.CheckName(f.Name.V); err != nil {
		p.Addf(f.Name.From, "name", "%v", err)
	}
	for _, dir := range f.InputDirs.V {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			p.Addf(f.InputDirs.From, "input_dirs", "%q is no directory", dir)
		}
	}
	for _, u := range f.InputURLs.V {
		if !strings.Contains(u, "://") {
			p.Addf(f.InputURLs.From, "input_urls", "%sis not the beginning of a URL such as s3://bucket/", shown(u, f.InputURLs.V))
		}
	}
	if err := checkOutput(f.Output.V); err != nil {
		p.Addf(f.Output.From, "output", "%v", err)
	}
}

// checkOutput finds what files.New would refuse when the worker starts, without opening
// anything. The error does not show the place: there may be a password in it.
func checkOutput(place string) error {
	if !strings.Contains(place, "://") {
		return nil // a directory, or nothing
	}
	u, err := url.Parse(place)
	switch mux := blob.DefaultURLMux(); {
	case err != nil:
		return errors.New("is not a directory, and not a URL such as s3://bucket/prefix?region=eu-central-1")
	case u.User != nil:
		return errors.New("must be without user and password")
	case u.Scheme == "file":
		if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
			return errors.New("is not file:// and an absolute path")
		}
	case !mux.ValidBucketScheme(u.Scheme):
		return fmt.Errorf("%s:// is not a blob store that is known here; give a directory, or a URL that begins with %s://",
			u.Scheme, strings.Join(mux.BucketSchemes(), ":// or "))
	case u.Host == "":
		return fmt.Errorf("names no bucket; write for example %s://bucket/prefix", u.Scheme)
	}
	return nil
}

// checkListen checks the API. Settings of one that there is not are refused, or nobody
// would see that they do nothing.
func (f *file) checkListen(p *agent.Problems, publish bool) {
	l := f.Listen
	if l.Address.V != "" {
		l.Check(p)
		return
	}
	if publish || l.Address.IsSet() {
		return // the API of a file is not wanted: publish has none, and -listen= turns it off
	}
	for _, s := range []struct {
		name string
		agent.Value[string]
	}{
		{"socket_mode", l.SocketMode}, {"cert_file", l.CertFile}, {"key_file", l.KeyFile},
		{"client_ca_file", l.ClientCAFile}, {"token_file", l.TokenFile}, {"management", l.Management},
	} {
		if s.V != "" {
			p.Addf(s.From, s.name, "needs -listen or WORKER_LISTEN, the address of the API")
		}
	}
}

// shown is the beginning of a problem with one of several addresses: the address, or
// nothing if there may be a password in it. All count, since QUEUE_ADDR is split at commas,
// and then only one part of a password with a comma has the @.
func shown(address string, all []string) string {
	if strings.Contains(strings.Join(all, " "), "@") {
		return ""
	}
	return strconv.Quote(address) + " "
}

// checkField adds a *queue.FieldError.
func checkField(p *agent.Problems, from string, err error) {
	var bad *queue.FieldError
	switch {
	case errors.As(err, &bad):
		p.Addf(from, bad.Field, "%s", bad.Problem)
	case err != nil:
		p.Addf(from, "", "%v", err)
	}
}

// client says how brokers are found and spoken to.
func (f *file) client(p *agent.Problems) queue.ClientConfig {
	cfg := queue.ClientConfig{
		Addresses: f.Brokers.Addresses.V,
		Token:     agent.ReadToken(p, "token_file", f.Brokers.TokenFile),
		Transport: &http.Transport{
			TLSClientConfig:     agent.ClientTLS(p, f.Brokers.CAFile, f.Brokers.CertFile, f.Brokers.KeyFile),
			MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 5 * time.Second, ForceAttemptHTTP2: true,
		},
	}
	for _, a := range cfg.Addresses {
		if _, err := agent.BaseURL(a); err != nil {
			p.Addf(f.Brokers.Addresses.From, "queue-addr", "%s%v", shown(a, cfg.Addresses), err)
		}
	}
	if len(cfg.Addresses) > 0 {
		return cfg
	}
	client, err := api.NewClient(f.Consul.Client(p))
	if err != nil {
		p.Addf("", "consul", "%v", err)
		return cfg
	}
	name := "queue-" + f.Queue.V
	cfg.Resolve = func(ctx context.Context) ([]string, error) { return resolve(ctx, client, name) }
	return cfg
}

// resolve finds the brokers that lead shards of a queue.
func resolve(ctx context.Context, client *api.Client, service string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	entries, _, err := client.Health().Service(service, "", true, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("ask consul for service %q: %w", service, err)
	}
	var found []string
	for _, e := range entries {
		address := e.Service.Meta["address"]
		if address == "" {
			host := e.Service.Address
			if host == "" {
				host = e.Node.Address
			}
			address = net.JoinHostPort(host, strconv.Itoa(e.Service.Port))
		}
		found = append(found, address)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("consul knows no broker of this queue: no healthy service %q", service)
	}
	return found, nil
}
