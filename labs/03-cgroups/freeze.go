package cgroups

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds how long Freeze, Kill and Delete wait for the kernel when their context sets no bound.
const patience = 10 * time.Second

const (
	stateFile  = "freezer.state" // v1: THAWED, FREEZING, FROZEN
	freezeFile = "cgroup.freeze" // v2: 0, 1
)

// Freeze stops every process of the group where it is, and returns when all have stopped. They notice nothing: no signal
// is sent, and SIGCONT does not wake them. If they do not stop in time, they are let go again.
func (g *Group) Freeze(ctx context.Context) error {
	d := g.dir("freezer")
	if d == nil {
		return &MissingError{Controller: "freezer"}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	if d.Version == 2 {
		if err = write(ctx, 0, filepath.Join(d.Path, freezeFile), "1"); err == nil {
			err = awaitEvent(ctx, d.Path, "frozen", 1)
		}
	} else {
		if err = write(ctx, 0, filepath.Join(d.Path, stateFile), "FROZEN"); err == nil {
			err = awaitFrozenV1(ctx, d.Path)
		}
	}
	if err != nil {
		return errors.Join(err, thaw(context.WithoutCancel(ctx), d.Path, d.Version))
	}
	return nil
}

// Frozen tells whether the group is frozen now, or on the way there.
func (g *Group) Frozen() (bool, error) {
	d := g.dir("freezer")
	if d == nil {
		return false, &MissingError{Controller: "freezer"}
	}
	if d.Version == 2 {
		value, err := readFile(filepath.Join(d.Path, freezeFile))
		return value == "1", err
	}
	value, err := readFile(filepath.Join(d.Path, stateFile))
	return value != "THAWED", err
}

// Thaw lets the processes go on. A group that is not frozen is no error.
func (g *Group) Thaw(ctx context.Context) error {
	d := g.dir("freezer")
	if d == nil {
		return &MissingError{Controller: "freezer"}
	}
	return thaw(ctx, d.Path, d.Version)
}

func thaw(ctx context.Context, dir string, version int) error {
	if version == 2 {
		return write(ctx, 0, filepath.Join(dir, freezeFile), "0")
	}
	return write(ctx, 0, filepath.Join(dir, stateFile), "THAWED")
}

// awaitFrozenV1 polls: v1's freezer tells nobody when it is done. The state reads FREEZING until the last task has
// stopped; a task that is forked in the meantime, or sits in a vfork, needs the command once more.
// See Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst.
func awaitFrozenV1(ctx context.Context, dir string) error {
	file := filepath.Join(dir, stateFile)
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		state, err := readFile(file)
		if err != nil || state == "FROZEN" {
			return err
		}
		if pause(ctx, wait) != nil {
			return &Error{Op: "freeze", File: dir, Err: fmt.Errorf("still %s: %w", state, context.Cause(ctx))}
		}
		if err := writeOnce(file, "FROZEN"); err != nil {
			return &Error{Op: "write", File: file, Value: "FROZEN", Err: err}
		}
	}
}

// awaitEvent waits until a key of cgroup.events has a value. The kernel wakes whoever polls that file at each change, so
// nothing is lost to sleeping (cgroup-v2.rst, "cgroup.events"). A group that is gone has no processes and is not frozen.
func awaitEvent(ctx context.Context, dir, key string, want uint64) error {
	file := filepath.Join(dir, eventsFile)
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if errors.Is(err, unix.ENOENT) && want == 0 {
		return nil
	}
	if err != nil {
		return &Error{Op: "open", File: file, Err: err}
	}
	defer unix.Close(fd)
	buf := make([]byte, 512)
	for {
		// Read before each poll: reading is what tells the kernel which change we know of already.
		n, err := ignoringEINTR(func() (int, error) { return unix.Pread(fd, buf, 0) })
		if errors.Is(err, unix.ENODEV) && want == 0 {
			return nil
		}
		if err != nil {
			return &Error{Op: "read", File: file, Err: err}
		}
		if value, ok := field(string(buf[:n]), key); ok && value == want {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for %s %d in %s: %w", key, want, file, context.Cause(ctx))
		}
		// In slices, since poll(2) does not hear of ctx.
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		if _, err := unix.Poll(poll, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return &Error{Op: "poll", File: file, Err: err}
		}
	}
}

// pause waits, or tells why not.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
