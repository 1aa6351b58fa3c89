package container

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/actor"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
	setns "github.com/nslab/nslab/labs/06-setns"
	"github.com/nslab/nslab/trace"
)

// What the steps look at, from outside: /proc, the files of control groups, mount tables.

// status is a field of /proc/PID/status, or why it cannot be read.
func status(pid int, field string) string {
	s, err := evidence.Status(pid, field)
	if err != nil {
		return err.Error()
	}
	return s
}

// program is the path of what a process executes, in its own mount namespace.
func program(pid int) string {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return evidence.Answer(err)
	}
	return link
}

// isNslab tells whether a process executes the file that we do, or the copy in memory that stands for it.
func isNslab(pid int) bool {
	ours, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	its, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && os.SameFile(ours, its) || strings.HasPrefix(program(pid), "/memfd:nslab")
}

// fileID is device and inode of what a path leads to, or why it leads nowhere.
func fileID(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return evidence.Answer(err)
	}
	return fmt.Sprintf("%d:%d %d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
}

// in is a path of a container, for us outside.
func in(pid int, path string) string { return evidence.Inside(pid, path) }

// text is what a file holds, or why it cannot be read.
func text(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return evidence.Answer(err)
	}
	return strings.Join(strings.Fields(string(data)), " ")
}

// names lists a folder, "–" if there is nothing in it.
func names(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return evidence.Answer(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return words(list)
}

func words(list []string) string {
	if len(list) == 0 {
		return "–"
	}
	return strings.Join(list, " ")
}

// differing lists the kinds of namespaces that two processes do not share, by the inodes of the kernel's files.
func differing(a, b int) string {
	var list []string
	for _, k := range setns.Kinds() {
		x, errX := evidence.Namespace(a, k.Name)
		y, errY := evidence.Namespace(b, k.Name)
		if (errX == nil || errY == nil) && x != y {
			list = append(list, k.Name)
		}
	}
	slices.Sort(list)
	return words(list)
}

// nodeName is the host name in the UTS namespace of a process. No file shows it: /proc/sys/kernel/hostname tells every
// reader his own. So a thread goes there and asks.
func nodeName(ctx context.Context, pid int) (name string, err error) {
	f, k, err := setns.OpenFile(trace.Off(ctx), fmt.Sprintf("/proc/%d/ns/uts", pid))
	if err != nil {
		return "", err
	}
	defer f.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err = setns.Setns(trace.Off(ctx), f, k.Flag); err != nil {
			return
		}
		var u unix.Utsname
		err = unix.Uname(&u)
		name = unix.ByteSliceToString(u.Nodename[:])
	}()
	<-done
	return name, err
}

// relative is a process of a container as the container's own /proc shows it.
type relative struct {
	number int // inside
	name   string
	zombie bool
}

func (r relative) String() string {
	if r.zombie {
		return fmt.Sprintf("%d %s (zombie)", r.number, r.name)
	}
	return fmt.Sprintf("%d %s", r.number, r.name)
}

// relatives lists the processes of a container, read through the root of its init.
func relatives(pid int) []relative {
	numbers, err := evidence.Pids(in(pid, "/proc"))
	if err != nil {
		return nil
	}
	var list []relative
	for _, n := range numbers {
		data, err := os.ReadFile(in(pid, fmt.Sprintf("/proc/%d/status", n)))
		if err != nil {
			continue // gone meanwhile
		}
		r := relative{number: n}
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch key {
			case "Name":
				r.name = value
			case "State":
				r.zombie = strings.HasPrefix(value, "Z")
			}
		}
		list = append(list, r)
	}
	return list
}

// members counts the processes in a PID namespace that are alive.
func members(namespace uint64) int {
	list, err := evidence.Members("pid", namespace)
	if err != nil {
		return -1
	}
	return len(slices.DeleteFunc(list, func(pid int) bool { return !evidence.Alive(pid) }))
}

// mountsAt counts the mounts at or below a path in a process's table, which names them from that process's root.
func mountsAt(pid int, path string) int {
	table, err := mount.TableOf(pid)
	if err != nil {
		return -1
	}
	count := 0
	for _, e := range table {
		if e.Target == path || strings.HasPrefix(e.Target, path+"/") {
			count++
		}
	}
	return count
}

// footprint is all that a container can leave: processes of ours, control groups and mounts of this walkthrough, state.
type footprint struct{ processes, groups, mounts, state string }

func look(t *course.T, p place) (f footprint, err error) {
	groups, err := course.Cgroups(t.ID())
	if err != nil {
		return f, err
	}
	table, err := evidence.Mounts(os.Getpid())
	if err != nil {
		return f, err
	}
	return footprint{processes: str(children()), groups: str(len(groups)), mounts: str(len(table)), state: names(p.state)}, nil
}

// children counts our living children.
func children() (n int) {
	pids, _ := evidence.Pids("/proc")
	for _, pid := range pids {
		if evidence.Alive(pid) && status(pid, "PPid") == str(os.Getpid()) {
			n++
		}
	}
	return n
}

// visit lets the learner's shell at the pause be born in the container's namespaces. The shell has all rights there; what
// the container's own programs have, the step has shown.
func visit(t *course.T, c *Container) error {
	var list []*os.File
	defer func() { closeAll(list...) }()
	// The mount namespace last: the other files are looked up through our /proc.
	for _, kind := range []string{"uts", "ipc", "net", "cgroup", "pid", "mnt"} {
		f, _, err := setns.OpenFile(t.Untraced(), fmt.Sprintf("/proc/%d/ns/%s", c.Pid, kind))
		if err != nil {
			return err
		}
		list = append(list, f)
	}
	n := &namespaceSet{joined: list}
	cfg := pid.Config{Before: func(ctx context.Context) error {
		// A thread that shares root and working folder with others may not change its mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("leave the other threads' root: %w", err)
		}
		return n.join(ctx)
	}}
	cmd := pid.Command(cfg, actor.Entry)
	// In the container's PID namespace its parent has no number, and Go would take it for dead. It ends with our pipe.
	cmd.SysProcAttr.Pdeathsig = 0
	a, err := actor.Prepare(cmd)
	if err != nil {
		return err
	}
	box, err := pid.Start(t.Untraced(), cfg, cmd)
	if err != nil {
		return err
	}
	t.Cleanup(box.Kill)
	t.Enter(a)
	return a.Started()
}
