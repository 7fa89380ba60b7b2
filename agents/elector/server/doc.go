// Package server is the HTTP API of the elector: it lets a program in any language
// take part in elections through [election.Elector], with no SDK.
//
//	PUT    /v1/elections/{name}         become a candidate, and wait to lead
//	POST   /v1/elections/{name}/renew   keep the application's own lease
//	DELETE /v1/elections/{name}         resign, hand over, leave
//	GET    /v1/elections[/{name}]       who leads, and how sure that is
//	GET    /v1/elections/{name}/watch   the same as a stream of events
//	GET    /v1/elections/{name}/hold    lead for as long as this stream is open
//	POST   /v1/elections/{name}/kv      writes that only the leader can make
//
// A candidate has one of three origins, which decides what a resignation means.
// Elections of the configuration are joined at the start, unless they are on demand,
// and stay joined: to resign lets the others go first. Those joined by PUT are left. Those joined by a hold stream
// are left when it ends. A hold stream on an election that is joined already attaches
// to that candidate: its end resigns and leaves nothing.
//
// What an answer guarantees is what package election does: "self" is true only while
// this process may trust that it leads, and "trusted_ms" is for how long. An answer
// ages on its way, so whoever needs more than that sends the token with each write.
package server
