package unionfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// move is a rename under way.
type move struct {
	from, to       *node // the folders
	old, new       string
	flags          uint
	source, target *node // target is nil where nothing is replaced
	targetStat     *unix.Stat_t
}

func (m *move) exchange() bool { return m.flags&unix.RENAME_EXCHANGE != 0 }

// Rename moves a name.
//
// A file is copied up and renamed in the writable branch; a whiteout keeps the old name gone. A folder that is partly in
// a branch below would have to be copied up whole, which may be gigabytes: EXDEV says so, as between two disks, and mv(1)
// then copies by itself. Overlay and aufs answer the same.
func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, old, new string) fuse.Status {
	m := &move{from: s.node(in.NodeId), to: s.node(in.Newdir), old: old, new: new, flags: uint(in.Flags)}
	for _, err := range []error{s.admit(m.from, old), s.admit(m.to, new)} {
		if err != nil {
			return fuse.ToStatus(err)
		}
	}
	switch m.flags {
	case 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE:
	default:
		return fuse.EINVAL
	}
	// The data are copied before the lock is taken that stops everybody. The kernel holds both folders, so the names
	// cannot change in between.
	if err := s.raiseNamed(m.from, old); err != nil {
		return fuse.ToStatus(err)
	}
	if m.exchange() {
		if err := s.raiseNamed(m.to, new); err != nil {
			return fuse.ToStatus(err)
		}
	}
	s.tree.Lock()
	defer s.tree.Unlock()
	return fuse.ToStatus(s.rename(m))
}

// raiseNamed copies up the file of a name; of a folder, nothing.
func (s *server) raiseNamed(parent *node, name string) error {
	s.tree.RLock()
	parent.folder.mu.Lock()
	n, _, err := s.find(parent, name, true) // counted, so that it stays until it is copied
	parent.folder.mu.Unlock()
	s.tree.RUnlock()
	if err != nil {
		return err
	}
	defer s.Forget(n.id, 1)
	if n.isDir() {
		return nil
	}
	return s.copyUp(n, whole)
}

func (s *server) rename(m *move) error {
	for _, dir := range []*node{m.from, m.to} {
		if err := s.raise(dir); err != nil {
			return err
		}
		if err := s.load(dir); err != nil {
			return err
		}
		if dir.folder.dead {
			return unix.ENOENT
		}
	}
	var err error
	if m.source, _, err = s.find(m.from, m.old, false); err != nil {
		return err
	}
	m.target, m.targetStat, err = s.find(m.to, m.new, false)
	if err != nil && err != unix.ENOENT {
		return err
	}
	if err := s.mayMove(m); err != nil {
		return err
	}
	if m.exchange() {
		return s.exchange(m)
	}
	return s.replace(m)
}

// mayMove answers what rename(2) forbids.
func (s *server) mayMove(m *move) error {
	if !s.movable(m.source) {
		return unix.EXDEV
	}
	switch {
	case m.target == nil && m.exchange():
		return unix.ENOENT
	case m.target == nil:
		return nil
	case m.exchange():
		if !s.movable(m.target) {
			return unix.EXDEV
		}
		return nil
	case m.flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case m.source.isDir() && !m.target.isDir():
		return unix.ENOTDIR
	case !m.source.isDir() && m.target.isDir():
		return unix.EISDIR
	case m.target.isDir():
		if err := s.load(m.target); err != nil {
			return err
		}
		if !m.target.folder.empty() {
			return unix.ENOTEMPTY
		}
	}
	return nil
}

// movable: all of it is in the writable branch.
func (s *server) movable(n *node) bool {
	if !n.isDir() {
		return n.branch.Load() == 0
	}
	if n.pure.Load() {
		return true
	}
	return n.folder.upper && s.load(n) == nil && n.folder.opaque
}

// cover marks a folder opaque that is to take the place of e: what the branches below have under that name must not
// show through it.
func (s *server) cover(n *node, e *entry) error {
	if !n.isDir() || !e.shows() || n.folder.opaque {
		return nil
	}
	if err := makeMark(s.upper().fd, s.path(n)); err != nil {
		return err
	}
	n.folder.opaque = true
	return nil
}

// replace is rename(2) without flags. Before the rename comes what keeps the names right once it is done: the mark on a
// folder, and the whiteout for the old name, which has no effect while the file is still there. After it comes what the
// rename has made superfluous.
func (s *server) replace(m *move) error {
	at, from, to := s.upper().fd, s.path(m.from), s.path(m.to)
	e1, e2 := m.from.folder.names[m.old], m.to.folder.entryOf(m.new)
	if err := s.cover(m.source, e2); err != nil {
		return err
	}
	if m.target != nil {
		s.hold(m.target, child{m.to, m.new})
		if m.target.isDir() && e2.up {
			if e2.low && !e2.wh {
				if err := s.makeWhiteout(to, m.new); err != nil {
					return err
				}
				e2.wh = true
			}
			if err := s.removeUpper(at, join(to, m.new), true); err != nil {
				return err
			}
		}
	}
	if e1.low && !e1.wh {
		if err := s.makeWhiteout(from, m.old); err != nil {
			return err
		}
		e1.wh = true
	}
	if err := unix.Renameat(at, join(from, m.old), at, join(to, m.new)); err != nil {
		return err
	}
	if m.target != nil {
		s.unname(m.target, child{m.to, m.new}, e2, m.targetStat)
		e2 = m.to.folder.entryOf(m.new)
	}
	e2.up, e2.upType, e2.number = true, e1.upType, e1.number
	if e2.wh && unix.Unlinkat(at, join(to, whiteoutOf(m.new)), 0) == nil {
		e2.wh = false
	}
	e1.up = false
	if !e1.low && !e1.wh {
		delete(m.from.folder.names, m.old)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addName(m.source, child{m.to, m.new})
	s.dropName(m.source, child{m.from, m.old})
	s.renames++
	s.dropUnused(m.source)
	return nil
}

// exchange is RENAME_EXCHANGE: two names swap what they stand for, in one step.
func (s *server) exchange(m *move) error {
	at, from, to := s.upper().fd, s.path(m.from), s.path(m.to)
	e1, e2 := m.from.folder.names[m.old], m.to.folder.names[m.new]
	if err := s.cover(m.source, e2); err != nil {
		return err
	}
	if err := s.cover(m.target, e1); err != nil {
		return err
	}
	err := unix.Renameat2(at, join(from, m.old), at, join(to, m.new), unix.RENAME_EXCHANGE)
	if err != nil {
		return err
	}
	e1.upType, e2.upType = e2.upType, e1.upType
	e1.number, e2.number = e2.number, e1.number
	s.mu.Lock()
	defer s.mu.Unlock()
	one, two := child{m.from, m.old}, child{m.to, m.new}
	// The new names before the old ones go, or a node without any would be dropped.
	delete(s.children, one)
	delete(s.children, two)
	swapName(m.source, one, two)
	swapName(m.target, two, one)
	s.children[two], s.children[one] = m.source, m.target
	s.renames++
	return nil
}

func swapName(n *node, old, new child) {
	for i, c := range n.names {
		if c == old {
			n.names[i] = new
			return
		}
	}
}
