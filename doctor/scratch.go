package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// scratchName is the folder in which overlay is tried, beside what nslab will keep. Whether a file system can hold an
// upper layer shows only on that file system, so it must be a real folder there, and a SIGKILL at the wrong moment leaves
// it. It needs no journal: its name and place are fixed, so the next doctor finds it. Each doctor works in a folder of its
// own in there, and holds a lock on that, which the kernel frees when its holder dies: what is not locked was left.
const scratchName = ".nslab-doctor"

// scratch makes a folder below base, and removes what killed doctors left there. release removes it again.
func scratch(base string) (dir string, release func() error, err error) {
	if _, err := sweep(base); err != nil {
		return "", nil, err
	}
	top := filepath.Join(base, scratchName)
	for range 100 { // another doctor may remove what it finds empty, or not locked yet
		if err := unix.Mkdir(top, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return "", nil, refusedBy(err, "mkdir(%q)", top)
		}
		if err := checkOwn(top); errors.Is(err, unix.ENOENT) {
			continue
		} else if err != nil {
			return "", nil, err
		}
		dir, err := os.MkdirTemp(top, "")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, refusedBy(err, "mkdir(%q)", filepath.Join(top, "…"))
		}
		f, err := lockFolder(dir)
		if errors.Is(err, errBusy) || errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		return dir, func() error {
			err := errors.Join(remove(dir), f.Close())
			os.Remove(top) // refused unless it is empty
			return err
		}, nil
	}
	return "", nil, fmt.Errorf("make a folder in %s: %w", top, errBusy)
}

var errBusy = errors.New("another nslab is using it")

// checkOwn makes sure that the folder is one, and ours: base may be /tmp, where anybody could have put a link for us.
func checkOwn(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return refusedBy(err, "lstat(%q)", dir)
	}
	if !info.IsDir() || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return refusedBy(unix.EEXIST, "mkdir(%q)", dir)
	}
	return nil
}

// lockFolder locks dir, and sees to it that its name still leads to it.
func lockFolder(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, refusedBy(err, "open(%q)", dir)
	}
	f := os.NewFile(uintptr(fd), dir)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errBusy
		}
		return nil, errors.Join(refusedBy(err, "flock(%q)", dir), f.Close())
	}
	if !linked(f) {
		return nil, errors.Join(errBusy, f.Close())
	}
	return f, nil
}

// sweep removes the folders below base that nobody holds.
func sweep(base string) (removed []string, err error) {
	top := filepath.Join(base, scratchName)
	if checkOwn(top) != nil {
		return nil, nil // not there, or not ours to remove
	}
	entries, err := os.ReadDir(top)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, refusedBy(err, "readdir(%q)", top)
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(top, e.Name())
		f, err := lockFolder(dir)
		switch {
		case errors.Is(err, errBusy), errors.Is(err, unix.ENOENT):
		case err != nil:
			errs = append(errs, err)
		default:
			errs = append(errs, remove(dir), f.Close())
			removed = append(removed, "folder "+dir)
		}
	}
	os.Remove(top) // refused unless it is empty
	return removed, errors.Join(errs...)
}

// sweepAbove does so for the state folder and every folder above it: the one that was nearest when a doctor was killed
// need not be the nearest now.
func sweepAbove(stateRoot string) (removed []string, err error) {
	base, err := filepath.Abs(stateRoot)
	if err != nil {
		return nil, err
	}
	var errs []error
	for {
		list, err := sweep(base)
		removed, errs = append(removed, list...), append(errs, err)
		if base == "/" {
			return removed, errors.Join(errs...)
		}
		base = filepath.Dir(base)
	}
}

// remove deletes a scratch. Only rooms mount something in it, in namespaces that are gone with them.
func remove(dir string) error {
	// Overlay makes this one, for nobody to look into. Root can all the same; others must allow it to themselves.
	if err := os.Chmod(filepath.Join(dir, "work", "work"), 0o700); err != nil && !errors.Is(err, os.ErrNotExist) {
		return refusedBy(err, "remove %s", dir)
	}
	return refusedBy(os.RemoveAll(dir), "remove %s", dir)
}
