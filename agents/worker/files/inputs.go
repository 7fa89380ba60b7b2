package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// parallel is how many inputs of a merge are fetched at a time.
const parallel = 8

// source is where an input is.
type source struct {
	name string // below the place of inputs; outputs are named after it
	path string // on this machine
	// later is where the output of another stage is when it has been published; empty if
	// this is none.
	later string

	url    string // otherwise: of the blob store,
	key    string // the key there,
	latter string // and the one when it has been published
	raw    string // the whole URL
}

// locate finds out where an input is, and whether it may be used.
func (f *Files) locate(input string) (source, error) {
	if strings.ContainsRune(input, 0) {
		return source{}, badf("the input has a zero byte in its name")
	}
	dir := ""
	if strings.Contains(input, "://") {
		var err error
		if dir, err = localPath(input); err != nil {
			return source{}, badf("input: %w", err)
		}
		if dir == "" {
			return f.locateURL(input)
		}
	}
	var p string
	switch {
	case dir != "":
		p = dir
	case !filepath.IsAbs(input):
		if len(f.cfg.InputDirs) == 0 {
			return source{}, badf("the input %q is relative; give the worker an -input-dir", input)
		}
		p = filepath.Join(f.roots[0], input)
	default:
		p = filepath.Clean(input)
	}
	s := source{path: p}
	at := 0 // the longest directory with it
	for _, root := range f.roots {
		if rest, is := below(root, p); is && rest != "" && len(root)+1 > at {
			at, s.name = len(root)+1, rest
		}
	}
	if at == 0 {
		if len(f.roots) > 0 {
			return source{}, badf("the input %q is in none of the directories that -input-dir allows", input)
		}
		s.name = strings.TrimPrefix(p, "/")
	}
	if base, rest, is := published(p); is {
		s.name, s.later = rest, base+rest
	}
	return s, nil
}

func (f *Files) locateURL(input string) (source, error) {
	u, err := url.Parse(input)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return source{}, badf("the input is not a path, and not a URL such as s3://bucket/key")
	}
	key := strings.TrimPrefix(u.Path, "/")
	if key == "" || strings.HasSuffix(key, "/") {
		return source{}, badf("the input %q names no file of the bucket", input)
	}
	s := source{name: path.Clean(key), key: key, raw: input}
	plain := u.Scheme + "://" + u.Host + "/" + key
	allowed, named := len(f.cfg.InputURLs) == 0, false
	for _, prefix := range append(slices.Clone(f.cfg.InputURLs), f.cfg.Output) {
		prefix, query, _ := strings.Cut(prefix, "?")
		rest, is := strings.CutPrefix(plain, prefix)
		if !is || prefix == "" {
			continue
		}
		named = true
		if u.RawQuery == "" {
			u.RawQuery = query
		}
		// With another one, an item could send the worker to another server.
		allowed = allowed || u.RawQuery == query
		if rest = strings.TrimPrefix(rest, "/"); rest != "" && len(rest) < len(s.name) {
			s.name = path.Clean(rest)
		}
	}
	switch {
	case !allowed && named:
		return source{}, badf("the input %q has another query than -input-url allows; leave it out", input)
	case !allowed:
		return source{}, badf("the input %q begins with none of what -input-url allows", input)
	}
	s.url = bucketURL(u)
	if base, rest, is := published(key); is {
		s.name, s.latter = rest, base+rest
	}
	return s, nil
}

// bucketURL is the URL without the key.
func bucketURL(u *url.URL) string {
	b := url.URL{Scheme: u.Scheme, Host: u.Host, RawQuery: u.RawQuery}
	return b.String()
}

// bring makes an input readable, in a directory if it has to be brought, and returns its
// path.
func (f *Files) bring(ctx context.Context, s source, dir string) (string, error) {
	if s.url != "" && f.cfg.Remote {
		return s.raw, nil
	}
	if s.url == "" && s.later == "" {
		return s.path, f.usable(s.path)
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return "", down(err)
	}
	to := filepath.Join(dir, path.Base(s.name))
	return to, f.bringTo(ctx, s, to)
}

// bringTo makes an input readable under a path.
func (f *Files) bringTo(ctx context.Context, s source, to string) error {
	switch {
	case s.url != "":
		return f.fetch(ctx, s, to)
	case s.later == "":
		if err := f.usable(s.path); err != nil {
			return err
		}
		return down(os.Symlink(s.path, to))
	}
	// It can be published, that is, moved, at any moment: a link of our own stays.
	err := f.pin(s.path, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.RemoveAll(to); err == nil {
			err = f.pin(s.later, to)
		}
	}
	return err
}

func (f *Files) pin(from, to string) error {
	if err := f.usable(from); err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(from) // a hard link to a symbolic one would lead nowhere
	if err == nil {
		err = linkTree(target, to)
	}
	if err != nil {
		return down(fmt.Errorf("input: %w", err))
	}
	return nil
}

// usable says whether a path is a file or directory that may be used, also if there are
// symbolic links on the way.
func (f *Files) usable(p string) error {
	info, err := os.Stat(p)
	if err != nil {
		return down(fmt.Errorf("input: %w", err))
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return badf("the input %q is no file and no directory", p)
	}
	if len(f.real) == 0 {
		return nil
	}
	target, err := filepath.EvalSymlinks(p)
	if err != nil {
		return down(fmt.Errorf("input: %w", err))
	}
	if !slices.ContainsFunc(f.real, func(root string) bool { _, is := below(root, target); return is }) {
		return badf("the input %q is a link to %q, which is in none of the directories that -input-dir allows", p, target)
	}
	return nil
}

// gather brings the inputs of a merge into one directory, in their order.
func (f *Files) gather(ctx context.Context, inputs []string, dir string) (string, error) {
	sources := make([]source, len(inputs))
	remote := false
	for i, input := range inputs {
		var err error
		if sources[i], err = f.locate(input); err != nil {
			return "", err
		}
		remote = remote || sources[i].url != ""
	}
	if remote && f.cfg.Remote {
		return "", nil // they are in the item
	}
	if err := os.Mkdir(dir, dirMode); err != nil {
		return "", down(err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, s := range sources {
		group.Go(func() error {
			return f.bringTo(ctx, s, filepath.Join(dir, fmt.Sprintf("%06d-%s", i+1, path.Base(s.name))))
		})
	}
	return dir, group.Wait()
}
