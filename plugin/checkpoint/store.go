package checkpoint

import (
	"context"
	"errors"
	"fmt"
)

// Store keeps small objects by name. Its methods may be called from several
// goroutines at once, and return soon after ctx ends.
//
// Names are of letters, digits and "-_.~/", at most about a thousand bytes long,
// and never begin with a slash or a dot.
type Store interface {
	// Create writes a new object, whole or not at all. The error is ErrExists if
	// there is one of that name. After any other error it is not known whether
	// the object is there, and it may yet come. data must not be changed any
	// more: what has been given up may still read it.
	Create(ctx context.Context, name string, data []byte) error
	// Get reads an object of at most limit bytes. The error is ErrNotFound if the
	// store says that there is none, and a *TooLargeError if it is larger.
	Get(ctx context.Context, name string, limit int64) ([]byte, error)
	// List returns the names that begin with prefix, which ends with a slash, in
	// any order. It returns none only if the store says that there are none.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object. That there is none is no error.
	Delete(ctx context.Context, name string) error
	// Close gives connections back.
	Close() error
}

// Errors of a Store that decide how it goes on.
var (
	// ErrExists: there is an object of that name already.
	ErrExists = errors.New("is there already")
	// ErrNotFound: there is no object of that name.
	ErrNotFound = errors.New("is not there")
	// ErrRefused: another try is of no use before somebody has changed
	// something: rights, free space, the configuration.
	ErrRefused = errors.New("the store refuses")
)

// TooLargeError says that something is larger than it may be.
type TooLargeError struct {
	Size, Limit int64 // bytes; Size is -1 if it is not known
	text        string
}

func (e *TooLargeError) Error() string { return e.text }

// maxNames bounds a list. A chain has some dozens of objects.
const maxNames = 100_000

func tooMany(prefix string) error {
	return fmt.Errorf("%w: there are more than %d objects below %s; old ones cannot be deleted, or others write there", ErrRefused, maxNames, prefix)
}

func tooLargeToRead(name string, size, limit int64) error {
	return &TooLargeError{size, limit, fmt.Sprintf("%s is larger than the %d bytes that it should have", name, limit)}
}

// permanent reports whether another try cannot come to anything else.
func permanent(err error) bool {
	var tooLarge *TooLargeError
	return errors.Is(err, ErrExists) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrRefused) || errors.Is(err, errTaken) ||
		errors.As(err, &tooLarge)
}

// kib renders a number of bytes for a person, rounded up so that something above
// a limit never looks as if it were at it.
func kib(n int64) string { return fmt.Sprintf("%d KiB", (n+1023)>>10) }
