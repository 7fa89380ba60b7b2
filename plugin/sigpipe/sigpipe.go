// Package sigpipe keeps the processes of this binary alive when whoever read
// their output is gone. Import it for its effect.
//
// Nomad's executor, which holds a task, is this same binary: it serves from an
// init function of a Nomad package, so nothing can be set up for it in main.
// Its standard error is a pipe to the plugin. When the plugin dies and another
// one takes the task over, the pipe is broken, and the next line that
// libcontainer logs would end the executor, and with it the task.
//
// With a handler such a write only fails. The signal is handled, not ignored:
// an ignored one would stay ignored in the tasks.
//
// The order of initialization is fixed by the language: by import path among
// the packages whose imports are ready. This one imports next to nothing, the
// executor half of the module graph, so this one is first.
package sigpipe

import (
	"os"
	"os/signal"
	"syscall"
)

func init() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}
