package merge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// maxDepth is how many arrays and objects may lie within each other. The scanner is
// recursive, and so are the parsers of clients.
const maxDepth = 1000

// garbage makes an error that is ErrGarbage.
func garbage(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrGarbage, fmt.Errorf(format, args...))
}

// scanner finds its way about JSON (RFC 8259) and checks it, without decoding it: so
// that values can be passed on as they were written. All of its errors are ErrGarbage.
//
// Its methods take the depth at which they are called: the number of arrays and objects
// that are open.
type scanner struct {
	data []byte
	pos  int // Invariant: 0 <= pos <= len(data)
}

// newScanner checks the encoding, which nothing has to care for afterwards.
func newScanner(data []byte) (scanner, error) {
	if !utf8.Valid(data) {
		return scanner{}, garbage("it is not UTF-8")
	}
	return scanner{data: data}, nil
}

// peek skips white space and returns the byte after it; 0, which JSON never has there,
// is the end.
func (s *scanner) peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// unexpected says what should be where the scanner is.
func (s *scanner) unexpected(want string) error {
	if s.pos >= len(s.data) {
		return garbage("it ends at byte %d, where there should be %s", s.pos, want)
	}
	return garbage("byte %d: %q where there should be %s", s.pos, s.data[s.pos], want)
}

// end makes sure that nothing follows.
func (s *scanner) end() error {
	if s.peek(); s.pos < len(s.data) {
		return s.unexpected("nothing more")
	}
	return nil
}

// value reads a value of any kind and returns it as it is written.
func (s *scanner) value(depth int) ([]byte, error) {
	s.peek()
	start := s.pos
	if err := s.skip(depth); err != nil {
		return nil, err
	}
	return s.data[start:s.pos], nil
}

// skip reads a value of any kind.
func (s *scanner) skip(depth int) error {
	switch c := s.peek(); c {
	case '{':
		more, err := s.enter('}', depth)
		for ; more && err == nil; more, err = s.next('}') {
			if _, err := s.key(); err != nil {
				return err
			}
			if err := s.skip(depth + 1); err != nil {
				return err
			}
		}
		return err
	case '[':
		more, err := s.enter(']', depth)
		for ; more && err == nil; more, err = s.next(']') {
			if err := s.skip(depth + 1); err != nil {
				return err
			}
		}
		return err
	case '"':
		_, err := s.quoted()
		return err
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

// enter reads the bracket that opens an object or an array, and the closing one if
// there is nothing between them; more says that there is something.
func (s *scanner) enter(closing byte, depth int) (more bool, err error) {
	if depth >= maxDepth {
		return false, garbage("byte %d: more than %d arrays and objects within each other", s.pos, maxDepth)
	}
	s.pos++
	if s.peek() == closing {
		s.pos++
		return false, nil
	}
	return true, nil
}

// next reads what follows an element: a comma, or the closing bracket.
func (s *scanner) next(closing byte) (more bool, err error) {
	switch s.peek() {
	case ',':
		s.pos++
		return true, nil
	case closing:
		s.pos++
		return false, nil
	default:
		return false, s.unexpected(fmt.Sprintf("',' or %q", closing))
	}
}

// key reads the name of a member, with its quotes, and the colon.
func (s *scanner) key() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.unexpected("the name of a member")
	}
	key, err := s.quoted()
	if err != nil {
		return nil, err
	}
	if s.peek() != ':' {
		return nil, s.unexpected("':'")
	}
	s.pos++
	return key, nil
}

// quoted reads a string, with its quotes.
func (s *scanner) quoted() ([]byte, error) {
	start := s.pos
	for s.pos++; ; s.pos++ {
		s.pos += plainLen(s.data[s.pos:])
		switch {
		case s.pos >= len(s.data):
			return nil, s.unexpected("the end of a string")
		case s.data[s.pos] == '"':
			s.pos++
			return s.data[start:s.pos], nil
		case s.data[s.pos] != '\\':
			return nil, s.unexpected("no control character within a string")
		}
		if err := s.escape(); err != nil {
			return nil, err
		}
	}
}

// plainLen is how many bytes of a string there are before one that has a meaning. Most
// of the time goes by here, so it does nothing else.
func plainLen(b []byte) int {
	for i, c := range b {
		if c == '"' || c == '\\' || c < ' ' {
			return i
		}
	}
	return len(b)
}

// escape reads an escape sequence but for its last byte.
func (s *scanner) escape() error {
	s.pos++
	if s.pos >= len(s.data) {
		return s.unexpected("an escape sequence")
	}
	switch s.data[s.pos] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return nil
	case 'u':
		for range 4 {
			s.pos++
			if s.pos >= len(s.data) || !isHex(s.data[s.pos]) {
				return s.unexpected("a hexadecimal digit")
			}
		}
		return nil
	}
	return s.unexpected("an escape sequence")
}

func isHex(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// word reads one of the words that are values.
func (s *scanner) word(w string) error {
	if len(s.data)-s.pos < len(w) || string(s.data[s.pos:s.pos+len(w)]) != w {
		return s.unexpected("a value")
	}
	s.pos += len(w)
	return nil
}

// number reads a number of any size.
func (s *scanner) number() error {
	start := s.pos
	if s.at() == '-' {
		s.pos++
	}
	switch c := s.at(); {
	case c == '0': // no digit may follow
		s.pos++
	case isDigit(c):
		s.digits()
	case s.pos == start:
		return s.unexpected("a value")
	default:
		return s.unexpected("a digit")
	}
	if s.at() == '.' {
		s.pos++
		if !s.digits() {
			return s.unexpected("a digit")
		}
	}
	if c := s.at(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.at(); c == '+' || c == '-' {
			s.pos++
		}
		if !s.digits() {
			return s.unexpected("a digit")
		}
	}
	return nil
}

// at is the next byte, whatever it is; 0 is the end.
func (s *scanner) at() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// digits reads digits and says whether there were any.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && isDigit(s.data[s.pos]) {
		s.pos++
	}
	return s.pos > start
}

// unquote returns what a string that was scanned says. It may lie in the same memory.
// A half of a surrogate pair becomes U+FFFD, as in encoding/json.
func unquote(quoted []byte) ([]byte, error) {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner, nil
	}
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		return nil, garbage("decode string: %w", err)
	}
	return []byte(text), nil
}
