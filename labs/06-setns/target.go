package setns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// ID tells namespaces apart: two processes share one if, and only if, device and inode of their files are equal.
type ID struct{ Dev, Ino uint64 }

// Target is a process whose namespaces can be entered. It is held by a pidfd, not by its number: a number is given to
// somebody else some time after its process has ended, and it is the somebody else whom one would join then.
type Target struct {
	Pid   int
	pidfd *os.File
	proc  *os.File // the folder /proc/PID of exactly this process
}

// Open takes hold of a process.
//
// The order makes it sure that pidfd and folder mean the same process: the folder is opened while the pidfd's process
// lives, as the signal 0 proves afterwards. A number is not given away while its process lives; and a folder of /proc
// that is open answers ESRCH after its process's end, not for the successor.
func Open(ctx context.Context, pid int) (_ *Target, err error) {
	fd := -1
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("pidfd_open(%d, 0) = %d", pid, fd) },
		func() (err error) {
			fd, err = unix.PidfdOpen(pid, 0)
			return err
		})
	name := "pidfd of " + strconv.Itoa(pid)
	if err != nil {
		return nil, &Error{Op: "pidfd_open", What: "process " + strconv.Itoa(pid), Err: err}
	}
	t := &Target{Pid: pid, pidfd: os.NewFile(uintptr(fd), name)}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	dir := fmt.Sprintf("/proc/%d", pid)
	if t.proc, err = open(ctx, unix.AT_FDCWD, dir, dir, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	err = trace.Call(trace.Off(ctx), 0, func() string { return "" },
		func() error { return unix.PidfdSendSignal(fd, 0, nil, 0) })
	if err != nil && !errors.Is(err, unix.EPERM) { // EPERM: it lives, and is somebody else's
		return nil, &Error{Op: "pidfd_send_signal", What: "process " + strconv.Itoa(pid), Err: err}
	}
	return t, nil
}

// Close lets go of the process.
func (t *Target) Close() error {
	err := t.pidfd.Close()
	if t.proc != nil {
		err = errors.Join(err, t.proc.Close())
	}
	return err
}

// Namespace tells which namespace of a kind ("net") the process is in.
func (t *Target) Namespace(kind string) (ID, error) {
	var st unix.Stat_t
	file := "ns/" + kind
	if err := unix.Fstatat(int(t.proc.Fd()), file, &st, 0); err != nil {
		return ID{}, &Error{Op: "stat", What: t.proc.Name() + "/" + file, Err: err}
	}
	return ID{uint64(st.Dev), st.Ino}, nil
}

// Same tells which of the namespaces named by flags the calling thread shares with the process already. There is nothing
// to enter in those; and to enter the user namespace that one is in is an error: whoever has dropped capabilities could
// get them back that way.
//
// PID and time namespaces are compared with those that the thread's next child will be in, since the child is what
// [Start] makes.
func (t *Target) Same(flags uintptr) (uintptr, error) {
	var same uintptr
	for _, k := range kinds {
		if flags&k.Flag == 0 {
			continue
		}
		its, err := t.Namespace(k.Name)
		if errors.Is(err, unix.ENOENT) {
			same |= k.Flag // this kernel has no such namespaces: everybody shares the one
			continue
		}
		if err != nil {
			return 0, err
		}
		own := k.Name
		if own == "pid" || own == "time" {
			own += "_for_children"
		}
		var st unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/"+own, &st); err != nil {
			return 0, &Error{Op: "stat", What: "/proc/thread-self/ns/" + own, Err: err}
		}
		if its == (ID{uint64(st.Dev), st.Ino}) {
			same |= k.Flag
		}
	}
	return same, nil
}

// file opens something of the process: "ns/net", "root", "cwd".
func (t *Target) file(ctx context.Context, name string, flags int) (*os.File, error) {
	return open(ctx, int(t.proc.Fd()), name, t.proc.Name()+"/"+name, flags)
}

// mapsRoot tells whether the process's user namespace has a user 0 and a group 0, and whether groups may be set in it.
func (t *Target) mapsRoot() (uid, gid, setgroups bool) {
	read := func(name string) string {
		fd, err := unix.Openat(int(t.proc.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return ""
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		buf := make([]byte, 16384) // a map has 340 lines at most
		n, _ := f.Read(buf)
		return string(buf[:n])
	}
	has0 := func(idMap string) bool {
		for line := range strings.Lines(idMap) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "0" {
				return true
			}
		}
		return false
	}
	return has0(read("uid_map")), has0(read("gid_map")), strings.TrimSpace(read("setgroups")) == "allow"
}

// OpenFile takes hold of one namespace by a file: /proc/PID/ns/net, or a bind mount of it such as /run/netns/blue. It
// returns what kind it is of, too.
//
// The file is looked at (O_PATH) before it is opened, since opening something else can have effects: a FIFO blocks, a
// tape rewinds. And a bind mount may have been unmounted meanwhile, which leaves an ordinary empty file.
func OpenFile(ctx context.Context, path string) (*os.File, Kind, error) {
	seen, err := open(trace.Off(ctx), unix.AT_FDCWD, path, path, unix.O_PATH)
	if err != nil {
		return nil, Kind{}, err
	}
	defer seen.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(seen.Fd()), &st); err != nil || st.Type != unix.NSFS_MAGIC {
		return nil, Kind{}, &Error{Op: "open", What: path, Err: ErrNoNamespace}
	}
	f, err := open(ctx, unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", seen.Fd()), path, unix.O_RDONLY)
	if err != nil {
		return nil, Kind{}, err
	}
	k, err := kindOf(f)
	if err != nil {
		return nil, Kind{}, errors.Join(err, f.Close())
	}
	return f, k, nil
}

// kindOf asks the kernel what kind of namespace a file stands for. See ioctl_nsfs(2).
func kindOf(f *os.File) (Kind, error) {
	flag, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err == nil {
		for _, k := range kinds {
			if k.Flag == uintptr(flag) {
				return k, nil
			}
		}
	}
	return Kind{}, &Error{Op: "open", What: f.Name(), Err: ErrNoNamespace}
}

// identify returns the ID of what f is open for, or nothing.
func identify(f *os.File) ID {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return ID{}
	}
	return ID{uint64(st.Dev), st.Ino}
}

// open is openat(2), always with O_CLOEXEC: a descriptor that a program inherits is a way out of its container.
func open(ctx context.Context, dir int, path, name string, flags int) (*os.File, error) {
	fd := -1
	err := trace.Call(ctx, 2,
		func() string {
			flags := openFlags(flags | unix.O_CLOEXEC)
			if dir == unix.AT_FDCWD {
				return fmt.Sprintf("open(%q, %s) = %d", path, flags, fd)
			}
			return fmt.Sprintf("openat(%d<%s>, %q, %s) = %d", dir, strings.TrimSuffix(name, "/"+path), path, flags, fd)
		},
		func() (err error) {
			fd, err = unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0)
			return err
		})
	if err != nil {
		return nil, &Error{Op: "open", What: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openFlags(flags int) string {
	names := []string{"O_RDONLY"}
	if flags&unix.O_WRONLY != 0 {
		names[0] = "O_WRONLY"
	}
	for _, f := range []struct {
		bit  int
		name string
	}{
		{unix.O_DIRECTORY, "O_DIRECTORY"}, {unix.O_CLOEXEC, "O_CLOEXEC"}, {unix.O_PATH, "O_PATH"},
	} {
		if flags&f.bit == f.bit {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, "|")
}
