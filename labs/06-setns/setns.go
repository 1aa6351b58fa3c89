// Package setns enters the namespaces of a process that runs already, and executes a program there. It is what
// `exec` does to a container.
//
// The idea: a namespace is an object in the kernel, and /proc/PID/ns/* are handles to those that a process is in. Whoever
// opens one (or holds a pidfd, which stands for all of them) can hand it to setns(2), and is in that namespace from then
// on. Nothing is started inside a container: somebody outside changes what he himself sees, and then calls execve(2).
//
// The interface: [Open] takes hold of a process, [OpenFile] of a single namespace; [Same] compares. [Start] makes a child,
// lets it enter what a [Config] names (namespaces, control groups, root, working folder), and execute. [Setns] is the
// naked system call.
//
// The limits: setns changes one *thread*, and the kernel refuses to give a thread of several another user namespace,
// mount namespace or time namespace: the others would disagree with it about who they are, where "/" is and what time it
// is. A Go program has several threads before its first line runs. So all of this is done by a child that is another program, a
// walker (see package walker): plan.go tells what in which order. Two things that os/exec would do are left to the caller:
// copying output through pipes, and lowering the soft limit of open files that the Go runtime has raised (one of [Config.Last]).
//
// See setns(2), pidfd_open(2), namespaces(7), user_namespaces(7), pid_namespaces(7).
package setns

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Kind is a kind of namespace.
type Kind struct {
	Name string // its file in /proc/PID/ns: "net"
	Flag uintptr
	Text string // as the header files call it: "CLONE_NEWNET"
}

// Kinds lists all kinds in the order of namespaces(7).
var kinds = []Kind{
	{"cgroup", unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
	{"ipc", unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
	{"net", unix.CLONE_NEWNET, "CLONE_NEWNET"},
	{"mnt", unix.CLONE_NEWNS, "CLONE_NEWNS"},
	{"pid", unix.CLONE_NEWPID, "CLONE_NEWPID"},
	{"time", unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
	{"user", unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
	{"uts", unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
}

// Kinds lists all kinds of namespaces, in the order of namespaces(7).
func Kinds() []Kind { return append([]Kind(nil), kinds...) }

// All are the flags of all kinds.
const All = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
	unix.CLONE_NEWTIME | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS

// flagNames writes flags as the header files do: "CLONE_NEWNET|CLONE_NEWUTS".
func flagNames(flags uintptr) string {
	var names []string
	for _, k := range kinds {
		if flags&k.Flag != 0 {
			names = append(names, k.Text)
		}
	}
	if len(names) == 0 {
		return fmt.Sprintf("%#x", flags)
	}
	return strings.Join(names, "|")
}

// Setns moves the calling *thread* into the namespace that f holds or, with a pidfd, into those of its process that flags
// name. The caller has locked its goroutine to the thread (runtime.LockOSThread) and does not unlock it again, or an
// unrelated goroutine will find itself there. Use [Start] for anything but a single UTS, IPC, network or cgroup
// namespace: the others take a process of one thread, except for PID, which moves only the thread's future children.
func Setns(ctx context.Context, f *os.File, flags uintptr) error {
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("setns(%s, %s)", shown(f), flagNames(flags)) },
		func() error { return unix.Setns(int(f.Fd()), int(flags)) })
	if err != nil {
		return &Error{Op: "setns", Flags: flags, What: f.Name(), Threads: threads(), Err: err, held: identify(f)}
	}
	return nil
}

// shown writes a descriptor as `strace -y` does: with what it is open for.
func shown(f *os.File) string { return fmt.Sprintf("%d<%s>", f.Fd(), f.Name()) }
