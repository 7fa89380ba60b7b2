package merge

import "slices"

// mark says how a place in an element concerns one of the paths.
type mark int

const (
	offPath mark = iota
	onPath       // it leads on
	pathEnd      // the value is here
)

// place is a place in an element that paths lead to: a tree of names, which is walked
// while an element is read once.
type place struct {
	name          string
	field, unique mark
	below         []*place
}

// add adds a path; of says which mark is its.
func (p *place) add(path []string, of func(*place) *mark) {
	if len(path) == 0 {
		*of(p) = pathEnd
		return
	}
	*of(p) = onPath
	i := slices.IndexFunc(p.below, func(q *place) bool { return q.name == path[0] })
	if i < 0 {
		i = len(p.below)
		p.below = append(p.below, &place{name: path[0]})
	}
	p.below[i].add(path[1:], of)
}

// found is what lies at the ends of the paths; nil is nothing.
type found struct{ field, unique []byte }

// find reads a value and notes what is found in it.
func (p *place) find(s *scanner, depth int, f *found) error {
	s.peek()
	start := s.pos
	if err := p.descend(s, depth, f); err != nil {
		return err
	}
	if p.field == pathEnd {
		f.field = s.data[start:s.pos]
	}
	if p.unique == pathEnd {
		f.unique = s.data[start:s.pos]
	}
	return nil
}

// descend reads a value; in an object it looks for the places below.
func (p *place) descend(s *scanner, depth int, f *found) error {
	if len(p.below) == 0 || s.peek() != '{' {
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
		next := p.named(key)
		if next == nil {
			if err := s.skip(depth + 1); err != nil {
				return err
			}
			continue
		}
		next.forget(f)
		if err := next.find(s, depth+1, f); err != nil {
			return err
		}
	}
	return err
}

func (p *place) named(key []byte) *place {
	for _, q := range p.below {
		if string(key) == q.name {
			return q
		}
	}
	return nil
}

// forget drops what was found here: of members with the same name the last one counts.
func (p *place) forget(f *found) {
	if p.field != offPath {
		f.field = nil
	}
	if p.unique != offPath {
		f.unique = nil
	}
}
