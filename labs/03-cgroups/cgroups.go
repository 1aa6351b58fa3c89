// Package cgroups limits, weighs, counts, freezes and kills a set of processes.
//
// The idea: a control group is a folder. mkdir(2) in a cgroup file system makes one, and the kernel fills it with files.
// Writing a process number to cgroup.procs puts that process into the group (its later children are born in it); writing
// a number to another file limits all of them together; reading a third one tells what they have used. There is no
// system call for any of this but mkdir, open, read, write, poll and rmdir.
//
// What makes it confusing is that there are two versions. In v1 each controller (cpu, memory, pids …) may have a tree of
// its own, so one group is a folder in each of many trees, and the files have names like cpu.cfs_quota_us. In v2 there is
// one tree for all, with names like cpu.max, and a controller must be switched on from parent to child. Both can be
// mounted at once ("hybrid"), each controller in one or the other. This package asks for every controller separately
// where it lives ([Discover]), so that hybrid is no case of its own.
//
// The interface: [System.Plan] says which folders a group of some name consists of, and touches nothing. [Group.Create]
// makes them, [Group.Set] takes limits in the words of the OCI runtime-spec, [Group.Add] puts a process in; [Group.Freeze],
// [Group.Thaw], [Group.Stats], [Group.Kill] and [Group.Delete] do what they say. [RemoveDir] is what finds and removes a
// group that a killed nslab left.
//
// The limits: device access (v1's devices controller, an eBPF program in v2) belongs to lab 10. On v2 one process is one
// whole: groups of single threads ("threaded" mode) are left out.
//
// See cgroups(7), Documentation/admin-guide/cgroup-v1/ and Documentation/admin-guide/cgroup-v2.rst.
package cgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Group is one control group: a folder in each hierarchy that holds one of its controllers. It can be stored as JSON, so
// that another process can go on with it.
type Group struct {
	Path string `json:"path"` // its name, as it was given to [System.Plan]
	Dirs []Dir  `json:"dirs"`

	enable []enabling // what must be switched on for it, only known to the process that planned it
	leaf   string     // where the processes in the way move to, "" where none are
}

// Dir is a group's folder in one hierarchy.
type Dir struct {
	Path        string   `json:"path"`
	Version     int      `json:"version"`     // 1 or 2
	Controllers []string `json:"controllers"` // those that the group wants from this hierarchy

	top  string   // what the group goes below: there already
	made []string // the folders that Create made, outermost first
}

// Dir returns the group's folder for a controller, "" where the group has none.
func (g *Group) Dir(controller string) string {
	if d := g.dir(controller); d != nil {
		return d.Path
	}
	return ""
}

// File is the path of one of the group's files.
func (g *Group) File(controller, file string) string { return filepath.Join(g.Dir(controller), file) }

// Version tells which spelling the files of a controller have, 1 or 2, or 0 where the group does not have it.
func (g *Group) Version(controller string) int {
	if d := g.dir(controller); d != nil {
		return d.Version
	}
	return 0
}

func (g *Group) dir(controller string) *Dir {
	for i, d := range g.Dirs {
		if slices.Contains(d.Controllers, controller) {
			return &g.Dirs[i]
		}
	}
	return nil
}

// New plans, makes and limits a group in one go: with all its limits, or not at all. It has the controllers that the limits
// need, and those in also ("freezer", for a group that is to be paused).
func New(ctx context.Context, path string, r *specs.LinuxResources, also ...string) (*Group, error) {
	s, err := Discover()
	if err != nil {
		return nil, err
	}
	g, err := s.Plan(path, append(Controllers(r), also...)...)
	if err != nil {
		return nil, err
	}
	if err := g.Create(ctx); err != nil {
		return nil, err
	}
	// Before the first process joins: it must not run a single instruction without its limits.
	if err := g.Set(ctx, r); err != nil {
		return nil, errors.Join(err, g.undo(ctx))
	}
	return g, nil
}

// Create makes the group's folders. If one of them cannot be made, the others are removed again.
func (g *Group) Create(ctx context.Context) error {
	if err := g.create(ctx); err != nil {
		return errors.Join(err, g.undo(context.WithoutCancel(ctx)))
	}
	return nil
}

func (g *Group) create(ctx context.Context) error {
	// v2 knows no processes beside child groups that have controllers ("no internal processes"), so whoever is where the
	// new group goes must make room before anything can be switched on.
	if g.leaf != "" {
		if err := evacuate(ctx, g.leaf); err != nil {
			return err
		}
	}
	for i := range g.Dirs {
		if err := g.createDir(ctx, &g.Dirs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) createDir(ctx context.Context, d *Dir) error {
	if d.Version == 2 && len(g.enable) > 0 {
		// Under the lock until the folder is there: another nslab that ends now switches off what nobody uses.
		unlock, err := lock(ctx, g.enable[0].dir)
		if err != nil {
			return err
		}
		defer unlock()
		for _, e := range g.enable {
			if err := e.on(ctx); err != nil {
				return err
			}
		}
	}
	rel, err := filepath.Rel(d.top, d.Path)
	if err != nil {
		return err
	}
	dir := d.top
	elems := strings.Split(rel, "/")
	for i, elem := range elems {
		parent := dir
		dir = filepath.Join(parent, elem)
		last := i == len(elems)-1
		if d.Version == 2 && i > 0 {
			// A controller reaches a group only if every one above hands it down. These folders are ours and new:
			// nothing has to be switched off again.
			for _, c := range d.Controllers {
				if !builtin(c) {
					if err := write(ctx, 0, filepath.Join(parent, subtreeControl), "+"+c); err != nil {
						return err
					}
				}
			}
		}
		// Only the last one must be new: nobody else's group is ever taken over.
		if err := mkdir(ctx, dir); err == nil {
			d.made = append(d.made, dir)
		} else if last || !errors.Is(err, unix.EEXIST) {
			return err
		}
		if d.Version == 1 && slices.Contains(d.Controllers, "cpuset") {
			if err := inheritCpuset(ctx, parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// inheritCpuset fills the two files that a v1 cpuset group starts without: a process cannot join a group that has no CPU
// to run on and no memory node to allocate from (ENOSPC). v2 takes an empty file to mean the parent's. See cpuset(7).
func inheritCpuset(ctx context.Context, parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := readFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if own != "" {
			continue // somebody has chosen for an outer folder already
		}
		value, err := readFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := write(ctx, 0, filepath.Join(dir, file), value); err != nil {
			return err
		}
	}
	return nil
}

// undo removes what Create made and nothing else, newest first, and goes on past errors.
func (g *Group) undo(ctx context.Context) error {
	var errs []error
	for _, d := range slices.Backward(g.Dirs) {
		for _, dir := range slices.Backward(d.made) {
			errs = append(errs, remove(ctx, dir))
		}
	}
	for _, e := range slices.Backward(g.enable) {
		errs = append(errs, e.off(ctx))
	}
	if g.leaf != "" {
		errs = append(errs, returnFromLeaf(ctx, g.leaf))
	}
	return errors.Join(errs...)
}

// Add puts a process with all its threads into the group, in every hierarchy. If it fails half-way the process is in
// some of them: the caller, who made it, ends it.
//
// cgroup.procs takes the whole process. v1 has a second file, tasks, which takes a single thread: a process of several
// threads would be cut in two. What the process used before it joined stays on the account of its old group.
func (g *Group) Add(ctx context.Context, pid int) error {
	for _, d := range g.Dirs {
		if err := write(ctx, 0, filepath.Join(d.Path, procsFile), strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// Enter puts the calling *thread* into the group's v1 folders, for a process that is about to execute another program: the
// caller has locked its goroutine to the thread (runtime.LockOSThread), and calls execve(2) on it, which ends all others.
//
// It is much cheaper than [Group.Add]. To move a whole process, the kernel stops every fork and exit on the machine and
// waits for an RCU grace period, up to ten milliseconds; to move only the thread that asks ("0" means the writer), it
// need not. v1 has the file tasks for this. v2 knows only whole processes, but can let them be born in a group: see
// [Group.Unified] and CLONE_INTO_CGROUP in clone(2). Folders of v2 are left out here.
func (g *Group) Enter(ctx context.Context) error {
	for _, d := range g.Dirs {
		if d.Version == 1 {
			if err := write(ctx, 0, filepath.Join(d.Path, tasksFile), "0"); err != nil {
				return err
			}
		}
	}
	return nil
}

// Doors opens the files through which a thread enters the group's v1 folders by writing "0", as [Group.Enter] does: for one that
// cannot open them by itself.
func (g *Group) Doors(ctx context.Context) (doors []*os.File, err error) {
	for _, d := range g.Dirs {
		if d.Version != 1 {
			continue
		}
		name := filepath.Join(d.Path, tasksFile)
		var f *os.File
		err = trace.Call(ctx, 0,
			func() string { return fmt.Sprintf("open(%q, O_WRONLY|O_CLOEXEC)", name) },
			func() (err error) {
				f, err = os.OpenFile(name, os.O_WRONLY, 0)
				return err
			})
		if err != nil {
			for _, f := range doors {
				err = errors.Join(err, f.Close())
			}
			return nil, &Error{Op: "open", File: name, Err: err}
		}
		doors = append(doors, f)
	}
	return doors, nil
}

// Unified returns the group's folder in the v2 hierarchy, "" where it has none.
func (g *Group) Unified() string {
	for _, d := range g.Dirs {
		if d.Version == 2 {
			return d.Path
		}
	}
	return ""
}

// Pids lists the processes in the group and in the groups below it. A process in several hierarchies is listed once.
func (g *Group) Pids() ([]int, error) {
	var all []int
	for _, d := range g.Dirs {
		pids, err := pidsBelow(d.Path)
		if err != nil {
			return nil, err
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
