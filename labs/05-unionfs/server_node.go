package unionfs

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A node is a file or folder that the kernel knows by a number of ours. It outlives the file's name, as an inode does,
// and it stays the same when the file is copied up: that is why an open descriptor, or a process that sits in a folder,
// does not notice. (Overlay shows two inodes there; see its "Non-standard behavior".)
type node struct {
	id     uint64
	ino    uint64 // the number that stat(2) shows, from the branch in which the node was first seen
	folder *folder

	mode   atomic.Uint32 // type and permissions as last read
	branch atomic.Int32  // where the file is; of a folder, the topmost of several
	pure   atomic.Bool   // a folder that is in the writable branch alone

	bare atomic.Int32 // whether it has extended attributes, see readXattr

	copying sync.Mutex // held while the file is copied up; before all other locks

	// Guarded by the server's mu.
	names   []child // the names by which it was looked up; more than one for hard links
	key     inode   // of a file that is not a folder: what makes two names one node
	lookups uint64  // how often the kernel was told the number
	nodes   int     // children that have a node; they need the names above them
	orphan  int     // -1, or a descriptor of a file that has no name left

	cached    string // a folder's path, valid while cachedAt is the server's count of renames
	cachedAt  uint64
	hasCached bool

	mu      sync.Mutex // guards what follows
	open    map[*handle]struct{}
	backing int32 // the kernel's number for the branch's file, while it passes through to it
	passing int   // how many of the open handles it passes through
	passed  bool  // it did once: the pages in its cache may be old
}

// child is a name in a folder.
type child struct {
	parent *node
	name   string
}

// inode is a file of a branch. The branch is part of it: two layers of one image may share an inode by hard link, and
// are still two files, since each is copied up on its own.
type inode struct {
	branch int
	ino    uint64
	device uint64
}

func (n *node) isDir() bool { return n.folder != nil }

const rootID = 1

// plantRoot makes the node that all others hang from: the root of every branch at once.
func (s *server) plantRoot() {
	root := &node{id: rootID, ino: rootID, lookups: 1, orphan: -1, folder: &folder{}}
	for i := range s.layers {
		root.folder.branches = append(root.folder.branches, i)
	}
	root.folder.upper = s.writable()
	root.mode.Store(unix.S_IFDIR)
	s.nodes[rootID] = root
	s.lastID = firstFreeID
	s.nodes[listingID] = &node{id: listingID, ino: listingID, lookups: 1, orphan: -1, folder: &folder{}}
	for i := range s.layers {
		id := uint64(firstFile + i)
		s.nodes[id] = &node{id: id, ino: id, lookups: 1, orphan: -1}
	}
}

// node finds what the kernel means by a number. It only uses numbers it was given and has not taken back.
func (s *server) node(id uint64) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[id]
}

// adopt finds or makes the node for a name that has just been looked up, and counts the look-up if the kernel is told.
func (s *server) adopt(parent *node, name string, e *entry, st *unix.Stat_t, told bool) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := child{parent, name}
	branch := e.branch()
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	n := s.children[at]
	if n == nil && !dir {
		n = s.byInode[s.keyOf(branch, st)]
		if n != nil {
			s.addName(n, at)
		}
	}
	if n == nil {
		s.lastID++
		n = &node{id: s.lastID, ino: s.number(branch, st), orphan: -1}
		n.branch.Store(int32(branch))
		if dir {
			n.folder = &folder{branches: e.merged(), upper: e.up}
			n.pure.Store(e.up && len(n.folder.branches) == 1)
		} else {
			n.key = s.keyOf(branch, st)
			s.byInode[n.key] = n
		}
		s.nodes[n.id] = n
		s.addName(n, at)
	}
	n.mode.Store(st.Mode)
	if told {
		n.lookups++
	}
	return n
}

func (s *server) keyOf(branch int, st *unix.Stat_t) inode {
	return inode{branch: branch, ino: st.Ino, device: uint64(st.Dev)}
}

// number is the inode number that users see. Branches may be on different file systems that number alike, so that of
// the file system goes into the topmost bits, which real numbers leave free.
func (s *server) number(branch int, st *unix.Stat_t) uint64 {
	return st.Ino ^ s.layers[branch].device<<56
}

// addName and dropName keep the table of names and the nodes' own lists together. mu is held.
func (s *server) addName(n *node, at child) {
	s.children[at] = n
	n.names = append(n.names, at)
	at.parent.nodes++
	n.hasCached = false
}

func (s *server) dropName(n *node, at child) {
	if s.children[at] != n {
		return
	}
	delete(s.children, at)
	n.names = slices.DeleteFunc(n.names, func(c child) bool { return c == at })
	n.hasCached = false
	at.parent.nodes--
	s.dropUnused(at.parent)
}

// dropUnused forgets a node that neither the kernel nor a child of it needs. mu is held.
func (s *server) dropUnused(n *node) {
	if n.lookups > 0 || n.nodes > 0 || n.id == rootID || s.nodes[n.id] != n {
		return
	}
	delete(s.nodes, n.id)
	if !n.isDir() && s.byInode[n.key] == n {
		delete(s.byInode, n.key)
	}
	if n.orphan >= 0 {
		unix.Close(n.orphan)
		n.orphan = -1
	}
	for len(n.names) > 0 {
		s.dropName(n, n.names[0])
	}
}

// Forget is the kernel dropping count of its references to a number.
func (s *server) Forget(id, count uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[id]
	if n == nil || n.id < firstFreeID {
		return
	}
	n.lookups -= min(count, n.lookups)
	s.dropUnused(n)
}

// path is the node's path below a branch's root. tree must be held for as long as the path is used.
func (s *server) path(n *node) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pathLocked(n)
}

func (s *server) pathLocked(n *node) string {
	if n.id == rootID {
		return "."
	}
	if n.hasCached && n.cachedAt == s.renames {
		return n.cached
	}
	if len(n.names) == 0 {
		return ""
	}
	p := join(s.pathLocked(n.names[0].parent), n.names[0].name)
	if n.isDir() {
		n.cached, n.cachedAt, n.hasCached = p, s.renames, true
	}
	return p
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// place is where a file can be reached: a path below a branch, or, for one without a name, a descriptor.
type place struct {
	dir  int
	path string // empty: dir is the file itself
	root string // the branch's own path, for the calls that take no descriptor
}

// place finds where n is now. tree must be held.
func (s *server) place(n *node) place {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.orphan >= 0 {
		return place{dir: n.orphan}
	}
	l := s.layers[n.branch.Load()]
	return place{dir: l.fd, path: s.pathLocked(n), root: l.Path}
}

func (p place) stat(st *unix.Stat_t) error {
	if p.path == "" {
		return unix.Fstat(p.dir, st)
	}
	return unix.Fstatat(p.dir, p.path, st, unix.AT_SYMLINK_NOFOLLOW)
}

// text is a path for the calls that know no descriptors. The server's mount namespace is its own, so nothing that is
// mounted later, the union itself for one, can cover it.
func (p place) text() string {
	if p.path == "" {
		return "/proc/self/fd/" + strconv.Itoa(p.dir)
	}
	return p.root + "/" + p.path
}

func (p place) openFile(flags int) (int, error) {
	if p.path == "" {
		return unix.Open(p.text(), flags|unix.O_CLOEXEC, 0)
	}
	return unix.Openat(p.dir, p.path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func (p place) chown(uid, gid int) error {
	return unix.Fchownat(p.dir, p.path, uid, gid, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
}

func (p place) chmod(mode uint32) error {
	if p.path == "" {
		return unix.Chmod(p.text(), mode)
	}
	return unix.Fchmodat(p.dir, p.path, mode, 0) // the kernel changes no mode of symbolic links, so never asks for it
}

func (p place) utimes(ts *[2]unix.Timespec) error {
	if p.path == "" {
		return unix.UtimesNanoAt(unix.AT_FDCWD, p.text(), ts[:], 0)
	}
	return unix.UtimesNanoAt(p.dir, p.path, ts[:], unix.AT_SYMLINK_NOFOLLOW)
}
