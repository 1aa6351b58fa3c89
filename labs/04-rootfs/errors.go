package rootfs

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
	mount "github.com/nslab/nslab/labs/02-mount"
)

// Error is a call that the kernel refused.
type Error struct {
	Op     string // "pivot_root", "chroot", "open", "make folder" …
	Path   string // what it was about
	PutOld string // pivot_root's second argument
	In     string // the tree or folder that Path is below
	Err    error  // the errno
}

// Error reads "04-rootfs: open /proc in /tmp/root: too many levels of symbolic links".
func (e *Error) Error() string {
	text := "04-rootfs: " + e.Op + " " + e.Path
	if e.PutOld != "" {
		text += " " + e.PutOld
	}
	if e.In != "" {
		text += " in " + e.In
	}
	return text + ": " + e.Err.Error()
}

// Unwrap lets errors.Is find the errno.
func (e *Error) Unwrap() error { return e.Err }

// Conditions probes what the kernel requires for the call, as far as its errno leaves in doubt what it meant. For
// pivot_root the list is that of path_pivot_root in fs/namespace.c, which the manual page has in other words.
func (e *Error) Conditions() []diagnosis.Condition {
	is := func(errno unix.Errno) bool { return errors.Is(e.Err, errno) }
	switch {
	case e.Op == "open" && e.In != "":
		return e.spotConditions()
	case is(unix.ENOENT), is(unix.ENOTDIR):
		return diagnosis.Those(folder("the new root is a folder that exists", e.Path), e.putOldFolder())
	case is(unix.EPERM) && e.Op == "chroot":
		return diagnosis.Those(capable(capability.CAP_SYS_CHROOT, "the process has CAP_SYS_CHROOT"))
	case e.Op != "pivot_root":
		return nil
	case is(unix.EPERM):
		return diagnosis.Those(capable(capability.CAP_SYS_ADMIN, "the process has CAP_SYS_ADMIN"))
	case is(unix.EBUSY):
		return diagnosis.Those(
			otherMount("the new root is on another mount than the present root", e.Path),
			otherMount("put_old is on another mount than the present root", e.PutOld))
	case is(unix.EINVAL):
		all := diagnosis.Those(
			e.newIsMountPoint(), e.parentNotShared(), e.putOldNotShared(), e.putOldBelow(), rootIsMountPoint(), rootHasParent())
		return append(all, diagnosis.Those(e.notInherited(all))...)
	}
	return nil
}

// notInherited: a mount that came into a user namespace with its parent's table is locked to its place. The kernel shows
// that nowhere, so it is what remains where everything else holds.
func (e *Error) notInherited(others []diagnosis.Condition) *diagnosis.Condition {
	var whole struct{ inside, outside, count uint32 }
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return nil
	}
	_, err = fmt.Sscan(string(data), &whole.inside, &whole.outside, &whole.count)
	if err != nil || whole.count == math.MaxUint32 { // the initial user namespace
		return nil
	}
	return &diagnosis.Condition{
		What: "the new root was mounted in this user namespace, not inherited", Detail: e.Path,
		OK:     slices.ContainsFunc(others, func(c diagnosis.Condition) bool { return !c.OK }),
		Remedy: "bind the folder onto itself first: then it is a mount of its own",
	}
}

// spotConditions explains why a folder of an image was not mounted on.
func (e *Error) spotConditions() []diagnosis.Condition {
	name := filepath.Join(e.In, e.Path)
	switch {
	case errors.Is(e.Err, unix.ELOOP):
		c := &diagnosis.Condition{
			What: "the folder is no symbolic link", Detail: name,
			Remedy: "the image is not to be trusted: it wants to choose where the mount goes",
		}
		target, err := os.Readlink(name)
		if c.OK = err != nil; !c.OK {
			c.Detail = e.Path + " → " + target
		}
		return diagnosis.Those(c)
	case errors.Is(e.Err, unix.EXDEV):
		is, err := mount.IsMountPoint(name)
		return []diagnosis.Condition{{
			What: "nothing is mounted on the folder yet", Detail: name, OK: err == nil && !is,
			Remedy: "unmount it, or leave out what the mount is for",
		}}
	}
	return nil
}

func (e *Error) putOldFolder() *diagnosis.Condition {
	if e.PutOld == "" || e.PutOld == e.Path {
		return nil
	}
	return folder("put_old is a folder that exists", e.PutOld)
}

func folder(what, path string) *diagnosis.Condition {
	c := &diagnosis.Condition{What: what, Detail: path, Remedy: "name a folder: a file cannot be a root"}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		c.Detail += ": " + errnoText(err)
	case !st.IsDir():
		c.Detail += ": " + st.Mode().String()
	default:
		c.OK = true
	}
	return c
}

func errnoText(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

func capable(which capability.Cap, what string) *diagnosis.Condition {
	caps, err := capability.NewPid2(0)
	if err == nil {
		err = caps.Load()
	}
	if err != nil {
		return nil
	}
	return &diagnosis.Condition{
		What: what, Detail: fmt.Sprintf("uid %d", os.Geteuid()), OK: caps.Get(capability.EFFECTIVE, which),
		Remedy: "run nslab as root, or give the process a user namespace and a mount namespace together",
	}
}

// otherMount: the kernel exchanges two mounts, and a mount cannot be exchanged with itself.
func otherMount(what, path string) *diagnosis.Condition {
	root, err1 := mount.IDOf("/")
	id, err2 := mount.IDOf(path)
	if err1 != nil || err2 != nil {
		return nil
	}
	return &diagnosis.Condition{
		What: what, Detail: fmt.Sprintf("%s: mount %d, /: mount %d", path, id, root), OK: id != root,
		Remedy: "bind the folder onto itself first: then it is a mount of its own",
	}
}

func (e *Error) newIsMountPoint() *diagnosis.Condition {
	is, err := mount.IsMountPoint(e.Path)
	if err != nil {
		return nil
	}
	return &diagnosis.Condition{
		What: "the new root is a mount point", Detail: e.Path, OK: is,
		Remedy: "bind the folder onto itself first: then it is a mount of its own",
	}
}

// mountOf finds the mount that path lies on and, if it can be seen from here, the one that it is mounted on.
func mountOf(path string) (m, parent mount.Entry, found bool) {
	id, err := mount.IDOf(path)
	if err != nil {
		return m, parent, false
	}
	table, err := mount.Current()
	if err != nil {
		return m, parent, false
	}
	m, found = table.ByID(id)
	if p, ok := table.ByID(m.Parent); ok && p.ID != m.ID {
		parent = p
	}
	return m, parent, found
}

func (e *Error) parentNotShared() *diagnosis.Condition {
	_, parent, ok := mountOf(e.Path)
	if !ok || parent.ID == 0 {
		return nil
	}
	return &diagnosis.Condition{
		What: "the mount around the new root is not shared", Detail: parent.Target + ": " + parent.Propagation(),
		OK: parent.Shared == 0, Remedy: "make all mounts private first: mount --make-rprivate /",
	}
}

func (e *Error) putOldNotShared() *diagnosis.Condition {
	m, _, ok := mountOf(e.PutOld)
	if !ok {
		return nil
	}
	return &diagnosis.Condition{
		What: "the mount that put_old lies on is not shared", Detail: m.Target + ": " + m.Propagation(), OK: m.Shared == 0,
		Remedy: "make all mounts private first: mount --make-rprivate /",
	}
}

func (e *Error) putOldBelow() *diagnosis.Condition {
	newRoot, err1 := filepath.EvalSymlinks(e.Path)
	putOld, err2 := filepath.EvalSymlinks(e.PutOld)
	if err1 != nil || err2 != nil {
		return nil
	}
	return &diagnosis.Condition{
		What: "put_old lies at or below the new root", Detail: e.PutOld,
		OK:     putOld == newRoot || strings.HasPrefix(putOld, strings.TrimSuffix(newRoot, "/")+"/"),
		Remedy: "name the new root twice: the old root is then stacked on it",
	}
}

// rootIsMountPoint: after a chroot to a plain folder, the present root is none.
func rootIsMountPoint() *diagnosis.Condition {
	is, err := mount.IsMountPoint("/")
	if err != nil {
		return nil
	}
	return &diagnosis.Condition{
		What: "the present root is a mount point", Detail: "/", OK: is, Remedy: "do it before any chroot, not after",
	}
}

func rootHasParent() *diagnosis.Condition {
	root, _, ok := mountOf("/")
	if !ok {
		return nil
	}
	return &diagnosis.Condition{
		What: "the present root is not the initial ramfs", Detail: fmt.Sprintf("%s, mount %d on %d", root.FSType, root.ID, root.Parent),
		OK:     root.ID != root.Parent,
		Remedy: "there is nothing to exchange it with: move the new root onto / and chroot, as rootfs.Enter does",
	}
}
