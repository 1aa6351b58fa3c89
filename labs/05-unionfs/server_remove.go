package unionfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Unlink deletes a name of a file.
func (s *server) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return fuse.ToStatus(s.remove(in.NodeId, name, false))
}

// Rmdir deletes a folder that has nothing in it.
func (s *server) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return fuse.ToStatus(s.remove(in.NodeId, name, true))
}

// remove deletes a name: the whiteout first, where a branch below has the name too, then the file of the writable
// branch. The other way round, a crash in between would bring back the file below, perhaps years old. This way it leaves
// file and whiteout, of which the file wins: nothing has happened yet.
func (s *server) remove(parentID uint64, name string, dir bool) error {
	parent := s.node(parentID)
	if err := s.admit(parent, name); err != nil {
		return err
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	if err := s.raise(parent); err != nil {
		return err
	}
	f := parent.folder
	f.mu.Lock()
	defer f.mu.Unlock()
	n, st, err := s.find(parent, name, false)
	if err != nil {
		return err
	}
	e := f.names[name]
	at, path := s.upper().fd, s.path(parent)
	switch {
	case dir && !n.isDir():
		return unix.ENOTDIR
	case !dir && n.isDir():
		return unix.EISDIR
	case dir:
		n.folder.mu.Lock()
		defer n.folder.mu.Unlock()
		if err := s.load(n); err != nil {
			return err
		}
		if !n.folder.empty() {
			return unix.ENOTEMPTY
		}
	}
	s.hold(n, child{parent, name})
	if e.low && !e.wh {
		if err := s.makeWhiteout(path, name); err != nil {
			return err
		}
		e.wh = true
	}
	if e.up {
		if err := s.removeUpper(at, join(path, name), dir); err != nil {
			return err
		}
	}
	s.unname(n, child{parent, name}, e, st)
	return nil
}

// removeUpper deletes from the writable branch. A folder that looks empty to users may hold whiteouts; it is moved out
// of sight in one step before they are deleted one by one, for without them its old contents would be seen.
func (s *server) removeUpper(at int, path string, dir bool) error {
	if !dir {
		return unix.Unlinkat(at, path, 0)
	}
	err := unix.Unlinkat(at, path, unix.AT_REMOVEDIR)
	if err != unix.ENOTEMPTY && err != unix.EEXIST {
		return err
	}
	aside := s.aside()
	if err := unix.Renameat(at, path, at, aside); err != nil {
		return err
	}
	removeTree(at, aside, true) // what cannot be removed now is swept away at the next mount
	return nil
}

// hold opens a file that is about to lose its last name that we know, for whoever has it open: a path to it there will
// not be.
func (s *server) hold(n *node, at child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.lookups == 0 || n.orphan >= 0 || len(n.names) != 1 || n.names[0] != at {
		return
	}
	fd, err := unix.Openat(s.layers[n.branch.Load()].fd, s.pathLocked(n), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		n.orphan = fd
	}
}

// unname takes a name off a node, after the branches did; st is from before. The parent's folder is locked.
func (s *server) unname(n *node, at child, e *entry, st *unix.Stat_t) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case n.isDir():
		n.folder.dead, n.folder.names = true, map[string]*entry{}
	case e.up && st.Nlink <= 1 && s.byInode[n.key] == n:
		delete(s.byInode, n.key) // the branch will give the number to another file
	case !e.up && st.Nlink > 1:
		s.gone[n.key]++
	}
	e.up = false
	if !e.low && !e.wh {
		delete(at.parent.folder.names, at.name)
	}
	s.dropName(n, at)
	s.dropUnused(n)
}
