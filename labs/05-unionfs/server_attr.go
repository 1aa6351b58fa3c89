package unionfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// GetAttr is stat(2).
func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if isListing(in.NodeId) {
		return s.attrOfListing(in.NodeId, &out.Attr)
	}
	n := s.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	return s.getAttr(n, out)
}

func (s *server) getAttr(n *node, out *fuse.AttrOut) fuse.Status {
	var st unix.Stat_t
	if err := s.place(n).stat(&st); err != nil {
		return fuse.ToStatus(err)
	}
	out.AttrValid = forever
	s.attr(n, &st, &out.Attr)
	return fuse.OK
}

// SetAttr is truncate(2), chown(2), chmod(2) and utimensat(2) in one message, on a file that is in the writable branch
// from then on. Whether the caller may, the kernel has checked.
func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if isListing(in.NodeId) {
		return fuse.EPERM
	}
	n := s.node(in.NodeId)
	if n == nil {
		return fuse.Status(unix.ESTALE)
	}
	if !s.writable() {
		return fuse.EROFS
	}
	if !n.isDir() {
		data := whole
		if size, ok := in.GetSize(); ok && size == 0 {
			data = nothing
		}
		if err := s.copyUp(n, data); err != nil {
			return fuse.ToStatus(err)
		}
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	if n.isDir() {
		if err := s.raise(n); err != nil {
			return fuse.ToStatus(err)
		}
	}
	if err := s.setAttr(n, in); err != nil {
		return fuse.ToStatus(err)
	}
	return s.getAttr(n, out)
}

// setAttr changes the branch's file. The mode comes after the owner, whose change takes bits of it away, and the times
// after the size, whose change sets them.
func (s *server) setAttr(n *node, in *fuse.SetAttrIn) error {
	p := s.place(n)
	if size, ok := in.GetSize(); ok {
		if err := s.truncate(p, in, int64(size)); err != nil {
			return err
		}
		if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
			if err := killAfterTruncate(p); err != nil {
				return err
			}
		}
	}
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	if setUID || setGID {
		u, g := -1, -1 // leave as it is
		if setUID {
			u = int(uid)
		}
		if setGID {
			g = int(gid)
		}
		if err := p.chown(u, g); err != nil {
			return err
		}
	}
	if mode, ok := in.GetMode(); ok {
		if err := p.chmod(mode & 0o7777); err != nil {
			return err
		}
	}
	const times = fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if in.Valid&times == 0 {
		return nil
	}
	return p.utimes(&[2]unix.Timespec{
		timeOf(in, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		timeOf(in, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	})
}

func timeOf(in *fuse.SetAttrIn, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case in.Valid&set == 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case in.Valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.NsecToTimespec(int64(sec)*1e9 + int64(nsec))
}

// truncate uses the caller's own descriptor if there is one: it was opened for writing when the mode still allowed it.
func (s *server) truncate(p place, in *fuse.SetAttrIn, size int64) error {
	if fh, ok := in.GetFh(); ok {
		if h := s.handles.get(fh); h != nil && h.list == nil {
			return unix.Ftruncate(h.fd, size)
		}
	}
	fd, err := p.openFile(unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Ftruncate(fd, size)
}

func killAfterTruncate(p place) error {
	var st unix.Stat_t
	if err := p.stat(&st); err != nil {
		return err
	}
	mode := st.Mode & 0o7777 &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	if mode == st.Mode&0o7777 {
		return nil
	}
	return p.chmod(mode)
}

// Readlink reads a symbolic link.
func (s *server) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n := s.node(in.NodeId)
	if n == nil {
		return nil, fuse.Status(unix.ESTALE)
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	target, err := readLink(s.place(n))
	return []byte(target), fuse.ToStatus(err)
}

// StatFs describes the file system that changes go to. Of a name's length, the union needs a part itself.
func (s *server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var st unix.Statfs_t
	if err := unix.Fstatfs(s.upper().fd, &st); err != nil {
		return fuse.ToStatus(err)
	}
	out.Blocks, out.Bfree, out.Bavail = st.Blocks, st.Bfree, st.Bavail
	out.Files, out.Ffree = st.Files, st.Ffree
	out.Bsize, out.Frsize = uint32(st.Bsize), uint32(st.Frsize)
	out.NameLen = uint32(maxName)
	return fuse.OK
}
