package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// mount(2) does everything with one call and forty flags, at once visible. Since Linux 5.2 there are small calls that
// each do one thing to a mount held by a *descriptor*: make it (open_tree, fsmount), change it (mount_setattr, 5.12),
// attach it (move_mount). Until it is attached no path leads to it, so nobody can meet it half-finished; and a
// descriptor always means the mount it was opened for, whatever happens to names meanwhile.
//
// Nothing here falls back to mount(2) by itself: what a caller gains by these calls is safety that the old call cannot
// give. [MountAt] says where the old way is as good.

// NewAPI tells whether this kernel has the calls, by trying the youngest of them: nil, or the kernel's answer. ENOSYS is
// an old kernel; EPERM a seccomp filter that does not know them.
func NewAPI(ctx context.Context) error {
	return SetAttrAt(ctx, "/", false, 0, 0) // changes nothing
}

// Clone makes a detached copy of the mount at source, with recursive also of all mounts below it. Close the file without
// [Attach], and the copy is gone.
func Clone(ctx context.Context, source string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	shown := "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC"
	if recursive {
		flags |= unix.AT_RECURSIVE
		shown += "|AT_RECURSIVE"
	}
	fd := -1
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("open_tree(AT_FDCWD, %q, %s) = %d", source, shown, fd) },
		func() (err error) {
			fd, err = unix.OpenTree(unix.AT_FDCWD, source, flags)
			return err
		})
	if err != nil {
		return nil, &Error{Op: "open_tree", Source: source, Err: err}
	}
	return os.NewFile(uintptr(fd), source), nil
}

// SetAttr sets and clears MOUNT_ATTR_* of the mount that a descriptor leads to, with recursive of all mounts below it as
// well: all of them or, if one refuses, none. Attributes that are not named stay, unlike with a remount.
func SetAttr(ctx context.Context, tree *os.File, recursive bool, set, clear uint64) error {
	return setAttr(ctx, 1, tree, "", recursive, unix.MountAttr{Attr_set: set, Attr_clr: clear})
}

// SetAttrAt is [SetAttr] for the mount at a path.
func SetAttrAt(ctx context.Context, path string, recursive bool, set, clear uint64) error {
	return setAttr(ctx, 1, nil, path, recursive, unix.MountAttr{Attr_set: set, Attr_clr: clear})
}

// SetPropagation gives the mount that a descriptor leads to one of MS_SHARED, MS_SLAVE, MS_PRIVATE and MS_UNBINDABLE.
func SetPropagation(ctx context.Context, tree *os.File, kind uintptr) error {
	return setAttr(ctx, 1, tree, "", false, unix.MountAttr{Propagation: uint64(kind & propagation)})
}

// setAttr changes the mount that tree is open for or, if it is nil, the one at path.
func setAttr(ctx context.Context, skip int, tree *os.File, path string, recursive bool, attr unix.MountAttr) error {
	dirfd, flags, shown, name := unix.AT_FDCWD, uint(0), []string{}, path
	if tree != nil {
		dirfd, flags, shown, name = int(tree.Fd()), unix.AT_EMPTY_PATH, append(shown, "AT_EMPTY_PATH"), tree.Name()
	}
	if recursive {
		flags, shown = flags|unix.AT_RECURSIVE, append(shown, "AT_RECURSIVE")
	}
	err := trace.Call(ctx, skip+1,
		func() string {
			return fmt.Sprintf("mount_setattr(%s, %q, %s, %s)", dirName(dirfd), path, orZero(shown), attrText(attr))
		},
		func() error { return unix.MountSetattr(dirfd, path, flags, &attr) })
	if err != nil {
		return &Error{Op: "mount_setattr", Target: name, Data: attrText(attr), Err: err}
	}
	return nil
}

// Attach puts a detached mount on target. The last component of target is not followed if it is a link.
func Attach(ctx context.Context, tree *os.File, target string) error {
	return attach(ctx, tree, nil, target)
}

// AttachAt puts a detached mount on the folder or file that at is open for, which may have been opened with O_PATH.
// Nobody can put another folder under the name meanwhile (CVE-2021-30465): no name is looked up.
func AttachAt(ctx context.Context, tree, at *os.File) error {
	return attach(ctx, tree, at, "")
}

func attach(ctx context.Context, tree, at *os.File, path string) error {
	dirfd, flags, shown, name := unix.AT_FDCWD, unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH", path
	if at != nil {
		dirfd, name = int(at.Fd()), at.Name()
		flags, shown = flags|unix.MOVE_MOUNT_T_EMPTY_PATH, shown+"|MOVE_MOUNT_T_EMPTY_PATH"
	}
	fd := int(tree.Fd())
	err := trace.Call(ctx, 2,
		func() string { return fmt.Sprintf(`move_mount(%d, "", %s, %q, %s)`, fd, dirName(dirfd), path, shown) },
		func() error { return unix.MoveMount(fd, "", dirfd, path, flags) })
	if err != nil {
		return &Error{Op: "move_mount", Source: tree.Name(), Target: name, Err: err}
	}
	return nil
}

// BindTreeReadOnly binds source with all mounts below it on target, every one of them read-only, from the first moment.
//
// The old way cannot: MS_REMOUNT changes one mount, and leaves those below it writable. For years that was true of the
// "read-only" volumes of Docker and Kubernetes (KEP-3857 tells the story). Kernels without mount_setattr(2), older than 5.12, get ENOSYS.
func BindTreeReadOnly(ctx context.Context, source, target string) (err error) {
	tree, err := Clone(ctx, source, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }() // once attached, the mount does not need it

	// Before it is attached: afterwards there would be a moment in which somebody could open a file for writing, and
	// an open file stays writable.
	if err := SetAttr(ctx, tree, true, unix.MOUNT_ATTR_RDONLY, 0); err != nil {
		return err
	}
	return Attach(ctx, tree, target)
}

// NewFS makes a file system and a detached mount of it. options are the file system's own ("size=1m"), attr are
// MOUNT_ATTR_* of the mount. Where the file system refuses, its own words are in the error: mount(2) has only EINVAL.
//
// An option's value may have 255 bytes at most, so an overlay gets its layers one by one, as "lowerdir+" (Linux 6.7).
func NewFS(ctx context.Context, fstype, source string, options []string, attr int) (_ *os.File, err error) {
	fail := func(op string, err error, detail string) (*os.File, error) {
		return nil, &Error{Op: op, Source: source, FSType: fstype, Data: detail, Err: err}
	}
	fd := -1
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("fsopen(%q, FSOPEN_CLOEXEC) = %d", fstype, fd) },
		func() (err error) {
			fd, err = unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
			return err
		})
	if err != nil {
		return fail("fsopen", err, "")
	}
	defer unix.Close(fd) // the mount does not need the context it was made in
	if source != "" {
		options = append([]string{"source=" + source}, options...)
	}
	for _, option := range options {
		if err := configure(ctx, fd, option); err != nil {
			return fail("fsconfig", kernelSays(fd, err), option)
		}
	}
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("fsconfig(%d, FSCONFIG_CMD_CREATE)", fd) },
		func() error { return unix.FsconfigCreate(fd) })
	if err != nil {
		return fail("fsconfig", kernelSays(fd, err), "")
	}
	tree := -1
	err = trace.Call(ctx, 0,
		func() string {
			return fmt.Sprintf("fsmount(%d, FSMOUNT_CLOEXEC, %s) = %d", fd, attrNames(uint64(attr)), tree)
		},
		func() (err error) {
			tree, err = unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
			return err
		})
	if err != nil {
		return fail("fsmount", err, "")
	}
	return os.NewFile(uintptr(tree), source), nil
}

// NewTmpfs is [Tmpfs] without a place: nobody finds it until it is attached, and nobody ever if it is not. Flags that are
// not those of a mount are left out.
func NewTmpfs(ctx context.Context, o TmpfsOptions) (*os.File, error) {
	set, _ := attributes(o.Flags)
	var options []string
	if data := o.data(); data != "" {
		options = strings.Split(data, ",")
	}
	return NewFS(ctx, "tmpfs", o.name(), options, int(set))
}

// configure hands one option to a file system that is being made: "size=1m", or a bare word.
func configure(ctx context.Context, fd int, option string) error {
	key, value, hasValue := strings.Cut(option, "=")
	if !hasValue {
		return trace.Call(ctx, 1,
			func() string { return fmt.Sprintf("fsconfig(%d, FSCONFIG_SET_FLAG, %q)", fd, key) },
			func() error { return unix.FsconfigSetFlag(fd, key) })
	}
	return trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("fsconfig(%d, FSCONFIG_SET_STRING, %q, %q)", fd, key, value) },
		func() error { return unix.FsconfigSetString(fd, key, value) })
}

// kernelSays adds to an errno what the file system has written into its context: one message a read, "e " for an error.
func kernelSays(fd int, err error) error {
	buf := make([]byte, 1024)
	for {
		n, readErr := unix.Read(fd, buf)
		if readErr != nil || n <= 0 {
			return err // ENODATA: there is no message left
		}
		if text, isError := strings.CutPrefix(strings.TrimSpace(string(buf[:n])), "e "); isError {
			return fmt.Errorf("%w (%s)", err, text)
		}
	}
}

// attrText shows the fields of struct mount_attr that are not 0.
func attrText(a unix.MountAttr) string {
	var list []string
	if a.Attr_set != 0 || a.Attr_clr == 0 && a.Propagation == 0 {
		list = append(list, "attr_set="+attrNames(a.Attr_set))
	}
	if a.Attr_clr != 0 {
		list = append(list, "attr_clr="+attrNames(a.Attr_clr))
	}
	if a.Propagation != 0 {
		list = append(list, "propagation="+FlagNames(uintptr(a.Propagation)))
	}
	return "{" + strings.Join(list, ", ") + "}"
}

func dirName(fd int) string {
	if fd == unix.AT_FDCWD {
		return "AT_FDCWD"
	}
	return fmt.Sprint(fd)
}

func orZero(flags []string) string {
	if len(flags) == 0 {
		return "0"
	}
	return strings.Join(flags, "|")
}
