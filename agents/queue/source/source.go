// Package source finds the inputs that "queue put" is given: files, globs, directories,
// lines, and what lies below a URL of a blob store.
package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // s3://
)

const (
	// openTimeout and pageTimeout bound what a blob store may take to answer.
	openTimeout = 30 * time.Second
	pageTimeout = time.Minute
	pageSize    = 1000
	// maxLine bounds a line of the standard input, in bytes.
	maxLine = 64 << 10
	// attempts is the directory in which workers keep outputs that are not published.
	attempts = ".wq"
)

// Stdin is the argument that stands for the lines of the standard input.
const Stdin = "-"

// List calls each with all inputs that an argument stands for: absolute paths, URLs, or
// lines as they are. It ends with the first error, that of each or of the argument.
func List(ctx context.Context, arg string, stdin io.Reader, each func(input string) error) error {
	switch scheme, rest, isURL := strings.Cut(arg, "://"); {
	case arg == Stdin:
		return lines(ctx, stdin, each)
	case isURL && scheme == "file":
		if !filepath.IsAbs(rest) {
			return fmt.Errorf("%q is not file:// and an absolute path", arg)
		}
		u, err := url.Parse(arg)
		if err != nil {
			return err
		}
		return local(ctx, u.Path, each)
	case isURL:
		return store(ctx, arg, each)
	default:
		return local(ctx, arg, each)
	}
}

// lines takes each line that is not empty.
func lines(ctx context.Context, from io.Reader, each func(string) error) error {
	s := bufio.NewScanner(from)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if line := strings.TrimRight(s.Text(), "\r"); line != "" {
			if err := each(line); err != nil {
				return err
			}
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read lines: %w", err)
	}
	return nil
}

// local takes a file, the files below a directory, or what a pattern matches. A name that
// is there is never taken for a pattern.
func local(ctx context.Context, path string, each func(string) error) error {
	info, err := os.Stat(path)
	switch {
	case err == nil:
		return walk(ctx, path, info, each)
	case !errors.Is(err, fs.ErrNotExist) || !strings.ContainsAny(path, `*?[`):
		return err
	}
	names, err := filepath.Glob(path)
	if err != nil {
		return fmt.Errorf("pattern %q: %w", path, err)
	}
	if len(names) == 0 {
		return fmt.Errorf("nothing matches %q", path)
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if err := walk(ctx, name, info, each); err != nil {
			return err
		}
	}
	return nil
}

// walk takes a file or all regular files below a directory, in the order of their names.
// Links to directories are not followed.
func walk(ctx context.Context, path string, info fs.FileInfo, each func(string) error) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		return each(path)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is neither a file nor a directory", path)
	}
	// A link that is given itself is followed: the slash does that.
	return filepath.WalkDir(path+string(filepath.Separator), func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.IsDir() && d.Name() == attempts:
			return filepath.SkipDir
		case d.Type()&fs.ModeSymlink != 0:
			info, err := os.Stat(name)
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return nil
			}
		case !d.Type().IsRegular():
			return nil
		}
		return each(name)
	})
}

// store takes all objects of a blob store whose names begin with the URL's path. What the
// URL says behind the question mark is for the store, and goes into the URL of each.
func store(ctx context.Context, arg string, each func(string) error) (err error) {
	u, err := url.Parse(arg)
	if err != nil {
		return err
	}
	prefix := strings.TrimPrefix(u.Path, "/")
	root := url.URL{Scheme: u.Scheme, Host: u.Host, RawQuery: u.RawQuery}
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	bucket, err := blob.OpenBucket(opening, root.String())
	if err != nil {
		return fmt.Errorf("%s: %w", root.Redacted(), err)
	}
	defer func() { err = errors.Join(err, bucket.Close()) }()
	found := false
	for token := blob.FirstPageToken; token != nil; {
		var page []*blob.ListObject
		asking, cancel := context.WithTimeout(ctx, pageTimeout)
		page, token, err = bucket.ListPage(asking, token, pageSize, &blob.ListOptions{Prefix: prefix})
		cancel()
		if err != nil {
			return fmt.Errorf("list %s: %w", u.Redacted(), err)
		}
		for _, o := range page {
			if o.IsDir || strings.HasSuffix(o.Key, "/") || strings.Contains("/"+o.Key, "/"+attempts+"/") {
				continue
			}
			found = true
			name := root
			name.Path = "/" + o.Key
			if err := each(name.String()); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("there is nothing below %s", u.Redacted())
	}
	return nil
}
