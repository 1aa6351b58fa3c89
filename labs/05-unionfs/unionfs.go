// Package unionfs shows several folders as one.
//
// The idea: an image is a stack of folders that hold what each step of its making has changed, and a container is one
// more on top. Nobody copies them together. A union mount looks a name up from the top down and takes the first it
// finds; what is changed goes to the one folder on top that is writable. A file that lies below is copied up before its
// first change, and one that is deleted gets a mark in the upper folder that hides it: a whiteout. So a hundred
// containers share the folders of one image, and none of them can change it.
//
// The interface: [Mount] makes the union, [Union.Unmount] takes it away. There are three drivers with the same view and
// different marks on disk: the kernel's overlay, the kernel's aufs where a distribution has added it, and an aufs of our
// own in user space. [Convert] rewrites a layer from the marks of one into those of another, and [WriteTar] writes it in
// the form in which images travel. An [Error] knows what the kernel requires of the folders.
//
// The limits: the lower folders must not be changed by anybody while they are mounted; the kernel calls what happens then
// undefined. A copied-up file is another file: what was mapped into memory before still shows the old one. Overlay puts its upper folder on most local file systems, but not on NFS or another overlay.
//
// See Documentation/filesystems/overlayfs.rst, aufs(5), and the OCI image specification, layer.md.
package unionfs

import (
	"context"
	"fmt"

	mount "github.com/nslab/nslab/labs/02-mount"
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

	// Nobody needs what is written after a crash of the machine. Then overlay leaves out fsync(2), and above all it does not
	// write out the *whole* file system that Upper lies on, and wait for that, when the union is unmounted. The other drivers
	// do neither in any case.
	Volatile bool
}

// Union is a mounted union.
type Union struct {
	Driver Driver
	Target string
	ID     string // "si_…", under which aufs lists its branches; empty for overlay
	Server int    // the process that serves it, 0 where the kernel does
}

// Mount shows the layers as one at target, an existing folder, in the mount namespace of the calling thread.
func Mount(ctx context.Context, d Driver, l Layers, target string) (*Union, error) {
	if len(l.Lower) == 0 && l.Upper == "" {
		return nil, &Error{Op: "mount", Driver: d, Target: target, Err: ErrNoLayers}
	}
	switch d {
	case Overlay:
		return mountOverlay(ctx, l, target)
	case Aufs:
		return mountAufs(ctx, branchesOf(l), target)
	case AufsFUSE:
		return serve(ctx, branchesOf(l), target)
	}
	return nil, &Error{Op: "mount", Driver: d, Target: target, Err: ErrUnknownDriver}
}

// MountBranches is [Mount] for aufs, kernel's or ours, with a mode for each folder. The topmost comes first.
func MountBranches(ctx context.Context, d Driver, list []Branch, target string) (*Union, error) {
	switch d {
	case Aufs:
		return mountAufs(ctx, list, target)
	case AufsFUSE:
		return serve(ctx, list, target)
	}
	return nil, &Error{Op: "mount", Driver: d, Layers: layersOf(list), Target: target, Err: ErrUnknownDriver}
}

// serve is mountFUSE, with an error that can say why.
func serve(ctx context.Context, list []Branch, target string) (*Union, error) {
	u, err := mountFUSE(ctx, list, target)
	if err != nil {
		return nil, &Error{Op: "mount", Driver: AufsFUSE, Layers: layersOf(list), Target: target, Err: err}
	}
	return u, nil
}

// Unmount takes the union off its target and waits for its server's end. A union whose server has died is unmounted like
// any other: the kernel keeps such a mount, and answers ENOTCONN below it, until somebody does.
func (u *Union) Unmount(ctx context.Context) error {
	if u.Driver == AufsFUSE {
		return unmountFUSE(ctx, u)
	}
	if err := mount.Unmount(ctx, u.Target); err != nil {
		return fmt.Errorf("05-unionfs: unmount %s from %s: %w", u.Driver, u.Target, err)
	}
	return nil
}
