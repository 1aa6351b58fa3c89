package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

var (
	ErrRoot     = errors.New("the container's root cannot be a volume")
	ErrFile     = errors.New("inside it is a file")
	ErrFolder   = errors.New("inside it is a folder")
	ErrName     = errors.New(`a volume's name has two or more of [a-zA-Z0-9_.-] and begins with a letter or a digit`)
	ErrInUse    = errors.New("volume is in use")
	ErrNoVolume = errors.New("no such volume")
	ErrExists   = errors.New("a volume of this name exists with other labels")
	ErrSpec     = errors.New("not a volume")
)

// SpecError is an argument of -v or --mount, or several together, that make no sense; it is [ErrSpec].
type SpecError struct {
	Spec string // empty for several
	Why  string
}

func (e *SpecError) Error() string {
	if e.Spec == "" {
		return "07-volumes: " + e.Why
	}
	return fmt.Sprintf("07-volumes: invalid volume %q: %s", e.Spec, e.Why)
}

func (e *SpecError) Is(target error) bool { return target == ErrSpec }

// Error is a mount or a volume that could not be had.
type Error struct {
	Op   string // what was being done
	Path string // to what
	Err  error
}

func (e *Error) Error() string {
	if e.Path == "" {
		return "07-volumes: " + e.Op + ": " + e.Err.Error()
	}
	return "07-volumes: " + e.Op + " " + e.Path + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Conditions are what a source and a target must be.
func (e *Error) Conditions() []diagnosis.Condition {
	switch {
	case errors.Is(e.Err, unix.ENOENT) && strings.HasSuffix(e.Op, "the source"):
		return []diagnosis.Condition{{
			What: "the source exists on the host", Detail: e.Path,
			Remedy: "make it first: --mount makes nothing, -v makes a missing folder",
		}}
	case errors.Is(e.Err, ErrFile), errors.Is(e.Err, ErrFolder):
		return []diagnosis.Condition{{
			What: "source and target are of one kind", Detail: e.Path,
			Remedy: "bind a folder on a folder and a file on a file, or name a target that does not exist yet",
		}}
	}
	return nil
}

func openPath(ctx context.Context, name string) (fd int, err error) {
	fd = -1
	err = trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("open(%q, O_PATH|O_CLOEXEC) = %d", name, fd) },
		func() (err error) {
			fd, err = unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
			return err
		})
	return fd, err
}

func unwrapPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}
