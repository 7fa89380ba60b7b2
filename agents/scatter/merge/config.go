package merge

import "fmt"

// DefaultMaxBytes is the limit of what a merge keeps in memory, unless it is configured.
const DefaultMaxBytes = 16 << 20

// wrong is the error about a field of a configuration.
func wrong(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w", field, fmt.Errorf(format, args...))
}

// orDefault is a number that has a default and may not be negative.
func orDefault[N int | int64](field string, n, otherwise N) (N, error) {
	switch {
	case n < 0:
		return 0, wrong(field, "%d is negative; leave it out for %d", n, otherwise)
	case n == 0:
		return otherwise, nil
	}
	return n, nil
}
