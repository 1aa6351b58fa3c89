package image

import (
	"errors"
	"fmt"
	"strings"
)

// States that a caller may ask for with errors.Is.
var (
	// ErrNotFound is an image that is not in the store.
	ErrNotFound = errors.New("no such image")

	// ErrAmbiguous is the beginning of an id that several images have.
	ErrAmbiguous = errors.New("several images have an id that begins like this")

	// ErrReference is a name that no image can have.
	ErrReference = errors.New("invalid reference")

	// ErrConflict is an image that is not removed because something needs it.
	ErrConflict = errors.New("conflict")

	// ErrCorrupt is something in the store that is not what its digest says.
	ErrCorrupt = errors.New("the store's content is not what its digest says")

	// ErrContent is something that came from elsewhere and is not what was announced.
	ErrContent = errors.New("what came is not what was announced")

	// ErrInstruction is a line of a Dockerfile that changes no image, or not like this.
	ErrInstruction = errors.New("invalid change")
)

// NotFoundError names the image that is not there.
type NotFoundError struct{ Ref string }

func (e *NotFoundError) Error() string { return "no such image: " + e.Ref }

// Is makes it [ErrNotFound].
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// PlatformError is an image that is not for this machine.
type PlatformError struct {
	Want string
	Has  []string
}

func (e *PlatformError) Error() string {
	if len(e.Has) == 0 {
		return "it is not for " + e.Want
	}
	return fmt.Sprintf("it is not for %s, but for %s", e.Want, strings.Join(e.Has, ", "))
}

// AmbiguousError names the beginning of an id, and the ids that begin with it.
type AmbiguousError struct {
	Prefix string
	IDs    []string
}

func (e *AmbiguousError) Error() string {
	short := make([]string, len(e.IDs))
	for i, id := range e.IDs {
		short[i] = ShortID(id)
	}
	return fmt.Sprintf("%d images have an id that begins with %s: %s", len(e.IDs), e.Prefix, strings.Join(short, ", "))
}

// Is makes it [ErrAmbiguous].
func (e *AmbiguousError) Is(target error) bool { return target == ErrAmbiguous }

// ReferenceError is a name that cannot be one.
type ReferenceError struct{ Ref, Why string }

func (e *ReferenceError) Error() string { return fmt.Sprintf("%q: %s", e.Ref, e.Why) }

// Is makes it [ErrReference].
func (e *ReferenceError) Is(target error) bool { return target == ErrReference }

// ConflictError says why an image is not removed, in Docker's words.
type ConflictError struct {
	ID   string
	Hard bool // force does not help
	Why  string
	text string
}

func (e *ConflictError) Error() string {
	if e.text != "" {
		return "conflict: " + e.text
	}
	force := "must be forced"
	if e.Hard {
		force = "cannot be forced"
	}
	return fmt.Sprintf("conflict: unable to delete %s (%s) - %s", ShortID(e.ID), force, e.Why)
}

// Is makes it [ErrConflict].
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// ShortID is the part of an id that people read.
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}
