package journal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/election/journal"
	"github.com/shoenig/test/must"
)

func TestSpans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spans")
	s, err := journal.CreateSpans(path)
	must.NoError(t, err)
	got, err := journal.ReadSpans(path)
	must.NoError(t, err)
	must.SliceEmpty(t, got)

	for at := time.Duration(1); at <= 10; at++ {
		must.NoError(t, s.Trusted(0, 7, at))
		must.NoError(t, s.Trusted(1, 8+uint64(at/6), at))
	}
	// Another process reads what is mapped here.
	want := []journal.Span{
		{Election: 0, Token: 7, First: 1, Last: 10},
		{Election: 1, Token: 8, First: 1, Last: 5},
		{Election: 1, Token: 9, First: 6, Last: 10},
	}
	got, err = journal.ReadSpans(path)
	must.NoError(t, err)
	must.Eq(t, want, got)

	must.NoError(t, s.Close())
	got, err = journal.ReadSpans(path)
	must.NoError(t, err)
	must.Eq(t, want, got)

	_, err = journal.CreateSpans(path)
	must.Error(t, err)
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestWriter(t *testing.T) {
	var out bytes.Buffer
	w := journal.NewWriter(&out)
	w.Write(journal.Event{Kind: journal.Gained, Election: "a", Token: 1})
	w.Write(journal.Event{Kind: journal.Lost, At: 5})
	must.NoError(t, w.Err())
	var e journal.Event
	dec := json.NewDecoder(&out)
	must.NoError(t, dec.Decode(&e))
	must.Eq(t, journal.Gained, e.Kind)
	must.Positive(t, e.At)
	e = journal.Event{}
	must.NoError(t, dec.Decode(&e))
	must.Eq(t, journal.Event{Kind: journal.Lost, At: 5}, e)

	w = journal.NewWriter(broken{})
	w.Write(journal.Event{Kind: journal.Ready})
	must.ErrorContains(t, w.Err(), "broken")
}
