package load

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Reasons for which a request fails. A status of 400 or above has the reason
// "status N".
const (
	ReasonNoInstance = "no instance"        // discovery knows no instance
	ReasonOverload   = "overload"           // too many requests in flight already
	ReasonRefused    = "connection refused" // nobody listens at the address
	ReasonReset      = "connection reset"   // closed before an answer began
	ReasonTimeout    = "timeout"            // no complete answer within the timeout
	ReasonCut        = "body cut"           // the answer began, but did not end
	ReasonWrongBody  = "wrong body"         // the answer is complete, but another one
	ReasonOther      = "other"              // see the sample
)

// outcome is what became of one request. An empty reason means success.
type outcome struct {
	address string
	latency time.Duration
	reason  string
	err     error
}

// send does one request and judges the answer.
func send(ctx context.Context, client *http.Client, s Stream, address string) outcome {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()

	out := outcome{address: address}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+s.Path, nil)
	if err != nil {
		out.reason, out.err = ReasonOther, err
		return out
	}
	resp, err := client.Do(req)
	if err != nil {
		out.reason, out.err = reasonOf(err), err
		return out
	}
	defer resp.Body.Close()

	var sum hash.Hash
	sink := io.Discard
	if s.BodySHA256 != "" {
		sum = sha256.New()
		sink = sum
	}
	n, err := io.Copy(sink, resp.Body)
	switch {
	case resp.StatusCode >= http.StatusBadRequest:
		out.reason = fmt.Sprintf("status %d", resp.StatusCode)
	case err != nil && isTimeout(err):
		out.reason, out.err = ReasonTimeout, err
	case err != nil:
		out.reason, out.err = ReasonCut, fmt.Errorf("after %d bytes: %w", n, err)
	case s.BodyBytes > 0 && n < s.BodyBytes:
		out.reason, out.err = ReasonCut, fmt.Errorf("body has %d bytes of %d", n, s.BodyBytes)
	case s.BodyBytes > 0 && n > s.BodyBytes:
		out.reason, out.err = ReasonWrongBody, fmt.Errorf("body has %d bytes, expected %d", n, s.BodyBytes)
	case sum != nil && hex.EncodeToString(sum.Sum(nil)) != s.BodySHA256:
		out.reason, out.err = ReasonWrongBody, errors.New("hash of the body differs")
	}
	return out
}

// reasonOf names an error that came before the answer.
func reasonOf(err error) string {
	switch {
	case isTimeout(err):
		return ReasonTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return ReasonRefused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ReasonReset
	}
	return ReasonOther
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
