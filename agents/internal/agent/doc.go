// Package agent is what all agents of this project share: configuration from HCL
// files, flags and the environment; logs; an HTTP server with JSON errors, health,
// metrics and event streams; and a life from start to drain with documented exit
// codes.
//
// An agent's main does this:
//
//	cfg, err := load(args)               // Value fields, Load, Problems
//	a, err := agent.New(agent.Options{…}) // listens
//	a.Handle("GET /v1/things", things)
//	err = a.Run(ctx)                      // serves until a signal has been obeyed
//	os.Exit(agent.ExitCode(err))
//
// A setting is taken from, in this order: a flag, the environment, the files of
// -config, the default. A setting may be given in one file only.
//
// Guaranteed: nothing is served off loopback without TLS or a token; a request cannot
// hold a goroutine by sending or reading slowly, for longer than [Options] say; a
// panic in a handler ends that request only; when Run returns all goroutines have ended,
// except handlers and drains that do not heed the end of their context.
//
// Not guaranteed: a limit on the number of connections or requests. Callers on
// loopback, on a unix socket or with the token are trusted with the machine's memory.
package agent
