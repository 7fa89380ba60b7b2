package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // s3://
	"gocloud.dev/gcerrors"
)

const (
	// blobTimeout bounds one request, together with what its size adds.
	blobTimeout = 15 * time.Second
	// blobRate is the slowest transfer that is waited for, in bytes per second.
	blobRate = 1 << 20
	// witness is an object that is there only to be created again, in vain.
	witness = Prefix + ".create-if-absent"
)

// OpenBlob returns the store at a URL:
//
//   - file:///srv/shared/checkpoints: a directory, see [OpenDir];
//   - s3://bucket/prefix?region=eu-central-1: S3, or a server that speaks its
//     protocol and honours If-None-Match: * (parameters as for gocloud.dev's
//     s3blob; credentials from AWS's environment, files or metadata service).
//
// It does not speak to S3.
func OpenBlob(ctx context.Context, rawURL string) (Store, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.User != nil {
		// The URL is not shown: there may be a password in it.
		return nil, errors.New("open store: it is not a URL such as file:///directory or s3://bucket/prefix?region=eu-central-1, without user and password")
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || u.Path == "" {
			return nil, fmt.Errorf("open store: %s is not file:// and an absolute path, without parameters", u.Redacted())
		}
		return OpenDir(ctx, u.Path)
	case "s3":
		if u.Host == "" {
			return nil, errors.New("open store: s3:// must be followed by the name of a bucket")
		}
		prefix := strings.Trim(path.Clean("/"+u.Path), "/")
		u.Path, u.RawPath = "", ""
		bucket, err := blob.OpenBucket(ctx, u.String())
		if err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
		if prefix != "" {
			bucket = blob.PrefixedBucket(bucket, prefix+"/")
		}
		return &Blob{bucket: bucket}, nil
	}
	return nil, fmt.Errorf("open store: %s:// is not known; use file:// or s3://", u.Scheme)
}

// Blob is a Store in an object store that has a conditional write.
type Blob struct {
	bucket *blob.Bucket

	mu      sync.Mutex // guards the field below, and is held while it is found out
	honours bool       // the store honours the condition of a write
}

// Create implements Store. The first one makes sure that the store honours the
// condition "only if it is not there": some servers ignore it, and overwrite.
func (b *Blob) Create(ctx context.Context, name string, data []byte) error {
	if err := b.probe(ctx); err != nil {
		return err
	}
	return b.create(ctx, name, data)
}

func (b *Blob) probe(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.honours {
		return nil
	}
	for range 2 {
		err := b.create(ctx, witness, []byte("shows that the store does not overwrite"))
		if errors.Is(err, ErrExists) {
			b.honours = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("try whether the store overwrites: %w", err)
		}
	}
	return fmt.Errorf("%w: it ignores If-None-Match and so overwrites what is there; checkpoints need a store that honours it", ErrRefused)
}

func (b *Blob) create(ctx context.Context, name string, data []byte) error {
	ctx, cancel := blobContext(ctx, int64(len(data)))
	defer cancel()
	w, err := b.bucket.NewWriter(ctx, name, &blob.WriterOptions{
		IfNotExist: true, ContentType: "application/octet-stream", MaxConcurrency: 2,
	})
	if err != nil {
		return blobErr(err)
	}
	if _, err = w.Write(data); err != nil {
		cancel()      // so that closing gives it up
		_ = w.Close() // what it says follows from that
	} else {
		err = w.Close()
	}
	if gcerrors.Code(err) == gcerrors.FailedPrecondition {
		return ErrExists
	}
	return blobErr(err)
}

// Get implements Store.
func (b *Blob) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	ctx, cancel := blobContext(ctx, limit)
	defer cancel()
	r, err := b.bucket.NewReader(ctx, name, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, blobErr(err)
	}
	defer func() { _ = r.Close() }() // what is read has its checksum
	if r.Size() > limit {
		return nil, tooLargeToRead(name, r.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, blobErr(err)
	}
	if int64(len(data)) > limit {
		return nil, tooLargeToRead(name, -1, limit)
	}
	return data, nil
}

// List implements Store.
func (b *Blob) List(ctx context.Context, prefix string) ([]string, error) {
	ctx, cancel := blobContext(ctx, 0)
	defer cancel()
	var names []string
	for it := b.bucket.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := it.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return names, nil
		case err != nil:
			return nil, blobErr(err)
		case len(names) == maxNames:
			return nil, tooMany(prefix)
		}
		names = append(names, o.Key)
	}
}

// Delete implements Store.
func (b *Blob) Delete(ctx context.Context, name string) error {
	ctx, cancel := blobContext(ctx, 0)
	defer cancel()
	if err := b.bucket.Delete(ctx, name); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return blobErr(err)
	}
	return nil
}

// Close implements Store.
func (b *Blob) Close() error { return b.bucket.Close() }

func blobContext(ctx context.Context, size int64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, blobTimeout+time.Duration(size/blobRate)*time.Second)
}

// blobErr marks errors that another try does not change.
func blobErr(err error) error {
	if err == nil {
		return nil
	}
	refused := false
	switch gcerrors.Code(err) {
	case gcerrors.NotFound, gcerrors.PermissionDenied, gcerrors.InvalidArgument, gcerrors.Unimplemented: // the first: there is no such bucket
		refused = true
	}
	var status interface{ HTTPStatusCode() int } // the driver does not know all of S3's codes
	if errors.As(err, &status) {
		switch status.HTTPStatusCode() {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotImplemented:
			refused = true
		}
	}
	if refused {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
