package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Plan says which folders the group of that name, with these controllers, will have on this system, and what must be
// switched on for it. It changes nothing: [Group.Things] can be journalled before [Group.Create] makes them.
//
// A path that starts with "/" counts from the root of each hierarchy, as the runtime-spec has it (cgroupsPath). Any other
// is put where we may make groups: on v1 below the group we are in, tree by tree; on v2 see place.
func (s *System) Plan(path string, controllers ...string) (*Group, error) {
	return s.plan(path, controllers, machine)
}

func (s *System) plan(path string, controllers []string, f facts) (*Group, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	g := &Group{Path: path}
	for _, c := range controllers {
		h, ok := s.Find(c)
		if !ok {
			return nil, &MissingError{Controller: c}
		}
		wanted := []string{c}
		if c == "cpu" && h.Version == 1 {
			wanted = append(wanted, "cpuacct") // v2's cpu.stat counts too; v1 has a controller for it, often in another tree
		}
		for _, c := range wanted {
			if h, ok := s.Find(c); ok {
				g.add(h, c)
			}
		}
	}
	for i := range g.Dirs {
		d := &g.Dirs[i]
		h := s.hierarchy(d)
		if err := g.locate(d, h, f); err != nil {
			return nil, err
		}
		d.Path = filepath.Join(d.top, path)
	}
	return g, nil
}

// add notes that the group wants a controller from hierarchy h. Until it is located, the folder's path is the mount point.
func (g *Group) add(h Hierarchy, controller string) {
	for i, d := range g.Dirs {
		if d.Path == h.Mount {
			if !slices.Contains(d.Controllers, controller) {
				g.Dirs[i].Controllers = append(d.Controllers, controller)
			}
			return
		}
	}
	g.Dirs = append(g.Dirs, Dir{Path: h.Mount, Version: h.Version, Controllers: []string{controller}})
}

func (s *System) hierarchy(d *Dir) Hierarchy {
	i := slices.IndexFunc(s.Hierarchies, func(h Hierarchy) bool { return h.Mount == d.Path })
	return s.Hierarchies[i]
}

// locate finds the folder below which the group goes in one hierarchy.
func (g *Group) locate(d *Dir, h Hierarchy, f facts) error {
	absolute := strings.HasPrefix(g.Path, "/")
	if d.Version == 1 {
		// v1 lets processes and child groups live side by side, so below our own group is always a fit place, and every
		// limit that we are under ourselves holds for it.
		d.top = h.Own
		if absolute {
			d.top = h.Mount
		}
		if d.top == "" {
			return &Error{Op: "make a group below", File: h.Mount, Err: errHidden}
		}
		return nil
	}
	var want []string
	for _, c := range d.Controllers {
		if !builtin(c) {
			want = append(want, c)
		}
	}
	p, err := h.place(want, absolute, f)
	if err != nil {
		return err
	}
	d.top = p.dir
	for _, c := range p.off {
		g.enable = append(g.enable, enabling{p.dir, c, filepath.Base(g.Path)})
	}
	if p.evacuate {
		g.leaf = filepath.Join(p.dir, leafName)
	}
	return nil
}

// place is where in a v2 tree a group can go.
type place struct {
	dir      string
	off      []string // controllers that must be switched on in dir first, or were by another nslab
	evacuate bool     // the processes in dir must move to a leaf first
}

// place looks for a group below which ours can have these controllers. Three rules of v2 decide (cgroup-v2.rst):
//
// "Top-down": a group has a controller only if its parent switched it on in cgroup.subtree_control.
// "No internal processes": a group that switched one on must have no processes itself; only the root of the tree may.
// "Delegation": whoever may write to a folder and its cgroup.procs may use the subtree, and only that.
//
// So: the root of the tree, where we may write there. Else our own group, if nobody but nslab is in it: it moves to a leaf
// then. Else the nearest group above that has no processes, such as systemd's app.slice of a user.
func (h *Hierarchy) place(want []string, absolute bool, f facts) (place, error) {
	if f.isRoot(h.Mount) && (absolute || f.usable(h.Mount, want)) {
		return f.at(h.Mount, want), nil
	}
	if absolute { // in a container, what it sees as the root is a group like any other, with a shell in it more often than not
		switch p := f.at(h.Mount, want); {
		case len(p.off) == 0 || f.free(h.Mount):
			return p, nil
		case f.usable(h.Mount, want) && f.oursAlone(h.Mount):
			p.evacuate = true
			return p, nil
		}
		return place{}, &DelegationError{Own: h.Mount, Controllers: want}
	}
	if h.Own == "" {
		return place{}, &Error{Op: "make a group below", File: h.Mount, Err: errHidden}
	}
	own := h.Own
	if filepath.Base(own) == leafName {
		own = filepath.Dir(own) // we moved here ourselves
	}
	if f.usable(own, want) {
		if p := f.at(own, want); len(want) == 0 || f.free(own) {
			return p, nil
		} else if f.oursAlone(own) {
			p.evacuate = true
			return p, nil
		}
	}
	for dir := own; dir != h.Mount && strings.HasPrefix(dir, h.Mount); {
		dir = filepath.Dir(dir)
		if f.usable(dir, want) && (f.isRoot(dir) || f.free(dir)) {
			return f.at(dir, want), nil
		}
	}
	return place{}, &DelegationError{Own: own, Controllers: want}
}

// facts is what planning on v2 must know about folders; a test gives it a tree of its own.
type facts struct {
	read     func(file string) (string, error)
	writable func(path string) bool
	ours     func(pid string) bool // whether a process runs this very program
}

var machine = facts{read: readFile, writable: writable, ours: sameProgram}

// isRoot says whether dir is the root of the whole tree, not of a container's part of it: only that has no cgroup.type.
func (f facts) isRoot(dir string) bool {
	_, err := f.read(filepath.Join(dir, "cgroup.type"))
	return err != nil
}

func (f facts) list(dir, file string) []string {
	content, _ := f.read(filepath.Join(dir, file)) // unreadable: nothing is offered, nothing is on
	return strings.Fields(content)
}

// usable says whether we may make groups with these controllers below dir, processes in it aside.
func (f facts) usable(dir string, want []string) bool {
	offered, on := f.list(dir, controllerFile), f.list(dir, subtreeControl)
	for _, c := range want {
		if !slices.Contains(offered, c) {
			return false
		}
		if !slices.Contains(on, c) && !f.writable(filepath.Join(dir, subtreeControl)) {
			return false
		}
	}
	// Moving a process needs the right to write to the cgroup.procs of the common ancestor, which is dir.
	return f.writable(dir) && f.writable(filepath.Join(dir, procsFile))
}

func (f facts) free(dir string) bool { return len(f.list(dir, procsFile)) == 0 }

func (f facts) oursAlone(dir string) bool {
	for _, pid := range f.list(dir, procsFile) {
		if !f.ours(pid) {
			return false
		}
	}
	return true
}

func (f facts) at(dir string, want []string) place {
	p := place{dir: dir}
	on := f.list(dir, subtreeControl)
	for _, c := range want {
		_, err := f.read(filepath.Join(dir, markerName+c, procsFile))
		if marked := err == nil; marked || !slices.Contains(on, c) {
			p.off = append(p.off, c)
		}
	}
	return p
}

func writable(path string) bool {
	// By effective ids, as open(2) judges, not by the real ones that access(2) takes.
	return unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS) == nil
}

// sameProgram says whether a process runs nslab. From inside a user namespace the programs of processes outside cannot be
// read (ptrace(2), "access mode checking"); of those only our parent is known, the nslab that made the namespace for us. It
// has our user id, unlike a parent whose program cannot be read because it is root's (su, sudo).
func sameProgram(pid string) bool {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	other, err := os.Stat("/proc/" + pid + "/exe")
	if errors.Is(err, unix.EACCES) {
		var st unix.Stat_t
		return pid == strconv.Itoa(os.Getppid()) && unix.Stat("/proc/"+pid, &st) == nil && int(st.Uid) == os.Geteuid()
	}
	return err == nil && os.SameFile(self, other)
}

// Thing is something on the host that a group needs made. Kind says how to undo it, see [Undo].
type Thing struct{ Kind, Path string }

// The kinds of things.
const (
	KindGroup   = "cgroup"          // a folder
	KindParent  = "cgroup-parent"   // a folder above one, whatever its name: removed only when nobody uses it
	KindLeaf    = "cgroup-leaf"     // a folder into which nslab itself moves
	KindSubtree = "subtree_control" // a controller switched on: "/sys/fs/cgroup/cgroup.subtree_control +cpu nslab-03-x"
)

// Things lists what Create will make, in order. Journal it first.
func (g *Group) Things() []Thing {
	var all []Thing
	if g.leaf != "" {
		all = append(all, Thing{KindLeaf, g.leaf})
	}
	for _, e := range g.enable {
		all = append(all, Thing{KindSubtree, e.String()})
	}
	for _, d := range g.Dirs {
		for _, parent := range d.missing() {
			all = append(all, Thing{KindParent, parent})
		}
		all = append(all, Thing{KindGroup, d.Path})
	}
	return all
}

// missing lists the folders above the group's that are not there yet, the outermost first.
func (d *Dir) missing() (list []string) {
	for parent := filepath.Dir(d.Path); parent != d.top && strings.HasPrefix(parent, d.top) && !exists(parent); parent = filepath.Dir(parent) {
		list = append(list, parent)
	}
	slices.Reverse(list)
	return list
}

// checkPath refuses a group's name that leads elsewhere: Podman's --cgroup-parent once made folders on the host with
// "..". The kernel itself refuses a newline, which would forge a line of /proc/PID/cgroup.
func checkPath(path string) error {
	if strings.Trim(path, "/") == "" {
		return fmt.Errorf("name of a control group: %q is empty", path)
	}
	for elem := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if elem == "" || elem == "." || elem == ".." {
			return fmt.Errorf("name of a control group: %q has an element %q", path, elem)
		}
		if strings.ContainsFunc(elem, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("name of a control group: %q has a control character", path)
		}
	}
	return nil
}
