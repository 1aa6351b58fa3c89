package unionfs

import (
	"fmt"

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
