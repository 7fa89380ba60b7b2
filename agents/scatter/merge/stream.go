package merge

import (
	"bytes"
	"context"
	"fmt"
)

// Concat writes the bodies one after the other, in the order of arrival. The type of the
// answer is that of the first.
type Concat struct{}

// Begin implements [Merger].
func (Concat) Begin(_ context.Context, _ Request, w Writer) (Merge, error) {
	return &concat{w: w}, nil
}

type concat struct {
	w     Writer
	begun bool
}

func (c *concat) Add(p Partial) error {
	if !c.begun {
		c.begun = true
		t := p.Header.Get("Content-Type")
		if t == "" {
			t = typeBytes // lest anybody makes a guess at the content
		}
		c.w.Header().Set("Content-Type", t)
	}
	if len(p.Body) == 0 {
		return nil
	}
	return write(c.w, p.Body)
}

func (c *concat) Finish() error { return nil }
func (c *concat) Abort()        {}

// JSONArray makes one array of the partial answers, in the order of arrival: the elements
// of those that are arrays, and the others as they are. Values are passed on as they are
// written: no number is rounded.
type JSONArray struct{}

// Begin implements [Merger].
func (JSONArray) Begin(_ context.Context, _ Request, w Writer) (Merge, error) {
	return &jsonArray{w: w}, nil
}

type jsonArray struct {
	w   Writer
	any bool // an element has been written
}

func (a *jsonArray) Add(p Partial) error {
	elements, err := elementsOf(p.Body)
	if err != nil || len(elements) == 0 {
		return err
	}
	lead := ","
	if !a.any {
		a.any = true
		a.w.Header().Set("Content-Type", typeJSON)
		lead = "["
	}
	if err := write(a.w, []byte(lead)); err != nil {
		return err
	}
	return write(a.w, elements)
}

func (a *jsonArray) Finish() error {
	if a.any {
		return write(a.w, []byte("]"))
	}
	a.w.Header().Set("Content-Type", typeJSON)
	return write(a.w, []byte("[]"))
}

func (a *jsonArray) Abort() {}

// elementsOf checks that the body is one value, and returns what is between the brackets
// if it is an array, otherwise the value.
func elementsOf(body []byte) ([]byte, error) {
	s, err := newScanner(body)
	if err != nil {
		return nil, err
	}
	value, err := s.value(0)
	if err != nil {
		return nil, err
	}
	if err := s.end(); err != nil {
		return nil, err
	}
	return inside(value), nil
}

// inside is what is between the brackets of a value that is an array, otherwise the value.
func inside(value []byte) []byte {
	if value[0] != '[' {
		return value
	}
	return bytes.Trim(value[1:len(value)-1], " \t\r\n")
}

// NDJSON writes the lines of the partial answers, each of which has to be one JSON value,
// in the order of arrival. Empty lines are dropped, and so is white space around a value;
// the last line may lack its end.
type NDJSON struct{}

// Begin implements [Merger].
func (NDJSON) Begin(_ context.Context, _ Request, w Writer) (Merge, error) {
	return &ndjson{w: w}, nil
}

type ndjson struct {
	w     Writer
	begun bool
}

func (n *ndjson) Add(p Partial) error {
	lines := make([]byte, 0, len(p.Body)+1)
	number := 0
	for line := range bytes.SplitSeq(p.Body, []byte("\n")) {
		number++
		s, err := newScanner(line)
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if s.peek() == 0 && s.end() == nil {
			continue
		}
		value, err := s.value(0)
		if err == nil {
			err = s.end()
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		lines = append(append(lines, value...), '\n')
	}
	if len(lines) == 0 {
		return nil
	}
	n.begin()
	return write(n.w, lines)
}

func (n *ndjson) begin() {
	if !n.begun {
		n.begun = true
		n.w.Header().Set("Content-Type", typeNDJSON)
	}
}

func (n *ndjson) Finish() error {
	n.begin()
	return nil
}

func (n *ndjson) Abort() {}
