package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

const (
	// maxDocument is the size of the largest document that is taken, in bytes.
	maxDocument = 1 << 20
	// maxLine bounds a line of the index.
	maxLine = 16 << 20
)

// index says how often words are in documents: word, document, count.
type index map[string]map[string]int

func (x index) add(word, document string, n int) {
	docs := x[word]
	if docs == nil {
		docs = map[string]int{}
		x[word] = docs
	}
	docs[document] += n
}

// postings is the number of pairs of a word and a document.
func (x index) postings() int {
	n := 0
	for _, docs := range x {
		n += len(docs)
	}
	return n
}

// find returns documents below a directory, at most so many, evenly picked.
func find(dir string, most int) ([]string, error) {
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > 0 && info.Size() <= maxDocument && !strings.ContainsAny(path, "\t\n") {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find documents: %w", err)
	}
	if len(all) <= most {
		return all, nil
	}
	picked := make([]string, most)
	for i := range picked {
		picked[i] = all[i*len(all)/most]
	}
	return picked, nil
}

// read counts the words of documents, in one go.
func read(documents []string) (index, error) {
	x := index{}
	for _, path := range documents {
		if err := x.read(path); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return x, nil
}

// read counts the words of a document: letters and digits of ASCII, as the template does.
func (x index) read(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var text io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if text, err = gzip.NewReader(f); err != nil {
			return err
		}
	}
	in := bufio.NewReader(text)
	var word []byte
	for {
		c, err := in.ReadByte()
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if err == nil && ('0' <= c && c <= '9' || 'a' <= c && c <= 'z') {
			word = append(word, c)
			continue
		}
		if len(word) > 0 {
			x.add(string(word), path, 1)
			word = word[:0]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// load reads an index that the pipeline has made: word, document:count, … with tabs.
func load(path string) (x index, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	x = index{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		word, rest, _ := strings.Cut(lines.Text(), "\t")
		if x[word] != nil {
			return nil, fmt.Errorf("%s:%d: the word %q is there twice", path, n, word)
		}
		for field := range strings.SplitSeq(rest, "\t") {
			colon := strings.LastIndexByte(field, ':')
			count, err := strconv.Atoi(field[colon+1:])
			if colon < 0 || err != nil {
				return nil, fmt.Errorf("%s:%d: %q is not a document and a count", path, n, field)
			}
			if x[word][field[:colon]] != 0 {
				return nil, fmt.Errorf("%s:%d: %q has the document %q twice", path, n, word, field[:colon])
			}
			x.add(word, field[:colon], count)
		}
	}
	return x, lines.Err()
}

// compare says where two indexes differ.
func compare(got, want index) error {
	for word, docs := range want {
		for doc, n := range docs {
			if got[word][doc] != n {
				return fmt.Errorf("the index has %q in %s %d times, and it is there %d times", word, doc, got[word][doc], n)
			}
		}
	}
	if g, w := got.postings(), want.postings(); g != w {
		return fmt.Errorf("the index has %d words in documents, and there are %d", g, w)
	}
	return nil
}

// lookUp says where a word is.
func (x index) lookUp(word, dir string) string {
	docs := make([]string, 0, len(x[word]))
	for doc := range x[word] {
		docs = append(docs, doc)
	}
	if len(docs) == 0 {
		return "in no document"
	}
	sort.Slice(docs, func(i, j int) bool {
		if a, b := x[word][docs[i]], x[word][docs[j]]; a != b {
			return a > b
		}
		return docs[i] < docs[j]
	})
	var most []string
	for _, doc := range docs[:min(3, len(docs))] {
		name, err := filepath.Rel(dir, doc)
		if err != nil {
			name = doc
		}
		most = append(most, fmt.Sprintf("%s (%d)", name, x[word][doc]))
	}
	return fmt.Sprintf("in %d documents: %s", len(docs), strings.Join(most, ", "))
}
