package files

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // s3://
	"gocloud.dev/gcerrors"
)

// maxBuckets bounds the blob stores that are kept open.
const maxBuckets = 64

// buckets are blob stores that are open.
type buckets struct {
	open func(ctx context.Context, url string) (*blob.Bucket, error)

	mu      sync.Mutex
	all     map[string]*blob.Bucket
	failing map[string]bool // those that did not work the last time
}

// get opens a blob store, or takes one that is open.
func (b *buckets) get(ctx context.Context, url string) (*blob.Bucket, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bucket := b.all[url]; bucket != nil {
		return bucket, nil
	}
	if len(b.all) >= maxBuckets {
		return nil, fmt.Errorf("items have named more than %d blob stores; allow fewer by -input-url", maxBuckets)
	}
	open := b.open
	if open == nil {
		open = blob.OpenBucket
	}
	bucket, err := open(ctx, url)
	if err != nil {
		return nil, badf("open a blob store: %w", err)
	}
	if b.all == nil {
		b.all, b.failing = map[string]*blob.Bucket{}, map[string]bool{}
	}
	b.all[url] = bucket
	return bucket, nil
}

// check marks errors that are the fault of a blob store.
func (b *buckets) check(ctx context.Context, url string, err error) error {
	failing := false
	if err != nil && ctx.Err() == nil {
		switch gcerrors.Code(err) {
		case gcerrors.NotFound, gcerrors.PermissionDenied, gcerrors.InvalidArgument, gcerrors.FailedPrecondition, gcerrors.OK:
		default:
			failing = true
			err = &kindError{ErrDown, err}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if failing {
		b.failing[url] = true
	} else if err == nil {
		delete(b.failing, url)
	}
	return err
}

// probe says whether the blob stores that did not work do.
func (b *buckets) probe(ctx context.Context) error {
	b.mu.Lock()
	var urls []string
	for url := range b.failing {
		urls = append(urls, url)
	}
	b.mu.Unlock()
	for _, url := range urls {
		bucket, err := b.get(ctx, url)
		if err != nil {
			return err
		}
		ok, err := bucket.IsAccessible(ctx)
		if err == nil && !ok {
			err = errors.New("the bucket is not there, or may not be used")
		}
		if err := b.check(ctx, url, err); err != nil {
			return fmt.Errorf("blob store: %w", err)
		}
	}
	return nil
}

func (b *buckets) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, bucket := range b.all {
		errs = append(errs, bucket.Close())
	}
	return errors.Join(errs...)
}
