package merge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// DefaultMaxK is the largest number of elements that a request may choose, unless it is
// configured.
const DefaultMaxK = 1000

// ErrRequest says that a request cannot be answered because of what it asks for: the
// fault is the client's.
var ErrRequest = errors.New("the request cannot be merged")

// TopKConfig is for [NewTopK]. Paths are names in objects, with dots between them:
// "score" or "meta.score". A name that has a dot itself cannot be said.
type TopKConfig struct {
	// K is how many elements the answer has.
	K int
	// KParam is the parameter of the client's query that may choose another number, from 1
	// to MaxK. Empty: none may.
	KParam string
	// MaxK is the largest number. Default: DefaultMaxK, or K if that is more.
	MaxK int
	// Field is the path to what elements are ordered by. In all of them it has to be a
	// number, or in all of them a string, which are compared by their bytes.
	Field string
	// Ascending puts the lowest first. Default: the highest.
	Ascending bool
	// Items is the path to the array of elements within a partial answer, and within the
	// merged one. Empty: they are the array.
	Items string
	// Unique is the path to a string, number or boolean. Of elements in which it is equal
	// (as numbers are written: 1 is not 1.0) only the one that comes first stays. Elements
	// that lack it, or where it is null, are equal to none. Empty: all may stay.
	Unique string
	// MaxBytes is how long the elements that are kept may be together. Default:
	// DefaultMaxBytes.
	MaxBytes int64
}

// TopK takes the elements of the partial answers that are the highest by a field. Those
// with the same value are ordered by shard, as [JSONMerge] orders shards, and then by
// their positions, so that the answer does not depend on the order of arrival.
//
// A partial answer that has no such array, or an element in it that lacks the field, is
// garbage; and so is one with texts where others had numbers, or the other way round.
// Elements are passed on as they are written. Of members with the same name the last one
// counts.
type TopK struct {
	cfg   TopKConfig
	items []string
	place *place
}

// NewTopK returns an error that names the field that is wrong, if any.
func NewTopK(cfg TopKConfig) (*TopK, error) {
	if cfg.K < 1 {
		return nil, wrong("K", "%d is less than 1; say how many elements the answer should have", cfg.K)
	}
	if cfg.MaxK == 0 {
		cfg.MaxK = max(cfg.K, DefaultMaxK)
	}
	if cfg.MaxK < cfg.K {
		return nil, wrong("MaxK", "%d is less than K, which is %d; raise it or leave it out", cfg.MaxK, cfg.K)
	}
	if cfg.Field == "" {
		return nil, wrong("Field", "it is missing; say what elements are ordered by, such as \"score\"")
	}
	t := &TopK{cfg: cfg, place: &place{}}
	var err error
	if t.cfg.MaxBytes, err = orDefault("MaxBytes", cfg.MaxBytes, DefaultMaxBytes); err != nil {
		return nil, err
	}
	if t.items, err = pathOf("Items", cfg.Items); err != nil {
		return nil, err
	}
	field, err := pathOf("Field", cfg.Field)
	if err != nil {
		return nil, err
	}
	unique, err := pathOf("Unique", cfg.Unique)
	if err != nil {
		return nil, err
	}
	t.place.add(field, func(p *place) *mark { return &p.field })
	if len(unique) > 0 {
		t.place.add(unique, func(p *place) *mark { return &p.unique })
	}
	return t, nil
}

// pathOf splits a path. An empty one has no names.
func pathOf(name, path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	names := strings.Split(path, ".")
	for _, n := range names {
		if n == "" {
			return nil, wrong(name, "%q has an empty name; write it like \"meta.score\"", path)
		}
	}
	if len(names) >= maxDepth {
		return nil, wrong(name, "it has %d names; shorten it to %d", len(names), maxDepth-1)
	}
	return names, nil
}

// Begin implements [Merger]. The error is ErrRequest if the request's number of elements
// is not one, or too large.
func (t *TopK) Begin(_ context.Context, r Request, w Writer) (Merge, error) {
	k, err := t.kOf(r)
	if err != nil {
		return nil, err
	}
	return &topK{
		TopK: t, w: w,
		all: newBest(k, t.cfg.Ascending), partial: newBest(k, t.cfg.Ascending),
	}, nil
}

func (t *TopK) kOf(r Request) (int, error) {
	if t.cfg.KParam == "" || r.HTTP == nil || r.HTTP.URL == nil {
		return t.cfg.K, nil
	}
	text := r.HTTP.URL.Query().Get(t.cfg.KParam)
	if text == "" {
		return t.cfg.K, nil
	}
	k, err := strconv.Atoi(text)
	if err != nil || k < 1 || k > t.cfg.MaxK {
		return 0, fmt.Errorf("%w: %s: %.40q is not a number from 1 to %d", ErrRequest, t.cfg.KParam, text, t.cfg.MaxK)
	}
	return k, nil
}

// rankKind is what a rank is made of.
type rankKind int

const (
	noRank rankKind = iota
	numberRank
	textRank
)

// topK is the merge of one request.
type topK struct {
	*TopK
	w     Writer
	all   *best
	ranks rankKind // those of all

	// Of the partial that is being read.
	partial      *best
	partialRanks rankKind
	found        bool // the array
	shard        string
}

// Add reads the whole partial before it takes anything of it.
func (t *topK) Add(p Partial) error {
	defer t.partial.reset() // its elements lie in the body
	t.partialRanks, t.found, t.shard = t.ranks, false, p.Shard
	s, err := newScanner(p.Body)
	if err != nil {
		return err
	}
	if err := t.follow(&s, t.items, 0); err != nil {
		return err
	}
	if err := s.end(); err != nil {
		return err
	}
	if !t.found {
		return garbage("it has no array where Items says, at %q", t.cfg.Items)
	}
	t.ranks = t.partialRanks
	for _, e := range t.partial.heap.elements {
		if kept := t.all.offer(e); kept != nil {
			kept.own()
		}
	}
	if t.all.bytes > t.cfg.MaxBytes {
		return tooLarge(t.cfg.MaxBytes)
	}
	return nil
}

// follow goes along the path to the array.
func (t *topK) follow(s *scanner, path []string, depth int) error {
	if len(path) == 0 {
		return t.elements(s, depth)
	}
	if s.peek() != '{' {
		return s.skip(depth)
	}
	more, err := s.enter('}', depth)
	for ; more && err == nil; more, err = s.next('}') {
		quoted, err := s.key()
		if err != nil {
			return err
		}
		key, err := unquote(quoted)
		if err != nil {
			return err
		}
		if string(key) != path[0] {
			if err := s.skip(depth + 1); err != nil {
				return err
			}
			continue
		}
		t.found = false
		t.partial.reset()
		if err := t.follow(s, path[1:], depth+1); err != nil {
			return err
		}
	}
	return err
}

// elements reads the array.
func (t *topK) elements(s *scanner, depth int) error {
	if s.peek() != '[' {
		return s.unexpected("the array of elements")
	}
	t.found = true
	more, err := s.enter(']', depth)
	for pos := 0; more && err == nil; more, err = s.next(']') {
		if err := t.element(s, depth+1, pos); err != nil {
			return fmt.Errorf("element %d: %w", pos, err)
		}
		pos++
	}
	return err
}

func (t *topK) element(s *scanner, depth, pos int) error {
	var f found
	s.peek()
	start := s.pos
	if err := t.place.find(s, depth, &f); err != nil {
		return err
	}
	e := element{raw: s.data[start:s.pos], shard: t.shard, pos: pos}
	kind, err := rankOf(f.field, &e.rank)
	if err != nil {
		return err
	}
	switch {
	case kind == noRank:
		return garbage("%s is no number and no string", t.cfg.Field)
	case t.partialRanks != noRank && t.partialRanks != kind:
		return garbage("%s is a number in some elements and a string in others", t.cfg.Field)
	}
	t.partialRanks = kind
	if e.unique, err = t.uniqueOf(f.unique); err != nil {
		return err
	}
	if t.all.admits(&e) {
		t.partial.offer(&e)
	}
	return nil
}

// rankOf reads a rank; it is noRank if the value is of another kind, or missing.
func rankOf(raw []byte, r *rank) (rankKind, error) {
	switch {
	case len(raw) == 0:
		return noRank, nil
	case raw[0] == '"':
		text, err := unquote(raw)
		r.text = text
		return textRank, err
	case raw[0] == '-' || isDigit(raw[0]):
		n, err := parseNumber(raw)
		r.number = splitOf(n)
		return numberRank, err
	}
	return noRank, nil
}

// uniqueOf makes what elements are compared by: values that are written differently but
// for escapes in strings are different. Nil is equal to none.
func (t *topK) uniqueOf(raw []byte) ([]byte, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	switch raw[0] {
	case 'n':
		return nil, nil
	case '{', '[':
		return nil, garbage("%s is no string, number or boolean", t.cfg.Unique)
	case '"':
		text, err := unquote(raw)
		if err != nil {
			return nil, err
		}
		if len(text) == len(raw)-2 { // it has no escapes: the quote tells it from a number
			return raw[:len(raw)-1], nil
		}
		return append([]byte{'"'}, text...), nil
	}
	return raw, nil
}

func (t *topK) Finish() error {
	o := begin(t.w, typeJSON)
	for _, name := range t.items {
		o.text("{")
		o.quoted(name)
		o.text(":")
	}
	o.text("[")
	for i, e := range t.all.sorted() {
		if i > 0 {
			o.text(",")
		}
		o.bytes(e.raw)
	}
	o.text("]")
	o.text(strings.Repeat("}", len(t.items)))
	return o.flush()
}

func (t *topK) Abort() {}
