// Package merge makes one answer of the partial answers of shards, as they arrive.
//
// A [Merger] is made once for a service. For each request it begins a [Merge], which is
// given the partial answers in the order of arrival and writes the merged one, at once or
// at the end. There are some for what is common, and [Container] for everything else:
//
//	Concat      the bodies, one after the other
//	JSONArray   one array of all elements
//	NDJSON      all lines
//	JSONMerge   one object, merged name by name
//	Sum         the same, with numbers added up
//	TopK        the best elements by a field
//	Container   what a program of the user's makes of them
//
// # What is guaranteed
//
//   - A partial answer is merged as a whole or not at all. One that is not what it should
//     be is [ErrGarbage], and the others are merged all the same. Only the container can
//     say so later: see [WithGarbage].
//   - The time is linear in the bytes that come in, but for sorting what goes out.
//   - Memory is bounded: Concat, JSONArray and NDJSON keep nothing, Container keeps FoldBytes
//     and the last part, and the others MaxBytes, beside as much for the partial answer
//     that they read. What would take more is an error.
//   - JSON is checked before it is passed on: that it is JSON (RFC 8259) in UTF-8, with at
//     most 1000 arrays and objects within each other. It is not encoded anew: numbers keep
//     all of their digits. Only Sum and TopK look at them, and take those that are out of
//     the range of a float64 for garbage.
//   - JSONMerge, Sum and TopK give the same answer whatever the order of arrival, except
//     where their comments say otherwise.
//
// # What is not guaranteed
//
// Order in the answers of Concat, JSONArray and NDJSON: it is that of arrival.
//
// That names in an object are different. JSONArray and NDJSON pass them on, and for the
// others the last one of the same name counts.
//
// That an answer is whole when an error comes late: what was written stays written.
//
// # The merge container
//
// It is a program on this machine, written in any language, that serves HTTP. Each request
// of a client has an ID of letters and digits. The container is sent the partial answers to
// it, keeps what it needs of them, and is asked for the merged answer in the end:
//
//	POST   {url}/{id}          here are partial answers, in a number of calls
//	POST   {url}/{id}/finish   that was all: answer
//	DELETE {url}/{id}          forget it
//
// The first call for an ID may be any of them. There is one at a time for an ID, except that
// DELETE may overtake a call that was given up. Each has the headers
//
//	Scatter-Request: GET /search?q=x    what the client asked
//	Scatter-Shards: 12                  how many shards were asked
//
// Parts come when enough have been gathered, with Content-Type application/vnd.scatter.parts.
// A part is a line of JSON, as many bytes as the line says, and a line end:
//
//	{"shard":"3","status":200,"type":"application/json","bytes":11}
//	{"hits":42}
//
// The answer is any 2xx. Or it is 422 with {"garbage":["3"]}: the shards whose parts are
// unusable, while the other parts have been taken. Anything else is a failure, and so is no
// answer; the request is given up then.
//
// To finish, the answer is the merged one: its status (200 to 599), its headers and its body
// are passed on to the client as they come. No part may have come before: no shard answered.
//
// DELETE is sent once, and may be lost; and the program that sends it may die. So a
// container should also forget a request that it has not heard of for a while.
//
// To try a container by hand, which listens on port 9000:
//
//	body='{"hits":42}'
//	printf '{"shard":"3","status":200,"type":"application/json","bytes":%d}\n%s\n' ${#body} "$body" > parts
//	curl -i -H 'Content-Type: application/vnd.scatter.parts' -H 'Scatter-Request: GET /search?q=x' \
//	  -H 'Scatter-Shards: 12' --data-binary @parts http://127.0.0.1:9000/r1
//	curl -i -X POST -H 'Scatter-Request: GET /search?q=x' -H 'Scatter-Shards: 12' http://127.0.0.1:9000/r1/finish
//	curl -i -X DELETE http://127.0.0.1:9000/r2
//
// (The length is in bytes: ${#body} is that for ASCII.) One in Go can use [Reader]; the
// example of Container is a whole one. [WriteFrame] writes parts, for its tests.
//
// Connections are kept open between calls, for a second at most.
package merge
