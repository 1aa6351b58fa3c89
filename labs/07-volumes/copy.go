package volumes

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	copyfs "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

const copyFolder = "_data.copying"

// Populate gives an empty volume the files that the image has where the volume is to be mounted, so that a database's first
// start finds its own folder as the image made it: owners, modes, times, links, extended attributes, and the owner and mode
// of the folder itself. A volume that has anything in it is left alone, and one whose place in the image is no folder.
// It returns whether it has copied.
//
// The copy is made beside the data and renamed over them, which rename(2) does for an empty folder in one step. So a copy
// that was killed half-way is not taken for the whole: the next one starts anew.
func (v *Volume) Populate(ctx context.Context, root *rootfs.Tree, target string) (copied bool, err error) {
	entries, err := os.ReadDir(v.Mountpoint())
	if err != nil {
		return false, &Error{Op: "look into volume", Path: v.Name, Err: unwrapPath(err)}
	}
	if len(entries) > 0 {
		return false, nil
	}
	from, err := root.Open(ctx, target, unix.O_PATH|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return false, nil // the image has nothing there
	case err != nil:
		return false, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	aside := filepath.Join(v.dir, copyFolder)
	if err := os.RemoveAll(aside); err != nil {
		return false, &Error{Op: "clear", Path: aside, Err: unwrapPath(err)}
	}
	if err := copyTree(aside, mount.Through(from)); err != nil {
		return false, errors.Join(&Error{Op: "copy the image's files into volume", Path: v.Name, Err: err}, os.RemoveAll(aside))
	}
	// rename(2), not os.Rename, which refuses every folder that is there, even an empty one.
	if err := errors.Join(unix.Rename(aside, v.Mountpoint()), syncFolder(v.dir)); err != nil {
		return false, &Error{Op: "fill volume", Path: v.Name, Err: unwrapPath(err)}
	}
	return true, nil
}

// copyTree copies a folder. The library sets a folder's times before it fills it, which changes them: so they are set
// once more.
func copyTree(to, from string) error {
	if err := copyfs.CopyDir(to, from, copyfs.WithXAttrErrorHandler(mayLack)); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(file string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(to, file)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(from, rel), &st); err != nil { // Stat: from itself is a link of procfs
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// mayLack forgives the attributes that this file system, or this user, may not have.
func mayLack(_, _, _ string, err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}
