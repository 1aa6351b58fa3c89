package unionfs

import (
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// linkIndex knows the names of files in read-only branches that have several.
//
// A file with two names is one file: a write through one name is read through the other. If only the name that is
// written to were copied up, they would be two from then on; overlay does that unless it is mounted with index=on. aufs
// remembers such "pseudo-links" and makes them good when the union is unmounted. We make them good at once: all names of
// the file that users can see are made in the writable branch together. To find them, the branch is read through once,
// the first time it is needed; for most images that is never.
type linkIndex struct {
	mu    sync.Mutex
	paths map[int]map[inode][]string
}

func (x *linkIndex) of(s *server, branch int) (map[inode][]string, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if found, ok := x.paths[branch]; ok {
		return found, nil
	}
	found := map[inode][]string{}
	if err := s.walkLinks(branch, ".", found); err != nil {
		return nil, err
	}
	if x.paths == nil {
		x.paths = map[int]map[inode][]string{}
	}
	x.paths[branch] = found
	return found, nil
}

func (s *server) walkLinks(branch int, dir string, found map[inode][]string) error {
	at := s.layers[branch].fd
	list, err := readDir(at, dir)
	if err != nil {
		return err
	}
	for _, d := range list {
		path := join(dir, d.name)
		if d.kind == unix.S_IFDIR {
			if err := s.walkLinks(branch, path, found); err != nil {
				return err
			}
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(at, path, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Nlink > 1 && !reserved(d.name) {
			key := s.keyOf(branch, &st)
			found[key] = append(found[key], path)
		}
	}
	return nil
}

// visibleLinks are the names under which users see a file that is still in a read-only branch.
func (s *server) visibleLinks(n *node, st *unix.Stat_t) ([]child, error) {
	s.mu.Lock()
	names := slices.Clone(n.names)
	s.mu.Unlock()
	if st.Nlink <= 1 {
		return names, nil
	}
	branch := int(n.branch.Load())
	index, err := s.links.of(s, branch)
	if err != nil {
		return nil, err
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	for _, path := range index[s.keyOf(branch, st)] {
		if c, ok := s.visibleAt(branch, path); ok && !slices.Contains(names, c) {
			names = append(names, c)
		}
	}
	return names, nil
}

// visibleAt finds the name that users know a branch's path by, if they see that branch's file there.
func (s *server) visibleAt(branch int, path string) (child, bool) {
	at := s.node(rootID)
	parts := strings.Split(path, "/")
	for i, name := range parts {
		at.folder.mu.Lock()
		n, _, err := s.find(at, name, false)
		at.folder.mu.Unlock()
		if err != nil {
			return child{}, false
		}
		if i == len(parts)-1 {
			return child{at, name}, int(n.branch.Load()) == branch
		}
		if !n.isDir() {
			return child{}, false
		}
		at = n
	}
	return child{}, false
}
