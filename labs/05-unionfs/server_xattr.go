package unionfs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Extended attributes are read and written by path: descriptors that may be opened on any file, a fifo or a device too,
// are not good for it. A file without a path is reached through /proc, where the last link has to be followed.

func (p place) getXattr(name string, buf []byte) (int, error) {
	if p.path == "" {
		return unix.Getxattr(p.text(), name, buf)
	}
	return unix.Lgetxattr(p.text(), name, buf)
}

func (p place) listXattr(buf []byte) (int, error) {
	if p.path == "" {
		return unix.Listxattr(p.text(), buf)
	}
	return unix.Llistxattr(p.text(), buf)
}

func (p place) setXattr(name string, value []byte, flags int) error {
	if p.path == "" {
		return unix.Setxattr(p.text(), name, value, flags)
	}
	return unix.Lsetxattr(p.text(), name, value, flags)
}

func (p place) removeXattr(name string) error {
	if p.path == "" {
		return unix.Removexattr(p.text(), name)
	}
	return unix.Lremovexattr(p.text(), name)
}

// GetXAttr reads an attribute.
func (s *server) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, buf []byte) (uint32, fuse.Status) {
	return s.readXattr(in.NodeId, buf, fuse.ENODATA, func(p place, buf []byte) (int, error) { return p.getXattr(name, buf) })
}

// ListXAttr lists the names.
func (s *server) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, buf []byte) (uint32, fuse.Status) {
	return s.readXattr(in.NodeId, buf, fuse.OK, place.listXattr)
}

// What is known of a node's extended attributes.
const (
	notLooked = iota
	noXattrs
	haveXattrs
)

// readXattr reads what may not fit, and then says how much it is. none is the answer where there are no attributes.
func (s *server) readXattr(id uint64, buf []byte, none fuse.Status, read func(place, []byte) (int, error)) (uint32, fuse.Status) {
	if isListing(id) {
		return 0, fuse.Status(unix.EOPNOTSUPP)
	}
	n := s.node(id)
	if n == nil {
		return 0, fuse.Status(unix.ESTALE)
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	p := s.place(n)
	// Before each first write to a file, and each change of its owner, the kernel asks for its capabilities, which
	// hardly a file has. One that has no attributes at all is only looked at once.
	if n.bare.Load() == noXattrs {
		return 0, none
	}
	if n.bare.Load() == notLooked {
		n.bare.Store(haveXattrs)
		if size, err := p.listXattr(nil); err == nil && size == 0 {
			n.bare.Store(noXattrs)
			return 0, none
		}
	}
	size, err := read(p, buf)
	if err == unix.ERANGE {
		if size, err := read(p, nil); err == nil {
			return uint32(size), fuse.ERANGE
		}
	}
	if err != nil {
		return 0, fuse.ToStatus(err)
	}
	return uint32(size), fuse.OK
}

// SetXAttr sets an attribute, on the file in the writable branch.
func (s *server) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	return s.changeXattr(in.NodeId, func(p place) error { return p.setXattr(name, value, int(in.Flags)) })
}

// RemoveXAttr removes one.
func (s *server) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.changeXattr(in.NodeId, func(p place) error { return p.removeXattr(name) })
}

func (s *server) changeXattr(id uint64, change func(place) error) fuse.Status {
	n := s.node(id)
	switch {
	case isListing(id):
		return fuse.EPERM
	case n == nil:
		return fuse.Status(unix.ESTALE)
	case !s.writable():
		return fuse.EROFS
	}
	if !n.isDir() {
		if err := s.copyUp(n, whole); err != nil {
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
	n.bare.Store(haveXattrs)
	return fuse.ToStatus(change(s.place(n)))
}
