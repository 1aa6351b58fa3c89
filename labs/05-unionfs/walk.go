package unionfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A layer is read while the container that it belongs to may be running, and changing it. So it is walked through by
// descriptors: what vanishes in the meantime is left out, and a folder that is exchanged for a link leads nowhere
// (CVE-2018-15664).

// Walk goes through a layer, links not followed, each folder before what it holds, and calls visit with every file and every
// mark: for a whiteout with the path of what it hides, and for an opaque folder with the folder. What is the union's own is left
// out. A folder for which visit returns [fs.SkipDir] is not entered.
func Walk(dir string, f Form, visit func(path string, m *Mark, st *unix.Stat_t) error) error {
	return scan(dir, f, func(path string, m *Mark, st *unix.Stat_t) error {
		switch own := f == AufsForm && strings.HasPrefix(filepath.Base(path), whPrefix); {
		case m != nil && !m.Opaque:
			path = m.Path
		case own:
			return fs.SkipDir
		}
		return visit(path, m, st)
	})
}

// scan is Walk with all files that there are on disk: visit gets each path in the layer, and the mark that it is or has, if any.
func scan(dir string, f Form, visit func(path string, m *Mark, st *unix.Stat_t) error) error {
	root, err := openPath(dir)
	if err != nil {
		return fmt.Errorf("05-unionfs: read layer: %w", err)
	}
	defer root.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("05-unionfs: read layer %s: %w", dir, err)
	}
	w := &walker{f, visit}
	if err := w.visited(root, ".", &st); err != nil && !errors.Is(err, fs.SkipDir) {
		return fmt.Errorf("05-unionfs: read layer %s: %w", dir, err)
	}
	return nil
}

type walker struct {
	form  Form
	visit func(path string, m *Mark, st *unix.Stat_t) error
}

// visited visits what has a name in dir, and goes into it, if it is a folder.
func (w *walker) visited(dir *os.File, path string, st *unix.Stat_t) error {
	m, err := markAt(dir, path, w.form, st)
	if err == nil {
		err = w.visit(path, m, st)
	}
	if changed(err) && path != "." {
		return nil
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if err != nil || !isDir {
		if errors.Is(err, fs.SkipDir) {
			return nil
		}
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if changed(err) && path != "." {
			return nil
		}
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	folder := os.NewFile(uintptr(fd), path)
	defer folder.Close()
	return w.folder(folder, path)
}

// folder visits what is in a folder, in the order of the names.
func (w *walker) folder(folder *os.File, path string) error {
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		var st unix.Stat_t
		err := unix.Fstatat(int(folder.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if changed(err) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "stat", Path: filepath.Join(path, name), Err: err}
		}
		if err := w.visited(folder, filepath.Join(path, name), &st); err != nil {
			return err
		}
	}
	return nil
}

// changed says whether an error only means that something is not any more what it was a moment before.
func changed(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}
