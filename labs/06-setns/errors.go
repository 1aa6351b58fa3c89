package setns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
)

var (
	// ErrNoNamespace is a file that is no handle to a namespace.
	ErrNoNamespace = errors.New("not a namespace file")

	// ErrOutside is a working folder that is not below the root of the process that was to have it.
	ErrOutside = errors.New("working folder outside of the root")
)

// Error is a call that the kernel refused, here or in the child.
type Error struct {
	Op      string  // "setns", "chroot", "execve"
	What    string  // what it was to act on: "/proc/42", "sh"
	Flags   uintptr // CLONE_NEW*, of setns
	Threads int     // how many the caller had
	Err     error   // the errno, or a sentinel of this package

	held ID // the namespace
}

func (e *Error) Error() string {
	text := "06-setns: " + e.Op
	if e.Flags != 0 {
		text += " " + flagNames(e.Flags)
		if e.What != "" {
			text += " of"
		}
	}
	if e.What != "" {
		text += " " + e.What
	}
	return text + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Conditions probes what setns(2) requires.
func (e *Error) Conditions() []diagnosis.Condition {
	is := func(errno unix.Errno) bool { return errors.Is(e.Err, errno) }
	switch {
	case e.Op == "pidfd_open" && (is(unix.ESRCH) || is(unix.EINVAL)), is(unix.ESRCH):
		return []diagnosis.Condition{e.alive()}
	case e.Op == "setns" && is(unix.EPERM), is(unix.EACCES) && (e.Op == "open" || e.Op == "stat"):
		return e.rights()
	case e.Op == "setns" && is(unix.EINVAL), e.Op == "setns" && is(unix.EUSERS):
		return e.shape()
	case errors.Is(e.Err, ErrNoNamespace):
		return []diagnosis.Condition{e.namespaceFile()}
	}
	return nil
}

func (e *Error) alive() diagnosis.Condition {
	pid := strings.TrimPrefix(e.What, "process ")
	_, err := os.Stat("/proc/" + pid)
	return diagnosis.Condition{
		What: "the process exists", Detail: pid, OK: err == nil,
		Remedy: "take a number that ps shows; a process that has ended has no namespaces",
	}
}

// rights: who enters a namespace must be in charge on both sides.
func (e *Error) rights() []diagnosis.Condition {
	c, err := capability.NewPid2(0)
	if err == nil {
		err = c.Load()
	}
	if err != nil {
		return nil
	}
	list := []diagnosis.Condition{{
		What: "nslab has CAP_SYS_ADMIN in its own user namespace", Detail: fmt.Sprintf("uid %d", os.Geteuid()),
		OK:     c.Get(capability.EFFECTIVE, capability.CAP_SYS_ADMIN),
		Remedy: "run nslab as root, or enter a user namespace of yours as well (--user)",
	}}
	if e.Flags&unix.CLONE_NEWNS != 0 {
		list = append(list, diagnosis.Condition{
			What: "and CAP_SYS_CHROOT, which a mount namespace takes too", Detail: fmt.Sprintf("uid %d", os.Geteuid()),
			OK:     c.Get(capability.EFFECTIVE, capability.CAP_SYS_CHROOT),
			Remedy: "give nslab CAP_SYS_CHROOT",
		})
	}
	if errors.Is(e.Err, unix.EACCES) {
		return append(list, diagnosis.Condition{
			What: "nslab may look into the process, as a debugger would", Detail: e.What,
			Remedy: "run nslab as root, or as the user whose process it is",
		})
	}
	if owner, ok := e.owned(); ok {
		list = append(list, owner)
	}
	return list
}

// owned: the owner of the namespace must be our user namespace or one below it. The kernel tells an owner only in that
// case, see ioctl_nsfs(2).
func (e *Error) owned() (diagnosis.Condition, bool) {
	c := diagnosis.Condition{
		What:   "the namespace belongs to nslab's user namespace, or to one below it",
		Remedy: "enter it from the user namespace that made it, or from one above",
	}
	for _, k := range kinds {
		path := e.What
		if filepath.Base(path) != k.Name {
			path = filepath.Join(e.What, "ns", k.Name)
		}
		if e.Flags&k.Flag == 0 || k.Name == "user" {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		defer f.Close()
		fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
		c.OK, c.Detail = err == nil, k.Name
		if err == nil {
			unix.Close(fd)
			continue
		}
		return c, true
	}
	return c, c.OK
}

// shape: what the kernel requires of the caller's threads and place.
func (e *Error) shape() []diagnosis.Condition {
	var list []diagnosis.Condition
	if e.Flags&(unix.CLONE_NEWUSER|unix.CLONE_NEWNS|unix.CLONE_NEWTIME) != 0 {
		list = append(list, diagnosis.Condition{
			What: "the caller has one thread, with root and working folder of its own", Detail: "Threads: " + strconv.Itoa(e.Threads),
			OK:     e.Threads == 1,
			Remedy: "let a child with one thread enter it, as setns.Start does",
		})
	}
	if e.Flags&unix.CLONE_NEWUSER != 0 {
		list = append(list, diagnosis.Condition{
			What: "it is another user namespace than nslab's own", OK: !e.mine("user"),
			Remedy: "leave it out: nslab is in it",
		})
	}
	if e.Flags&unix.CLONE_NEWPID != 0 {
		list = append(list, diagnosis.Condition{
			What: "the PID namespace is nslab's own, or one below it", OK: e.below(),
			Remedy: "enter it from outside: nobody can climb out of a PID namespace",
		})
	}
	return list
}

// mine tells whether the namespace of this kind that was to be entered is our own.
func (e *Error) mine(kind string) bool {
	var own unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/"+kind, &own) != nil {
		return false
	}
	return e.held == ID{uint64(own.Dev), own.Ino} || e.target(kind) == ID{uint64(own.Dev), own.Ino}
}

func (e *Error) target(kind string) ID {
	var st unix.Stat_t
	if unix.Stat(filepath.Join(e.What, "ns", kind), &st) != nil && unix.Stat(e.What, &st) != nil {
		return ID{}
	}
	return ID{uint64(st.Dev), st.Ino}
}

// below tells whether the target's PID namespace is ours or below it: then its parents, asked one after the other, lead to
// ours; from any other the kernel answers EPERM before.
func (e *Error) below() bool {
	path := e.What
	if filepath.Base(path) != "pid" {
		path = filepath.Join(path, "ns", "pid")
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_PARENT)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil || e.mine("pid")
}

func (e *Error) namespaceFile() diagnosis.Condition {
	var st unix.Statfs_t
	err := unix.Statfs(e.What, &st)
	return diagnosis.Condition{
		What: "the file lies in nsfs, the file system of namespaces", Detail: e.What,
		OK:     err == nil && st.Type == unix.NSFS_MAGIC,
		Remedy: "name a file in /proc/PID/ns, or a bind mount of one that is still mounted",
	}
}

// threads counts the threads of this process.
func threads() int {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0
	}
	return len(entries)
}
