package unionfs

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// forever is how long the kernel may believe what it was told, in seconds. All changes come through the kernel, which
// forgets what they make wrong; so the answer never grows old. The price is in the package comment: whoever changes a
// branch behind the union's back is not noticed.
const forever = math.MaxInt32

// Lookup finds a name in a folder. A name that is not there is an answer too, which the kernel remembers as long.
func (s *server) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	parent := s.node(in.NodeId)
	if parent == nil || !parent.isDir() {
		return fuse.Status(unix.ENOTDIR)
	}
	if isListing(parent.id) {
		return s.lookupListing(name, out)
	}
	if reserved(name) {
		if parent.id == rootID && name == ListingName(s.id) {
			return s.lookupListing("", out)
		}
		return fuse.EPERM // as aufs: not ENOENT, for something may well be there
	}
	if len(name) > maxName {
		return fuse.Status(unix.ENAMETOOLONG)
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	err := s.lookup(parent, name, out)
	if err == unix.ENOENT {
		out.NodeId, out.EntryValid = 0, forever
		return fuse.OK
	}
	return fuse.ToStatus(err)
}

// lookup fills out for a name, and counts it as told to the kernel. tree is held.
func (s *server) lookup(parent *node, name string, out *fuse.EntryOut) error {
	f := parent.folder
	// Held until the node is known: else the name could be deleted in between, and the node of a deleted file would
	// be put in the table under it.
	f.mu.Lock()
	defer f.mu.Unlock()
	n, st, err := s.find(parent, name, out != nil)
	if err != nil {
		return err
	}
	if out != nil {
		s.fill(n, st, out)
	}
	return nil
}

// find is lookup inside the server: the node of a name and its attributes. parent's folder is locked.
func (s *server) find(parent *node, name string, told bool) (*node, *unix.Stat_t, error) {
	if err := s.load(parent); err != nil {
		return nil, nil, err
	}
	e := parent.folder.names[name]
	if !e.visible() {
		return nil, nil, unix.ENOENT
	}
	var st unix.Stat_t
	err := unix.Fstatat(s.layers[e.branch()].fd, join(s.path(parent), name), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, nil, err
	}
	return s.adopt(parent, name, e, &st, told), &st, nil
}

// fill writes an answer about a node.
func (s *server) fill(n *node, st *unix.Stat_t, out *fuse.EntryOut) {
	out.NodeId = n.id
	out.EntryValid, out.AttrValid = forever, forever
	s.attr(n, st, &out.Attr)
}

// attr turns what stat(2) said of the branch's file into what the union says of it.
func (s *server) attr(n *node, st *unix.Stat_t, out *fuse.Attr) {
	n.mode.Store(st.Mode)
	out.Ino = n.ino
	out.Size, out.Blocks, out.Blksize = uint64(st.Size), uint64(st.Blocks), uint32(st.Blksize)
	out.Atime, out.Atimensec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	out.Mtime, out.Mtimensec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	out.Ctime, out.Ctimensec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	out.Mode, out.Nlink = st.Mode, uint32(st.Nlink)
	out.Uid, out.Gid = st.Uid, st.Gid
	// The kernel's and FUSE's numbers of a device are packed differently, so it is taken apart and put together.
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	out.Rdev = minor&0xff | major<<8 | minor&^0xff<<12
	switch {
	case n.isDir():
		// How many subfolders a merged folder has would have to be counted in all branches. 1 means "unknown" to
		// find(1) and its like, which otherwise stop looking after link count minus two subfolders.
		if !n.pure.Load() {
			out.Nlink = 1
		}
	case n.branch.Load() != 0:
		// A file of a read-only branch keeps its links there when names of it are whited out here.
		s.mu.Lock()
		defer s.mu.Unlock()
		gone := s.gone[n.key]
		if n.orphan >= 0 {
			gone = max(gone, 1) // with one link only, they are not counted
		} else {
			gone = min(gone, int(st.Nlink)-1)
		}
		out.Nlink -= uint32(min(gone, int(st.Nlink)))
	}
}
