package jsonfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Replace writes a file as a whole: whoever reads it finds the old text or the new one, also after a crash of the machine if it
// is to be durable. For that the file has to be on the disk before it gets its name, and then the name.
func Replace(name string, v any, durable bool) error {
	data, err := MarshalIndent(v)
	if err == nil {
		err = Write(name, append(data, '\n'), durable)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, Cause(err))
	}
	if durable {
		return syncFolder(filepath.Dir(name))
	}
	return nil
}

// Write is the part of [Replace] that needs to know nothing of JSON, and syncs no folder.
func Write(name string, data []byte, durable bool) error {
	aside := name + ".new"
	err := writeNew(aside, data, durable)
	switch {
	case err != nil:
	case durable:
		err = unix.Rename(aside, name)
	default:
		err = swap(aside, name)
	}
	if err != nil {
		unix.Unlink(aside)
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// writeNew does without os.File, which would offer each of these files to the poller first.
func writeNew(name string, data []byte, sync bool) (err error) {
	fd, err := patient(func() (int, error) {
		return unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	for err == nil && len(data) > 0 {
		var n int
		n, err = patient(func() (int, error) { return unix.Write(fd, data) })
		data = data[max(n, 0):]
	}
	if err == nil && sync {
		_, err = patient(func() (int, error) { return 0, unix.Fsync(fd) })
	}
	return errors.Join(err, unix.Close(fd))
}

// patient makes a call until no signal breaks it off.
func patient(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != unix.EINTR {
			return n, err
		}
	}
}

// swap is rename(2) for a file of which nobody expects that it outlives a crash of the machine. Where the name is taken, it
// exchanges the two, and removes the old one. To everybody else that is the same; but when ext4 sees that a file replaces another
// one, it begins to write the new one out at once, and whoever removes that soon after waits for the disk. (It is for programs
// that forget to sync: mount option auto_da_alloc in Documentation/admin-guide/ext4.rst.)
func swap(aside, name string) error {
	if unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE) != nil {
		return unix.Rename(aside, name) // there is no file of that name yet, or the file system cannot exchange
	}
	err := unix.Unlink(aside)
	if err != nil { // it was no file, and should not have been replaced
		unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE)
	}
	return err
}

// syncFolder makes sure that a name that was just made is on the disk.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, Cause(err))
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, Cause(err))
	}
	return nil
}

// Cause strips the path that a message names already.
func Cause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}
