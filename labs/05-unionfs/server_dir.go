package unionfs

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// folder is what a node is besides, when it is one: the same path in several branches, merged.
//
// The merged names are kept once they have been read. That is what makes the union fast: whether a name exists, and
// where, costs no system call, and unpacking an archive asks that of every file. It is right because only this server
// changes the branches; a change behind its back is not seen, as with overlay, whose manual calls it undefined.
type folder struct {
	mu       sync.Mutex
	branches []int // in which it is, topmost first; all whiteouts and opaque marks above it are already applied
	upper    bool  // the writable branch is among them
	opaque   bool  // the writable branch's has the mark: nothing below counts
	dead     bool  // removed: nothing can be made in it
	loaded   bool
	names    map[string]*entry
}

// entry is what the branches of a folder say about one name.
type entry struct {
	up      bool   // the writable branch has it
	wh      bool   // the writable branch has its whiteout
	low     bool   // the other branches, taken by themselves, have it
	upType  uint32 // S_IFDIR and so on
	lowType uint32
	lowIn   []int // the branches where low is from: one, or for a folder all that are merged
	number  uint64
}

// visible: a name wins over its own whiteout in the same branch. That order lets every change be made in two steps, of
// which the first alone shows nothing: a crash in between leaves the state from before.
func (e *entry) visible() bool { return e != nil && (e.up || e.low && !e.wh) }

// branch is where the visible file is.
func (e *entry) branch() int {
	if e.up {
		return 0
	}
	return e.lowIn[0]
}

func (e *entry) kind() uint32 {
	if e.up {
		return e.upType
	}
	return e.lowType
}

// merged are the branches that make up a visible folder.
func (e *entry) merged() []int {
	switch {
	case !e.up:
		return slices.Clone(e.lowIn)
	case e.low && !e.wh && e.lowType == unix.S_IFDIR:
		return append([]int{0}, e.lowIn...)
	}
	return []int{0}
}

// shows tells whether something of the read-only branches would be seen if the writable branch said nothing: whether it
// takes a whiteout to delete the name, and an opaque mark to make a new folder there.
func (e *entry) shows() bool { return e != nil && e.low }

// load reads the folder's names in all its branches. f.mu is held, tree too.
func (s *server) load(n *node) error {
	f := n.folder
	if f.loaded {
		return nil
	}
	if f.dead {
		f.names, f.loaded = map[string]*entry{}, true
		return nil
	}
	names := map[string]*entry{}
	closed := map[string]bool{} // what a branch above said the last word about
	path := s.path(n)
	for _, i := range f.branches {
		l := s.layers[i]
		list, err := readDir(l.fd, path)
		if err != nil {
			return err
		}
		upper := i == 0 && s.writable()
		opaque := false
		var hidden []string
		for _, d := range list {
			if reserved(d.name) {
				if !l.whiteouts() {
					continue
				}
				if d.name == whOpaque {
					opaque = true
				} else if name, ok := hiddenBy(d.name); ok {
					hidden = append(hidden, name)
				}
				continue
			}
			e := names[d.name]
			if e == nil {
				e = &entry{number: d.ino ^ l.device<<56}
				names[d.name] = e
			}
			switch {
			case upper:
				e.up, e.upType = true, d.kind
			case closed[d.name]:
			case !e.low:
				e.low, e.lowType, e.lowIn = true, d.kind, []int{i}
				if d.kind != unix.S_IFDIR {
					closed[d.name] = true
				}
			case d.kind == unix.S_IFDIR:
				e.lowIn = append(e.lowIn, i)
			default:
				closed[d.name] = true // a file under a folder ends the merge
			}
		}
		// Only now: a whiteout hides what is in the branches below its own.
		for _, name := range hidden {
			if !upper {
				closed[name] = true
				continue
			}
			if names[name] == nil {
				names[name] = &entry{}
			}
			names[name].wh = true
		}
		if opaque {
			f.opaque = upper
			break
		}
	}
	f.names, f.loaded = names, true
	return nil
}

// entryOf finds a name in a folder, or makes an empty entry for it. f.mu is held and the folder loaded.
func (f *folder) entryOf(name string) *entry {
	e := f.names[name]
	if e == nil {
		e = &entry{}
		f.names[name] = e
	}
	return e
}

// empty tells whether a user sees nothing in the folder; whiteouts there may be.
func (f *folder) empty() bool {
	for _, e := range f.names {
		if e.visible() {
			return false
		}
	}
	return true
}

// dirent is one line of a branch's folder.
type dirent struct {
	name string
	ino  uint64
	kind uint32
}

// readDir reads a folder of a branch.
func readDir(at int, path string) ([]dirent, error) {
	fd, err := unix.Openat(at, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var list []dirent
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return list, nil
		}
		for rest := buf[:n]; len(rest) > 0; {
			var d fuse.DirEntry
			used := d.Parse(rest)
			rest = rest[used:]
			if d.Name == "." || d.Name == ".." {
				continue
			}
			kind := d.Mode & unix.S_IFMT
			if kind == 0 { // a file system that does not tell types here
				var st unix.Stat_t
				if err := unix.Fstatat(fd, d.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
					continue // gone meanwhile
				}
				kind = st.Mode & unix.S_IFMT
			}
			list = append(list, dirent{strings.Clone(d.Name), d.Ino, kind})
		}
	}
}

// emptyDir removes all that is in a folder of a branch.
func emptyDir(at int, path string) error {
	list, err := readDir(at, path)
	if err != nil {
		return err
	}
	for _, d := range list {
		if err := removeTree(at, join(path, d.name), d.kind == unix.S_IFDIR); err != nil {
			return err
		}
	}
	return nil
}

func removeTree(at int, path string, dir bool) error {
	if !dir {
		return unix.Unlinkat(at, path, 0)
	}
	if err := emptyDir(at, path); err != nil {
		return err
	}
	return unix.Unlinkat(at, path, unix.AT_REMOVEDIR)
}

// listing is an open folder: the names as they were when reading began. Names made later need not appear, says POSIX;
// but each that was there must appear once, whatever is created or deleted meanwhile, so it is a copy.
type listing struct {
	mu    sync.Mutex
	names []string
	ready bool
}

// OpenDir opens a folder for reading. The kernel may keep what it reads until the folder changes.
func (s *server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := s.node(in.NodeId)
	if n == nil || !n.isDir() {
		return fuse.Status(unix.ENOTDIR)
	}
	out.Fh = s.handles.add(&handle{node: n, fd: -1, list: &listing{}})
	return fuse.OK
}

// ReleaseDir closes one.
func (s *server) ReleaseDir(in *fuse.ReleaseIn) { s.handles.remove(in.Fh) }

// FsyncDir writes a folder's changes to the disk.
func (s *server) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if !s.writable() {
		return fuse.OK
	}
	return fuse.ToStatus(unix.Syncfs(s.upper().fd)) // one call, whichever of the merged folders changed
}

// snapshot reads the names, anew whenever the reader goes back to the beginning.
func (s *server) snapshot(n *node, l *listing, again bool) error {
	if l.ready && !again {
		return nil
	}
	f := n.folder
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := s.load(n); err != nil {
		return err
	}
	l.names = l.names[:0]
	for name, e := range f.names {
		if e.visible() {
			l.names = append(l.names, name)
		}
	}
	slices.Sort(l.names) // for nobody but the eye: a listing that comes out the same twice
	l.ready = true
	return nil
}

// ReadDir lists names.
func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(in, out, false)
}

// ReadDirPlus lists names with attributes, which saves whoever walks a tree a look-up for each.
func (s *server) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(in, out, true)
}

func (s *server) readDir(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	h := s.handles.get(in.Fh)
	if h == nil || h.list == nil {
		return fuse.Status(unix.EBADF)
	}
	if isListing(h.node.id) {
		return s.readListing(in, out, plus)
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	h.list.mu.Lock()
	defer h.list.mu.Unlock()
	if err := s.snapshot(h.node, h.list, in.Offset == 0); err != nil {
		return fuse.ToStatus(err)
	}
	for at := in.Offset; at < uint64(len(h.list.names))+2; at++ {
		var ok bool
		switch {
		case at < 2:
			d := fuse.DirEntry{Name: [...]string{".", ".."}[at], Mode: unix.S_IFDIR, Ino: h.node.ino, Off: at + 1}
			ok = addDots(out, d, plus)
		default:
			ok = s.addEntry(out, h.node, h.list.names[at-2], at+1, plus)
		}
		if !ok {
			break
		}
	}
	return fuse.OK
}

func addDots(out *fuse.DirEntryList, d fuse.DirEntry, plus bool) bool {
	if !plus {
		return out.AddDirEntry(d)
	}
	return out.AddDirLookupEntry(d) != nil
}

// addEntry adds one name; false says that the message is full.
func (s *server) addEntry(out *fuse.DirEntryList, parent *node, name string, off uint64, plus bool) bool {
	f := parent.folder
	f.mu.Lock()
	e := f.names[name]
	if !e.visible() {
		f.mu.Unlock()
		return true // deleted since
	}
	d := fuse.DirEntry{Name: name, Mode: e.kind(), Ino: e.number, Off: off}
	f.mu.Unlock()
	s.mu.Lock()
	if n := s.children[child{parent, name}]; n != nil {
		d.Ino = n.ino
	}
	s.mu.Unlock()
	if d.Ino == 0 {
		d.Ino = fuse.FUSE_UNKNOWN_INO
	}
	if !plus {
		return out.AddDirEntry(d)
	}
	at := out.AddDirLookupEntry(d)
	if at == nil {
		return false
	}
	s.lookup(parent, name, at) // if that fails the kernel gets number 0, and asks by itself when it needs to know
	return true
}
