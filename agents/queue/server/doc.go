// Package server is the HTTP API of the agent queue: it lets a program in any language put
// items into queues and work on them through a [queue.Broker], with no SDK.
//
//	PUT    /v1/queues/{queue}                make a queue, or change it
//	GET    /v1/queues[/{queue}]              how it stands
//	DELETE /v1/queues/{queue}                remove it
//	POST   /v1/queues/{queue}/items          add items: JSON, or NDJSON
//	GET    /v1/queues/{queue}/items/{id}     tell about one
//	POST   /v1/queues/{queue}/claim          get items to work on, and wait for some
//	POST   /v1/queues/{queue}/ack, nack      say how that ended
//	POST   /v1/queues/{queue}/extend         keep them for longer
//	POST   /v1/queues/{queue}/cancel         end items
//	GET    /v1/queues/{queue}/dead           items that were given up
//	POST   /v1/queues/{queue}/dead/redrive   try them again
//	POST   /v1/queues/{queue}/pause, resume, seal, purge
//	GET    /v1/queues/{queue}/recurring
//	PUT    /v1/queues/{queue}/recurring/{name}, DELETE
//	GET    /v1/queues/{queue}/wait           wait until all is done
//	GET    /, /queues/{queue}                the same for people
//
// Any broker answers. What is about a shard that another broker leads is passed on to it,
// once; while a shard has no leader a request waits for one, for a few seconds. So a
// client needs one address that answers, and does not notice a takeover.
//
// What an answer guarantees is what package queue does: what was answered with success is
// stored. 503 with Retry-After, and 421 and 429, mean that certainly nothing was done.
// 503 without it means that this is not known: items with keys, acks and everything else
// that does no harm twice can be sent again.
//
// A batch of items for several shards is checked as a whole before any of it is stored,
// and is then stored shard by shard: each part is all or nothing.
package server
