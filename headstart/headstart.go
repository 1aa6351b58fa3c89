// Package headstart starts a container's monitor before anything else.
//
// A container needs two processes of nslab: the client, which the user has started, and the monitor, which stays with the
// container. Both are the same large program, and Go takes milliseconds to get such a one going: it initializes hundreds of
// packages, which no one of the two could do without. The client could start the monitor when it knows what container that
// is for, and then both would wait, one after the other. But all that the monitor needs in order to start up is to be told
// later what to do. So the client starts it at once, as soon as it can be seen on the command line that there is going to be a
// container, and both start up at the same time. What it decides is only a guess. Nobody has to take the process: it ends when
// the other end of its socket is closed, and that is when the client is gone, however it went.
//
// Go initializes packages one after the other: each after those that it imports, and of those that are ready the first by its
// path (Go specification, "Program initialization"). Package os and what that imports are ready early. With strings, which waits
// for the tables of Unicode, half of nslab's start would be over before it was this package's turn. So it is not imported, nor
// anything else but system calls, and a test sees to it.
package headstart

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/nslab/nslab/calm"
	"github.com/nslab/nslab/cmdline"
	"github.com/nslab/nslab/sealed"
)

// Monitor is the argv[0] of nslab as a monitor.
const Monitor = "nslab-monitor"

// Environment is that of a monitor: with one processor Go's runtime keeps one cache of memory instead of many. Its memory is only
// collected near 8 MiB, which few ever need: no start is held up, and no idle one wakes to look for garbage.
func Environment(runRoot string) []string {
	return []string{runRootEnv + runRoot, "GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=8MiB", "GOTRACEBACK=none"} // the first tells whose it is
}

const runRootEnv = "NSLAB_RUN_ROOT="

// SocketFD is where a monitor has its end of the socket on which it is told what to do.
const SocketFD = 3

// Process is a monitor that waits for its orders.
type Process struct {
	Socket *os.File // to the monitor
	Said   *os.File // its standard error, in memory

	runRoot string
}

var begun *Process

// Take hands over the monitor that was started beforehand, if there is one and it bears this run root.
func Take(runRoot string) *Process {
	p := begun
	begun = nil
	if p == nil || p.runRoot == runRoot {
		return p
	}
	p.drop()
	return nil
}

// Drop sends away one that nobody has taken: there is no container to start after all.
func Drop() {
	if begun != nil {
		begun.drop()
		begun = nil
	}
}

func (p *Process) drop() {
	p.Socket.Close() // which ends it
	p.Said.Close()
}

func init() {
	if root := wanted(os.Args, os.Getenv("NSLAB_RUN_ROOT"), os.Geteuid()); root != "" {
		begin(root)
	}
}

// wanted says for which run root there is going to be a container, "" for none, or where it is not certain. Who wants to hear of
// every call hears of this one, too, so it is made when somebody listens.
func wanted(args []string, env string, euid int) (runRoot string) {
	l := cmdline.Read(args)
	if l.Noun != "container" || l.Verb != "run" && l.Verb != "start" || len(l.Args) == 0 || euid != 0 {
		return ""
	}
	for _, a := range l.Args {
		if a == "--help" || a == "-h" || begins(a, "--explain") || begins(a, "--run-root") {
			return ""
		}
	}
	if l.RunRoot != "" {
		env = l.RunRoot
	}
	switch {
	case env == "":
		return "/run/nslab"
	case env[0] == '/' && !climbs(env):
		return env
	}
	return ""
}

func begins(s, with string) bool { return len(s) >= len(with) && s[:len(with)] == with }

// climbs says whether a part of a path is "..".
func climbs(path string) bool {
	for i := range path {
		if begins(path[i:], "/..") && (len(path) == i+3 || path[i+3] == '/') {
			return true
		}
	}
	return false
}

// begin starts one. If anything is in the way, there is none, and whoever needs it will hear why.
func begin(runRoot string) {
	tree, err := sealed.Clone()
	if err != nil {
		return
	}
	defer syscall.Close(tree)
	if sealed.Lock(tree) != nil {
		return
	}
	null, err := syscall.Open(os.DevNull, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer syscall.Close(null)
	said, err := memfd("nslab-monitor")
	if err != nil {
		return
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		syscall.Close(said)
		return
	}
	// By our number: in the child, descriptors are rearranged before it executes.
	path := "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(tree)
	calm.Set(calm.Slack) // Go initializes packages on the first thread, and forks on it
	_, err = syscall.ForkExec(path, []string{Monitor}, &syscall.ProcAttr{
		Dir: "/", Env: Environment(runRoot), Files: []uintptr{uintptr(null), uintptr(null), uintptr(said), uintptr(pair[1])},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	calm.Set(0)
	syscall.Close(pair[1])
	if err != nil {
		syscall.Close(pair[0])
		syscall.Close(said)
		return
	}
	begun = &Process{os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(said), "the monitor's standard error"), runRoot}
}

// memfd is memfd_create(2), whose number is that of the architecture.
func memfd(name string) (int, error) {
	trap := map[string]uintptr{"amd64": 319, "arm64": 279, "riscv64": 279, "loong64": 279, "ppc64le": 360, "s390x": 350}[runtime.GOARCH]
	text, err := syscall.BytePtrFromString(name)
	if trap == 0 || err != nil {
		return -1, syscall.ENOSYS
	}
	const cloexec = 1
	fd, _, errno := syscall.Syscall(trap, uintptr(unsafe.Pointer(text)), cloexec, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
