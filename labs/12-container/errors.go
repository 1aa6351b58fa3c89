package container

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
)

// ErrNotFound is a program that is nowhere in the container's PATH.
var ErrNotFound = errors.New("executable file not found in $PATH")

// ErrState is an operation that a container's state does not allow.
var ErrState = errors.New("the container's state does not allow it")

// Kind tells what part of a start went wrong, for those who must answer with an exit status.
type Kind string

// The kinds of [InitError].
const (
	KindSetUp   Kind = "setup"   // anything before the program
	KindUser    Kind = "user"    // there is no such user or group
	KindCwd     Kind = "cwd"     // the working folder
	KindProgram Kind = "program" // the program cannot be executed
	KindMissing Kind = "missing" // the program is not there
)

// InitError is what went wrong inside the init, with the errno and with the preconditions that were probed there.
type InitError struct {
	Kind  Kind
	Text  string
	Errno syscall.Errno // 0 where no system call failed
	Why   []diagnosis.Condition
}

func (e *InitError) Error() string { return e.Text }

// Unwrap lets errors.Is find the errno.
func (e *InitError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Conditions are those that held, and did not, inside.
func (e *InitError) Conditions() []diagnosis.Condition { return e.Why }

// kindError gives an error its kind on its way to the parent.
type kindError struct {
	kind Kind
	err  error
}

func (e *kindError) Error() string { return e.err.Error() }
func (e *kindError) Unwrap() error { return e.err }

// AsInitError gives an error the form in which it crosses to another process, with what was found out about it here.
func AsInitError(err error) *InitError {
	var e *InitError
	if errors.As(err, &e) {
		return e
	}
	e = &InitError{Kind: KindSetUp, Text: err.Error(), Why: diagnosis.Of(err)}
	var k *kindError
	if errors.As(err, &k) {
		e.Kind = k.kind
	}
	errors.As(err, &e.Errno)
	return e
}

// programError is an execve that the kernel refused, in words: of ENOENT nobody guesses that it may mean the loader.
func programError(name string, err error, searched bool) error {
	kind := KindProgram
	switch {
	case errors.Is(err, ErrNotFound), searched && errors.Is(err, unix.ENOENT):
		return &kindError{KindMissing, fmt.Errorf("exec: %q: %w", name, ErrNotFound)}
	case errors.Is(err, unix.ENOENT):
		kind = KindMissing
	}
	return &kindError{kind, fmt.Errorf("exec: %q: %w", name, err)}
}
