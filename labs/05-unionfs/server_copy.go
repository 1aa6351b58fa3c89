package unionfs

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyAside makes a complete copy under a name of our own.
func (s *server) copyAside(from place, st *unix.Stat_t, temp string, data extent) (err error) {
	at := s.upper().fd
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = s.copyRegular(from, st, temp, data)
	case unix.S_IFLNK:
		var target string
		if target, err = readLink(from); err == nil {
			err = unix.Symlinkat(target, at, temp)
		}
	default:
		err = unix.Mknodat(at, temp, st.Mode&unix.S_IFMT|0o600, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return s.copyAttributes(from, st, temp)
}

func readLink(p place) (string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(p.dir, p.path, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (s *server) copyRegular(from place, st *unix.Stat_t, temp string, data extent) (err error) {
	// 0600 until the copy is complete and has its owner: nobody else may read it before.
	out, err := unix.Openat(s.upper().fd, temp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := unix.Close(out); err == nil {
			err = e
		}
	}()
	if data == nothing || st.Size == 0 {
		return nil
	}
	in, err := from.openFile(unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	if err := copyData(in, out, st.Size); err != nil {
		return err
	}
	return unix.Fdatasync(out)
}

// copyData copies what is between the holes. A hole costs no space and reads as zeros; a copy that wrote the zeros could
// fill the disk with nothing.
func copyData(in, out int, size int64) error {
	if unix.IoctlFileClone(out, in) == nil {
		return nil // one file system that can share blocks, holes and all
	}
	if err := unix.Ftruncate(out, size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		start, err := unix.Seek(in, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // only a hole is left
		}
		if err != nil {
			start = at // a file system that knows no holes
		}
		end, err := unix.Seek(in, start, unix.SEEK_HOLE)
		if err != nil || end <= start {
			end = size
		}
		if err := copyRange(in, out, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// copyRange lets the kernel copy; by hand where it cannot, between two file systems before 5.19 for one.
func copyRange(in, out int, start, end int64) error {
	from, to := start, start
	for from < end {
		n, err := unix.CopyFileRange(in, &from, out, &to, int(min(end-from, 1<<30)), 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EXDEV || err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP || err == nil && n == 0:
			return copyByHand(in, out, from, end)
		case err != nil:
			return err
		}
	}
	return nil
}

func copyByHand(in, out int, at, end int64) error {
	buf := make([]byte, 256<<10)
	for at < end {
		n, err := unix.Pread(in, buf[:min(int64(len(buf)), end-at)], at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil // shorter than it said
		}
		if err := writeAll(out, buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

func writeAll(fd int, data []byte, at int64) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

// copyAttributes makes a copy look like its original. The order matters: the owner before the mode, since chown(2) takes
// the set-user-ID bit away; extended attributes after the owner, since it takes file capabilities away too; the mode
// after them, since an access list rewrites it; and the times last of all.
func (s *server) copyAttributes(from place, st *unix.Stat_t, path string) error {
	to := place{dir: s.upper().fd, path: path, root: s.upper().Path}
	if err := to.chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := to.chmod(st.Mode & 0o7777); err != nil {
			return err
		}
	}
	return to.utimes(&[2]unix.Timespec{st.Atim, st.Mtim})
}

func copyXattrs(from, to place) error {
	buf := make([]byte, 64<<10)
	n, err := from.listXattr(buf)
	if err != nil {
		return ignoreUnsupported(err)
	}
	for _, name := range strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }) {
		value := make([]byte, 64<<10)
		n, err := from.getXattr(name, value)
		if err == nil {
			err = to.setXattr(name, value[:n], 0)
		}
		if err != nil && (strings.HasPrefix(name, "user.") || ignoreUnsupported(err) != nil) {
			return err
		}
	}
	return nil
}

// ignoreUnsupported: what the writable branch's file system, or the server in its user namespace, cannot have is not
// worth refusing a write for. The users' own attributes are.
func ignoreUnsupported(err error) error {
	switch err {
	case syscall.EOPNOTSUPP, syscall.EPERM, syscall.ENODATA, syscall.ENOSYS:
		return nil
	}
	return err
}
