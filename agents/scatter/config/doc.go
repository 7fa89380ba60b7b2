// Package config reads the configuration of the agent scatter: HCL or JSON files, flags,
// and the environment, in the order that package agent gives them.
//
// What can be known to be wrong without the network is found here, with the place
// where it stands: first what cannot be read, then all that is out of bounds.
//
// All settings, with their defaults where there are some:
//
//	id            = "…"     # unique among all roots that a request may pass; in Nomad group-index-allocation
//	log_level     = "info"
//	log_json      = false
//	drain_timeout = "10s"   # for requests under way at the end
//
//	listen {                # see agent.Listen
//	  address = "127.0.0.1:4060"
//	}
//	consul {}               # see agent.Consul
//
//	route "search" {        # any number of them
//	  pattern    = "GET /search"   # as in http.ServeMux; the first part must be a word that is not the agent's own
//	  service    = "search-leaf"   # of the leaves, in Consul
//	  tags       = []              # that leaves have to have
//	  shard_meta = "shard"         # key of the service's meta; "": each instance is a shard
//	  shards     = []              # that there have to be, such as ["0..15", "archive"]; without it those that there are
//	  token_file = ""              # what leaves are shown as Authorization: Bearer …
//	  idempotent = false           # leaves may be asked twice whatever the method
//
//	  timeout       = "1s"
//	  max_timeout   = "30s"        # that a request may ask for
//	  reserve       = 0.05         # share of the time that is kept for the merge
//	  min_coverage  = 1
//	  wait          = 0.2          # share of the time left for which others are waited for when there is enough
//	  max_in_flight = 256          # requests
//	  max_partial   = 8388608      # bytes of an answer of a leaf
//	  memory        = 33554432     # bytes of answers that wait to be merged, at least two of max_partial
//	  max_answer    = 33554432     # bytes of a merged answer that does not stream
//	  max_depth     = 8            # roots that a request may have passed
//	  hedge {
//	    enabled  = true
//	    quantile = 0.95
//	    budget   = 0.05
//	  }
//	  retry {
//	    enabled = true
//	    budget  = 0.2
//	  }
//
//	  merge  = "json-array"        # concat, json-array, ndjson, json-merge, sum, top-k, container
//	  stream = false               # only concat, json-array, ndjson, container
//	  top_k {                      # for top-k
//	    k         = 10
//	    k_param   = ""             # query parameter that may choose k
//	    max_k     = 1000
//	    field     = "score"        # no default; dots lead into objects
//	    ascending = false
//	    items     = ""             # path to the array in a partial answer
//	    unique    = ""             # path; of elements with equal values the best stays
//	  }
//	  container {                  # for container
//	    url        = "http://127.0.0.1:9000"   # no default; loopback only
//	    fold_bytes = 1048576
//	    fold_parts = 32
//	  }
//
//	  coalesce    = false          # requests that are alike and come at the same time are one
//	  cache       = "0s"           # how long a whole answer is used again
//	  cache_bytes = 16777216
//	}
package config
