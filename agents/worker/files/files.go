package files

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gocloud.dev/blob"
)

// maxOutput is the longest output that a broker takes, in bytes.
const maxOutput = 512

// Kinds of errors, for errors.Is. All others mean that another attempt may go better.
var (
	// ErrBad: no attempt can go well.
	ErrBad = errors.New("cannot be done")
	// ErrDown: a place does not work, whatever the item.
	ErrDown = errors.New("does not work")
	// ErrNoOutput: the program has written none.
	ErrNoOutput = errors.New("the output was not written")
)

// kindError gives an error a kind that its text does not show.
type kindError struct {
	kind, err error
}

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

func badf(format string, args ...any) error {
	return &kindError{ErrBad, fmt.Errorf(format, args...)}
}

// down marks errors that are the place's fault.
func down(err error) error {
	for _, no := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.ESTALE, syscall.ENOTCONN} {
		if errors.Is(err, no) {
			return &kindError{ErrDown, err}
		}
	}
	return err
}

// Config says where files are.
type Config struct {
	Queue string
	// InputDirs are directories in which inputs may be. A relative input is below the
	// first. None: all absolute paths may be inputs.
	InputDirs []string
	// InputURLs are what the URLs of inputs begin with. None: all may be inputs. A query,
	// which says how the blob store is spoken to, is that of the inputs.
	InputURLs []string
	// Output is a directory or a URL. Empty: there are no outputs.
	Output string
	// Name of outputs, with {path}, {name}, {stem}, {ext}, {id}, {key} and {attr.…} in it.
	// Default "{path}".
	Name string
	// WorkDir is for what is needed during an attempt and cannot be with the output.
	WorkDir string
	// Remote: the program runs elsewhere, so that URLs are left to it.
	Remote bool
	// Open opens blob stores. Default: blob.OpenBucket.
	Open func(ctx context.Context, url string) (*blob.Bucket, error)
	// Stall is for how long a transfer may make no progress. Default one minute.
	Stall time.Duration
}

// DefaultName is the name of outputs.
const DefaultName = "{path}"

// Files are the inputs and outputs of a worker.
type Files struct {
	cfg     Config
	roots   []string // cleaned directories where inputs may be; the output's is one
	real    []string // the same without symbolic links
	buckets buckets
	place   place // nil: no outputs
	scratch *scratch
}

// place is where outputs are.
type place interface {
	// work is the directory in which attempts work.
	work() string
	// keep makes the output whole and durable: step two. From is a file or directory.
	keep(ctx context.Context, k key, name, from string) error
	// url is how the broker is told.
	url(k key, name string) string
	// publish moves an output to its name. There may be nothing to move any more.
	publish(ctx context.Context, k key) error
	// find looks for a kept output, and for what is under its name.
	find(ctx context.Context, k key) (finding, error)
	// remove removes a kept output, removeRun what an attempt has had to work with.
	remove(ctx context.Context, k key) error
	removeRun(k key) error
	// touchRun makes it look new.
	touchRun(k key) error
	list(ctx context.Context) ([]kept, error)
	probe(ctx context.Context) error
}

// finding is what find has found.
type finding int

const (
	nothing finding = iota // there is no output
	free                   // there is one, and nothing is under its name
	taken                  // there is something, or it is not sure what there is
)

// New checks the places. Close has to be called.
func New(ctx context.Context, cfg Config) (*Files, error) {
	if cfg.Name == "" {
		cfg.Name = DefaultName
	}
	if err := CheckName(cfg.Name); err != nil {
		return nil, err
	}
	if cfg.Stall == 0 {
		cfg.Stall = time.Minute
	}
	if cfg.WorkDir == "" {
		cfg.WorkDir = os.TempDir()
	}
	f := &Files{cfg: cfg, buckets: buckets{open: cfg.Open}}
	dirs := cfg.InputDirs
	if cfg.Output != "" {
		dir, err := localPath(cfg.Output)
		if err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		if dir != "" {
			if f.place, err = newDirPlace(dir, cfg.Queue); err != nil {
				return nil, fmt.Errorf("output: %w", err)
			}
			if len(dirs) > 0 {
				dirs = append(dirs[:len(dirs):len(dirs)], dir)
			}
		}
	}
	for _, dir := range dirs {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("input directory: %w", err)
		}
		target, err := filepath.EvalSymlinks(abs)
		if err != nil {
			return nil, fmt.Errorf("input directory: %w", err)
		}
		f.roots, f.real = append(f.roots, abs), append(f.real, target)
	}
	var err error
	if f.scratch, err = newScratch(cfg.WorkDir); err != nil {
		return nil, fmt.Errorf("work directory: %w", err)
	}
	if cfg.Output != "" && f.place == nil {
		if f.place, err = newBlobPlace(ctx, cfg.Output, cfg.Queue, f); err != nil {
			return nil, errors.Join(fmt.Errorf("output: %w", err), f.scratch.close())
		}
	}
	return f, nil
}

// Close gives everything back.
func (f *Files) Close() error { return errors.Join(f.buckets.close(), f.scratch.close()) }

// Probe says whether the places that did not work do.
func (f *Files) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Stall)
	defer cancel()
	if err := f.scratch.probe(); err != nil {
		return err
	}
	if f.place != nil {
		if err := f.place.probe(ctx); err != nil {
			return err
		}
	}
	return f.buckets.probe(ctx)
}

// localPath is the path of an absolute or relative path, or of a file:// URL; empty for
// other URLs.
func localPath(place string) (string, error) {
	if !strings.Contains(place, "://") {
		return filepath.Abs(place)
	}
	u, err := url.Parse(place)
	if err != nil {
		return "", fmt.Errorf("%q is not a URL", place)
	}
	if u.Scheme != "file" {
		return "", nil
	}
	if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
		return "", fmt.Errorf("%q is not file:// and an absolute path", place)
	}
	return filepath.Clean(u.Path), nil
}

// below says whether a path is in a directory or is it, and the rest.
func below(dir, path string) (rest string, is bool) {
	if dir == "/" {
		return strings.TrimPrefix(path, "/"), true
	}
	if path == dir {
		return "", true
	}
	return strings.CutPrefix(path, dir+"/")
}
