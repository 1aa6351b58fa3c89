package unionfs

import (
	"context"
	"errors"
)

// Mode says what a union may do with a branch.
type Mode string

// RW and the others are aufs's words.
const (
	RW   Mode = "rw"
	RO   Mode = "ro"
	ROWH Mode = "ro+wh"
)

// Branch is one folder of an aufs, with what may be done to it.
type Branch struct {
	Path string
	Mode Mode
}

func branchesOf(l Layers) []Branch {
	var list []Branch
	if l.Upper != "" {
		list = append(list, Branch{Path: l.Upper, Mode: "rw"})
	}
	for _, path := range l.Lower {
		list = append(list, Branch{Path: path, Mode: "ro+wh"})
	}
	return list
}

func mountFUSE(_ context.Context, list []Branch, target string) (*Union, error) {
	return nil, &Error{Op: "mount", Driver: AufsFUSE, Layers: layersOf(list), Target: target, Err: errors.ErrUnsupported}
}

func unmountFUSE(context.Context, *Union) error { return errors.ErrUnsupported }

// Listing reads back the branches.
func Listing(*Union) ([]Branch, error) { return nil, errors.ErrUnsupported }

// WithServerDeath is for later.
func WithServerDeath(ctx context.Context) context.Context { return ctx }

func (b Branch) String() string { return b.Path + "=" + string(b.Mode) }
