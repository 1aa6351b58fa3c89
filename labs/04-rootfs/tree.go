package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Tree is a root file system that is being prepared, held by a descriptor.
//
// Its content is somebody else's: an image may hold /etc as a link to /etc, which inside means its own folder and outside,
// where the runtime works with the host's rights, means the host's. To join paths as text and look for links first is
// not enough, since a running container can exchange a folder for a link in between (CVE-2018-15664). So all lookups
// are made by the kernel, from the descriptor, with openat2(2) and RESOLVE_IN_ROOT: it follows links as if the tree
// were "/" already, and what it returns is used by descriptor, never by name again.
type Tree struct{ dir *os.File }

// OpenTree opens the folder dir as a tree. The caller vouches for dir itself.
func OpenTree(ctx context.Context, dir string) (*Tree, error) {
	fd, err := openFolder(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &Tree{os.NewFile(uintptr(fd), dir)}, nil
}

// TreeOf makes a tree of an open folder. name is what its errors call it.
func TreeOf(f *os.File, name string) (*Tree, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &Error{Op: "open", Path: name, Err: err}
	}
	return &Tree{os.NewFile(uintptr(fd), name)}, nil
}

// Close gives the descriptor back.
func (t *Tree) Close() error { return t.dir.Close() }

// Path is the name the tree was opened by.
func (t *Tree) Path() string { return t.dir.Name() }

// inside follows links as the tree's own processes would: absolute ones and ".." stay within. No link of /proc is
// followed that leads to an open file of somebody ("magic links"), since those jump anywhere.
const inside = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// plain follows nothing: no link, and no mount. For folders on which something of the host's is about to be mounted or
// made, a link is never honest.
const plain = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS

// Open opens a file of the tree by its path inside.
func (t *Tree) Open(ctx context.Context, name string, flags int, mode uint32) (*os.File, error) {
	return t.open(ctx, 1, name, unix.OpenHow{Flags: uint64(flags), Mode: uint64(mode), Resolve: inside})
}

func (t *Tree) open(ctx context.Context, skip int, name string, how unix.OpenHow) (*os.File, error) {
	how.Flags |= unix.O_CLOEXEC
	relative := strings.TrimLeft(path.Clean("/"+name), "/")
	if relative == "" {
		relative = "."
	}
	at, fd := int(t.dir.Fd()), -1
	err := trace.Call(ctx, skip+1,
		func() string {
			return fmt.Sprintf("openat2(%d, %q, {%s, %s}) = %d", at, relative,
				bitNames(how.Flags, openFlags), bitNames(how.Resolve, resolveFlags), fd)
		},
		func() (err error) {
			// EAGAIN: something was renamed on the way, so the kernel could not be sure that the path stays inside.
			for range 100 {
				if fd, err = unix.Openat2(at, relative, &how); err != unix.EAGAIN && err != unix.EINTR {
					break
				}
			}
			return err
		})
	if err != nil {
		return nil, &Error{Op: "open", Path: "/" + relative, In: t.Path(), Err: err}
	}
	return os.NewFile(uintptr(fd), path.Join(t.Path(), relative)), nil
}

// folder opens the folder that holds name, making missing ones, and returns it with the last component of name.
func (t *Tree) folder(ctx context.Context, name string) (*os.File, string, error) {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil, "", &Error{Op: "make", Path: "/", In: t.Path(), Err: unix.EBUSY}
	}
	dir, base := path.Split(name)
	f, err := t.MkdirAll(ctx, dir, 0o755)
	return f, base, err
}

// MkdirAll opens a folder of the tree, and makes it with all folders above where they are missing.
func (t *Tree) MkdirAll(ctx context.Context, name string, mode uint32) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: inside}
	f, err := t.open(trace.Off(ctx), 1, name, how)
	if !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	parent, base, err := t.folder(ctx, name)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := mkdirAt(ctx, parent, base, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return t.open(trace.Off(ctx), 1, name, how)
}

// spot opens a folder at the top of the tree that is to be mounted on, making it where it is missing. It refuses (ELOOP)
// one that is a link and (EXDEV) one that is a mount already: the image's /proc cannot choose where the mount goes.
func (t *Tree) spot(ctx context.Context, name string, mode uint32) (*os.File, error) {
	if err := mkdirAt(ctx, t.dir, name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	return t.open(ctx, 0, name, unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: plain})
}

// OpenMounted opens a folder at the top of the tree on which something was mounted before, as a tree of its own. It refuses
// one that is a link: what was mounted then lies elsewhere.
func OpenMounted(ctx context.Context, t *Tree, name string) (*Tree, error) {
	const follow = plain &^ unix.RESOLVE_NO_XDEV
	f, err := t.open(ctx, 0, name, unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: follow})
	if err != nil {
		return nil, err
	}
	return &Tree{f}, nil
}

// mkdirAt makes one folder below an open one, with exactly this mode.
func mkdirAt(ctx context.Context, dir *os.File, name string, mode uint32) error {
	fd := int(dir.Fd())
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("mkdirat(%d, %q, %#o)", fd, name, mode) },
		func() error {
			err := unix.Mkdirat(fd, name, mode)
			if err == nil {
				err = chmodAt(fd, name, mode) // mkdir takes away what the umask says
			}
			return err
		})
	if err != nil {
		return &Error{Op: "make folder", Path: name, In: dir.Name(), Err: err}
	}
	return nil
}

// chmodAt sets the mode of what was just made under this name, never through a link. fchmodat(2) would follow one, so the
// descriptor comes first; /proc/self/fd leads from it to the inode where fchmod(2) refuses O_PATH.
func chmodAt(dir int, name string, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// symlinkAt makes a link below an open folder.
func symlinkAt(ctx context.Context, target string, dir *os.File, name string) error {
	fd := int(dir.Fd())
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("symlinkat(%q, %d, %q)", target, fd, name) },
		func() error { return unix.Symlinkat(target, fd, name) })
	if err != nil {
		return &Error{Op: "make link", Path: name, In: dir.Name(), Err: err}
	}
	return nil
}

// bit is a flag and its name in the kernel's header files.
type bit struct {
	value uint64
	name  string
}

// O_CLOEXEC, which all have, is left out.
var openFlags = []bit{
	{unix.O_WRONLY, "O_WRONLY"}, {unix.O_RDWR, "O_RDWR"}, {unix.O_CREAT, "O_CREAT"}, {unix.O_EXCL, "O_EXCL"},
	{unix.O_TRUNC, "O_TRUNC"}, {unix.O_NONBLOCK, "O_NONBLOCK"}, {unix.O_DIRECTORY, "O_DIRECTORY"},
	{unix.O_NOFOLLOW, "O_NOFOLLOW"}, {unix.O_PATH, "O_PATH"},
}

var resolveFlags = []bit{
	{unix.RESOLVE_NO_XDEV, "RESOLVE_NO_XDEV"}, {unix.RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"},
	{unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"}, {unix.RESOLVE_BENEATH, "RESOLVE_BENEATH"},
	{unix.RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"},
}

func bitNames(value uint64, known []bit) string {
	var list []string
	for _, b := range known {
		if value&b.value != 0 {
			list = append(list, b.name)
		}
	}
	if len(list) == 0 {
		return "0"
	}
	return strings.Join(list, "|")
}
