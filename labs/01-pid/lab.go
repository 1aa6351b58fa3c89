package pid

import (
	"embed"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
)

//go:embed *.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough.
var Lab = course.Lab{
	Number: 1, Slug: "pid", Minutes: 25,
	Title: course.Text{En: "A process that thinks it is alone", Zh: "一个以为世上只有自己的进程"},
	Needs: []course.Need{
		course.NeedRootOrUserns, course.NeedMountNS, course.NeedPIDNS, course.NeedUTSNS, course.NeedIPCNS,
		course.NeedNetNS, course.NeedUserNS, course.NeedTimeNS, course.NeedCgroupNS,
	},
	Files: files,
	Steps: []course.Step{
		{ID: "clone", Run: clone},
		{ID: "ordinary", Run: ordinary},
		{ID: "wrong-proc", Answer: 1, Run: wrongProc},
		{ID: "own-proc", Run: ownProc},
		{ID: "siblings", Run: siblings},
		{ID: "uts", Answer: 2, Run: uts},
		{ID: "ipc", Run: ipc},
		{ID: "net", Answer: 1, Run: network},
		{ID: "user", Answer: 2, Run: user},
		{ID: "time", Run: timeNamespace},
		{ID: "cgroup", Run: cgroup},
		{ID: "pid1-dies", Answer: 1, Run: pid1Dies},
		{ID: "zombies", Run: zombies},
		{ID: "signals", Answer: 3, Run: signals},
		{ID: "init", Run: initProcess},
	},
	Zh:   zh,
	Undo: map[string]course.Undo{"cgroup": removeGroup},
}

// clone: the same process is 1 inside and an ordinary number outside.
func clone(t *course.T) error {
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWPID})
	if err != nil {
		return err
	}
	inside, err := box.Call(t.Untraced(), "01-getpid")
	if err != nil {
		return err
	}
	numbers, err := evidence.Status(box.Pid(), "NSpid")
	if err != nil {
		return err
	}
	t.See("the process asks getpid() and gets %s", inside)
	t.See("/proc/%s/status out here says NSpid: %s", strconv.Itoa(box.Pid()), numbers)
	t.Equal(1, inside, "inside it is PID 1")
	t.Equal(fmt.Sprintf("%d 1", box.Pid()), lastTwo(numbers), "the kernel lists both numbers for the same process")
	return twoSides(t, box, "pid")
}

// ordinary: nothing about the process is special to the host.
func ordinary(t *course.T) error {
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWPID})
	if err != nil {
		return err
	}
	parent, err := evidence.Status(box.Pid(), "PPid")
	if err != nil {
		return err
	}
	t.See("process %s is in the host's /proc like any other; its parent is nslab, process %s", strconv.Itoa(box.Pid()), parent)
	t.Equal(os.Getpid(), parent, "the host knows it as a child of nslab")
	state := func() string { s, _ := evidence.Status(box.Pid(), "State"); return s }
	if err := box.Signal(t.Context(), unix.SIGSTOP); err != nil {
		return err
	}
	stopped := t.Await(soon, func() bool { return strings.HasPrefix(state(), "T") })
	t.See("the host stops PID 1 of the box as it stops any process: State: %s", state())
	t.Check(stopped, "T (stopped)", state(), "the host's signal has stopped it")
	if err := box.Signal(t.Context(), unix.SIGCONT); err != nil {
		return err
	}
	running := t.Await(soon, func() bool { return !strings.HasPrefix(state(), "T") })
	t.Check(running, "not T", state(), "and another one has let it go on")
	return nil
}

// wrongProc: a /proc shows the namespace of whoever mounted it.
func wrongProc(t *course.T) error {
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS})
	if err != nil {
		return err
	}
	self, count, err := seenBy(t, box)
	if err != nil {
		return err
	}
	own, err := box.Call(t.Untraced(), "01-getpid")
	if err != nil {
		return err
	}
	host, err := evidence.Pids("/proc")
	if err != nil {
		return err
	}
	t.See("inside, /proc/self → %s, though getpid() is %s", self, own)
	t.See("inside, /proc lists %s processes; the host's lists %s", strconv.Itoa(count), strconv.Itoa(len(host)))
	t.Equal(1, own, "inside it is PID 1")
	t.Equal(box.Pid(), self, "its /proc calls it by the host's number")
	t.Check(count > 1, "> 1", count, "it still sees the processes of the host")
	return nil
}

// ownProc: mounted afresh by PID 1, /proc shows the new namespace.
func ownProc(t *course.T) error {
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS})
	if err != nil {
		return err
	}
	before, err := evidence.Pids("/proc")
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "01-mount-proc"); err != nil {
		return err
	}
	self, _, err := seenBy(t, box)
	if err != nil {
		return err
	}
	inside, err := evidence.Pids(evidence.Inside(box.Pid(), "/proc"))
	if err != nil {
		return err
	}
	after, err := evidence.Pids("/proc")
	if err != nil {
		return err
	}
	t.See("inside, /proc/self → %s", self)
	t.See("the box's /proc, read from outside through /proc/%s/root/proc, lists: %s", strconv.Itoa(box.Pid()), fmt.Sprint(inside))
	t.See("the host's /proc lists %s processes, as before", strconv.Itoa(len(after)))
	t.Equal("1", self, "/proc and getpid() agree now")
	t.Equal("[1]", fmt.Sprint(inside), "it is the only process it can see")
	t.Check(len(after) > 1 && len(before) > 1, "> 1", len(after), "the host's /proc is untouched")
	return nil
}

// siblings: two namespaces, each with its own PID 1, blind to each other.
func siblings(t *course.T) error {
	var boxes [2]*Box
	for i := range boxes {
		box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS})
		if err != nil {
			return err
		}
		if _, err := box.Call(t.Untraced(), "01-mount-proc"); err != nil {
			return err
		}
		boxes[i] = box
	}
	a, b := boxes[0], boxes[1]
	var inodes [2]uint64
	for i, box := range boxes {
		numbers, err := evidence.Status(box.Pid(), "NSpid")
		if err != nil {
			return err
		}
		if inodes[i], err = evidence.Namespace(box.Pid(), "pid"); err != nil {
			return err
		}
		t.See("%s: NSpid %s, pid:[%s]", string("AB"[i]), numbers, fmt.Sprint(inodes[i]))
		t.Check(strings.HasSuffix(numbers, " 1"), "… 1", numbers, "%s is PID 1 of its own namespace", string("AB"[i]))
	}
	t.Check(inodes[0] != inodes[1], "different inodes", fmt.Sprint(inodes), "they are two namespaces")

	_, err := a.Call(t.Context(), "01-kill", strconv.Itoa(b.Pid()))
	t.See("A asks for process %s, B's number on the host: %s", strconv.Itoa(b.Pid()), errorText(err))
	t.Equal(unix.ESRCH, rootCause(err), "for A, B does not exist")
	err = unix.Kill(b.Pid(), 0)
	t.Equal(nil, err, "for the host, B does exist")
	return nil
}

// pid1Dies: the namespace ends with its PID 1.
func pid1Dies(t *course.T) error {
	box, err := NewBox(t.Untraced(), t, Config{Namespaces: unix.CLONE_NEWPID})
	if err != nil {
		return err
	}
	for range 2 {
		if _, err := box.Call(t.Context(), "01-spawn", "sleep", "1000"); err != nil {
			return err
		}
	}
	inode, err := evidence.Namespace(box.Pid(), "pid")
	if err != nil {
		return err
	}
	members, err := evidence.Members("pid", inode)
	if err != nil {
		return err
	}
	t.See("in the namespace, by their numbers on the host: %s", fmt.Sprint(members))
	t.Equal(3, len(members), "PID 1 has two children")
	if err := box.Signal(t.Context(), syscall.SIGKILL); err != nil {
		return err
	}
	gone := t.Await(soon, func() bool {
		for _, pid := range members {
			if evidence.Alive(pid) {
				return false
			}
		}
		return true
	})
	left, err := evidence.Members("pid", inode)
	if err != nil {
		return err
	}
	t.See("one signal to PID 1 later: %s", fmt.Sprint(left))
	t.Check(gone, "[]", fmt.Sprint(left), "the kernel has killed the others too")
	return nil
}

// zombies: orphans become children of PID 1, and stay as zombies if it does not wait for them.
func zombies(t *course.T) error {
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWPID})
	if err != nil {
		return err
	}
	// PID 1 becomes a sleep that knows nothing of children; the subshell ends at once and leaves an orphan.
	if err := become(t, box, "sh", "-c", "(sleep 100 &) ; exec sleep 1000"); err != nil {
		return err
	}
	orphan, err := awaitOrphan(t, box)
	if err != nil {
		return err
	}
	parent, _ := evidence.Status(orphan, "PPid")
	t.See("process %s lost its parent; the kernel made PID 1 of the box its parent: PPid %s", strconv.Itoa(orphan), parent)
	t.Equal(box.Pid(), parent, "the orphan is now a child of PID 1")
	if err := unix.Kill(orphan, unix.SIGTERM); err != nil {
		return err
	}
	state := func() string { s, _ := evidence.Status(orphan, "State"); return s }
	zombie := t.Await(soon, func() bool { return strings.HasPrefix(state(), "Z") })
	t.See("it has ended, and is still in the process table: State: %s", state())
	t.Check(zombie, "Z (zombie)", state(), "nobody has waited for it, so it stays as a zombie")
	return nil
}

// signals: PID 1 does not get signals that it has no handler for.
func signals(t *course.T) error {
	plain, err := NewBox(t.Context(), t, Config{})
	if err != nil {
		return err
	}
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWPID})
	if err != nil {
		return err
	}
	for _, b := range []*Box{plain, box} {
		if err := become(t, b, "sleep", "1000"); err != nil {
			return err
		}
	}
	if err := plain.Signal(t.Context(), syscall.SIGTERM); err != nil {
		return err
	}
	died := t.Await(soon, func() bool { return !evidence.Alive(plain.Pid()) })
	t.See("sleep outside a PID namespace has no handler for SIGTERM: the default action kills it")
	t.Check(died, "gone", aliveText(plain.Pid()), "an ordinary sleep dies of SIGTERM")

	caught, err := evidence.Status(box.Pid(), "SigCgt")
	if err != nil {
		return err
	}
	if err := box.Signal(t.Context(), syscall.SIGTERM); err != nil {
		return err
	}
	survived := !t.Await(300*time.Millisecond, func() bool { return !evidence.Alive(box.Pid()) })
	t.See("the same sleep as PID 1 catches nothing either (SigCgt %s), and lives on", caught)
	t.Check(survived, "alive", aliveText(box.Pid()), "as PID 1 it ignores the same SIGTERM")

	if err := box.Signal(t.Context(), syscall.SIGKILL); err != nil {
		return err
	}
	killed := t.Await(soon, func() bool { return !evidence.Alive(box.Pid()) })
	t.Check(killed, "gone", aliveText(box.Pid()), "SIGKILL from outside ends it")
	return nil
}

// initProcess: what --init does about zombies and signals.
func initProcess(t *course.T) error {
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWPID})
	if err != nil {
		return err
	}
	if err := box.Send("01-supervise", "sh", "-c", "(sleep 100 &) ; exec sleep 1000"); err != nil {
		return err
	}
	orphan, err := awaitOrphan(t, box)
	if err != nil {
		return err
	}
	program, err := programOf(box, orphan)
	if err != nil {
		return err
	}
	t.See("process %s, the init, is PID 1; the program has the number %s", strconv.Itoa(box.Pid()), program)
	if err := unix.Kill(orphan, unix.SIGTERM); err != nil {
		return err
	}
	reaped := t.Await(soon, func() bool { return !evidence.Exists(orphan) })
	t.See("the orphan, process %s, has ended: in the process table it is %s", strconv.Itoa(orphan), existsText(orphan))
	t.Check(reaped, "no entry", existsText(orphan), "the init has waited for it: no zombie")

	if err := box.Signal(t.Context(), syscall.SIGTERM); err != nil {
		return err
	}
	t.Await(soon, func() bool { return box.State() != nil })
	status := "alive"
	if s := box.State(); s != nil {
		status = strconv.Itoa(s.ExitCode())
	}
	t.See("SIGTERM went to the init, which passed it on to sleep, and exited with %s", status)
	t.Equal(128+int(syscall.SIGTERM), status, "the exit status tells which signal: 128 + 15")
	return nil
}

// mapping maps root inside to host outside.
func mapping(host uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: 1}}
}
