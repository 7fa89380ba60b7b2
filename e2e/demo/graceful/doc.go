// Package graceful runs the job template "graceful-service" in a cluster and does to
// it what operators do: update, restart, drain a node, stop.
//
// It is what the demo, the benchmark and the end-to-end tests share. A [Variant]
// says which driver has to cope: ours, the stock driver with shutdown_delay (the best
// that stock Nomad can do), or the stock driver as it is. Everything else in the job
// is the same. The load itself is package load's; [Content.Streams] gives the requests
// that fit the job.
package graceful
