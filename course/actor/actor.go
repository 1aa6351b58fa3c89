// Package actor is the process under study: one that sits inside the namespaces of a lab and does, one call at a time,
// what the walkthrough asks of it.
//
// The lab's stage builds and starts it ([Prepare] only gives it two pipes), so how it gets into its namespaces is the
// lab's own business. What it can do are ordinary Go functions, registered by name with [Register]; they run on the main
// thread of the process, so that a call that affects one thread only (unshare, setns) is seen in /proc/PID. The system
// calls that a function makes are recorded there and replayed in the walkthrough's context; an error keeps its errno and
// its preconditions, which were probed on the inside.
package actor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/moby/sys/reexec"

	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

// Entry is the re-exec entry point: the argv[0] under which nslab runs as an actor.
const Entry = "nslab-actor"

// The pipes' descriptors in the child: the first two after stderr.
const (
	requestFD = 3
	replyFD   = 4
)

// Func is something an actor can do. What it returns is shown or compared by the walkthrough.
type Func func(ctx context.Context, args []string) (string, error)

var funcs = map[string]Func{}

// Register names a function. Call it from a package-level variable or init; a name is taken once. Only an actor keeps it: each
// start of nslab passes here some seventy times.
func Register(name string, f Func) {
	if os.Args[0] != Entry {
		return
	}
	if _, taken := funcs[name]; taken {
		panic("actor function registered twice: " + name)
	}
	funcs[name] = f
}

func init() {
	reexec.Register(Entry, main)
	if os.Args[0] == Entry {
		// Only here is the main goroutine sure to be on the main thread, the one that /proc/PID describes.
		runtime.LockOSThread()
	}
	Register("hello", func(context.Context, []string) (string, error) { return "", nil })
	Register("shell", shell)
}

type request struct {
	Name string   `json:"name"`
	Args []string `json:"args,omitempty"`
}

type reply struct {
	Out        string                `json:"out"`
	Err        string                `json:"err,omitempty"`
	Errno      int                   `json:"errno,omitempty"`
	Conditions []diagnosis.Condition `json:"conditions,omitempty"`
	Calls      []trace.Record        `json:"calls,omitempty"`
}

// Error is what went wrong inside the actor.
type Error struct {
	Text       string
	Errno      syscall.Errno // 0 where no system call failed
	conditions []diagnosis.Condition
}

func (e *Error) Error() string { return e.Text }

// Unwrap lets errors.Is find the errno.
func (e *Error) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Conditions are those that held or not where the call failed, see [diagnosis.Diagnoser].
func (e *Error) Conditions() []diagnosis.Condition { return e.conditions }

// Actor is the walkthrough's side of the process.
type Actor struct {
	cmd      *exec.Cmd
	requests *os.File
	answers  *os.File
	replies  *bufio.Reader // of answers
	close    []io.Closer   // the child's ends, closed here once it has started
}

// Prepare gives cmd, which must run [Entry] and not have started yet, its pipes. Its standard streams are /dev/null: a
// process that `--keep` leaves behind must not hold the pipe that nslab's own output goes to. Call [Actor.Started] when
// it runs.
func Prepare(cmd *exec.Cmd) (*Actor, error) {
	requestR, requestW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe for an actor: %w", err)
	}
	replyR, replyW, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pipe for an actor: %w", err), requestR.Close(), requestW.Close())
	}
	cmd.ExtraFiles = []*os.File{requestR, replyW}
	return &Actor{
		cmd: cmd, requests: requestW, answers: replyR, replies: bufio.NewReader(replyR),
		close: []io.Closer{requestR, replyW},
	}, nil
}

// Started closes the child's ends of the pipes; from then on a dead child is seen as end of file.
func (a *Actor) Started() error {
	var errs []error
	for _, c := range a.close {
		errs = append(errs, c.Close())
	}
	a.close = nil
	return errors.Join(errs...)
}

// Pid is the process's number in the walkthrough's PID namespace.
func (a *Actor) Pid() int { return a.cmd.Process.Pid }

// Call lets the actor run the function registered as name, and waits for it. The system calls it made are recorded in
// ctx. If the actor dies before it answers, the error says so; when ctx is done, the wait is over and the actor of no
// more use.
func (a *Actor) Call(ctx context.Context, name string, args ...string) (string, error) {
	if err := json.NewEncoder(a.requests).Encode(request{name, args}); err != nil {
		return "", fmt.Errorf("ask process %d for %s: %w", a.Pid(), name, err)
	}
	stop := context.AfterFunc(ctx, func() { a.answers.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := a.replies.ReadBytes('\n')
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("process %d died during %s: %w", a.Pid(), name, err)
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return "", fmt.Errorf("answer of process %d to %s: %w", a.Pid(), name, err)
	}
	for _, c := range r.Calls {
		trace.Replay(ctx, c)
	}
	if r.Err != "" {
		return r.Out, &Error{Text: r.Err, Errno: syscall.Errno(r.Errno), conditions: r.Conditions}
	}
	return r.Out, nil
}

// Send is Call for what the actor may not survive or never finishes: it does not wait for an answer.
// Nothing else can be called afterwards.
func (a *Actor) Send(name string, args ...string) error {
	return json.NewEncoder(a.requests).Encode(request{name, args})
}

// main runs in the child: it answers requests until the walkthrough closes the pipe.
func main() {
	syscall.CloseOnExec(requestFD)
	syscall.CloseOnExec(replyFD)
	os.WriteFile("/proc/self/comm", []byte("nslab-box"), 0) // for ps, which would show "exe"; no harm if refused
	requests := json.NewDecoder(os.NewFile(requestFD, "requests"))
	replies := json.NewEncoder(os.NewFile(replyFD, "replies"))
	for {
		var r request
		if err := requests.Decode(&r); err != nil {
			os.Exit(0) // the walkthrough is done with us
		}
		if err := replies.Encode(answer(r)); err != nil {
			os.Exit(1)
		}
	}
}

func answer(r request) reply {
	f, ok := funcs[r.Name]
	if !ok {
		return reply{Err: "no actor function is called " + strconv.Quote(r.Name)}
	}
	var a reply
	ctx := trace.With(context.Background(), func(c trace.Record) { a.Calls = append(a.Calls, c) })
	out, err := f(ctx, r.Args)
	a.Out = out
	if err != nil {
		a.Err, a.Conditions = err.Error(), diagnosis.Of(err)
		var errno syscall.Errno
		if errors.As(err, &errno) {
			a.Errno = int(errno)
		}
	}
	return a
}

// shell runs the learner's shell on nslab's own terminal, as a child of the actor: it is born in all its namespaces.
func shell(_ context.Context, args []string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("open the terminal for a shell: %w", err)
	}
	defer tty.Close()
	program := args[0]
	if _, err := exec.LookPath(program); err != nil {
		program = "/bin/sh" // the box has another root, without the learner's own shell
	}
	cmd := exec.Command(program)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.String(), nil // the status of the last command the learner typed is no failure
	}
	return "", err
}
