package config

import (
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
	"github.com/nomad-patterns/nomad-patterns/agents/worker/files"
)

// load reads a configuration, written to a file, with flags, and a command after "--".
// FILE in the error stands for the file's path.
func load(t *testing.T, publish bool, content string, args ...string) (*Worker, error) {
	t.Helper()
	file := write(t, t.TempDir(), "w.hcl", content)
	fs := flag.NewFlagSet("worker", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	get := Source(fs, publish)
	must.NoError(t, fs.Parse(append([]string{"-config", file}, args...)))
	cfg, err := get(fs.Args())
	if err != nil {
		must.Eq(t, agent.ExitConfig, agent.ExitCode(err))
		err = fmt.Errorf("%s", strings.ReplaceAll(err.Error(), file, "FILE"))
	}
	return cfg, err
}

// enough is what has to be given.
const enough = "-queue=docs -output=out -- true"

// run is load for a worker, with arguments in one text.
func run(t *testing.T, content, args string) (*Worker, error) {
	t.Helper()
	return load(t, false, content, strings.Fields(args)...)
}

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// bare keeps the machine's environment out of a test.
func bare(t *testing.T) {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		for _, prefix := range []string{"NOMAD_", "CONSUL_", "QUEUE_", "WORKER_"} {
			if strings.HasPrefix(name, prefix) {
				t.Setenv(name, "")
			}
		}
	}
}

// certificate writes a certificate and its key.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	server := httptest.NewTLSServer(nil) // it has one
	server.Close()
	pair := server.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	must.NoError(t, err)
	return write(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))),
		write(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func TestDefaults(t *testing.T) {
	bare(t)
	w, err := run(t, "", enough)
	must.NoError(t, err)
	host, err := os.Hostname()
	must.NoError(t, err)
	must.Eq(t, fmt.Sprintf("%s-%d", host, os.Getpid()), w.ID)
	must.NotNil(t, w.Client.Resolve) // Consul is asked
	must.NotNil(t, w.Client.Transport)
	w.ID, w.Client.Resolve, w.Client.Transport = "", nil, nil
	must.Eq(t, &Worker{
		Files: files.Config{Queue: "docs", Output: "out", Name: "{path}", WorkDir: os.TempDir()},
		Queue: "docs", Slots: 1, Command: []string{"true"}, DrainTimeout: 30 * time.Second, Log: agent.LogConfig{Level: hclog.Info},
	}, w)
}

// In a task of Nomad the worker is named after it.
func TestInNomad(t *testing.T) {
	bare(t)
	t.Setenv("NOMAD_ALLOC_ID", "12345678-9abc-def0-1234-56789abcdef0")
	t.Setenv("NOMAD_ALLOC_INDEX", "3")
	t.Setenv("NOMAD_GROUP_NAME", "resize")
	t.Setenv("NOMAD_TASK_DIR", "/task/local")
	w, err := run(t, "", enough)
	must.NoError(t, err)
	must.Eq(t, "resize-3-12345678", w.ID)
	must.Eq(t, "/task/local", w.Files.WorkDir)
	w, err = run(t, `work_dir = "/scratch"`, enough)
	must.NoError(t, err)
	must.Eq(t, "/scratch", w.Files.WorkDir)
	// A broker would refuse a longer one.
	t.Setenv("NOMAD_GROUP_NAME", strings.Repeat("g", 100))
	w, err = run(t, "", enough)
	must.NoError(t, err)
	must.Eq(t, strings.Repeat("g", 64), w.ID)
}

const full = `
queue          = "docs"
stage          = "words"
id             = "w-1"
slots          = 4
idle_exit      = "1m"
until_finished = true
drain_timeout  = "20s"

command = ["/bin/count", "$WQ_INPUT"]

input_dirs = ["DIR/a", "DIR/b"]
input_urls = ["s3://in/docs/?region=eu-central-1"]
output     = "s3://out/words?region=eu-central-1"
no_output  = true
name       = "{dir}/{stem}-{id}{attr.lang}{ext}"
work_dir   = "/scratch"

log_level = "debug"
log_json  = true

brokers {
  addresses  = ["10.0.0.7:4050", "https://b:4050", "unix:///run/queue.sock"]
  token_file = "DIR/token"
  ca_file    = "DIR/cert.pem"
  cert_file  = "DIR/cert.pem"
  key_file   = "DIR/key.pem"
}

consul {
  address = "http://consul:8500"
}

listen {
  address     = ":4060"
  token_file  = "DIR/token"
  socket_mode = "0660"
  management  = "127.0.0.1:0"
}
`

// place fills a directory with what the full file names, and puts it into that.
func place(t *testing.T) (dir, content string) {
	t.Helper()
	dir = t.TempDir()
	must.NoError(t, os.Mkdir(filepath.Join(dir, "a"), 0o700))
	must.NoError(t, os.Mkdir(filepath.Join(dir, "b"), 0o700))
	write(t, dir, "token", "  secret\n")
	certificate(t, dir)
	return dir, strings.ReplaceAll(full, "DIR", dir)
}

func TestFull(t *testing.T) {
	bare(t)
	dir, content := place(t)
	w, err := run(t, content, "")
	must.NoError(t, err)
	tls := w.Client.Transport.TLSClientConfig
	must.NotNil(t, tls.RootCAs)
	must.SliceLen(t, 1, tls.Certificates)
	must.Nil(t, w.Client.Resolve) // brokers were given
	must.Eq(t, ":4060", w.Listen.Address.V)
	must.Eq(t, filepath.Join(dir, "token"), w.Listen.TokenFile.V)
	must.Eq(t, "0660", w.Listen.SocketMode.V)
	must.Eq(t, "127.0.0.1:0", w.Listen.Management.V)
	must.Eq(t, []string{"10.0.0.7:4050", "https://b:4050", "unix:///run/queue.sock"}, w.Client.Addresses)
	must.Eq(t, "secret", w.Client.Token)
	want := &Worker{
		Files: files.Config{
			Queue: "docs", InputDirs: []string{dir + "/a", dir + "/b"}, InputURLs: []string{"s3://in/docs/?region=eu-central-1"},
			Output: "s3://out/words?region=eu-central-1", Name: "{dir}/{stem}-{id}{attr.lang}{ext}", WorkDir: "/scratch",
		},
		Client: w.Client, Queue: "docs", Stage: "words", ID: "w-1", Slots: 4, Command: []string{"/bin/count", "$WQ_INPUT"},
		NoOutput: true, UntilFinished: true, IdleExit: time.Minute, DrainTimeout: 20 * time.Second,
		Listen: w.Listen, Log: agent.LogConfig{Level: hclog.Debug, JSON: true},
	}
	w.Client.Transport, want.Client.Transport = nil, nil
	must.Eq(t, want, w)
}

// What cannot be said by a file that has a command.
func TestWays(t *testing.T) {
	bare(t)
	for name, c := range map[string]struct {
		content, args string
		want          Worker
		remote        bool
	}{
		"the command of flags": {`command = ["no"]`, "-queue=q -no-output -- /bin/x -slots=3 y", Worker{Command: []string{"/bin/x", "-slots=3", "y"}}, false},
		"http":                 {"", "-queue=q -no-output -http=http://h/w -http-ready=http://h/r", Worker{HTTP: "http://h/w", HTTPReady: "http://h/r"}, false},
		"http in the file":     {"http = \"http://h/w\"\nhttp_ready = \"http://h/r\"", "-queue=q -no-output", Worker{HTTP: "http://h/w", HTTPReady: "http://h/r"}, false},
		"dispatch":             {"", "-queue=q -no-output -dispatch=job", Worker{Dispatch: "job"}, true},
		"dispatch in the file": {`dispatch = "job"`, "-queue=q -no-output", Worker{Dispatch: "job"}, true},
		"flag over file":       {`dispatch = "job"`, "-queue=q -no-output -dispatch= -- x", Worker{Command: []string{"x"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := run(t, c.content, c.args)
			must.NoError(t, err)
			must.Eq(t, c.want, Worker{Command: w.Command, HTTP: w.HTTP, HTTPReady: w.HTTPReady, Dispatch: w.Dispatch})
			must.Eq(t, c.remote, w.Files.Remote)
			must.True(t, w.NoOutput)
		})
	}
}

// Flags come before the environment, and that before files.
func TestPrecedence(t *testing.T) {
	bare(t)
	dir := t.TempDir()
	inFile, inEnv, inFlag := filepath.Join(dir, "file"), filepath.Join(dir, "env"), filepath.Join(dir, "flag")
	for _, d := range []string{inFile, inEnv, inFlag} {
		must.NoError(t, os.Mkdir(d, 0o700))
		write(t, d, "token", filepath.Base(d))
	}
	for name, c := range map[string]struct {
		file, env, flag string // as they are written there
		get             func(*Worker) any
		want            [3]any // in the same order
	}{
		"queue": {
			`queue = "f"`, "WORKER_QUEUE=e", "-queue=x",
			func(w *Worker) any { return w.Queue + w.Files.Queue }, [3]any{"ff", "ee", "xx"},
		},
		"stage":     {`stage = "f"`, "WORKER_STAGE=e", "-stage=x", func(w *Worker) any { return w.Stage }, [3]any{"f", "e", "x"}},
		"id":        {`id = "f"`, "WORKER_ID=e", "-id=x", func(w *Worker) any { return w.ID }, [3]any{"f", "e", "x"}},
		"slots":     {`slots = 2`, "WORKER_SLOTS=3", "-slots=4", func(w *Worker) any { return w.Slots }, [3]any{2, 3, 4}},
		"idle exit": {`idle_exit = "2s"`, "WORKER_IDLE_EXIT=3s", "-idle-exit=4s", func(w *Worker) any { return w.IdleExit.Seconds() }, [3]any{2.0, 3.0, 4.0}},
		"drain timeout": {
			`drain_timeout = "2s"`, "WORKER_DRAIN_TIMEOUT=3s", "-drain-timeout=0s",
			func(w *Worker) any { return w.DrainTimeout.Seconds() }, [3]any{2.0, 3.0, 0.0},
		},
		"input dir": {
			`input_dirs = ["` + inFile + `"]`, "WORKER_INPUT_DIR=" + inEnv, "-input-dir=" + inFlag,
			func(w *Worker) any { return strings.Join(w.Files.InputDirs, " ") }, [3]any{inFile, inEnv, inFlag},
		},
		"output":   {`output = "f"`, "WORKER_OUTPUT=e", "-output=x", func(w *Worker) any { return w.Files.Output }, [3]any{"f", "e", "x"}},
		"work dir": {`work_dir = "f"`, "WORKER_WORK_DIR=e", "-work-dir=x", func(w *Worker) any { return w.Files.WorkDir }, [3]any{"f", "e", "x"}},
		"log level": {
			`log_level = "debug"`, "WORKER_LOG_LEVEL=warn", "-log-level=error",
			func(w *Worker) any { return w.Log.Level.String() }, [3]any{"debug", "warn", "error"},
		},
		"log json": {`log_json = true`, "WORKER_LOG_JSON=false", "-log-json", func(w *Worker) any { return w.Log.JSON }, [3]any{true, false, true}},
		"listen": {
			"listen {\n  address = \"127.0.0.1:1\"\n}", "WORKER_LISTEN=127.0.0.1:2", "-listen=127.0.0.1:3",
			func(w *Worker) any { return w.Listen.Address.V }, [3]any{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"},
		},
		"brokers": {
			"brokers {\n  addresses = [\"f:1\"]\n}", "QUEUE_ADDR=e:1,e:2", "-queue-addr=x:1 -queue-addr=x:2",
			func(w *Worker) any { return strings.Join(w.Client.Addresses, " ") }, [3]any{"f:1", "e:1 e:2", "x:1 x:2"},
		},
		"token": {
			"brokers {\n  token_file = \"" + inFile + "/token\"\n}", "QUEUE_TOKEN_FILE=" + inEnv + "/token", "-queue-token-file=" + inFlag + "/token",
			func(w *Worker) any { return w.Client.Token }, [3]any{"file", "env", "flag"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			rest := "-no-output -- true"
			if name != "queue" {
				rest = "-queue=docs " + rest
			}
			check := func(want any, args string) {
				t.Helper()
				w, err := run(t, c.file, args)
				must.NoError(t, err)
				must.Eq(t, want, c.get(w))
			}
			check(c.want[0], rest)
			variable, value, _ := strings.Cut(c.env, "=")
			t.Setenv(variable, value)
			check(c.want[1], rest)
			check(c.want[2], c.flag+" "+rest)
		})
	}
}

// Files that are not there are named with the place that has named them.
func TestPlacesOfFiles(t *testing.T) {
	bare(t)
	cert, key := certificate(t, t.TempDir())
	for name, c := range map[string]struct{ file, env, flag, field, more string }{
		"token":       {"token_file", "QUEUE_TOKEN_FILE", "-queue-token-file", "token_file", ""},
		"CA":          {"ca_file", "QUEUE_CACERT", "-queue-ca-file", "ca-file", ""},
		"certificate": {"cert_file", "QUEUE_CLIENT_CERT", "-queue-cert-file", "client-cert-file", `key_file = "` + key + `"`},
		"key":         {"key_file", "QUEUE_CLIENT_KEY", "-queue-key-file", "client-key-file", `cert_file = "` + cert + `"`},
	} {
		t.Run(name, func(t *testing.T) {
			content := "brokers {\n  " + c.file + " = \"/f\"\n" + c.more + "\n}"
			_, err := run(t, content, enough)
			must.EqError(t, err, fmt.Sprintf("FILE:2:%d: %s: open /f: no such file or directory", len(c.file)+6, c.field))
			t.Setenv(c.env, "/e")
			_, err = run(t, content, enough)
			must.EqError(t, err, c.env+": "+c.field+": open /e: no such file or directory")
			_, err = run(t, content, c.flag+"=/x "+enough)
			must.EqError(t, err, c.flag+": "+c.field+": open /x: no such file or directory")
		})
	}
}

func TestKeyOfBrokers(t *testing.T) {
	bare(t)
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	t.Setenv("QUEUE_CLIENT_CERT", cert)
	t.Setenv("QUEUE_CLIENT_KEY", key)
	w, err := run(t, "brokers {\n  key_file = \"/f\"\n}", enough)
	must.NoError(t, err)
	must.SliceLen(t, 1, w.Client.Transport.TLSClientConfig.Certificates)
}

func TestProblems(t *testing.T) {
	const (
		nameRule = "is not 1 to 63 small letters, digits, dashes and underscores beginning with a letter or digit"
		addrRule = "is not host:port, http://…, https://… or unix:///path"
		wayRule  = "give one of a command after --, -http and -dispatch; there are "
		noUser   = "must be without user and password"
		urlRule  = "is not a URL such as http://127.0.0.1:9000/work"
		listen   = "needs -listen or WORKER_LISTEN, the address of the API"
		together = "a certificate and its key belong together; give the file of the "
		reached  = "can be reached from other machines; give cert_file and key_file, or token_file, or an address on 127.0.0.1 or unix:///"
		noFile   = "no such file or directory"
	)
	bare(t)
	dir := t.TempDir()
	nothing, token := write(t, dir, "nothing", " \n"), write(t, dir, "token", "t")
	for name, c := range map[string]struct {
		content, args string // no args: enough
		env           string // one variable
		want          string
	}{
		"unknown key":   {content: "slot = 1", want: `FILE:1:1: Unsupported argument; An argument named "slot" is not expected here. Did you mean "slots"?`},
		"unknown block": {content: "broker {}", want: `FILE:1:1: Unsupported block type; Blocks of type "broker" are not expected here. Did you mean "brokers"?`},
		"two blocks": {
			content: "listen {}\nlisten {}", want: "FILE:2:1: Duplicate listen block; Only one listen block is allowed. Another was defined at FILE:1,1-7.",
		},
		"type":              {content: `slots = "many"`, want: "FILE:1:9: a number is required"},
		"half a slot":       {content: "slots = 1.5", want: "FILE:1:9: value must be a whole number, between -9223372036854775808 and 9223372036854775807"},
		"duration":          {content: `idle_exit = "5"`, want: `FILE:1:13: "5" is not a duration; write for example "1.5s" or "200ms"`},
		"variable":          {env: "WORKER_SLOTS=many", want: `WORKER_SLOTS: "many" is not a whole number`},
		"boolean variable":  {env: "WORKER_LOG_JSON=perhaps", want: `WORKER_LOG_JSON: "perhaps" is not true or false`},
		"duration variable": {env: "WORKER_DRAIN_TIMEOUT=soon", want: `WORKER_DRAIN_TIMEOUT: "soon" is not a duration; write for example "1.5s" or "200ms"`},
		"no file":           {args: "-config=/nope " + enough, want: "-config: stat /nope: " + noFile},
		// What could not be read is not checked, or the worker would ask for a queue.
		"variable and file": {content: "xyz = 1", args: "-- true", env: "WORKER_SLOTS=many", want: `WORKER_SLOTS: "many" is not a whole number` + "\n" +
			`FILE:1:1: Unsupported argument; An argument named "xyz" is not expected here.`},

		"no queue":          {args: "-output=out -- true", want: "queue: is missing; give -queue or WORKER_QUEUE"},
		"queue in the file": {content: `queue = "A"`, args: "-output=out -- true", want: `FILE:1:9: queue: "A" ` + nameRule},
		"queue variable":    {args: "-output=out -- true", env: "WORKER_QUEUE=a/b", want: `WORKER_QUEUE: queue: "a/b" ` + nameRule},
		"queue flag":        {args: "-queue=-a -output=out -- true", want: `-queue: "-a" ` + nameRule},
		"empty queue":       {args: "-queue= -output=out -- true", want: `-queue: "" ` + nameRule},
		"stage":             {content: `stage = "A"`, want: `FILE:1:9: stage: "A" ` + nameRule},
		"empty id":          {args: "-id= " + enough, want: `-id: "" does not have 1 to 64 bytes`},
		"long id":           {content: `id = "` + strings.Repeat("é", 33) + `"`, want: `FILE:1:6: id: "` + strings.Repeat("é", 33) + `" does not have 1 to 64 bytes`},
		"no slot":           {content: "slots = 0", want: "FILE:1:9: slots: 0 is not between 1 and 1000"},
		"slots":             {env: "WORKER_SLOTS=1001", want: "WORKER_SLOTS: slots: 1001 is not between 1 and 1000"},
		"idle exit":         {args: "-idle-exit=-1s " + enough, want: "-idle-exit: idle_exit: -1s is not between 0s and 24h0m0s"},
		"long idle exit":    {content: `idle_exit = "25h"`, want: "FILE:1:13: idle_exit: 25h0m0s is not between 0s and 24h0m0s"},
		"drain timeout":     {content: `drain_timeout = "-1s"`, want: "FILE:1:17: drain_timeout: -1s is not between 0s and 24h0m0s"},
		"log level":         {content: `log_level = "loud"`, want: `FILE:1:13: log_level: "loud" is not one of trace, debug, info, warn, error and off`},

		"no way":            {args: "-queue=q -output=out", want: wayRule + "0"},
		"an empty command":  {content: "command = []", args: "-queue=q -output=out", want: wayRule + "0"},
		"command and http":  {args: "-http=http://h " + enough, want: wayRule + "2"},
		"http and dispatch": {content: `http = "http://h"`, args: "-queue=q -output=out -dispatch=job", want: wayRule + "2"},
		"file and dispatch": {content: `command = ["x"]`, args: "-queue=q -output=out -dispatch=job", want: wayRule + "2"},
		"all ways":          {args: "-http=http://h -dispatch=job " + enough, want: wayRule + "3"},
		"http ready":        {content: `http_ready = "http://h"`, want: "FILE:1:14: http_ready: goes with -http only"},
		"http ready alone":  {args: "-http-ready=h " + enough, want: "-http-ready: http_ready: " + urlRule + "\n-http-ready: http_ready: goes with -http only"},
		"http without host": {args: "-queue=q -no-output -http=http://", want: "-http: " + urlRule},
		"http of a socket":  {args: "-queue=q -no-output -http=unix:///run/s", want: "-http: " + urlRule},
		"http in the file":  {content: `http = "127.0.0.1:9000"`, args: "-queue=q -no-output", want: "FILE:1:8: http: " + urlRule},
		"http with a user":  {args: "-queue=q -no-output -http=http://me@h", want: "-http: " + noUser},
		"ready and http":    {args: "-queue=q -no-output -http=http://h -http-ready=/ready", want: "-http-ready: http_ready: " + urlRule},
		"no output":         {args: "-queue=q -- true", want: "output: is missing; say where outputs go, or -no-output if there are none"},
		"empty output": {
			content: `output = ""`, args: "-queue=q -- true",
			want: "FILE:1:10: output: is missing; say where outputs go, or -no-output if there are none",
		},

		"output store":        {args: "-output=ftp://x -queue=q -- true", want: "-output: ftp:// is not a blob store that is known here; give a directory, or a URL that begins with s3://"},
		"output in the file":  {content: `output = "gs://b"`, args: "-queue=q -- true", want: "FILE:1:10: output: gs:// is not a blob store that is known here; give a directory, or a URL that begins with s3://"},
		"output variable":     {env: "WORKER_OUTPUT=s3:///docs", args: "-queue=q -- true", want: "WORKER_OUTPUT: output: names no bucket; write for example s3://bucket/prefix"},
		"output with a user":  {args: "-output=s3://me@b -queue=q -- true", want: "-output: " + noUser},
		"output of no scheme": {args: "-output=://b -queue=q -- true", want: "-output: is not a directory, and not a URL such as s3://bucket/prefix?region=eu-central-1"},
		"output elsewhere":    {args: "-output=file://host/out -queue=q -- true", want: "-output: is not file:// and an absolute path"},
		"output as file":      {args: "-output=file:///out -queue=q -- true"},
		"output on this host": {args: "-output=file://localhost/out -queue=q -- true"},
		"output in S3":        {args: "-output=S3://b/x?region=r -queue=q -- true"},

		"name":      {content: `name = "{stem}-{size}"`, want: "FILE:1:8: name: {size} is not one of {path}, {dir}, {name}, {stem}, {ext}, {id}, {key} and {attr.…}"},
		"brace":     {args: "-name={stem}} " + enough, want: `-name: "{stem}}" has a brace that is no pair`},
		"input dir": {args: "-input-dir=/nope " + enough, want: `-input-dir: input_dirs: "/nope" is no directory`},
		"input dirs": {
			content: `input_dirs = ["` + dir + `", "no/such", "` + token + `"]`,
			want:    `FILE:1:14: input_dirs: "no/such" is no directory` + "\n" + `FILE:1:14: input_dirs: "` + token + `" is no directory`,
		},
		"input url": {content: `input_urls = ["s3://b/", "b/docs"]`, want: `FILE:1:14: input_urls: "b/docs" is not the beginning of a URL such as s3://bucket/`},

		"broker":          {content: "brokers {\n  addresses = [\"b:1\", \"ftp://b\"]\n}", want: `FILE:2:15: queue-addr: "ftp://b" ` + addrRule},
		"broker variable": {env: "QUEUE_ADDR=b:1,", want: `QUEUE_ADDR: queue-addr: "" ` + addrRule},
		"broker flag":     {args: "-queue-addr=http:// " + enough, want: `-queue-addr: "http://" ` + addrRule},
		"broker's user":   {env: "QUEUE_ADDR=a:1,http://me:x@b", want: "QUEUE_ADDR: queue-addr: " + noUser},
		"comma and user":  {env: "QUEUE_ADDR=http://me:x,y@b", want: "QUEUE_ADDR: queue-addr: " + addrRule + "\nQUEUE_ADDR: queue-addr: " + noUser},
		"broker token":    {args: "-queue-token-file=" + nothing + " " + enough, want: "-queue-token-file: token_file: " + nothing + " is empty"},
		"key alone":       {args: "-queue-key-file=/x " + enough, want: "-queue-key-file: client-key-file: " + together + "certificate too"},
		"empty cert":      {args: "-queue-cert-file= -queue-key-file=/x " + enough, want: "-queue-key-file: client-key-file: " + together + "certificate too"},
		"cert alone":      {content: "brokers {\n  cert_file = \"/x\"\n}", want: "FILE:2:15: client-cert-file: " + together + "key too"},
		"broker CA":       {args: "-queue-ca-file=" + token + " " + enough, want: "-queue-ca-file: ca-file: " + token + " has no certificate in PEM form"},
		"broker key": {
			args: "-queue-cert-file=" + token + " -queue-key-file=" + token + " " + enough,
			want: "-queue-cert-file: client-cert-file: tls: failed to find any PEM data in certificate input",
		},

		"consul": {
			content: "consul {\n  address = \"tcp://c\"\n}",
			want:    `FILE:2:13: address: tcp:// is not http, https or unix; give host:port or such a URL` + "\n" + "consul: Unknown protocol scheme: tcp",
		},
		"consul token":     {args: "-consul-token-file=/nope " + enough, want: "-consul-token-file: token_file: open /nope: " + noFile},
		"no consul token":  {env: "CONSUL_HTTP_TOKEN_FILE=" + nothing, want: "CONSUL_HTTP_TOKEN_FILE: token_file: " + nothing + " is empty"},
		"consul CA":        {args: "-consul-ca-file=/nope " + enough, want: "consul: Error loading CA File: open /nope: " + noFile},
		"consul not asked": {args: "-consul-token-file=/nope -queue-addr=b " + enough},

		"all interfaces":  {content: "listen {\n  address = \":4060\"\n}", want: `FILE:2:13: address: ":4060" ` + reached},
		"another machine": {env: "WORKER_LISTEN=192.0.2.1:4060", want: `WORKER_LISTEN: address: "192.0.2.1:4060" ` + reached},
		"with a token":    {args: "-listen=:4060 -listen-token-file=" + token + " " + enough},
		"empty token":     {args: "-listen=127.0.0.1:0 -listen-token-file=" + nothing + " " + enough, want: "-listen-token-file: token_file: " + nothing + " is empty"},
		"no token":        {args: "-listen=:4060 -listen-token-file=/nope " + enough, want: "-listen-token-file: token_file: open /nope: " + noFile},
		"no port":         {args: "-listen=localhost " + enough, want: `-listen: address: "localhost" is not host:port or unix:///path`},
		"half of TLS": {
			args: "-listen=127.0.0.1:0 -listen-cert-file=" + token + " " + enough,
			want: "-listen-cert-file: cert_file: cert_file and key_file belong together; give both or neither",
		},
		"client CA": {
			args: "-listen=127.0.0.1:0 -listen-client-ca-file=" + token + " " + enough,
			want: "-listen-client-ca-file: client_ca_file: needs cert_file and key_file",
		},
		"socket mode": {
			args: "-listen=unix:///run/w.sock -listen-socket-mode=0400 " + enough,
			want: `-listen-socket-mode: socket_mode: "0400" is not an octal mode with 06 for the owner, for example "0660"`,
		},
		"API without address": {
			content: "listen {\n  socket_mode = \"0600\"\n  cert_file = \"/x\"\n  client_ca_file = \"/x\"\n}",
			args:    "-listen-key-file=/x -listen-token-file=/nope -management=:1 " + enough,
			want: "FILE:2:17: socket_mode: " + listen + "\nFILE:3:15: cert_file: " + listen + "\n-listen-key-file: key_file: " + listen + "\n" +
				"FILE:4:20: client_ca_file: " + listen + "\n-listen-token-file: token_file: " + listen + "\n-management: " + listen,
		},
		"API turned off":        {content: "listen {\n  address = \":4060\"\n  token_file = \"/nope\"\n}", args: "-listen= " + enough},
		"nothing of no API":     {args: "-management= " + enough},
		"address by a variable": {args: "-management=127.0.0.1:0 " + enough, env: "WORKER_LISTEN=127.0.0.1:0"},

		"management": {args: "-listen=127.0.0.1:0 -management=:6060 " + enough, want: `-management: ":6060" is not on loopback`},

		"several": {
			content: "slots = 0\nname = \"{\"\nstage = \"A\"", args: "-log-level=loud",
			want: strings.Join([]string{
				"queue: is missing; give -queue or WORKER_QUEUE",
				`FILE:3:9: stage: "A" ` + nameRule,
				"FILE:1:9: slots: 0 is not between 1 and 1000",
				wayRule + "0",
				"output: is missing; say where outputs go, or -no-output if there are none",
				`FILE:2:8: name: "{" has a brace that is no pair`,
				`-log-level: log_level: "loud" is not one of trace, debug, info, warn, error and off`,
			}, "\n"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.args == "" {
				c.args = enough
			}
			if variable, value, is := strings.Cut(c.env, "="); is {
				t.Setenv(variable, value)
			}
			_, err := run(t, c.content, c.args)
			if c.want == "" {
				must.NoError(t, err)
				return
			}
			must.EqError(t, err, c.want)
		})
	}
}

// The flags of a number or time say what is wrong before anything else is looked at.
func TestFlags(t *testing.T) {
	for arg, want := range map[string]string{
		"-slots=many":      `"many" is not a whole number`,
		"-idle-exit=5":     `"5" is not a duration`,
		"-no-output=maybe": `"maybe" is not true or false`,
		"-slot=1":          "flag provided but not defined: -slot",
	} {
		fs := flag.NewFlagSet("worker", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		Source(fs, false)
		must.ErrorContains(t, fs.Parse([]string{arg}), want)
	}
}

// The command that publishes needs no way to do items, and can have the file of a worker.
func TestPublish(t *testing.T) {
	bare(t)
	w, err := load(t, true, "", "-queue=docs")
	must.NoError(t, err)
	must.Eq(t, "docs", w.Queue)
	_, content := place(t)
	w, err = load(t, true, content, "-output=elsewhere")
	must.NoError(t, err)
	must.Eq(t, "elsewhere", w.Files.Output)
	// It has no API, and asks no program.
	_, err = load(t, true, "http = \"h\"\nlisten {\n  management = \"127.0.0.1:0\"\n}", "-queue=docs")
	must.NoError(t, err)
	_, err = load(t, true, "", "-queue=docs", "-output=ftp://x")
	must.ErrorContains(t, err, "-output: ftp://")
	_, err = load(t, true, "", "-queue=A")
	must.ErrorContains(t, err, `-queue: "A" is not`)
	fs := flag.NewFlagSet("publish", flag.ContinueOnError)
	Source(fs, true)
	for _, name := range []string{"stage", "slots", "http", "dispatch", "input-dir", "no-output", "name", "listen"} {
		must.Nil(t, fs.Lookup(name), must.Sprint(name))
	}
	must.NotNil(t, fs.Lookup("queue-token-file"))
}

// Whatever else is wrong, what is in token files, keys and the environment is not shown.
func TestSecrets(t *testing.T) {
	const secret = "hunter2"
	dir := t.TempDir()
	file := write(t, dir, "token", secret)
	cert, _ := certificate(t, dir)
	for name, c := range map[string]struct{ content, args, env string }{
		"token of brokers":  {args: "-queue-token-file=" + file},
		"token as CA":       {args: "-queue-ca-file=" + file},
		"token as key":      {args: "-queue-cert-file=" + cert + " -queue-key-file=" + file},
		"token of the API":  {args: "-listen=nowhere -listen-token-file=" + file},
		"token as file":     {args: "-config=" + file},
		"key of the API":    {args: "-listen=127.0.0.1:0 -listen-cert-file=" + cert + " -listen-key-file=" + file},
		"token of Consul":   {args: "-consul-token-file=" + file},
		"variable":          {env: "CONSUL_HTTP_TOKEN"},
		"Consul's password": {args: "-consul-address=http://me:" + secret + "@consul"},
		"in the file":       {content: "consul {\n  address = \"http://me:" + secret + "@consul\"\n}"},
		"in its variable":   {env: "CONSUL_HTTP_ADDR=http://me:" + secret + "@consul"},
		"output":            {args: "-output=s3://me:" + secret + "@bucket"},
		"bad output":        {args: "-output=s3://me:" + secret + "@%zz"},
		"output as file":    {args: "-output=file://me:" + secret + "@host/out"},
		"broker's password": {args: "-queue-addr=http://me:" + secret + "@broker"},
		"broker of no URL":  {args: "-queue-addr=me:" + secret + "@broker:4050"},
		"bad broker":        {args: "-queue-addr=http://me:" + secret + "@%zz"},
		"in the brokers":    {content: "brokers {\n  addresses = [\"ftp://me:" + secret + "@broker\"]\n}"},
		"in their variable": {env: "QUEUE_ADDR=http://me:" + secret + ",x@broker"},
		"input":             {content: "input_urls = [\"me:" + secret + "@bucket\"]"},
		"program":           {args: "-http=http://me:" + secret + "@program"},
		"bad program":       {args: "-http=http://me:" + secret + "@%zz"},
		"ready":             {args: "-http=http://h -http-ready=http://me:" + secret + "@program"},
	} {
		t.Run(name, func(t *testing.T) {
			bare(t)
			if c.env != "" {
				variable, value, is := strings.Cut(c.env, "=")
				if !is {
					value = secret
				}
				t.Setenv(variable, value)
			}
			_, err := run(t, c.content, c.args+" -slots=0")
			must.Error(t, err)
			must.StrNotContains(t, err.Error(), secret)
		})
	}
}

// Brokers that were not given are those that lead shards of the queue.
func TestResolve(t *testing.T) {
	bare(t)
	token := write(t, t.TempDir(), "token", "secret\n")
	for name, c := range map[string]struct {
		status int
		answer string
		want   []string
		err    string
	}{
		"their own word": {200, `[{"Service":{"Address":"10.0.0.1","Port":1,"Meta":{"address":"https://b:4050"}}},{"Service":{"Meta":{"address":"unix:///run/q"}}}]`,
			[]string{"https://b:4050", "unix:///run/q"}, ""},
		"of the service": {200, `[{"Node":{"Address":"10.0.0.9"},"Service":{"Address":"10.0.0.1","Port":4050}}]`, []string{"10.0.0.1:4050"}, ""},
		"of the node":    {200, `[{"Node":{"Address":"10.0.0.9"},"Service":{"Port":4050}}]`, []string{"10.0.0.9:4050"}, ""},
		"of IPv6":        {200, `[{"Service":{"Address":"fd00::1","Port":4050}}]`, []string{"[fd00::1]:4050"}, ""},
		"none":           {200, `[]`, nil, `consul knows no broker of this queue: no healthy service "queue-docs"`},
		"refused":        {403, "Permission denied", nil, `ask consul for service "queue-docs": Unexpected response code: 403 (Permission denied)`},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.URL.Path+"?"+r.URL.RawQuery+" "+r.Header.Get("X-Consul-Token"))
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.answer)
			}))
			defer server.Close()
			w, err := run(t, "", "-consul-address="+server.URL+" -consul-token-file="+token+" "+enough)
			must.NoError(t, err)
			must.SliceEmpty(t, asked) // only when it has to be known
			got, err := w.Client.Resolve(t.Context())
			if c.err != "" {
				must.EqError(t, err, c.err)
			} else {
				must.NoError(t, err)
			}
			must.Eq(t, c.want, got)
			must.Eq(t, []string{"/v1/health/service/queue-docs?passing=1 secret"}, asked)
		})
	}
}
