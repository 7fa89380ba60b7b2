package config

import (
	"flag"
	"os"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/agents/internal/agent"
)

// file is what flags and files can say.
type file struct {
	Queue         agent.Value[string]        `hcl:"queue,optional"`
	Stage         agent.Value[string]        `hcl:"stage,optional"`
	ID            agent.Value[string]        `hcl:"id,optional"`
	Slots         agent.Value[int]           `hcl:"slots,optional"`
	IdleExit      agent.Value[time.Duration] `hcl:"idle_exit,optional"`
	UntilFinished agent.Value[bool]          `hcl:"until_finished,optional"`
	DrainTimeout  agent.Value[time.Duration] `hcl:"drain_timeout,optional"`

	Command   agent.Value[[]string] `hcl:"command,optional"`
	HTTP      agent.Value[string]   `hcl:"http,optional"`
	HTTPReady agent.Value[string]   `hcl:"http_ready,optional"`
	Dispatch  agent.Value[string]   `hcl:"dispatch,optional"`

	InputDirs agent.Value[[]string] `hcl:"input_dirs,optional"`
	InputURLs agent.Value[[]string] `hcl:"input_urls,optional"`
	Output    agent.Value[string]   `hcl:"output,optional"`
	NoOutput  agent.Value[bool]     `hcl:"no_output,optional"`
	Name      agent.Value[string]   `hcl:"name,optional"`
	WorkDir   agent.Value[string]   `hcl:"work_dir,optional"`

	LogLevel agent.Value[string] `hcl:"log_level,optional"`
	LogJSON  agent.Value[bool]   `hcl:"log_json,optional"`
	Brokers  *brokers            `hcl:"brokers,block"`
	Consul   *agent.Consul       `hcl:"consul,block"`
	Listen   *agent.Listen       `hcl:"listen,block"`
}

// brokers says where they are, and what they want to see.
type brokers struct {
	Addresses agent.Value[[]string] `hcl:"addresses,optional"`
	TokenFile agent.Value[string]   `hcl:"token_file,optional"`
	CAFile    agent.Value[string]   `hcl:"ca_file,optional"`
	CertFile  agent.Value[string]   `hcl:"cert_file,optional"`
	KeyFile   agent.Value[string]   `hcl:"key_file,optional"`
}

// newFile has all blocks that flags may fill.
func newFile() *file {
	return &file{Brokers: &brokers{}, Consul: &agent.Consul{}, Listen: &agent.Listen{}}
}

// flags declares the flags. Publish leaves out those that only matter to items.
func (f *file) flags(fs *flag.FlagSet, publish bool) {
	f.Queue.Flag(fs, "queue", "`name` of the queue (WORKER_QUEUE)")
	f.Output.Flag(fs, "output", "where outputs go: `directory`, or URL such as s3://bucket/prefix?region=eu-central-1 (WORKER_OUTPUT)")
	f.WorkDir.Flag(fs, "work-dir", "`directory` for what is fetched, and outputs that are uploaded (WORKER_WORK_DIR; default in Nomad the task's local directory, elsewhere that of temporary files)")
	f.Brokers.flags(fs)
	f.Consul.Flags(fs)
	f.LogLevel.Flag(fs, "log-level", "trace, debug, info, warn, error or off: `what` is logged (WORKER_LOG_LEVEL; default info)")
	f.LogJSON.Flag(fs, "log-json", "write logs as JSON (WORKER_LOG_JSON)")
	if publish {
		return
	}
	f.Stage.Flag(fs, "stage", "`name` of the stage (WORKER_STAGE; default the first of the queue)")
	f.ID.Flag(fs, "id", "`name` of this worker (WORKER_ID; default in Nomad group-index-allocation, elsewhere host-pid)")
	f.Slots.Flag(fs, "slots", "`number` of items at a time (WORKER_SLOTS; default 1)")
	f.IdleExit.Flag(fs, "idle-exit", "`time` without an item after which the worker ends (WORKER_IDLE_EXIT; default never)")
	f.UntilFinished.Flag(fs, "until-finished", "end when the queue is sealed and nothing is left in it")
	f.DrainTimeout.Flag(fs, "drain-timeout", "`time` up to 24h that items may still take when the worker has to end; then they are given back (WORKER_DRAIN_TIMEOUT; default 30s)")
	f.HTTP.Flag(fs, "http", "`URL` of a program that does items, in place of a command")
	f.HTTPReady.Flag(fs, "http-ready", "`URL` that answers 2xx when that program can do items")
	f.Dispatch.Flag(fs, "dispatch", "`ID` of a parameterized job of Nomad that is dispatched for each item, in place of a command")
	f.InputDirs.Flag(fs, "input-dir", "`directory` in which inputs may be; relative ones are below the first; may be given several times (WORKER_INPUT_DIR; default all absolute paths)")
	f.InputURLs.Flag(fs, "input-url", "`beginning` of URLs that may be inputs; may be given several times (default all)")
	f.NoOutput.Flag(fs, "no-output", "it is no failure if an item has no output")
	f.Name.Flag(fs, "name", "`name` of outputs below -output, with {path}, {dir}, {name}, {stem}, {ext}, {id}, {key} and {attr.…} (default {path})")
	f.Listen.Flags(fs)
}

func (b *brokers) flags(fs *flag.FlagSet) {
	b.Addresses.Flag(fs, "queue-addr", "broker: `host:port`, http://…, https://… or unix:///path; may be given several times (QUEUE_ADDR, with commas; default those that Consul knows)")
	b.TokenFile.Flag(fs, "queue-token-file", "`file` with the brokers' token (QUEUE_TOKEN_FILE)")
	b.CAFile.Flag(fs, "queue-ca-file", "`file` with the CA of the brokers' certificates (QUEUE_CACERT)")
	b.CertFile.Flag(fs, "queue-cert-file", "`file` with our certificate for brokers (QUEUE_CLIENT_CERT)")
	b.KeyFile.Flag(fs, "queue-key-file", "`file` with our key for brokers (QUEUE_CLIENT_KEY)")
}

// env takes what flags have not set from the environment.
func (f *file) env(p *agent.Problems) {
	f.Queue.Env(p, "WORKER_QUEUE")
	f.Stage.Env(p, "WORKER_STAGE")
	f.ID.Env(p, "WORKER_ID")
	f.Slots.Env(p, "WORKER_SLOTS")
	f.IdleExit.Env(p, "WORKER_IDLE_EXIT")
	f.DrainTimeout.Env(p, "WORKER_DRAIN_TIMEOUT")
	f.InputDirs.Env(p, "WORKER_INPUT_DIR")
	f.Output.Env(p, "WORKER_OUTPUT")
	f.WorkDir.Env(p, "WORKER_WORK_DIR")
	f.LogLevel.Env(p, "WORKER_LOG_LEVEL")
	f.LogJSON.Env(p, "WORKER_LOG_JSON")
	f.Listen.Address.Env(p, "WORKER_LISTEN")
	f.Brokers.TokenFile.Env(p, "QUEUE_TOKEN_FILE")
	f.Brokers.CAFile.Env(p, "QUEUE_CACERT")
	f.Brokers.CertFile.Env(p, "QUEUE_CLIENT_CERT")
	f.Brokers.KeyFile.Env(p, "QUEUE_CLIENT_KEY")
	const addresses = "QUEUE_ADDR"
	if list := os.Getenv(addresses); list != "" && !f.Brokers.Addresses.IsSet() {
		f.Brokers.Addresses = agent.Value[[]string]{V: strings.Split(list, ","), From: addresses}
	}
}
