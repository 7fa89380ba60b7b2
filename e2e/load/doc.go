// Package load sends a steady stream of HTTP requests to the instances of one
// service and says how many of them failed, and why.
//
// It is the client of the zero-downtime tests, of the demo and of the
// benchmark: a lifecycle hook is worth what such a client sees while the
// instances under it are updated, restarted, drained and stopped.
//
// # What is measured
//
//   - The load is open loop: a request is due at start + n/rate, whatever became
//     of the ones before it, and its latency counts from the moment it was due.
//     A stall of the service therefore shows in the latencies of all requests
//     that were due meanwhile (no coordinated omission).
//   - A request fails if no instance is known, if the transport reports an error,
//     if the status is 400 or above, or if the body is not what was expected.
//     Nothing is retried here. What [net/http.Transport] does by itself stays on:
//     it repeats an idempotent request on a kept connection that the server had
//     closed before the first byte of an answer.
//   - Latencies are those of the requests that succeeded; failed ones are counted
//     by reason instead.
//   - Results are separate for every phase and every stream. A request belongs to
//     the phase in which it was due, also when it ends in a later one.
//
// # The client that is imitated
//
// An ordinary one. It asks Consul for the passing instances, keeps the answer for
// Config.Refresh (one second unless told otherwise, like a DNS answer with a TTL
// of one second), goes round robin over the instances and keeps connections
// alive. So an instance that disappears without a warning is still sent requests
// for up to Refresh, which is the very thing that a drain wait before the stop
// has to cover. If discovery itself fails, the last known instances stay in use.
//
// # What is not promised
//
// One process on the same machine is no network: the numbers compare two ways of
// stopping an instance under the same load, they say nothing about the speed of a
// service elsewhere.
package load
