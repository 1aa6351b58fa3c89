package course

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/fatih/color"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
)

// SacrificeEntry is the re-exec entry point of the process that runs the steps; it must call [Walk].
const SacrificeEntry = "nslab-sacrifice"

func init() {
	if os.Args[0] == SacrificeEntry {
		// The parent-death signal belongs to a thread, the main one here; only there can [walker.hold] take it back.
		runtime.LockOSThread()
	}
}

// What the sacrifice inherits from the guard, after the standard streams.
const (
	fdHostMounts = 3 + iota // the host's mountinfo
	fdLock                  // the run's lock: held until both processes are gone
	fdResult                // where the result goes
)

// assignment is what the guard tells the sacrifice, in its argv.
type assignment struct {
	Options
	Lab    string `json:"lab"`
	ID     string `json:"id"`
	Dir    string `json:"dir"`
	Userns bool   `json:"userns"`
}

// answerToGuard is what comes back.
type answerToGuard struct {
	Result result   `json:"result"`
	Passed []string `json:"passed"`
	Err    string   `json:"err,omitempty"`
	Signal int      `json:"signal,omitempty"` // interrupted by it
	Closed bool     `json:"closed,omitempty"` // nobody reads the output any more
}

var errOutputClosed = errors.New("output was closed")

// signalled is the cause with which SIGINT and SIGTERM cancel a walkthrough.
type signalled struct{ sig syscall.Signal }

func (s signalled) Error() string { return "interrupted by " + unix.SignalName(s.sig) }

// Walk is the main function of the sacrifice. labs is the course's list, to find the assigned one in.
func Walk(labs []*Lab) {
	reply := os.NewFile(fdResult, "result")
	var a assignment
	answer := answerToGuard{}
	if err := json.Unmarshal([]byte(os.Args[1]), &a); err != nil {
		answer.Err = fmt.Sprintf("assignment: %v", err)
	} else if w, err := newWalker(labs, a); err != nil {
		answer.Err = err.Error()
	} else {
		answer = w.run()
		if w.kept {
			defer w.hold() // answer first, so that the guard can go
		}
	}
	json.NewEncoder(reply).Encode(answer) // a guard that is gone needs none
	reply.Close()
}

// walker runs the steps of one lab.
type walker struct {
	assignment
	labs   []*Lab
	lab    *Lab
	lesson *lesson
	env    *environment
	out    *outlet
	screen *screen
	keys   *keyboard
	ctx    context.Context
	cancel context.CancelCauseFunc
	last   *T // the step that --keep keeps
	kept   bool
	result result
}

func newWalker(labs []*Lab, a assignment) (*walker, error) {
	for fd := fdHostMounts; fd <= fdResult; fd++ {
		unix.CloseOnExec(fd)
	}
	if err := makePrivate(); err != nil {
		return nil, err
	}
	os.WriteFile("/proc/self/comm", []byte("nslab-lab"), 0) // for ps, which would show "exe"; no harm if refused
	lab := find(labs, a.Lab)
	if lab == nil {
		return nil, fmt.Errorf("no lab is called %s", a.Lab)
	}
	le, err := lessonOf(lab, a.Lang)
	if err != nil {
		return nil, err
	}
	j, err := openJournal(filepath.Join(a.Dir, journalFile))
	if err != nil {
		return nil, err
	}
	color.NoColor = !a.Color
	w := &walker{assignment: a, labs: labs, lab: lab, lesson: le, result: result{Lab: lab.Name()}}
	w.env = &environment{
		id: a.ID, dir: a.Dir, userns: a.Userns, journal: j, labs: labs,
		hostMounts: os.NewFile(fdHostMounts, "mountinfo"),
	}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	w.out = &outlet{w: os.Stdout, failed: func() { w.cancel(errOutputClosed) }}
	w.screen = newScreen(w.out, a.Lang == "zh")
	w.keys = newKeyboard(os.Stdin)
	return w, nil
}

// makePrivate takes the sacrifice's mounts out of every peer group, so that nothing a lab mounts can reach the host. It
// comes before anything else: until then the copies of shared mounts still propagate.
func makePrivate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts of the lab private: %w", err)
	}
	return nil
}

// run walks through the steps and undoes each.
func (w *walker) run() answerToGuard {
	defer w.handleSignals()()
	start := time.Now()
	quit := false
	for i := range w.lab.Steps {
		step := &w.lab.Steps[i]
		if w.Step != "" && step.ID != w.Step {
			continue
		}
		if quit = w.visit(i, step); quit || w.ctx.Err() != nil {
			break
		}
	}
	w.result.Millis = time.Since(start).Milliseconds()
	w.result.Result = "pass"
	a := answerToGuard{Passed: w.result.Passed}
	cause := context.Cause(w.ctx)
	var sig signalled
	switch {
	case errors.As(cause, &sig):
		w.result.Result, a.Signal = "interrupted", int(sig.sig)
	case cause != nil:
		w.result.Result, a.Closed = "interrupted", true
	case w.result.Failed > 0:
		w.result.Result = "fail"
	case quit:
		w.result.Result = "quit"
	}
	if w.Keep && w.last != nil && cause == nil {
		w.kept = true
		w.result.Kept = &kept{Run: w.ID}
		if w.last.shell != nil {
			w.result.Kept.Pid = w.last.shell.Pid()
		}
	}
	a.Result = w.result
	return a
}

// visit runs one step as often as the learner likes, and says whether to leave the lab.
func (w *walker) visit(i int, step *Step) (quit bool) {
	for w.ctx.Err() == nil {
		section := w.lesson.section(step.ID)
		guess := 0
		if w.human() {
			w.screen.head(w.lab, i+1, len(w.lab.Steps), section.title)
			w.screen.why(section.why)
			if w.Interactive && step.Answer > 0 && len(section.choices) > 0 {
				guess = w.predict(section)
			}
		}
		t, passed := w.attempt(step, section, guess)
		next := keyNext
		if w.Interactive && w.ctx.Err() == nil {
			next = w.pause(t, i == len(w.lab.Steps)-1 || w.Step != "")
		}
		if w.Keep && next != keyRepeat && w.ctx.Err() == nil && (next == keyQuit || w.isLast(i)) {
			w.last = t
		} else if err := t.undo(); err != nil {
			passed = false
			w.fail(fmt.Errorf("clean up after the step: %w", err))
		}
		if w.human() {
			w.screen.blank()
		}
		if next == keyRepeat {
			w.forget(t)
			continue
		}
		if passed {
			w.result.Passed = append(w.result.Passed, step.ID)
		}
		return next == keyQuit
	}
	return false
}

func (w *walker) isLast(i int) bool { return i == len(w.lab.Steps)-1 || w.Step != "" }

// attempt runs the step once and reports it.
func (w *walker) attempt(step *Step, section section, guess int) (t *T, passed bool) {
	report := &collector{stepReport{
		Lab: w.lab.Name(), Step: step.ID, Title: section.title,
		Do: []string{}, See: []string{}, Checks: []Check{}, // [] and not null: a reader can count on the shape
	}}
	t = &T{ctx: w.ctx, lab: w.lab, step: step.ID, zh: w.Lang == "zh", env: w.env, show: report}
	if w.human() {
		t.show = w.screen
	}
	start := time.Now()
	err := step.Run(t)
	report.report.Millis = time.Since(start).Milliseconds()
	if err != nil && w.ctx.Err() == nil {
		w.fail(err)
		report.report.Error = err.Error()
		for _, c := range diagnosis.Of(err) {
			report.condition(c, w.translate)
		}
	}
	passed = err == nil && w.ctx.Err() == nil
	for _, c := range t.checks {
		w.result.Checks++
		if !c.OK {
			w.result.Failed++
			passed = false
		}
	}
	if guess > 0 {
		w.judge(section, guess, step.Answer)
	}
	switch {
	case w.ctx.Err() != nil:
	case w.human() && section.pitfall != "":
		w.screen.text("Beware", "", section.pitfall, nil)
	case !w.human():
		writeLine(w.out, report.report)
	}
	return t, passed
}

// forget takes a repeated attempt's checks out of the count, so that the result is that of the last one.
func (w *walker) forget(t *T) {
	for _, c := range t.checks {
		w.result.Checks--
		if !c.OK {
			w.result.Failed--
		}
	}
}

// fail counts what went wrong as one failed check.
func (w *walker) fail(err error) {
	w.result.Checks++
	w.result.Failed++
	if w.human() {
		w.screen.failure(err, w.translate)
	} else if w.Format != "json" {
		fmt.Fprintln(os.Stderr, err)
	}
}

func (w *walker) human() bool { return w.Format != "json" }

func (w *walker) translate(s string) string { return w.env.translator(w.lab, w.Lang == "zh")(s) }

// handleSignals cancels the walkthrough on the first signal. Later ones change nothing: the undoing is bounded, and must
// not be stopped half-way.
func (w *walker) handleSignals() (stop func()) {
	// A reader that went away (| head) is noticed by the failed write, not by dying in the middle of a step.
	catchPipe()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for s := range signals {
			if w.keys.shellRunning.Load() && s == syscall.SIGINT {
				continue // meant for the shell
			}
			w.cancel(signalled{s.(syscall.Signal)})
		}
	}()
	return func() { signal.Stop(signals) }
}

// hold stays behind after `--keep` with what the last step made, until `nslab clean` sends SIGTERM.
func (w *walker) hold() {
	// The guard's death must not end this process any more: from here on the journal remembers it.
	unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0)
	unix.Setsid()
	if null, err := os.OpenFile("/dev/null", os.O_RDWR, 0); err == nil {
		for fd := range 3 { // whoever reads our output is not kept waiting for its end
			unix.Dup3(int(null.Fd()), fd, 0)
		}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	<-signals
	if err := w.last.undo(); err != nil {
		os.Exit(1)
	}
}

// outlet is standard output; the first write that fails ends the walkthrough.
type outlet struct {
	w      io.Writer
	failed func()
}

func (o *outlet) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		o.failed()
	}
	return n, err
}
