package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// tree makes files.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path := filepath.Join(dir, name)
		must.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	return dir
}

// list lists an argument. DIR stands for the directory in both directions.
func list(t *testing.T, dir, arg, stdin string) (all string, err error) {
	t.Helper()
	var found []string
	err = List(t.Context(), strings.ReplaceAll(arg, "DIR", dir), strings.NewReader(stdin), func(input string) error {
		found = append(found, strings.ReplaceAll(input, dir, "DIR"))
		return nil
	})
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), dir, "DIR"))
	}
	return strings.Join(found, " "), err
}

func TestList(t *testing.T) {
	dir := tree(t, "a.md", "b.txt", "sub/c.md", "sub/.wq/docs/0-1.1.1/x", "[z].md")
	must.NoError(t, os.Symlink(filepath.Join(dir, "a.md"), filepath.Join(dir, "sub/link.md")))
	must.NoError(t, os.Symlink(filepath.Join(dir, "sub"), filepath.Join(dir, "dirlink")))
	for name, c := range map[string]struct {
		arg, stdin string
		want, err  string
	}{
		"file":               {"DIR/a.md", "", "DIR/a.md", ""},
		"directory":          {"DIR/sub", "", "DIR/sub/c.md DIR/sub/link.md", ""},
		"all":                {"DIR", "", "DIR/[z].md DIR/a.md DIR/b.txt DIR/sub/c.md DIR/sub/link.md", ""},
		"link to directory":  {"DIR/dirlink", "", "DIR/dirlink/c.md DIR/dirlink/link.md", ""},
		"pattern":            {"DIR/*.md", "", "DIR/[z].md DIR/a.md", ""},
		"pattern for a dir":  {"DIR/su?", "", "DIR/sub/c.md DIR/sub/link.md", ""},
		"name like pattern":  {"DIR/[z].md", "", "DIR/[z].md", ""},
		"file URL":           {"file://DIR/a%2Emd", "", "DIR/a.md", ""},
		"lines":              {"-", "x\n\ns3://b/k\r\n y ", "x s3://b/k  y ", ""},
		"missing":            {"DIR/nope", "", "", "stat DIR/nope: no such file or directory"},
		"no match":           {"DIR/*.nope", "", "", `nothing matches "DIR/*.nope"`},
		"bad pattern":        {"DIR/[", "", "", `pattern "DIR/[": syntax error in pattern`},
		"no file":            {"/dev/null", "", "", "/dev/null is neither a file nor a directory"},
		"relative file URL":  {"file://a", "", "", `"file://a" is not file:// and an absolute path`},
		"unknown kind":       {"nope://a/b", "", "", `nope://a: open blob.Bucket: no driver registered for "nope" for URL "nope://a"`},
		"line that is large": {"-", strings.Repeat("x", maxLine+1), "", "read lines: bufio.Scanner: token too long"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := list(t, dir, c.arg, c.stdin)
			must.Eq(t, c.want, got)
			if c.err == "" {
				must.NoError(t, err)
			} else {
				must.ErrorContains(t, err, c.err)
			}
		})
	}
}

// A store that answers as S3 does, two keys a page. A whole one is in e2e.
func TestStore(t *testing.T) {
	keys := []string{"docs/a b.txt", "docs/sub/", "docs/.wq/docs/0-1.1.1/x", "docs/ü?.txt"}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		more := q.Get("continuation-token") == ""
		page := keys[2:]
		if more {
			page = keys[:2]
		}
		var b strings.Builder
		for _, k := range page {
			if strings.HasPrefix(k, q.Get("prefix")) {
				fmt.Fprintf(&b, "<Contents><Key>%s</Key><Size>1</Size><LastModified>2026-11-25T12:00:00.000Z</LastModified></Contents>", k)
			}
		}
		if more {
			b.WriteString("<NextContinuationToken>t</NextContinuationToken>")
		}
		w.Header().Set("Content-Type", "application/xml")
		_, _ = fmt.Fprintf(w, `<ListBucketResult><Name>bucket</Name><IsTruncated>%t</IsTruncated>%s</ListBucketResult>`, more, b.String())
	}))
	defer s.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	query := "?endpoint=" + s.URL + "&region=us-east-1&s3ForcePathStyle=true"
	got, err := list(t, "/none", "s3://bucket/docs/"+query, "")
	must.NoError(t, err)
	must.Eq(t, "s3://bucket/docs/a%20b.txt"+query+" s3://bucket/docs/%C3%BC%3F.txt"+query, got)
	_, err = list(t, "/none", "s3://bucket/nope"+query, "")
	must.ErrorContains(t, err, "there is nothing below s3://bucket/nope")
}

func TestStops(t *testing.T) {
	dir := tree(t, "a", "b")
	enough := errors.New("enough")
	n := 0
	must.ErrorIs(t, List(t.Context(), dir, nil, func(string) error { n++; return enough }), enough)
	must.Eq(t, 1, n)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must.ErrorIs(t, List(ctx, dir, nil, func(string) error { return nil }), context.Canceled)
	must.ErrorIs(t, List(ctx, Stdin, strings.NewReader("x\n"), func(string) error { return nil }), context.Canceled)
}
