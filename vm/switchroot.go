package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const newRoot = "/newroot"

// switchRoot moves init to a new root on the disk, and starts it there again. It returns only an error.
//
// The first root of a machine, rootfs, cannot be exchanged by pivot_root(2), nor unmounted: it is the end of every chain of
// mounts. So, as switch_root(8) does: its content is deleted, since it takes up memory for ever, the new root is moved over
// it, and chroot makes it ours. This is no prison and need not be one. Afterwards "/" is a mount like any other, which
// pivot_root accepts.
func switchRoot() error {
	// No journal: nobody will mount this disk again.
	if status, err := runReaping(os.Stderr, os.Stderr, "/sbin/mkfs.ext4", "-q", "-F", "-O", "^has_journal", "/dev/vda"); err != nil {
		return err
	} else if status != 0 {
		return fmt.Errorf("mkfs.ext4 /dev/vda: exit status %d", status)
	}
	if err := (mountPoint{"/dev/vda", newRoot, "ext4", 0, ""}).mount(); err != nil {
		return err
	}
	if err := copyTree("/", newRoot); err != nil {
		return fmt.Errorf("copy the initramfs: %w", err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} { // with all that is mounted below them
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	// Deleted before the move, while "/" still leads there; what runs is kept by the kernel until it ends.
	if err := removeTree("/"); err != nil {
		return fmt.Errorf("remove the initramfs: %w", err)
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", newRoot, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec("/init", []string{"/init"}, append(guestEnv, secondStage+"=1"))
}

// here walks a folder without what is mounted in it. Mount points are shown, but not entered.
func here(top string, visit func(name string, info fs.FileInfo, mounted bool) error) error {
	var first unix.Stat_t
	if err := unix.Lstat(top, &first); err != nil {
		return err
	}
	return filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == top {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		mounted := st.Dev != first.Dev
		if err := visit(name, info, mounted); err != nil {
			return err
		}
		if mounted && d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
}

func copyTree(from, to string) error {
	return here(from, func(name string, info fs.FileInfo, mounted bool) error {
		target := filepath.Join(to, strings.TrimPrefix(name, from))
		switch {
		case info.IsDir():
			if err := os.Mkdir(target, 0o755); err != nil && !os.IsExist(err) {
				return err
			}
			return os.Chmod(target, info.Mode())
		case info.Mode().Type() == fs.ModeSymlink:
			link, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case info.Mode().IsRegular():
			return copyFile(name, target, info.Mode())
		}
		return nil // devices: /dev comes along as a whole
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Chmod(mode); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// removeTree removes the files of a folder, which hold the memory; folders may be mount points, and are small.
func removeTree(top string) error {
	return here(top, func(name string, info fs.FileInfo, mounted bool) error {
		if info.IsDir() || mounted {
			return nil
		}
		return os.Remove(name)
	})
}
