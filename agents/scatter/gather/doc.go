// Package gather asks all shards of a service and gathers what they answer.
//
// # What it guarantees
//
//   - A request ends by its deadline, whatever leaves do: they hang, trickle, reset, or
//     answer without an end.
//   - The coverage says how much of what there is has been merged, and why the rest is
//     missing. Too little is an error; what is too little the request says, or else
//     everything is asked for.
//   - The answers that wait to be merged have a bound in memory, however many and large
//     they are. What has no room is not read.
//   - When a request ends so does all that was begun for it.
//
// # How the tail is cut
//
// Instances of one shard can stand in for each other. Of two random ones that one is
// asked whose moving average of latencies, times the requests that it has, is clearly less.
// A shard that has not answered when 95 % of all leaves would have is asked at another
// replica as well, if most others have answered; the first answer is taken, and the other
// leaf is told to stop when the request ends (Dean and Barroso, The Tail at Scale, 2013). A
// budget bounds that to 5 % more requests, so that it cannot make an overload worse. A
// failure is tried again elsewhere, within a budget too.
//
// A leaf that fails five times in a row is not asked for a while, unless most replicas of
// its shard fail: then something else is wrong, and all are asked.
//
// # What it does not guarantee
//
//   - A leaf may be asked more than once for one request if that has Request.Again.
//   - The members are those that the catalog had when the request began. A shard that has no
//     leaf there any more is missed for a minute, and then given up.
package gather
