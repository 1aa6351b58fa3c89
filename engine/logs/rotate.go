package logs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// aside is the new file before it takes its place.
func aside(path string) string { return path + ".new" }

// numbered is the name of a rotated file; 1 is the newest.
func numbered(path string, n int) string { return path + "." + strconv.Itoa(n) }

// rotate begins a new file. Where that cannot be, the old one is written on, and rotated when it has grown as much again.
func (w *Writer) rotate() {
	fd, err := w.shift()
	if err != nil {
		w.limit = w.size + w.opts.MaxSize
		if w.lostErr == nil {
			w.lostErr = err
		}
		return
	}
	unix.Close(w.fd)
	w.fd, w.size, w.limit = fd, 0, w.opts.MaxSize
}

// shift gives every file the name of the next older one, and opens a new file in the place of the newest.
func (w *Writer) shift() (fd int, err error) {
	// The new file first: without room for it nothing has been changed.
	next := aside(w.path)
	if fd, err = openat(next, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC|unix.O_APPEND); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			os.Remove(next)
		}
	}()
	for n := w.opts.MaxFile - 2; n >= 1; n-- {
		if err := os.Rename(numbered(w.path, n), numbered(w.path, n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return -1, err
		}
	}
	if w.opts.MaxFile > 1 {
		if err := os.Remove(numbered(w.path, 1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return -1, err // two files: it was not moved
		}
		// A second name and then a replacement, not a rename: a reader that opens the log finds one at any instant.
		err := os.Link(w.path, numbered(w.path, 1))
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
			err = os.Rename(w.path, numbered(w.path, 1)) // a file system without hard links
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return -1, err
		}
	}
	return fd, os.Rename(next, w.path)
}

// tidy ends a rotation in which a writer was killed.
func tidy(path string) error {
	if err := os.Remove(aside(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	live, err := os.Lstat(path)
	if err != nil {
		return nil // there is none yet, or opening it will say why not
	}
	if old, err := os.Lstat(numbered(path, 1)); err == nil && os.SameFile(live, old) {
		return os.Remove(numbered(path, 1))
	}
	return nil
}

// Files returns the names of the files that make up the log at path, the oldest first. It is what to delete with it.
func Files(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	base := filepath.Base(path)
	var numbers []int
	live := false
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), base)
		if !ok {
			continue
		}
		if rest == "" {
			live = true
			continue
		}
		n, err := strconv.Atoi(strings.TrimPrefix(rest, "."))
		if err == nil && n > 0 && rest == "."+strconv.Itoa(n) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var files []string
	for _, n := range slices.Backward(numbers) {
		files = append(files, numbered(path, n))
	}
	if live {
		files = append(files, path)
	}
	return files, nil
}
