// Package unionfs shows several folders as one.
package unionfs

import (
	"context"
	"fmt"
)

// Driver is which program does the merging.
type Driver string

const (
	Overlay  Driver = "overlay"   // the kernel's overlay file system
	Aufs     Driver = "aufs"      // the kernel's aufs, where a distribution has patched it in
	AufsFUSE Driver = "aufs-fuse" // our own, with aufs's rules and aufs's form on disk, in user space
)

// Layers are the folders of a union.
type Layers struct {
	Lower []string // read-only, the topmost first
	Upper string   // where every change goes; empty: the union is read-only
	Work  string   // overlay's own work folder, on Upper's file system; the other drivers need none
}

// Union is a mounted union.
type Union struct {
	Driver Driver
	Target string
	ID     string // "si_…", under which aufs lists its branches; empty for overlay
	Server int    // the process that serves it, 0 where the kernel does
}

// Mount shows the layers as one at target.
func Mount(ctx context.Context, d Driver, l Layers, target string) (*Union, error) {
	if d != AufsFUSE {
		return nil, fmt.Errorf("mount a union with %s: no such driver", d)
	}
	return mountFUSE(ctx, branchesOf(l), target)
}

// Unmount takes the union off its target and waits for its server's end.
func (u *Union) Unmount(ctx context.Context) error {
	return unmountFUSE(ctx, u)
}
