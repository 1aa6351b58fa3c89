// Package volumes puts folders and files of the host into a container.
//
// The idea: a container's own files die with it. What is to last lies on the host, and a bind mount shows it inside: the
// same inode under a second path, nothing is copied. Everything is in the moment. Before the mount namespace exists, the
// mount would be one of the host's. After the root is switched, the container's own root is all there is, and no path leads
// to the host's folder any more. In between both are in sight, and only the container's mount table changes.
//
// The interface: [Bind] puts a source on a path inside a root that is being prepared. The path belongs to the image, so the
// kernel resolves it inside that root, whatever links are on the way, and what it finds is mounted on by descriptor.
// [ParseVolume] and [ParseMount] read what users write, in Docker's words. [Store] keeps volumes: folders with a name, or
// with a number where nobody gave one, in volumes/<name>/_data. [Volume.Populate] gives a new one the files that the image
// has in that place, as Docker does.
//
// The limits: a bind mount brings no rights. Inside, the files have the owners that they have on the host, as numbers. A
// file that is bound is bound by its inode: an editor that writes a new file and renames it over the old one (most do)
// leaves the container with the old one. Populate works on volumes that are empty, and only then.
//
// See mount(2), openat2(2), mount_setattr(2), and "docker run" in Docker's reference.
package volumes

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// Types of mounts, in Docker's words.
const (
	TypeBind   = "bind"   // a path of the host
	TypeVolume = "volume" // a folder of a [Store]
	TypeTmpfs  = "tmpfs"  // memory
)

// Mount is what a user wants to have inside. [ParseVolume] and [ParseMount] make it.
type Mount struct {
	Type   string
	Source string // of a bind an absolute path of the host; of a volume its name, empty for one without
	Target string // absolute, inside

	ReadOnly bool
	// A bind brings the mounts that are below its source. Read-only means all of them, but for TopOnly.
	TopOnly      bool
	NonRecursive bool   // leave the mounts below the source behind
	Propagation  string // private, rprivate, slave …; empty means rprivate
	Make         bool   // make the source, a folder, where it is missing: -v does, --mount does not

	NoCopy bool              // do not give a new volume the image's files
	Driver string            // of a volume; only "local" is known
	Labels map[string]string // for the volume, if it has to be made

	Size int64  // of a tmpfs, in bytes
	Mode uint32 // of a tmpfs: 0o1777 if it is 0
}

// Spec is the mount in the words of the OCI runtime-spec. source is where it really is: of a volume its _data folder.
func (m Mount) Spec(source string) specs.Mount {
	if m.Type == TypeTmpfs {
		return specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: m.Target, Options: m.tmpfsOptions()}
	}
	return specs.Mount{Type: "bind", Source: source, Destination: m.Target, Options: m.bindOptions()}
}

func (m Mount) bindOptions() []string {
	options := []string{"rbind"}
	if m.NonRecursive {
		options[0] = "bind"
	}
	switch {
	case m.ReadOnly && (m.TopOnly || m.NonRecursive):
		options = append(options, "ro")
	case m.ReadOnly:
		// "ro" is one mount, "rro" is that one and all below. With "ro" alone, whoever mounts something below the source has
		// made a hole in the container's read-only view.
		options = append(options, "rro")
	}
	if m.Propagation != "" {
		return append(options, m.Propagation)
	}
	return append(options, "rprivate")
}

// Bind mounts what m asks for inside a root that is being prepared; m.Source is its path on the host. It acts on the mount
// namespace of the calling thread, which must be the container's own already, and comes before the root is switched:
// afterwards no path leads to the source. What is missing at the target is made: a folder for a folder, a file for a file.
//
// The source is opened first and looked at through the descriptor, the target likewise, and the mount goes from the one to
// the other. No name is looked up twice, so nobody can exchange what was looked at for something else.
func Bind(ctx context.Context, root *rootfs.Tree, m Mount) (err error) {
	if m.Type == TypeBind && m.Make {
		if err := makeSource(m.Source); err != nil {
			return err
		}
	}
	return Attach(ctx, root, m.Spec(m.Source), nil)
}

// Attach is [Bind] for a mount in the words of the runtime-spec: a bind, or a file system of any type that goes on a folder.
// check, if it is not nil, may refuse the place that was found, before anything is mounted on it.
func Attach(ctx context.Context, root *rootfs.Tree, m specs.Mount, check func(at *os.File, target string) error) (err error) {
	kind := uint32(unix.S_IFDIR)
	if isBind(m) {
		var source *os.File
		if source, kind, err = openSource(ctx, m.Source); err != nil {
			return err
		}
		defer source.Close()
		m.Source = mount.Through(source)
	}
	at, err := spot(ctx, root, m.Destination, kind)
	if err != nil {
		return err
	}
	defer at.Close()
	if check != nil {
		if err := check(at, m.Destination); err != nil {
			return err
		}
	}
	return mount.MountAt(ctx, at, m)
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// makeSource makes the folder on the host that -v names, where it is missing.
func makeSource(source string) error {
	if _, err := os.Lstat(source); !errors.Is(err, os.ErrNotExist) {
		return nil // what is wrong with it, opening it will tell
	}
	if err := os.MkdirAll(source, 0o755); err != nil {
		return &Error{Op: "make the source", Path: source, Err: unwrapPath(err)}
	}
	return nil
}

// openSource opens what is to be bound, and says what kind of file it is. Links on the way are the host's own: they are
// followed.
func openSource(ctx context.Context, path string) (*os.File, uint32, error) {
	fd, err := openPath(ctx, path)
	if err != nil {
		return nil, 0, &Error{Op: "open the source", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, errors.Join(&Error{Op: "stat the source", Path: path, Err: err}, f.Close())
	}
	return f, st.Mode & unix.S_IFMT, nil
}

// spot opens the place inside that is to be mounted on, and makes it where it is missing. A file of the wrong kind is
// refused here, with its name: mount(2) would only say ENOTDIR.
func spot(ctx context.Context, root *rootfs.Tree, target string, kind uint32) (*os.File, error) {
	clean := path.Clean("/" + target)
	if clean == "/" {
		return nil, &Error{Op: "mount on", Path: target, Err: ErrRoot}
	}
	at, err := root.Open(ctx, clean, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) {
		if err := makeSpot(ctx, root, clean, kind); err != nil {
			return nil, err
		}
		at, err = root.Open(ctx, clean, unix.O_PATH, 0)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(at.Fd()), &st); err != nil {
		return nil, errors.Join(&Error{Op: "stat", Path: target, Err: err}, at.Close())
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case kind == unix.S_IFDIR && !isDir:
		return nil, errors.Join(&Error{Op: "mount a folder on", Path: target, Err: ErrFile}, at.Close())
	case kind != unix.S_IFDIR && isDir:
		return nil, errors.Join(&Error{Op: "mount a file on", Path: target, Err: ErrFolder}, at.Close())
	}
	return at, nil
}

// makeSpot makes an empty folder, or an empty file, inside the root. It stays when the mount is gone: it is all of a volume
// that a container's read-write layer has.
func makeSpot(ctx context.Context, root *rootfs.Tree, target string, kind uint32) error {
	if kind == unix.S_IFDIR {
		dir, err := root.MkdirAll(ctx, target, 0o755)
		if err != nil {
			return err
		}
		return dir.Close()
	}
	dir, err := root.MkdirAll(ctx, path.Dir(target), 0o755)
	if err != nil {
		return err
	}
	// O_EXCL follows no link: one that leads nowhere is not made into a file somewhere else.
	fd, err := unix.Openat(int(dir.Fd()), path.Base(target), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err == nil {
		err = unix.Close(fd)
	}
	if err := errors.Join(err, dir.Close()); err != nil {
		return &Error{Op: "make the file", Path: target, Err: err}
	}
	return nil
}

// absolute says whether a path begins at the root and does not leave it.
func absolute(p string) bool { return strings.HasPrefix(p, "/") }
