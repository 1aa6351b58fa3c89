package stream

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Package net is not used: its names, addresses and resolvers would be most of a monitor. os.File has the same poller.

// Pair returns the two ends of a connection: one for [Hub.Add] in the monitor, one for [Attach]. A client that starts a
// container passes one end to the monitor, so that it is attached before there is anything to miss.
func Pair() (hub, client *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "hub"), os.NewFile(uintptr(fds[1]), "client"), nil
}

// Dial connects to the hub that listens at path. If none does, the error is [ErrGone].
func Dial(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	err = withAddress(path, func(a unix.Sockaddr) error {
		// It blocks while the hub's queue of connections is full, which passes.
		for {
			if err := unix.Connect(fd, a); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, ErrGone
		}
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// listen makes a socket at path, in the place of one that a dead monitor left there.
func listen(path string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		if err := unix.Unlink(path); err != nil {
			return nil, fmt.Errorf("remove old socket %s: %w", path, err)
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	err = withAddress(path, func(a unix.Sockaddr) error {
		// Before bind, so that there is no moment at which others may connect: the file has the socket's own mode (unix(7)).
		if err := unix.Fchmod(fd, 0o600); err != nil {
			return err
		}
		return unix.Bind(fd, a)
	})
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// withAddress calls f with the address of a path. An address holds 107 bytes, and a path may be longer; but the folder has a
// short name as well, that of its descriptor.
func withAddress(path string, f func(unix.Sockaddr) error) error {
	if len(path) < len(unix.RawSockaddrUnix{}.Path) {
		return f(&unix.SockaddrUnix{Name: path})
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return f(&unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path))})
}

// pollable returns f, or another descriptor of the same open file, in a form that waits in the poller and not in a thread.
// f is closed in the latter case. The file becomes non-blocking for all who have it open, which nobody else should.
func pollable(f *os.File) (*os.File, error) {
	if f == nil {
		return nil, nil
	}
	if f.SetDeadline(noTime) == nil {
		return f, nil
	}
	fd, err := dup(f)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", f.Name(), err)
	}
	f.Close()
	f = os.NewFile(uintptr(fd), f.Name())
	if err := f.SetDeadline(noTime); err != nil {
		f.Close()
		return nil, fmt.Errorf("prepare %s: %w", f.Name(), err)
	}
	return f, nil
}

// dup duplicates a descriptor. File.Fd would make it blocking.
func dup(f *os.File) (fd int, err error) {
	err = control(f, func(old int) error {
		fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// control calls fn with the descriptor of f.
func control(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = fn(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
