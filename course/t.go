package course

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nslab/nslab/course/actor"
	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

// T is what a step runs with. Its methods may be called from one goroutine only.
type T struct {
	ctx     context.Context // cancelled by SIGINT, SIGTERM and a closed output
	lab     *Lab
	step    string
	zh      bool
	env     *environment
	show    sink
	shell   *actor.Actor
	cleanup []func(context.Context) error
	checks  []Check
}

// Check is a comparison of what was expected with what the kernel said.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Want string `json:"want"`
	Got  string `json:"got"`
}

// sink receives what a step does, sees and checks, in that order of events.
type sink interface {
	do(trace.Record)
	see(string)
	check(Check)
	condition(diagnosis.Condition, func(string) string)
}

// cleanupTime bounds how long the undoing of one step may take, since it runs even after the step was cancelled.
const cleanupTime = 20 * time.Second

// Context is the step's context. System calls that a stage makes under it are shown as "Do" lines.
func (t *T) Context() context.Context {
	return trace.With(t.ctx, t.show.do)
}

// Untraced is the step's context for calls that are only preparation and would distract from the point.
func (t *T) Untraced() context.Context { return trace.Off(t.ctx) }

// See shows one line of evidence, read back from the kernel. The format is translated by the lab's Messages.
func (t *T) See(format string, args ...any) { t.show.see(t.say(format, args...)) }

// Check records whether the evidence is as expected. The name is a statement that is true when ok is
// ("the host's name is unchanged"), translated like See's.
func (t *T) Check(ok bool, want, got any, name string, args ...any) {
	c := Check{Name: t.say(name, args...), OK: ok, Want: fmt.Sprint(want), Got: fmt.Sprint(got)}
	t.checks = append(t.checks, c)
	t.show.check(c)
}

// Equal is Check for two things that must print the same.
func (t *T) Equal(want, got any, name string, args ...any) {
	t.Check(fmt.Sprint(want) == fmt.Sprint(got), want, got, name, args...)
}

// Diagnose shows what the kernel requires for a call that was refused on purpose, each condition probed now (see package
// diagnosis), as a learner will see it when it happens to them. It returns those that do not hold.
func (t *T) Diagnose(err error) (unmet []string) {
	for _, c := range diagnosis.Of(err) {
		if !c.OK {
			unmet = append(unmet, c.What)
		}
		t.show.condition(c, t.env.translator(t.lab, t.zh))
	}
	return unmet
}

// Cleanup registers f to run when the step ends (after the learner's pause), last registered first. It runs also when
// the step fails or is interrupted, with a context of its own. Errors are reported and do not stop the others.
func (t *T) Cleanup(f func(ctx context.Context) error) { t.cleanup = append(t.cleanup, f) }

// Make journals that paths of the given kind are about to exist, then runs make, and undoes them at the end of the step
// with the lab's Undo[kind], in reverse order. If nslab is killed in between, `nslab clean` finds them in the journal.
func (t *T) Make(kind string, paths []string, make func() error) error {
	undo, ok := t.lab.Undo[kind]
	if !ok {
		return fmt.Errorf("journal %s: lab %s has no undo for this kind", kind, t.lab.Name())
	}
	for _, path := range paths {
		id, err := t.env.journal.begin(t.lab.Name(), kind, path)
		if err != nil {
			return err
		}
		t.Cleanup(func(ctx context.Context) error {
			if err := undo(ctx, path); err != nil {
				return err // stays in the journal, for `nslab clean`
			}
			return t.env.journal.end(id)
		})
	}
	return make()
}

// Dir makes a folder for the step's files, removed when the step ends. It lies in the run folder, so that `nslab clean`
// removes it too. Mounts made on it inside the sacrifice must be undone by the step first (see [T.Cleanup]).
func (t *T) Dir() (string, error) {
	dir := filepath.Join(t.env.dir, t.step) // short, since learners read it in every call
	err := os.Mkdir(dir, 0o755)
	for n := 2; errors.Is(err, os.ErrExist); n++ {
		dir = filepath.Join(t.env.dir, fmt.Sprintf("%s-%d", t.step, n))
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("make a folder for the step: %w", err)
	}
	t.Cleanup(func(context.Context) error { return removeTree(dir) })
	return dir, nil
}

// Enter says which process the learner's shell is to join at the pause after this step. Without it the shell runs in
// the sacrifice.
func (t *T) Enter(a *actor.Actor) { t.shell = a }

// ID names this run: lower-case letters, digits and a hyphen, unique on the machine. Cgroups, links and host names that a lab makes are
// called "nslab-<NN>-<ID>", so that two runs never meet.
func (t *T) ID() string { return t.env.id }

// Name is "nslab-<NN>-<ID>", the name for whatever this lab makes outside its own namespaces.
func (t *T) Name() string { return fmt.Sprintf("nslab-%02d-%s", t.lab.Number, t.env.id) }

// InUserNamespace says whether the lab runs as an ordinary user, root only inside a user namespace of its own.
func (t *T) InUserNamespace() bool { return t.env.userns }

// HostMounts returns the lines of the host's own mountinfo, outside the sacrifice, as they are now.
func (t *T) HostMounts() ([]string, error) {
	data, err := readAgain(t.env.hostMounts)
	if err != nil {
		return nil, fmt.Errorf("read the host's mountinfo: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n"), nil
}

// Sleep waits for d, or until the step is cancelled.
func (t *T) Sleep(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}

// Await polls cond every few milliseconds until it is true, for at most limit. It tells whether it became true, so that
// a step can check it: what the kernel does asynchronously (an OOM kill, a signal) has no other moment to look.
func (t *T) Await(limit time.Duration, cond func() bool) bool {
	for end := time.Now().Add(limit); ; {
		if cond() {
			return true
		}
		if time.Now().After(end) || t.Sleep(5*time.Millisecond) != nil {
			return false
		}
	}
}

// undo runs the registered clean-ups, last first, whatever happened to the step.
func (t *T) undo() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	var errs []error
	for i := len(t.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, t.cleanup[i](ctx))
	}
	t.cleanup = nil
	return errors.Join(errs...)
}

func (t *T) say(format string, args ...any) string {
	var m Messages
	if t.zh && t.lab.Zh != nil {
		m = t.lab.Zh()
	}
	return m.say(t.zh, format, args...)
}

// say formats a message in Chinese where there is a translation, else in English.
func (m Messages) say(zh bool, format string, args ...any) string {
	if s, ok := m[format]; ok && zh {
		format = s
	}
	if len(args) == 0 {
		return format
	}
	return fmt.Sprintf(format, args...)
}
