// Package rig runs candidates of elections as processes of their own against a
// real Consul, does to them what networks, machines and operators do, and
// checks what they tell afterwards. The tests and the benchmark of elections
// use it.
//
// What is checked of a run, see [Check]:
//
//   - In the modes strict and balanced no two processes trust at any moment that
//     they lead the same election.
//   - The fencing tokens of an election rise strictly in the order of its terms,
//     and no token is given twice.
//   - Registers that are written with the token, one in Consul's KV and one
//     outside, are linearizable, and a write with an older token has no effect
//     once one with a newer token had.
//
// The checks look at what the processes knew at which moment on a clock that
// they share. Spans of trust are sampled every millisecond: an overlap that is
// shorter may be missed.
package rig
