package unionfs

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// extent says how much of a file's data a copy needs.
type extent bool

const (
	whole   extent = true
	nothing extent = false // it is about to be truncated
)

// aside is a new name in the folder where things are made and unmade, out of everybody's sight.
func (s *server) aside() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastTemp++
	return fmt.Sprintf("%s/%s%d", whOrphan, whMeta, s.lastTemp)
}

// copyUp brings a file into the writable branch, before the first change to it. Folders are raised.
//
// The copy is made aside and renamed when it is complete, down to the times: rename(2) is the one step on a file system
// that happens entirely or not at all. So no crash, and no full disk, leaves half a file under a name that somebody
// reads; and the original is only ever read. Between copy and rename the data are forced to the disk, because after a
// power cut a file system may well remember the rename and not the data.
//
// No lock of the tree is held while the data are copied. The original cannot go anywhere meanwhile: its branch is
// read-only, and the folders above it, being partly in that branch too, cannot be renamed.
func (s *server) copyUp(n *node, data extent) error {
	if n.branch.Load() == 0 && s.writable() {
		return nil
	}
	if !s.writable() {
		return unix.EROFS
	}
	n.copying.Lock()
	defer n.copying.Unlock()
	if n.branch.Load() == 0 {
		return nil // somebody else did it while we waited
	}
	s.tree.RLock()
	from := s.place(n)
	var st unix.Stat_t
	err := from.stat(&st)
	s.tree.RUnlock()
	if err != nil {
		return err
	}
	names, err := s.visibleLinks(n, &st)
	if err != nil {
		return err
	}
	temp := s.aside()
	if err := s.copyAside(from, &st, temp, data); err != nil {
		unix.Unlinkat(s.upper().fd, temp, 0)
		return err
	}
	return s.publish(n, &st, temp, names)
}

// publish gives the finished copy the file's names, and turns everything that held the original to it.
func (s *server) publish(n *node, st *unix.Stat_t, temp string, names []child) error {
	at := s.upper().fd
	s.tree.RLock()
	defer s.tree.RUnlock()
	named := false
	for _, c := range names {
		done, err := s.publishName(n, st, temp, c)
		if err != nil && !named {
			unix.Unlinkat(at, temp, 0)
			return err
		}
		named = named || done
	}
	orphan := -1
	if !named { // deleted meanwhile: the copy lives on without a name, like the original
		fd, err := unix.Openat(at, temp, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			unix.Unlinkat(at, temp, 0)
			return err
		}
		orphan = fd
	}
	var now unix.Stat_t
	if err := unix.Fstatat(at, temp, &now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	s.mu.Lock()
	if s.byInode[n.key] == n {
		delete(s.byInode, n.key)
	}
	n.key = s.keyOf(0, &now)
	if named {
		s.byInode[n.key] = n
	}
	if n.orphan >= 0 {
		unix.Close(n.orphan)
	}
	n.orphan = orphan
	n.branch.Store(0)
	s.mu.Unlock()
	err := s.turn(n, temp)
	unix.Unlinkat(at, temp, 0) // the names are links of it
	return err
}

// publishName puts the copy in the place of one name, unless that was deleted meanwhile. A link and not a rename, since
// the file may have several names; it is as much one step.
func (s *server) publishName(n *node, st *unix.Stat_t, temp string, c child) (bool, error) {
	if err := s.raise(c.parent); err != nil {
		return false, err
	}
	f := c.parent.folder
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := s.load(c.parent); err != nil {
		return false, err
	}
	e := f.names[c.name]
	if !e.visible() || e.up {
		return false, nil
	}
	at, dir := s.upper().fd, s.path(c.parent)
	err := keepTimes(at, dir, func() error { return unix.Linkat(at, temp, at, join(dir, c.name), 0) })
	if err != nil {
		return false, err
	}
	e.up, e.upType = true, st.Mode&unix.S_IFMT
	return true, nil
}

// keepTimes does something in a folder of the writable branch that users must not see in its times: to them nothing
// was made there.
func keepTimes(at int, dir string, do func() error) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at, dir, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	unix.UtimesNanoAt(at, dir, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	return nil
}

// turn makes the descriptors that were opened on the original read the copy. dup3(2) exchanges what is behind a number
// in one step, so a read that is under way ends on the old file, where it finds the same data. Without this, a reader
// could carry old pages into the kernel's cache, which all readers share, over what a writer has written since.
func (s *server) turn(n *node, temp string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for h := range n.open {
		fd, err := unix.Openat(s.upper().fd, temp, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Dup3(fd, h.fd, unix.O_CLOEXEC)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

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

// raise makes a folder in the writable branch, and those above it, so that something can be made in it. tree is held.
func (s *server) raise(n *node) error {
	if !s.writable() {
		return unix.EROFS
	}
	if n.branch.Load() == 0 {
		return nil
	}
	s.raising.Lock()
	defer s.raising.Unlock()
	return s.raiseLocked(n)
}

func (s *server) raiseLocked(n *node) error {
	if n.branch.Load() == 0 {
		return nil
	}
	s.mu.Lock()
	gone := len(n.names) == 0
	var c child
	if !gone {
		c = n.names[0]
	}
	s.mu.Unlock()
	if gone {
		return unix.ENOENT // a removed folder: nothing can be made in it
	}
	if err := s.raiseLocked(c.parent); err != nil {
		return err
	}
	from := s.place(n)
	var st unix.Stat_t
	if err := from.stat(&st); err != nil {
		return err
	}
	at, temp := s.upper().fd, s.aside()
	if err := unix.Mkdirat(at, temp, 0o700); err != nil {
		return err
	}
	if err := s.copyAttributes(from, &st, temp); err != nil {
		unix.Unlinkat(at, temp, unix.AT_REMOVEDIR)
		return err
	}
	f := c.parent.folder
	f.mu.Lock()
	defer f.mu.Unlock()
	dir := s.path(c.parent)
	err := keepTimes(at, dir, func() error { return unix.Renameat(at, temp, at, join(dir, c.name)) })
	if err != nil {
		unix.Unlinkat(at, temp, unix.AT_REMOVEDIR)
		return err
	}
	if f.loaded {
		e := f.entryOf(c.name)
		e.up, e.upType = true, unix.S_IFDIR
	}
	n.folder.mu.Lock()
	n.folder.branches, n.folder.upper = append([]int{0}, n.folder.branches...), true
	n.folder.mu.Unlock()
	n.branch.Store(0)
	return nil
}
