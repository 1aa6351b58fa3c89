package rootfs

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
)

//go:embed rootfs.go change.go tree.go container.go etc.go plan.go search.go elf.go cache.go script.go busybox.go build.go unpack.go fill.go dress.go layer.go pack.go into.go
//go:embed errors.go lab.go lab_build.go lab_change.go lab_image.go actors.go zh.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough. Its steps stand in lab_build.go (what a root consists of), lab_change.go (chroot against
// pivot_root) and lab_image.go (what a container adds, and what an image may hold).
var Lab = course.Lab{
	Number: 4, Slug: "rootfs", Minutes: 30,
	Title: course.Text{En: "Another root for a process", Zh: "给进程换一个根"},
	Needs: []course.Need{
		course.NeedRootOrUserns, course.NeedMountNS, course.NeedPIDNS, course.NeedTmpfs,
		course.NeedUTSNS, course.NeedIPCNS, course.NeedNetNS, // step furnish
	},
	Files: files,
	Steps: []course.Step{
		{ID: "build", Run: build},
		{ID: "missing", Answer: 2, Run: missing},
		{ID: "chroot", Run: changeRoot},
		{ID: "walk-out", Answer: 1, Run: walkOutOfChroot},
		{ID: "pivot", Answer: 3, Run: pivot},
		{ID: "walk-again", Run: walkOutOfPivot},
		{ID: "errno", Run: refusals},
		{ID: "furnish", Run: furnished},
		{ID: "links", Answer: 2, Run: links},
		{ID: "distribution", Answer: 1, Run: distribution},
	},
	Zh: zh,
}

// newBox starts the process under study, in a mount and a PID namespace of its own.
func newBox(ctx context.Context, t *course.T) (*pid.Box, error) {
	return pid.NewBox(ctx, t, pid.Config{Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID})
}

// bench is where a step has room: a tmpfs on /mnt of the walkthrough's own mount namespace, with a folder "root" for the
// new root file system. A mount of its own also keeps the numbers of files apart from the host's.
func bench(t *course.T) (place, root string, err error) {
	place = "/mnt"
	if st, err := os.Lstat(place); err != nil || !st.IsDir() {
		if place, err = t.Dir(); err != nil {
			return "", "", err
		}
	}
	if err := mount.Tmpfs(t.Untraced(), place, mount.TmpfsOptions{Name: "disk", Size: 256 << 20, Mode: 0o755}); err != nil {
		return "", "", err
	}
	t.Cleanup(func(ctx context.Context) error { return mount.Detach(ctx, place) })
	// Not what mount(2) answered, but what is there: everything from here on writes below it.
	if is, err := mount.IsMountPoint(place); err != nil || !is {
		return "", "", fmt.Errorf("a tmpfs was mounted on %s, and is not there: %w", place, errors.Join(unix.ENODEV, err))
	}
	root = filepath.Join(place, "root")
	return place, root, os.Mkdir(root, 0o755)
}

// rootWith is bench with programs of this machine in the new root.
func rootWith(t *course.T, programs ...string) (root string, plan *Plan, err error) {
	if _, root, err = bench(t); err != nil {
		return "", nil, err
	}
	plan, err = buildInto(t.Untraced(), root, programs...)
	return root, plan, err
}

func buildInto(ctx context.Context, root string, programs ...string) (plan *Plan, err error) {
	if plan, err = ThisHost().Plan(ctx, Wanted{Programs: programs}); err != nil {
		return nil, err
	}
	tree, err := OpenTree(ctx, root)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	_, err = Build(ctx, tree, plan)
	return plan, err
}

// program finds where the plan has a program that was asked for by name.
func (p *Plan) program(name string) string {
	for _, e := range p.Entries {
		if e.Why.What == Asked && filepath.Base(e.Path) == name {
			return e.Path
		}
	}
	return "/bin/" + name // an applet
}

// identity names the file that a path leads to, the same for every path that leads there: device and inode.
func identity(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d %d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino), nil
}

// rootOf is the identity of a process's root, and its name where the kernel has one for us.
func rootOf(box *pid.Box) (id, name string, err error) {
	link := fmt.Sprintf("/proc/%d/root", box.Pid())
	if id, err = identity(link); err != nil {
		return "", "", err
	}
	name, err = os.Readlink(link)
	return id, name, err
}

// list names the files in the folder at path as a process sees it.
func list(box *pid.Box, path string) (string, error) { return names(evidence.Inside(box.Pid(), path)) }

func names(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	slices.Sort(all)
	return strings.Join(all, " "), nil
}

// enter lets a box do what a runtime does with a new root, and shows how it was done.
func enter(ctx context.Context, t *course.T, box *pid.Box, root string) error {
	way, err := box.Call(ctx, "04-enter", root)
	if err != nil {
		return err
	}
	if way == "pivot_root" {
		t.See("the root was changed by pivot_root")
	} else {
		t.See("the root was changed by chroot: this machine runs on its initial ramfs, where pivot_root is impossible")
	}
	return nil
}

// onRamfs says, and tells the learner, that this machine has never left its initial ramfs.
func onRamfs(t *course.T) bool {
	if !onInitramfs() {
		return false
	}
	t.See("this machine runs on its initial ramfs, where pivot_root is impossible: nothing to see here")
	return true
}

func str(n int) string { return strconv.Itoa(n) }
