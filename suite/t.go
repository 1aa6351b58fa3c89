package suite

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// runner starts scripts, a few at a time, and collects how they went. It is what the testing package is to `go test`.
type runner struct {
	ctx     context.Context
	lenient bool
	byName  map[string]Script
	report  func(Result)

	slots chan struct{} // as many scripts run at a time
	group sync.WaitGroup
	mu    sync.Mutex // guards what follows, and calls of report
	left  int        // scripts that have not ended
}

func newRunner(ctx context.Context, scripts []Script, o Options) *runner {
	if o.Parallel <= 0 {
		o.Parallel = max(2, runtime.GOMAXPROCS(0)) // most scripts wait for a process most of the time
	}
	r := &runner{
		ctx: ctx, lenient: o.Lenient, byName: map[string]Script{},
		slots: make(chan struct{}, o.Parallel),
		left:  len(scripts),
	}
	for _, s := range scripts {
		r.byName[s.Name] = s
	}
	return r
}

// all runs all scripts and waits for their ends. An error is one of testscript itself.
func (r *runner) all(params testscript.Params) error {
	root := &scriptT{r: r}
	done := make(chan struct{})
	go func() { // a goroutine of its own, since FailNow ends it
		defer close(done)
		testscript.RunT(root, params)
	}()
	<-done
	r.group.Wait()
	if root.failed {
		return fmt.Errorf("run the scripts: %s", strings.TrimSpace(root.log.String()))
	}
	return nil
}

// busy says whether a script has not ended yet.
func (r *runner) busy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left > 0
}

// one runs a script, unless the run is over or the machine lacks what the script needs.
func (r *runner) one(name string, f func(testscript.T)) {
	t := &scriptT{r: r, needs: r.byName[name].missingPrograms()}
	start := time.Now()
	if r.ctx.Err() == nil && len(t.needs) == 0 {
		t.run(f)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left--
	if r.ctx.Err() != nil {
		return // interrupted: how it ended says nothing
	}
	took := time.Since(start)
	res := Result{Script: name, Result: Pass, Needs: t.needs, Output: t.log.String(), Took: took, MS: took.Milliseconds()}
	switch {
	case t.failed:
		res.Result = Fail
	case len(t.needs) > 0 && r.lenient:
		res.Result = Skip
	case len(t.needs) > 0:
		res.Result = Missing
	}
	r.report(res)
}

// scriptT is what a script has for its testing.T.
type scriptT struct {
	r      *runner
	log    strings.Builder
	needs  []string // why it was not run
	failed bool
}

// run calls f in a goroutine that f may end at any moment, as the testing package does.
func (t *scriptT) run(f func(testscript.T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				t.failed = true
				t.Log(p, string(debug.Stack()))
			}
		}()
		f(t)
	}()
	<-done
}

func (t *scriptT) Run(name string, f func(testscript.T)) {
	t.r.slots <- struct{}{} // here, so that they start in their order
	t.r.group.Go(func() {
		defer func() { <-t.r.slots }()
		t.r.one(name, f)
	})
}

func (t *scriptT) Skip(args ...any) {
	need := strings.TrimSpace(fmt.Sprint(args...))
	t.needs = append(t.needs, strings.TrimPrefix(need, "needs "))
	runtime.Goexit()
}

func (t *scriptT) Fatal(args ...any) {
	t.Log(args...)
	t.FailNow()
}

func (t *scriptT) FailNow() {
	t.failed = true
	runtime.Goexit()
}

func (t *scriptT) Log(args ...any) { fmt.Fprintln(&t.log, args...) }

// Parallel does nothing: scripts run beside each other from the start.
func (t *scriptT) Parallel() {}

// Verbose makes testscript log the phases that went well, too.
func (t *scriptT) Verbose() bool { return false }
