package unionfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// creation is one new name: where, whose, and how it is made in the writable branch.
type creation struct {
	parent uint64
	name   string
	caller fuse.Caller
	dir    bool
	own    bool // a new file, which gets an owner; not a new name for an old one
	make   func(upper int, path string) error
	undo   func(upper int, path string)
}

// admit answers what can be answered about a new or doomed name without a look at the branches.
func (s *server) admit(parent *node, name string) error {
	switch {
	case parent == nil || !parent.isDir():
		return unix.ENOTDIR
	case isListing(parent.id) || reserved(name):
		return unix.EPERM
	case len(name) > maxName:
		return unix.ENAMETOOLONG
	case !s.writable():
		return unix.EROFS
	}
	return nil
}

// create makes a name in the writable branch.
//
// The order, where the name had been deleted: first the new file, then away with the whiteout. Between the two the
// branch holds both, and the file wins, so nobody ever sees the name missing, or the deleted file come back. A new
// *folder* over one that was deleted is marked opaque before the whiteout goes, or the old contents would shine through.
func (s *server) create(c creation, out *fuse.EntryOut) error {
	parent := s.node(c.parent)
	if err := s.admit(parent, c.name); err != nil {
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
	if err := s.load(parent); err != nil {
		return err
	}
	e := f.entryOf(c.name)
	switch {
	case f.dead:
		return unix.ENOENT
	case e.visible():
		return unix.EEXIST
	}
	at, path := s.upper().fd, join(s.path(parent), c.name)
	if err := c.make(at, path); err != nil {
		return err
	}
	var st unix.Stat_t
	err := s.settle(c, parent, e, path, &st)
	if err != nil {
		c.undo(at, path)
		return err
	}
	if e.wh && unix.Unlinkat(at, join(s.path(parent), whiteoutOf(c.name)), 0) == nil {
		e.wh = false // if it stays, the file beside it wins all the same
	}
	e.up, e.upType, e.number = true, st.Mode&unix.S_IFMT, s.number(0, &st)
	n := s.adopt(parent, c.name, e, &st, true)
	if c.dir {
		n.folder.branches, n.folder.upper = []int{0}, true
		n.folder.names, n.folder.loaded = map[string]*entry{}, true
		n.folder.opaque = e.low
		n.pure.Store(true)
	}
	s.fill(n, &st, out)
	return nil
}

// settle gives what was just made its owner, and a folder its mark.
func (s *server) settle(c creation, parent *node, e *entry, path string, st *unix.Stat_t) error {
	at := s.upper().fd
	if c.dir && e.low {
		if err := makeMark(at, path); err != nil {
			return err
		}
	}
	if err := unix.Fstatat(at, path, st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if !c.own {
		return nil
	}
	uid, gid := c.caller.Uid, c.caller.Gid
	if parent.mode.Load()&unix.S_ISGID != 0 {
		gid = st.Gid // the branch's file system has already applied the rule: the group of the folder
	}
	if st.Uid == uid && st.Gid == gid {
		return nil
	}
	if err := unix.Fchownat(at, path, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		// chown(2) has just cleared these two, rightly for an old file.
		if err := unix.Fchmodat(at, path, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	st.Uid, st.Gid = uid, gid
	return nil
}

func undoFile(at int, path string) { unix.Unlinkat(at, path, 0) }

func undoDir(at int, path string) { removeTree(at, path, true) }

// Mkdir makes a folder.
func (s *server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return fuse.ToStatus(s.create(creation{
		parent: in.NodeId, name: name, caller: in.Caller, dir: true, own: true,
		make: func(at int, path string) error { return unix.Mkdirat(at, path, in.Mode&0o7777) },
		undo: undoDir,
	}, out))
}

// Mknod makes a fifo, a socket, a device, or an empty file.
func (s *server) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	major, minor := in.Rdev>>8&0xfff, in.Rdev&0xff|in.Rdev>>12&0xfff00
	return fuse.ToStatus(s.create(creation{
		parent: in.NodeId, name: name, caller: in.Caller, own: true,
		make: func(at int, path string) error {
			return unix.Mknodat(at, path, in.Mode, int(unix.Mkdev(major, minor)))
		},
		undo: undoFile,
	}, out))
}

// Symlink makes a symbolic link.
func (s *server) Symlink(_ <-chan struct{}, in *fuse.InHeader, to, name string, out *fuse.EntryOut) fuse.Status {
	return fuse.ToStatus(s.create(creation{
		parent: in.NodeId, name: name, caller: in.Caller, own: true,
		make: func(at int, path string) error { return unix.Symlinkat(to, at, path) },
		undo: undoFile,
	}, out))
}

// Link makes another name for a file. A link cannot reach into another branch, so the file is copied up first.
func (s *server) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n := s.node(in.Oldnodeid)
	if n == nil || n.isDir() {
		return fuse.EPERM
	}
	if err := s.admit(s.node(in.NodeId), name); err != nil {
		return fuse.ToStatus(err)
	}
	if err := s.copyUp(n, whole); err != nil {
		return fuse.ToStatus(err)
	}
	return fuse.ToStatus(s.create(creation{
		parent: in.NodeId, name: name,
		make: func(at int, path string) error {
			old := s.place(n)
			if old.path == "" {
				return unix.ENOENT
			}
			return unix.Linkat(old.dir, old.path, at, path, 0)
		},
		undo: undoFile,
	}, out))
}

// Create makes a file and opens it, in one step.
func (s *server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	fd := -1
	err := s.create(creation{
		parent: in.NodeId, name: name, caller: in.Caller, own: true,
		make: func(at int, path string) (err error) {
			flags := branchFlags(in.Flags) | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
			fd, err = unix.Openat(at, path, flags, in.Mode&0o7777)
			return err
		},
		undo: func(at int, path string) { unix.Close(fd); undoFile(at, path) },
	}, &out.EntryOut)
	if err != nil {
		return fuse.ToStatus(err)
	}
	s.attach(s.node(out.NodeId), fd, 0, &out.OpenOut)
	return fuse.OK
}

// makeMark marks a folder of the writable branch as opaque.
func makeMark(at int, dir string) error { return makeEmpty(at, join(dir, whOpaque)) }

// makeWhiteout hides a name: by a hard link of the one empty file, or by a file of its own where a link is refused,
// because there are too many already or the file system has none.
func (s *server) makeWhiteout(dir, name string) error {
	at, path := s.upper().fd, join(dir, whiteoutOf(name))
	switch err := unix.Linkat(at, whBase, at, path, 0); err {
	case nil, unix.EEXIST:
		return nil
	}
	return makeEmpty(at, path)
}

func makeEmpty(at int, path string) error {
	fd, err := unix.Openat(at, path, unix.O_CREAT|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
