package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nomad-patterns/nomad-patterns/agents/worker/attempt"
)

// dirMode is that of directories: people and other stages read what is in them.
const dirMode = 0o755

// Work is the files of one attempt.
type Work struct {
	files *Files
	key   key
	name  string // of the output
	dir   string // in which the attempt works
	out   string // where the program writes; empty: nowhere on this machine
	kept  bool   // there may be something in the place of outputs
}

// Output is what an attempt has made.
type Output struct {
	URL string // as the broker is told; empty: there is none
	Dir bool   // it is a directory
}

// Begin brings the inputs of an attempt, and says in it where they are and where the
// output goes. Close has to be called, also after an error if there is a Work.
func (f *Files) Begin(ctx context.Context, a *attempt.Attempt) (*Work, error) {
	var in source
	var err error
	name := ""
	if len(a.Item.Inputs) == 0 && a.Item.Input != "" {
		if in, err = f.locate(a.Item.Input); err != nil {
			return nil, err
		}
		name = in.name
	}
	w := &Work{files: f, key: key{id: a.ID, claim: a.Claim, depth: 1}}
	parent := f.scratch.dir
	if f.place != nil {
		if w.name, err = f.outputName(a, name); err != nil {
			return nil, err
		}
		w.key.depth = depthOf(w.name)
		parent = f.place.work()
		if n := len(f.place.url(w.key, w.name)); n > maxOutput {
			return nil, badf("the output %q has %d bytes as a path or URL, more than %d; choose a shorter name or place", w.name, n, maxOutput)
		}
	}
	w.dir = filepath.Join(parent, w.key.String()+running)
	if err := makeNew(w.dir); err != nil {
		return nil, down(fmt.Errorf("make a directory for the attempt: %w", err))
	}
	if err := f.begin(ctx, w, a, in); err != nil {
		return w, err
	}
	return w, nil
}

func (f *Files) begin(ctx context.Context, w *Work, a *attempt.Attempt, in source) (err error) {
	switch {
	case len(a.Item.Inputs) > 0:
		a.Input, err = f.gather(ctx, a.Item.Inputs, filepath.Join(w.dir, "in"))
	case a.Item.Input != "":
		a.Input, err = f.bring(ctx, in, filepath.Join(w.dir, "in"))
	}
	if err != nil {
		return err
	}
	a.Progress, a.Emit = filepath.Join(w.dir, "progress"), filepath.Join(w.dir, "emit")
	if f.place == nil {
		return nil
	}
	if _, local := f.place.(*dirPlace); f.cfg.Remote && !local {
		a.Output, a.Progress, a.Emit = f.place.url(w.key, w.name), "", ""
		w.kept = true // the program uploads it, whatever becomes of the attempt
		return nil
	}
	w.out = filepath.Join(w.dir, "out", w.name)
	a.Output = w.out
	if err := os.MkdirAll(filepath.Dir(w.out), dirMode); err != nil {
		return down(fmt.Errorf("make a directory for the output: %w", err))
	}
	return nil
}

// makeNew makes a directory. What is there already is of a queue that was deleted, since
// claims do not come twice.
func makeNew(dir string) error {
	err := os.Mkdir(dir, dirMode)
	if errors.Is(err, fs.ErrExist) {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		err = os.Mkdir(dir, dirMode)
	}
	return err
}

// Finish makes the output whole and durable, for the broker to be told of it. It does not
// publish it.
func (w *Work) Finish(ctx context.Context) (Output, error) {
	p := w.files.place
	if p == nil {
		return Output{}, nil
	}
	out := Output{URL: p.url(w.key, w.name)}
	if w.out == "" { // somebody else has uploaded it
		there, err := p.(*blobPlace).exists(ctx, w.key, w.name)
		if err == nil && !there {
			err = fmt.Errorf("%w to %s", ErrNoOutput, out.URL)
		}
		return out, err
	}
	info, err := os.Lstat(w.out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return out, fmt.Errorf("%w to $WQ_OUTPUT, and the program says that it is done", ErrNoOutput)
	case err != nil:
		return out, down(err)
	case !info.Mode().IsRegular() && !info.IsDir():
		return out, fmt.Errorf("the output is no file and no directory, but %s", info.Mode().Type())
	}
	out.Dir, w.kept = info.IsDir(), true
	return out, p.keep(ctx, w.key, w.name, w.out)
}

// Publish puts the output under its name. It is for the attempt whose ack was accepted.
func (w *Work) Publish(ctx context.Context) error {
	if !w.kept {
		return nil
	}
	return w.files.place.publish(ctx, w.key)
}

// Discard removes the output. It is for attempts that were not accepted.
func (w *Work) Discard(ctx context.Context) error {
	if !w.kept {
		return nil
	}
	return w.files.place.remove(ctx, w.key)
}

// Close removes what only was needed during the attempt.
func (w *Work) Close() error { return os.RemoveAll(w.dir) }
