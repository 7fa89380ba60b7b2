package cli

import (
	"os"
	"runtime/debug"
)

const (
	// rareGC lets the heap of a root grow to nine times what is in use. That is little
	// between requests, so with Go's default of twice it a collection would run every few
	// of them, and p99 would be that of the collector.
	rareGC = 800 // percent
	// base is what a root needs beside its partial answers.
	base = 16 << 20 // bytes
)

// tuneCollector makes the garbage collector rare until the memory that partial answers may
// have, in bytes, is in use, unless the environment says how it is to work. The function that it
// returns puts things back.
func tuneCollector(memory int64) (restore func()) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	percent, old := debug.SetGCPercent(rareGC), debug.SetMemoryLimit(memory+base)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(old)
	}
}
