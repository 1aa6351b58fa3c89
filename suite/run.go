package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The results of a script.
const (
	Pass    = "pass"
	Fail    = "fail"
	Missing = "missing" // this machine lacks something that it needs
	Skip    = "skip"    // likewise, and that was allowed
)

// Result is how a script went.
type Result struct {
	Script string        `json:"script"`
	Result string        `json:"result"`
	MS     int64         `json:"ms"`
	Needs  []string      `json:"needs,omitempty"`  // what it lacked
	Output string        `json:"output,omitempty"` // its log
	Took   time.Duration `json:"-"`
}

// Options are what a run of the suite is told.
type Options struct {
	Lenient  bool               // what cannot be run here is skipped, and the run passes all the same
	Parallel int                // how many run at a time; 0: as many as there are processors, but two at least
	Report   func(Result) error // called once for each script, when it has ended, one at a time
}

// Run runs the scripts, several at a time, with this very program as their nslab. When ctx is done, it ends what runs,
// cleans up and returns the cause.
func Run(ctx context.Context, scripts []Script, o Options) (results []Result, err error) {
	w, err := newWork()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.remove()) }()
	files, err := w.prepare(scripts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := newRunner(ctx, scripts, o)
	r.report = func(res Result) {
		results = append(results, res)
		if err := o.Report(res); err != nil {
			cancel(err) // nobody listens any more
		}
	}
	// Scripts cannot be told to stop, but each of their commands ends when it is killed.
	stop := context.AfterFunc(ctx, func() {
		for r.busy() {
			killAll(w.dir)
		}
	})
	defer stop()
	params := Params(ctx, w.dir, filepath.Join(w.dir, "bin"), func(t testscript.T) { t.(*scriptT).failed = true })
	params.Files = files
	if err := r.all(params); err != nil {
		return results, err
	}
	return results, context.Cause(ctx)
}

// prepare writes the scripts, and a copy of this program to be their nslab.
func (w *work) prepare(scripts []Script) (files []string, err error) {
	for _, dir := range []string{"bin", "scripts"} {
		if err := os.Mkdir(filepath.Join(w.dir, dir), 0o755); err != nil {
			return nil, fmt.Errorf("prepare the tests: %w", err)
		}
	}
	for _, s := range scripts {
		file := filepath.Join(w.dir, "scripts", s.Name+".txtar")
		if err := os.WriteFile(file, s.text, 0o644); err != nil {
			return nil, fmt.Errorf("prepare the tests: %w", err)
		}
		files = append(files, file)
	}
	// A copy: where the program lies, other users may not get to.
	if err := copyFile("/proc/self/exe", filepath.Join(w.dir, "bin", "nslab")); err != nil {
		return nil, fmt.Errorf("prepare the tests: %w", err)
	}
	return files, nil
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
