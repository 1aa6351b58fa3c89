package course

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/fatih/color"
	"github.com/moby/sys/capability"
	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"
)

// Options are the flags of `nslab run`.
type Options struct {
	Step        string `json:"step"` // one step only, by id
	Interactive bool   `json:"interactive"`
	Lang        string `json:"lang"`   // "en", "zh"
	Format      string `json:"format"` // "text", "json"
	Keep        bool   `json:"keep"`
	Color       bool   `json:"color"`
	RunRoot     string `json:"-"`
}

// Outcome is how a lab ended, for the exit status.
type Outcome struct {
	Pass   bool
	Quit   bool           // the learner left early
	Signal syscall.Signal // what interrupted it, 0 if nothing did
	Closed bool           // nobody read the output any more
}

// patience is how long an interrupted sacrifice may take to undo its step before the guard kills it and does the undoing
// itself. It is more than the undoing is allowed to take.
const patience = cleanupTime + 10*time.Second

// grace is how long the guard waits for orphans of a finished run to be gone: the kernel kills them with their parent,
// but not at the same instant.
const grace = 3 * time.Second

// Run runs one lab: it is the guard (see the package comment). labs is the whole course. It prints the steps, the result
// and the difference to the host on standard output, and keeps the learner's progress.
func Run(labs []*Lab, l *Lab, o Options) (out Outcome, err error) {
	// Killed labs are found here rather than by a user who wonders about full disks and odd control groups.
	if _, err := Clean(labs, o.RunRoot, false); err != nil {
		fmt.Fprintln(os.Stderr, "nslab: an earlier run could not be cleaned up:", err)
	}
	before, err := observeHost()
	if err != nil {
		return out, err
	}
	r, err := newRun(o.RunRoot)
	if err != nil {
		return out, err
	}
	answer, err := guard(l, o, r)
	res := &answer.Result
	res.Passed = answer.Passed
	held := res.Kept != nil
	if !held {
		// The order matters: processes first (they hold what is to be removed), then what the journal still has.
		endChildren()
		if undone := undoRun(labs, r); undone != nil {
			return out, errors.Join(err, undone)
		}
	}
	if err != nil {
		return out, err
	}
	if res.Host, err = before.compare(r.id); err != nil {
		return out, err
	}
	if !held && res.Host.ours() && res.Result == "pass" {
		res.Result = "fail"
	}
	if !answer.Closed {
		report(l, o, res)
	}
	if err := saveProgress(l, res.Passed); err != nil {
		fmt.Fprintln(os.Stderr, "nslab: progress is not kept:", err)
	}
	return Outcome{
		Pass: res.Result == "pass", Quit: res.Result == "quit" && res.Failed == 0,
		Signal: syscall.Signal(answer.Signal), Closed: answer.Closed,
	}, nil
}

// guard starts the sacrifice, waits for it and returns what it says.
func guard(l *Lab, o Options, r *run) (answer answerToGuard, err error) {
	// Orphans of the lab become our children, so that none is overlooked.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return answer, fmt.Errorf("become the reaper of the lab's orphans: %w", err)
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return answer, fmt.Errorf("open the host's mount table: %w", err)
	}
	defer mounts.Close()
	resultR, resultW, err := os.Pipe()
	if err != nil {
		return answer, fmt.Errorf("pipe for the result: %w", err)
	}
	defer resultR.Close()

	cmd, err := sacrifice(l, o, r)
	if err != nil {
		return answer, err
	}
	cmd.ExtraFiles = []*os.File{mounts, r.lock, resultW} // in the order of fdHostMounts…

	// The sacrifice dies with the thread that starts it, so this goroutine stays on its thread until it has ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	started := make(chan struct{})
	stop := forward(cmd, started)
	defer stop()
	catchPipe()
	if err := errors.Join(cmd.Start(), resultW.Close()); err != nil {
		return answer, fmt.Errorf("start the lab in a mount namespace of its own: %w", err)
	}
	close(started)
	said, readErr := io.ReadAll(resultR)
	if json.Unmarshal(said, &answer) == nil && answer.Result.Kept != nil {
		return answer, writeProcess(filepath.Join(r.dir, keptFile), cmd.Process.Pid) // it stays
	}
	waitErr := cmd.Wait()
	switch {
	case readErr != nil:
		return answer, fmt.Errorf("read the result of the lab: %w", readErr)
	case len(said) == 0:
		return answer, fmt.Errorf("the lab's process ended before its result: %w", waitErr)
	case answer.Err != "":
		return answer, errors.New(answer.Err)
	}
	return answer, nil
}

// sacrifice builds the command for the process that runs the steps.
func sacrifice(l *Lab, o Options, r *run) (*exec.Cmd, error) {
	privileged, err := canMount()
	if err != nil {
		return nil, err
	}
	a := assignment{Options: o, Lab: l.Name(), ID: r.id, Dir: r.dir, Userns: !privileged}
	config, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode the assignment: %w", err)
	}
	cmd := reexec.Command(SacrificeEntry, string(config))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if !privileged {
		// An ordinary user may become root of a user namespace, mapping nobody but himself.
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd, nil
}

// canMount says whether we may make mount namespaces without a user namespace. Being root is not it: a container's root
// often lacks CAP_SYS_ADMIN.
func canMount() (bool, error) {
	c, err := capability.NewPid2(0)
	if err == nil {
		err = c.Load()
	}
	if err != nil {
		return false, fmt.Errorf("read our capabilities: %w", err)
	}
	return c.Get(capability.EFFECTIVE, capability.CAP_SYS_ADMIN), nil
}

// forward passes signals on to the sacrifice, which undoes and ends; the guard itself does not die of them. A signal that
// comes while the sacrifice is being born waits until it is.
func forward(cmd *exec.Cmd, started <-chan struct{}) (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-started:
		case <-ctx.Done():
			return
		}
		for {
			select {
			case s := <-signals:
				cmd.Process.Signal(s)
				time.AfterFunc(patience, func() {
					if ctx.Err() == nil {
						cmd.Process.Kill()
					}
				})
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { signal.Stop(signals); cancel() }
}

// catchPipe makes a write to a closed standard output fail instead of killing us in the middle of something. The signal is
// caught and not ignored: children inherit what is ignored, and a learner's shell must not.
func catchPipe() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// endChildren waits for the run's orphans to be gone, and kills those that are not.
func endChildren() {
	for end := time.Now().Add(grace); len(childPids()) > 0 && time.Now().Before(end); reap() {
		time.Sleep(2 * time.Millisecond)
	}
	for _, pid := range childPids() {
		unix.Kill(pid, unix.SIGKILL) // still below us, a zombie at worst, so the number cannot be another's
	}
	time.Sleep(time.Millisecond)
	reap()
}

// report prints the last screen, or the last line.
func report(l *Lab, o Options, r *result) {
	if o.Format == "json" {
		writeLine(os.Stdout, r)
		return
	}
	color.NoColor = !o.Color
	s := newScreen(os.Stdout, o.Lang == "zh")
	s.result(l, r, *r.Host, r.Kept != nil)
	if r.Kept != nil {
		message := s.say("remove with: nslab clean")
		if r.Kept.Pid != 0 {
			message = s.say("enter with: nsenter -t %d -a  ·  remove with: nslab clean", r.Kept.Pid)
		}
		s.text("Kept", "", message, nil)
	}
	s.blank()
}

// find looks a lab up by its full name, its slug or its number, with or without the leading zero.
func find(labs []*Lab, name string) *Lab {
	for _, l := range labs {
		number, err := strconv.Atoi(name)
		if name == l.Name() || name == l.Slug || err == nil && number == l.Number {
			return l
		}
	}
	return nil
}

// Find looks a lab up by what a user may call it: 3, 03, cgroups, 03-cgroups. It returns nil for a name that is none.
func Find(labs []*Lab, name string) *Lab { return find(labs, name) }
