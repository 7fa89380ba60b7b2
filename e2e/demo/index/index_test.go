package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestParse(t *testing.T) {
	cases := map[string]struct {
		args string
		want string // part of the error; empty: none
	}{
		"nothing":    {},
		"everything": {args: "-dir /tmp -documents 50 -workers 3 -words A,b -keep"},
		"argument":   {args: "x", want: `unexpected argument "x"`},
		"documents":  {args: "-documents 19", want: "not between 20 and 20000"},
		"workers":    {args: "-workers 1", want: "not between 2 and 50"},
		"unknown":    {args: "-fast", want: "flag provided but not defined"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := parse(strings.Fields(tc.args), io.Discard)
			if tc.want == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, tc.want)
		})
	}
	_, err := parse([]string{"-h"}, io.Discard)
	must.ErrorIs(t, err, flag.ErrHelp)
}

func TestWords(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b.gz")
	must.NoError(t, os.WriteFile(a, []byte("One two, TWO\nthree-3 na\xc3\xafve"), 0o600))
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := io.WriteString(z, "two")
	must.NoError(t, err)
	must.NoError(t, z.Close())
	must.NoError(t, os.WriteFile(b, packed.Bytes(), 0o600))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600))
	must.NoError(t, os.Symlink(a, filepath.Join(dir, "link")))

	documents, err := find(dir, 10)
	must.NoError(t, err)
	must.Eq(t, []string{a, b}, documents)
	one, err := find(dir, 1)
	must.NoError(t, err)
	must.Eq(t, []string{a}, one)

	x, err := read(documents)
	must.NoError(t, err)
	must.Eq(t, index{
		"one": {a: 1}, "two": {a: 2, b: 1}, "three": {a: 1}, "3": {a: 1}, "na": {a: 1}, "ve": {a: 1},
	}, x)
	must.Eq(t, "in 2 documents: a (2), b.gz (1)", x.lookUp("two", dir))
	must.Eq(t, "in no document", x.lookUp("four", dir))
	_, err = find(filepath.Join(dir, "nope"), 1)
	must.ErrorContains(t, err, "no such file")
}

func TestLoad(t *testing.T) {
	want := index{"a": {"/x:y": 2, "/z": 1}, "b": {"/z": 3}}
	for name, c := range map[string]struct {
		text string
		err  string // of load, or of compare with want
	}{
		"the same":       {text: "a\t/x:y:2\t/z:1\nb\t/z:3\n"},
		"word twice":     {text: "a\t/x:y:2\na\t/z:1\n", err: `:2: the word "a" is there twice`},
		"document twice": {text: "a\t/z:1\t/z:1\n", err: `:1: "a" has the document "/z" twice`},
		"no count":       {text: "a\t/z\n", err: `:1: "/z" is not a document and a count`},
		"other count":    {text: "a\t/x:y:2\t/z:1\nb\t/z:4\n", err: `"b" in /z 4 times, and it is there 3 times`},
		"missing":        {text: "a\t/x:y:2\t/z:1\n", err: `"b" in /z 0 times`},
		"too many":       {text: "a\t/x:y:2\t/z:1\nb\t/z:3\nc\t/z:1\n", err: "has 4 words in documents, and there are 3"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "index")
			must.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			got, err := load(path)
			if err == nil {
				err = compare(got, want)
			}
			if c.err == "" {
				must.NoError(t, err)
				return
			}
			must.ErrorContains(t, err, c.err)
		})
	}
}

// TestDemo makes an index while a broker and a worker are killed; run itself compares it.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	var out bytes.Buffer
	err := run(ctx, config{dir: "/usr/share/doc", documents: 200, workers: 2, words: []string{"copyright"}}, &out)
	must.NoError(t, err, must.Sprint(out.String()))
	for _, said := range []string{"kill -9 the broker in charge", "another one is in charge", "kill -9 a worker", "same as one made without the queue", "copyright: in ", "nothing is left running"} {
		must.StrContains(t, out.String(), said)
	}
}
