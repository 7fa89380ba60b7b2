// Package proxy stands between a client and a server on TCP and does to their
// connections what networks do: it loses packets, delays them, breaks
// connections and refuses new ones.
//
// # Guarantees
//
//   - Bytes that are held back are not lost: as with lost packets, they arrive
//     later and in order, when the fault is over, unless the connection ended
//     meanwhile.
//   - A change of the fault takes effect at once, on open connections too.
//   - [Proxy.Close] ends all connections and returns when its goroutines have
//     ended.
//
// # What is not guaranteed
//
//   - The proxy accepts connections while it drops everything, where a network
//     would leave them unanswered: a client sees a connection without answers.
//   - What a side has sent before it ended its connection may be cut off if the
//     other side is dropped at that moment.
package proxy
