package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A path inside a container's root belongs to the container: it may be a link to the host by the time that it is used. A
// runtime therefore resolves the path once, safely (openat2 with RESOLVE_IN_ROOT), checks what it got, and from then on
// uses the descriptor. CVE-2021-30465 was a mount onto a name that had been checked a moment earlier.

// errBeneath is what is wrong with /proc/self/fd/N where a mount takes more than one call.
var errBeneath = errors.New("a descriptor stays beneath what is mounted on it, so flags would go to the wrong mount: use MountAt")

// Through is a path that leads mount(2) to exactly what f is open for, O_PATH included, whatever its name means by now.
// f must stay open. It is good for one call: after it the path still leads beneath the new mount.
func Through(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

func throughDescriptor(path string) bool {
	rest, ok := strings.CutPrefix(path, "/proc/")
	return ok && (strings.HasPrefix(rest, "self/fd/") || strings.HasPrefix(rest, "thread-self/fd/"))
}

// MountAt is [Mount] onto what at is open for; m.Destination is not used. The mount is made and given its flags before it
// is attached, in one step, so it is never seen otherwise than asked for.
//
// Without the new calls (ENOSYS) the old one does where one is enough: a plain bind, or a file system with flags and data,
// through [Through], is as safe. For anything else MountAt returns the error: the second call would need a name.
func MountAt(ctx context.Context, at *os.File, m specs.Mount) (err error) {
	o, err := ParseOptions(m.Options)
	if err != nil {
		return err
	}
	if m.Type == "bind" {
		o.Flags |= unix.MS_BIND
	}
	if o.Flags&unix.MS_REMOUNT != 0 || len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return fmt.Errorf("02-mount: mount on %s: remount or id mapping: %w", at.Name(), errors.ErrUnsupported)
	}
	tree, err := detached(ctx, m, o)
	if errors.Is(err, unix.ENOSYS) && oneCall(o) {
		m.Destination = Through(at)
		return first(ctx, m, o)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	if err := AttachAt(ctx, tree, at); err != nil {
		return err
	}
	// After it is attached: a mount that is attached below a shared one becomes shared. The descriptor still means
	// this mount, now in its place.
	for _, p := range o.Propagation {
		attr := unix.MountAttr{Propagation: uint64(p & propagation)}
		if err := setAttr(ctx, 0, tree, "", p&unix.MS_REC != 0, attr); err != nil {
			return errors.Join(err, unmountTree(ctx, tree))
		}
	}
	return nil
}

// detached makes the mount with its flags.
func detached(ctx context.Context, m specs.Mount, o Options) (*os.File, error) {
	set, clear := attributes(o.Flags & perMount)
	clear |= clearing(o.Clear & perMount)
	var tree *os.File
	var err error
	if o.Flags&unix.MS_BIND != 0 {
		tree, err = Clone(ctx, m.Source, o.Flags&unix.MS_REC != 0)
	} else {
		tree, err = NewFS(ctx, m.Type, m.Source, superOptions(o), int(set))
		set, clear = 0, 0
	}
	if err != nil {
		return nil, err
	}
	if set|clear != 0 {
		err = SetAttr(ctx, tree, false, set, clear)
	}
	if err == nil && o.AttrSet|o.AttrClear != 0 {
		err = SetAttr(ctx, tree, true, o.AttrSet, o.AttrClear)
	}
	if err != nil {
		return nil, errors.Join(err, tree.Close()) // which dissolves it
	}
	return tree, nil
}

// superOptions are the flags that mount(2) hands to the file system, as words, and its data.
func superOptions(o Options) []string {
	var list []string
	for _, f := range []struct {
		flag uintptr
		word string
	}{
		{unix.MS_RDONLY, "ro"}, {unix.MS_SYNCHRONOUS, "sync"}, {unix.MS_DIRSYNC, "dirsync"},
		{unix.MS_MANDLOCK, "mand"}, {unix.MS_LAZYTIME, "lazytime"},
	} {
		if o.Flags&f.flag != 0 {
			list = append(list, f.word)
		}
	}
	if o.Data != "" {
		list = append(list, strings.Split(o.Data, ",")...)
	}
	return list
}

// oneCall tells whether a single mount(2) does everything that o asks for.
func oneCall(o Options) bool {
	if len(o.Propagation) > 0 || o.AttrSet|o.AttrClear != 0 {
		return false
	}
	return o.Flags&unix.MS_BIND == 0 || (o.Flags|o.Clear)&perMount == 0
}

// unmountTree takes away a mount by the descriptor it was made with. umount2(2) wants a path; the descriptor leads to
// the root of the mount, but only if the link /proc/self/fd/N is followed: no UMOUNT_NOFOLLOW.
func unmountTree(ctx context.Context, tree *os.File) error {
	return unmount(ctx, Through(tree), unix.MNT_DETACH)
}
