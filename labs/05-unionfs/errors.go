package unionfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
	mount "github.com/nslab/nslab/labs/02-mount"
)

var (
	// ErrNoLayers is a union of nothing.
	ErrNoLayers = errors.New("no folders to unite")

	// ErrUnknownDriver is a name that is none of the three.
	ErrUnknownDriver = errors.New("unknown driver: overlay, aufs or aufs-fuse")

	// ErrBranchName is a folder that aufs's options cannot name.
	ErrBranchName = errors.New("aufs cannot take a name with ':', '=' or ','")

	// ErrReserved is a file whose name means a whiteout in the form that it was to be written in.
	ErrReserved = errors.New("the name is reserved for whiteouts")
)

// InUseError is an upper or work folder that another overlay has.
type InUseError struct {
	Target string // where that one is mounted
}

func (e *InUseError) Error() string {
	return "upper or work folder in use by the overlay on " + e.Target
}

// Is says that it is the kernel's EBUSY, which it answers for the same with "index=on".
func (e *InUseError) Is(target error) bool { return target == unix.EBUSY }

// Error is a union that was not made.
type Error struct {
	Op     string
	Driver Driver
	Layers Layers
	Target string
	Err    error // the errno, or a sentinel of this package
}

// Error reads "05-unionfs: mount overlay on /c: …". Of a refused system call only the answer is repeated: with a hundred
// layers in its arguments nobody would find it.
func (e *Error) Error() string {
	cause := e.Err
	var refused *mount.Error
	if errors.As(cause, &refused) {
		cause = refused.Err
	}
	return fmt.Sprintf("05-unionfs: %s %s on %s: %v", e.Op, e.Driver, e.Target, cause)
}

func (e *Error) Unwrap() error { return e.Err }

// Conditions probes what a union requires of its folders. The kernel has one EINVAL for most of it, and writes the reason
// to its log, where an ordinary user cannot read it.
func (e *Error) Conditions() []diagnosis.Condition {
	if errors.Is(e.Err, ErrNoLayers) || errors.Is(e.Err, ErrUnknownDriver) {
		return nil
	}
	list := e.folders()
	if errors.Is(e.Err, unix.ENODEV) {
		list = append(list, e.known())
	}
	if e.Driver == Overlay {
		list = append(list, e.overlay()...)
	}
	if errors.Is(e.Err, unix.EPERM) || errors.Is(e.Err, unix.ENODEV) {
		list = append(list, diagnosis.Of(e.Err)...)
	}
	return list
}

func (e *Error) known() diagnosis.Condition {
	fstype := string(e.Driver)
	if e.Driver == AufsFUSE {
		fstype = "fuse"
	}
	return diagnosis.Condition{
		What: "the kernel knows the file system", Detail: fstype, OK: listed(fstype),
		Remedy: "load its module (modprobe), or use another driver",
	}
}

// folders: each must be there, and be a folder.
func (e *Error) folders() []diagnosis.Condition {
	c := diagnosis.Condition{
		What: "every folder is there", OK: true, Detail: fmt.Sprint(len(e.all())),
		Remedy: "make it, or leave it out: a union mounts no files, and makes no folders",
	}
	for _, path := range e.all() {
		st, err := os.Stat(path)
		if err == nil && st.IsDir() {
			continue
		}
		c.OK, c.Detail = false, path
		break
	}
	return []diagnosis.Condition{c}
}

func (e *Error) all() []string {
	list := append([]string{}, e.Layers.Lower...)
	for _, path := range []string{e.Layers.Upper, e.Layers.Work, e.Target} {
		if path != "" {
			list = append(list, path)
		}
	}
	return list
}

// overlay: what the kernel's overlay requires besides.
func (e *Error) overlay() []diagnosis.Condition {
	var list []diagnosis.Condition
	if n := len(e.Layers.Lower); n > maxOverlayLayers {
		list = append(list, diagnosis.Condition{
			What: "there are no more than 500 lower folders", Detail: fmt.Sprint(n),
			Remedy: "squash layers: the number is fixed in the kernel",
		})
	}
	if e.Layers.Upper != "" {
		list = append(list, e.workNamed())
		list = append(list, e.sameFileSystem()...)
		list = append(list, e.apart(), e.free())
		list = append(list, e.upperFit()...)
	}
	return append(list, e.depth()...)
}

func (e *Error) workNamed() diagnosis.Condition {
	return diagnosis.Condition{
		What: "a work folder goes with the upper one", Detail: e.Layers.Work, OK: e.Layers.Work != "",
		Remedy: "name an empty folder beside the upper one",
	}
}

// sameFileSystem: overlay prepares a file in work and renames it into upper, and a rename does not cross mounts.
func (e *Error) sameFileSystem() []diagnosis.Condition {
	upper, err1 := mount.IDOf(e.Layers.Upper)
	work, err2 := mount.IDOf(e.Layers.Work)
	if err1 != nil || err2 != nil {
		return nil
	}
	return []diagnosis.Condition{{
		What: "work and upper lie in the same mount", Detail: fmt.Sprintf("%d · %d", work, upper), OK: upper == work,
		Remedy: "put the work folder beside the upper one: files are renamed from one to the other",
	}}
}

// apart: the one must not lie in the other.
func (e *Error) apart() diagnosis.Condition {
	within := func(a, b string) bool {
		rel, err := filepath.Rel(resolved(b), resolved(a))
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	}
	upper, work := e.Layers.Upper, e.Layers.Work
	return diagnosis.Condition{
		What: "neither of work and upper lies in the other", Detail: filepath.Base(work) + " · " + filepath.Base(upper),
		OK:     work != "" && !within(upper, work) && !within(work, upper),
		Remedy: "make two folders beside each other",
	}
}

func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return path
}

func (e *Error) free() diagnosis.Condition {
	user, err := overlayUsing(e.Layers.Upper, e.Layers.Work)
	return diagnosis.Condition{
		What: "no other overlay uses work or upper", Detail: user, OK: err == nil && user == "",
		Remedy: "unmount the other one, or give each container folders of its own",
	}
}

// Whether the upper folder's file system can hold what overlay writes: its type tells about those that never can, a try
// about the others.
func noUpper() map[int64]string {
	return map[int64]string{
		unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.V9FS_MAGIC: "9p", unix.MSDOS_SUPER_MAGIC: "vfat",
	}
}

func (e *Error) upperFit() []diagnosis.Condition {
	var st unix.Statfs_t
	if unix.Statfs(e.Layers.Upper, &st) != nil {
		return nil
	}
	name, never := noUpper()[int64(st.Type)]
	list := []diagnosis.Condition{{
		What: "the file system of the upper folder can hold whiteouts", Detail: name, OK: !never,
		Remedy: "take a folder on a local file system: ext4, xfs, btrfs, tmpfs",
	}, {
		What: "the upper folder can be written", Detail: e.Layers.Upper,
		OK:     st.Flags&unix.ST_RDONLY == 0 && unix.Access(e.Layers.Upper, unix.W_OK) == nil,
		Remedy: "mount its file system writable, or mount the union without an upper folder",
	}}
	return list
}

// depth: an overlay of an overlay of an overlay is refused, since the kernel's stack is small.
func (e *Error) depth() []diagnosis.Condition {
	for _, path := range e.Layers.Lower {
		var st unix.Statfs_t
		if unix.Statfs(path, &st) != nil || int64(st.Type) != unix.OVERLAYFS_SUPER_MAGIC {
			continue
		}
		return []diagnosis.Condition{{
			What: "no lower folder is an overlay of overlays", Detail: path, OK: !e.overlayOfOverlays(path),
			Remedy: "name the folders below it instead: two levels are the most",
		}}
	}
	return nil
}

// overlayOfOverlays looks at the lower folders of the overlay that path lies in, by the names in the mount table.
func (e *Error) overlayOfOverlays(path string) bool {
	id, err := mount.IDOf(path)
	if err != nil {
		return false
	}
	table, err := mount.Current()
	if err != nil {
		return false
	}
	m, _ := table.ByID(id)
	l, err := LayersOf(m.Target)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(l.Lower, func(dir string) bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && int64(st.Type) == unix.OVERLAYFS_SUPER_MAGIC
	})
}
