package engine

import (
	"errors"
	"fmt"
)

// InputError is something the user asked for that cannot be.
type InputError struct {
	What  string // "container name", "memory limit"
	Value string
	Err   error  // what is wrong with it
	Hint  string // what to do instead, where that is known
}

func (e *InputError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("invalid %s: %v", e.What, e.Err)
	}
	return fmt.Sprintf("invalid %s %q: %v", e.What, e.Value, e.Err)
}

func (e *InputError) Unwrap() error { return e.Err }

// NotFoundError is a container that is not there.
type NotFoundError struct{ Ref string }

func (e *NotFoundError) Error() string { return "no such container: " + e.Ref }

// AmbiguousError is the beginning of several ids.
type AmbiguousError struct {
	Ref   string
	Count int
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q is the beginning of %d container ids", e.Ref, e.Count)
}

// NameError is a name that is taken.
type NameError struct{ Name, Owner string }

func (e *NameError) Error() string {
	return fmt.Sprintf("the container name %q is already in use by container %s", e.Name, e.Owner)
}

// StateError is something that a container's state does not allow.
type StateError struct {
	Container string // as the user named it
	Status    Status
	Op        string // "pause", "remove"
	Hint      string
}

func (e *StateError) Error() string {
	switch {
	case e.Status == Running || e.Status == Paused:
		return fmt.Sprintf("cannot %s container %s: it is %s", e.Op, e.Container, e.Status)
	}
	return fmt.Sprintf("cannot %s container %s: it is not running", e.Op, e.Container)
}

// StartError is a container that was made, but could not be started. Code is the exit status that a user of Docker knows:
// 127 for a program that is not there, 126 for one that cannot be executed, 125 for all else.
type StartError struct {
	Code int
	Err  error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// ErrLost is a container whose folder cannot be read as one. It is reported, never deleted without being asked.
var ErrLost = errors.New("the container's record cannot be read")
