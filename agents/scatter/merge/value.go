package merge

import "fmt"

// kind is what a value is, as far as merging goes.
type kind int

const (
	scalarKind kind = iota // a string, a boolean, null, and for JSONMerge a number
	numberKind
	arrayKind
	objectKind
)

// value is a partial answer, or something in it. Raw lies in the body of the partial.
type value struct {
	kind    kind
	raw     []byte           // of a scalar; of an array what is between its brackets
	fields  map[string]value // of an object
	numbers []number         // one of a number, those of an array if it is to be summed
}

// What values cost in memory, roughly: with the slot of a map, and what the allocator
// rounds up.
const (
	nodeCost   = 160
	numberCost = 64
)

// parser makes values.
type parser struct {
	scanner
	sum  bool  // numbers are to be summed
	left int64 // bytes of memory that the value may still take
}

// parse makes a value of a body. An error is garbage, or [tooLarge].
func parse(body []byte, sum bool, maxBytes int64) (value, error) {
	s, err := newScanner(body)
	if err != nil {
		return value{}, err
	}
	p := parser{scanner: s, sum: sum, left: maxBytes}
	v, err := p.parse(0)
	if err != nil {
		return value{}, err
	}
	if err := p.end(); err != nil {
		return value{}, err
	}
	if p.left < 0 {
		return value{}, tooLarge(maxBytes)
	}
	return v, nil
}

// tooLarge is the error of a merge whose state would grow beyond its limit.
func tooLarge(maxBytes int64) error {
	return fmt.Errorf("the merged answer would take more than MaxBytes, which is %d", maxBytes)
}

func (p *parser) parse(depth int) (value, error) {
	switch c := p.peek(); {
	case c == '{':
		return p.object(depth)
	case c == '[' && p.sum:
		return p.numbersOf(depth)
	case c == '[':
		raw, err := p.value(depth)
		if err != nil {
			return value{}, err
		}
		return value{kind: arrayKind, raw: inside(raw)}, nil
	case p.sum && (c == '-' || isDigit(c)):
		n, err := p.parseNumber(depth)
		return value{kind: numberKind, numbers: []number{n}}, err
	default:
		raw, err := p.value(depth)
		return value{kind: scalarKind, raw: raw}, err
	}
}

// object parses an object. Of members with the same name the last one counts, as it does
// to most parsers.
func (p *parser) object(depth int) (value, error) {
	v := value{kind: objectKind, fields: map[string]value{}}
	more, err := p.enter('}', depth)
	for ; more && err == nil; more, err = p.next('}') {
		quoted, err := p.key()
		if err != nil {
			return value{}, err
		}
		key, err := unquote(quoted)
		if err != nil {
			return value{}, err
		}
		member, err := p.parse(depth + 1)
		if err != nil {
			return value{}, err
		}
		if p.left >= 0 { // else it is only checked, so that garbage is told from what is too large
			v.fields[string(key)] = member
		}
		p.left -= nodeCost + int64(len(key))
	}
	return v, err
}

// numbersOf parses an array that has to be of numbers.
func (p *parser) numbersOf(depth int) (value, error) {
	v := value{kind: arrayKind}
	more, err := p.enter(']', depth)
	for ; more && err == nil; more, err = p.next(']') {
		n, err := p.parseNumber(depth + 1)
		if err != nil {
			return value{}, err
		}
		if p.left >= 0 {
			v.numbers = append(v.numbers, n)
		}
		p.left -= numberCost + int64(len(n.raw))
	}
	return v, err
}

func (p *parser) parseNumber(depth int) (number, error) {
	if c := p.peek(); c != '-' && !isDigit(c) {
		return number{}, p.unexpected("a number, which is all that an array may have to be summed")
	}
	raw, err := p.value(depth)
	if err != nil {
		return number{}, err
	}
	n, err := parseNumber(raw)
	n.raw = string(raw)
	return n, err
}
