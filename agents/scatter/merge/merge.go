package merge

import (
	"context"
	"errors"
	"net/http"
)

// ErrGarbage says that a partial answer is not what it should be. The others can be merged
// all the same. What is wrong with it is said in the error that wraps this one.
var ErrGarbage = errors.New("not what the merge expects")

// Partial is the answer of one shard.
type Partial struct {
	// Shard is its name. The mergers take it that each shard answers once.
	Shard string
	// Header is that of the leaf's answer. It is only read.
	Header http.Header
	// Body is only valid during the call that it is passed to.
	Body []byte
}

// Request is what is answered.
type Request struct {
	// ID names the request to a merge container: letters and digits. It is not used again.
	ID string
	// HTTP is the client's request. Its body has been read.
	HTTP *http.Request
	// Shards is how many there are to be asked.
	Shards int
}

// Writer takes the merged answer. Header has to be complete before the first Write; the
// body is limited by whoever provides the Writer.
type Writer interface {
	Header() http.Header
	Write(b []byte) (int, error)
}

// Merger merges the answers to requests. It is used by many goroutines.
type Merger interface {
	// Begin begins with a request. Ctx ends when the merge has to. Nothing is written yet.
	// The error is ErrRequest if it is the client's fault.
	Begin(ctx context.Context, r Request, w Writer) (Merge, error)
}

// Merge merges the answers to one request. It is used by one goroutine, and either Finish
// or Abort ends it; Abort may also follow a Finish that failed. It may implement [WithStatus]
// and [WithGarbage].
type Merge interface {
	// Add takes a partial answer. An error that is ErrGarbage is the partial's fault, and
	// nothing of it has been taken; after any other one the merge is lost, and Abort is all
	// that may follow.
	Add(p Partial) error
	// Finish writes what is left of the answer. It is called even if nothing was added. If
	// nothing has been written when it returns, then the answer has no body, but the header
	// is complete.
	Finish() error
	// Abort gives the merge up.
	Abort()
}
