package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

const (
	// maxCopy is the largest object that S3 copies by itself, in bytes.
	maxCopy = 5 << 30
	// partSize and partsAtOnce bound the memory of an upload.
	partSize    = 5 << 20
	partsAtOnce = 2
)

// blobPlace is a part of a blob store with outputs.
type blobPlace struct {
	files  *Files
	bucket string // its URL
	query  string // of it, with the question mark
	base   string // the URL without key and query, with a slash at the end
	prefix string // of keys; empty, or with a slash at the end
	queue  string
}

func newBlobPlace(ctx context.Context, place, queue string, f *Files) (*blobPlace, error) {
	u, err := url.Parse(place)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil {
		return nil, errors.New("it is not a directory, and not a URL such as s3://bucket/prefix?region=eu-central-1")
	}
	p := &blobPlace{files: f, bucket: bucketURL(u), base: u.Scheme + "://" + u.Host + "/", queue: queue}
	if u.RawQuery != "" {
		p.query = "?" + u.RawQuery
	}
	if p.prefix = strings.Trim(path.Clean("/"+u.Path), "/"); p.prefix != "" {
		p.prefix += "/"
	}
	// Does not connect, but says what is wrong with the URL before there is an item.
	_, err = f.buckets.get(ctx, p.bucket)
	return p, err
}

func (p *blobPlace) work() string { return p.files.scratch.dir }

// at is what keys of an attempt begin with; of the zero key, what those of all do.
func (p *blobPlace) at(k key) string {
	all := p.prefix + marker + "/" + p.queue + "/"
	if k == (key{}) {
		return all
	}
	return all + k.String() + "/"
}

func (p *blobPlace) url(k key, name string) string {
	u := url.URL{Path: p.at(k) + name}
	return p.base + u.EscapedPath() + p.query
}

// do works with the bucket.
func (p *blobPlace) do(ctx context.Context, what string, fn func(context.Context, *blob.Bucket, func()) error) error {
	return p.files.blobDo(ctx, p.bucket, what, fn)
}

// errStalled ends transfers that make no progress.
var errStalled = errors.New("the blob store does not go on")

// blobDo works with a bucket. Fn calls its function whenever there is progress; if there
// is none for a while its context ends.
func (f *Files) blobDo(ctx context.Context, bucketURL, what string, fn func(context.Context, *blob.Bucket, func()) error) error {
	bucket, err := f.buckets.get(ctx, bucketURL)
	if err != nil {
		return err
	}
	moving, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(f.cfg.Stall, func() { cancel(errStalled) })
	defer timer.Stop()
	err = fn(moving, bucket, func() { timer.Reset(f.cfg.Stall) })
	if err != nil && errors.Is(context.Cause(moving), errStalled) {
		err = fmt.Errorf("%w for %s", errStalled, f.cfg.Stall)
	}
	if err = f.buckets.check(ctx, bucketURL, err); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// moving tells about progress.
type moving struct {
	io.Reader
	moved func()
}

func (m *moving) Read(b []byte) (int, error) {
	n, err := m.Reader.Read(b)
	m.moved()
	return n, err
}

// fetch downloads an input.
func (f *Files) fetch(ctx context.Context, s source, to string) error {
	return f.blobDo(ctx, s.url, "fetch the input", func(ctx context.Context, b *blob.Bucket, moved func()) error {
		r, err := b.NewReader(ctx, s.key, nil)
		if gcerrors.Code(err) == gcerrors.NotFound && s.latter != "" {
			r, err = b.NewReader(ctx, s.latter, nil)
		}
		if gcerrors.Code(err) == gcerrors.NotFound {
			return &kindError{err, fmt.Errorf("%s is not there", s.key)}
		}
		if err != nil {
			return err
		}
		out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644) //nolint:gosec // the program may run as another user
		if err != nil {
			return errors.Join(err, r.Close())
		}
		_, err = io.Copy(out, &moving{r, moved})
		return errors.Join(err, out.Close(), r.Close())
	})
}

// write writes an object, whole or not at all.
func write(ctx context.Context, b *blob.Bucket, key string, from io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.NewWriter(ctx, key, &blob.WriterOptions{
		ContentType: mime.TypeByExtension(path.Ext(key)), BufferSize: partSize, MaxConcurrency: partsAtOnce,
	})
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, from); err != nil {
		cancel() // so that what was written is given up
		_ = w.Close()
		return err
	}
	return w.Close()
}

func (p *blobPlace) keep(ctx context.Context, k key, name, from string) error {
	if info, err := os.Lstat(from); err == nil && info.IsDir() {
		// As for makeNew: what is there is of a queue that was deleted.
		if err := p.remove(ctx, k); err != nil {
			return err
		}
	}
	files := 0
	err := p.do(ctx, "keep the output", func(ctx context.Context, b *blob.Bucket, moved func()) error {
		return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			rest, err := filepath.Rel(from, file)
			if err != nil {
				return err
			}
			in, err := os.Open(file) //nolint:gosec // the program that wrote it has ended
			if err != nil {
				return err
			}
			files++
			defer func() { _ = in.Close() }() // it is read only
			return write(ctx, b, path.Join(p.at(k)+name, rest), &moving{in, moved})
		})
	})
	if err == nil && files == 0 {
		err = fmt.Errorf("%w: the directory is empty, which a blob store cannot keep", ErrNoOutput)
	}
	return err
}

func (p *blobPlace) exists(ctx context.Context, k key, name string) (there bool, err error) {
	err = p.do(ctx, "look for the output", func(ctx context.Context, b *blob.Bucket, _ func()) error {
		there, err = b.Exists(ctx, p.at(k)+name)
		return err
	})
	return there, err
}

// each calls a function for all objects with a prefix.
func each(ctx context.Context, b *blob.Bucket, prefix string, moved func(), fn func(*blob.ListObject) error) error {
	for it := b.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		moved()
		if err := fn(o); err != nil {
			return err
		}
		moved()
	}
}

func (p *blobPlace) publish(ctx context.Context, k key) error {
	return p.do(ctx, "publish the output", func(ctx context.Context, b *blob.Bucket, moved func()) error {
		var done []string
		err := each(ctx, b, p.at(k), moved, func(o *blob.ListObject) error {
			done = append(done, o.Key)
			return copyObject(ctx, b, p.prefix+strings.TrimPrefix(o.Key, p.at(k)), o, moved)
		})
		if err != nil {
			return err
		}
		return deleteAll(ctx, b, done, moved)
	})
}

func copyObject(ctx context.Context, b *blob.Bucket, to string, o *blob.ListObject, moved func()) error {
	if o.Size <= maxCopy {
		err := b.Copy(ctx, to, o.Key, nil)
		if gcerrors.Code(err) == gcerrors.NotFound {
			return nil // somebody else has published it
		}
		return err
	}
	r, err := b.NewReader(ctx, o.Key, nil)
	if err != nil {
		return err
	}
	return errors.Join(write(ctx, b, to, &moving{r, moved}), r.Close())
}

// deleteAll deletes objects, as far as they are there.
func deleteAll(ctx context.Context, b *blob.Bucket, keys []string, moved func()) error {
	for _, k := range keys {
		if err := b.Delete(ctx, k); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return err
		}
		moved()
	}
	return nil
}

func (p *blobPlace) remove(ctx context.Context, k key) error {
	return p.do(ctx, "remove an output that was not accepted", func(ctx context.Context, b *blob.Bucket, moved func()) error {
		var keys []string
		err := each(ctx, b, p.at(k), moved, func(o *blob.ListObject) error { keys = append(keys, o.Key); return nil })
		if err != nil {
			return err
		}
		return deleteAll(ctx, b, keys, moved)
	})
}

// removeRun is never called: attempts work in the work directory.
func (p *blobPlace) removeRun(key) error { return nil }

// touchRun is never called either.
func (p *blobPlace) touchRun(key) error { return nil }

// find knows only outputs that are one object: others may not be whole.
func (p *blobPlace) find(ctx context.Context, k key) (found finding, err error) {
	err = p.do(ctx, "look for a published output", func(ctx context.Context, b *blob.Bucket, moved func()) error {
		var names []string
		err := each(ctx, b, p.at(k), moved, func(o *blob.ListObject) error {
			names = append(names, strings.TrimPrefix(o.Key, p.at(k)))
			return nil
		})
		if err != nil || len(names) == 0 {
			return err
		}
		found = taken
		if len(names) > 1 || depthOf(names[0]) != k.depth {
			return nil
		}
		there, err := b.Exists(ctx, p.prefix+names[0])
		if err == nil && !there {
			found = free
		}
		return err
	})
	return found, err
}

func (p *blobPlace) list(ctx context.Context) (all []kept, err error) {
	err = p.do(ctx, "list attempts", func(ctx context.Context, b *blob.Bucket, moved func()) error {
		return each(ctx, b, p.at(key{}), moved, func(o *blob.ListObject) error {
			name, _, _ := strings.Cut(strings.TrimPrefix(o.Key, p.at(key{})), "/")
			k, ok := parseKey(name)
			switch n := len(all); {
			case !ok:
			case n > 0 && all[n-1].key == k:
				all[n-1].since = o.ModTime
			default:
				all = append(all, kept{key: k, since: o.ModTime})
			}
			return nil
		})
	})
	return all, err
}

func (p *blobPlace) probe(ctx context.Context) error {
	return p.do(ctx, "use the place of outputs", func(ctx context.Context, b *blob.Bucket, _ func()) error {
		ok, err := b.IsAccessible(ctx)
		if err == nil && !ok {
			err = errors.New("the bucket is not there, or may not be used")
		}
		return err
	})
}
