package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	volumes "github.com/nslab/nslab/labs/07-volumes"
	"github.com/nslab/nslab/trace"
)

// A container's terminal is a pair of its own, from its own devpts: the outer end goes to whoever holds the container, the
// inner one becomes the program's. The terminal that nslab was started from is never seen inside: with a descriptor of it, a
// program could type commands into the shell outside (TIOCSTI).

// openTerminal makes a pair in the devpts below dev. Both ends are reached by descriptors and ioctls: no name is
// looked up but the one that is checked (CVE-2025-52565).
func openTerminal(ctx context.Context, dev *rootfs.Tree) (outer, inner *os.File, err error) {
	outer, err = dev.Open(ctx, "pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, outer.Close())
		}
	}()
	fd := int(outer.Fd())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return nil, nil, errors.Join(errors.New("12-container: /dev/pts/ptmx is not the kernel's"), err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("12-container: unlock the terminal: %w", err)
	}
	peer := -1
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("ioctl(%d, TIOCGPTPEER, O_RDWR|O_NOCTTY) = %d", fd, peer) },
		func() (err error) {
			r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
			if errno != 0 {
				return errno
			}
			peer = int(r)
			return nil
		})
	if err != nil {
		return nil, nil, fmt.Errorf("12-container: open the terminal's inner end: %w", err)
	}
	return outer, os.NewFile(uintptr(peer), "/dev/pts/0"), nil
}

// terminal opens a terminal, shows it as /dev/console, and keeps the outer end for the parent.
func (i *initProcess) terminal(ctx context.Context) (err error) {
	p := i.Config.Spec.Process
	if !p.Terminal {
		return nil
	}
	dev, err := i.dev(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	outer, inner, err := openTerminal(ctx, dev)
	if err != nil {
		return err
	}
	i.console, i.tty = outer, inner
	if err := setSize(outer, p.ConsoleSize); err != nil {
		return err
	}
	return volumes.Attach(ctx, dev, specs.Mount{
		Type: "bind", Source: mount.Through(inner), Destination: "/console", Options: []string{"bind"},
	}, nil)
}

func setSize(tty *os.File, size *specs.Box) error {
	if size == nil || size.Width == 0 || size.Height == 0 {
		return nil
	}
	err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)})
	if err != nil {
		return fmt.Errorf("12-container: set the terminal's size: %w", err)
	}
	return nil
}

// takeTerminal makes the inner end standard input, output and error, and the controlling terminal of this session.
func (i *initProcess) takeTerminal(ctx context.Context) error {
	if i.tty == nil {
		return nil
	}
	fd := int(i.tty.Fd())
	err := trace.Call(ctx, 0, func() string { return fmt.Sprintf("ioctl(%d, TIOCSCTTY, 0)", fd) },
		func() error { return unix.IoctlSetInt(fd, unix.TIOCSCTTY, 0) })
	if err != nil {
		return fmt.Errorf("12-container: take the terminal: %w", err)
	}
	if err := unix.Fchown(fd, int(i.id.uid), -1); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("12-container: give the terminal to user %d: %w", i.id.uid, err)
	}
	for to := range 3 {
		if err := unix.Dup3(fd, to, 0); err != nil {
			return fmt.Errorf("12-container: put the terminal on descriptor %d: %w", to, err)
		}
	}
	return i.tty.Close()
}
