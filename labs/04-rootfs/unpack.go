package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Unpacked tells what [Unpack] has made.
type Unpacked struct {
	Files, Folders, Links int
	Bytes                 int64

	// Lost counts what the caller may not make, by kind: "owner", "set-uid", "device", "capability". An ordinary user in
	// a user namespace owns everything himself and makes no devices.
	Lost map[string]int
}

// The most that a tar may hold: a few kilobytes can be compressed zeros for petabytes.
const (
	maxEntries = 2_000_000
	maxBytes   = 64 << 30
)

// Unpack makes the content of a tar in the tree.
//
// A tar is a list of orders, carried out with the rights of whoever unpacks it: "make a link a → /etc", then "write
// a/passwd". So every name is resolved inside the tree (see [Tree]), files are only ever created, never opened: what has
// the name already is removed first, be it a link, a device or a FIFO. Names with ".." are refused: no honest tar of a
// root file system has any.
func Unpack(ctx context.Context, t *Tree, r io.Reader) (Unpacked, error) {
	u := &unpacker{t: t, Unpacked: Unpacked{Lost: map[string]int{}}}
	defer u.close()
	in := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			// Last, deepest first: making a file changes the time of its folder, and a mode may forbid making any.
			return u.Unpacked, u.finish(ctx)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && n >= maxEntries {
			err = fmt.Errorf("more than %d entries: %w", maxEntries, unix.EFBIG)
		}
		if err != nil {
			return u.Unpacked, fmt.Errorf("04-rootfs: unpack: %w", err)
		}
		if err := u.entry(ctx, h, in); err != nil {
			return u.Unpacked, fmt.Errorf("04-rootfs: unpack %q: %w", h.Name, err)
		}
	}
}

type unpacker struct {
	Unpacked
	t       *Tree
	folders []*tar.Header // whose modes and times are set at the end

	parent *os.File // the folder of the entry before: tars list a folder's files one after the other
	name   string   // its name
}

func (u *unpacker) close() {
	if u.parent != nil {
		u.parent.Close()
	}
	u.parent, u.name = nil, ""
}

// in opens the folder that an entry goes to.
func (u *unpacker) in(ctx context.Context, name string) (*os.File, error) {
	dir := path.Dir(name)
	if u.parent != nil && u.name == dir {
		return u.parent, nil
	}
	f, err := u.t.MkdirAll(ctx, dir, 0o755)
	if err != nil {
		return nil, err
	}
	u.close()
	u.parent, u.name = f, dir
	return f, nil
}

// entry makes one entry. There is one record for each: the calls behind it are openat2 of its folder, unlinkat, the one
// that is shown, fchownat, fchmod and utimensat.
func (u *unpacker) entry(ctx context.Context, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // a remark, git writes its commit there
	}
	if slices.Contains(strings.Split(h.Name, "/"), "..") {
		return fmt.Errorf("the name leads upwards: %w", unix.EINVAL)
	}
	name := path.Clean("/" + h.Name)
	if name == "/" {
		return nil // the tree itself is the caller's
	}
	dir, err := u.in(ctx, name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if h.Typeflag == tar.TypeDir {
		u.folders = append(u.folders, h)
		u.Folders++
		return u.makeFolder(ctx, dir, base)
	}
	if err := unix.Unlinkat(int(dir.Fd()), base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(ctx, dir, base, h, content)
	case tar.TypeSymlink:
		u.Links++
		if err := symlinkAt(ctx, h.Linkname, dir, base); err != nil {
			return err
		}
		defer u.close() // the folder that is open may have been reached through a link of this name
		return u.dress(int(dir.Fd()), base, h)
	case tar.TypeLink:
		u.Links++
		return u.hardLink(ctx, dir, base, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.node(ctx, dir, base, h)
	}
	return fmt.Errorf("entry of type %q: %w", h.Typeflag, errors.ErrUnsupported)
}

// makeFolder makes a folder, or keeps one that is there. A link in its place may be on purpose (a layer that knows /bin
// only as a folder, on one where it is a link), so it stays if it leads to a folder inside the tree.
func (u *unpacker) makeFolder(ctx context.Context, dir *os.File, base string) error {
	err := mkdirAt(ctx, dir, base, 0o700) // its own mode comes in the end
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	f, err := u.t.open(trace.Off(ctx), 0, path.Join(u.name, base), unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: inside})
	if err == nil {
		return f.Close()
	}
	if err := unix.Unlinkat(int(dir.Fd()), base, 0); err != nil {
		return err
	}
	return mkdirAt(ctx, dir, base, 0o700)
}

func (u *unpacker) file(ctx context.Context, dir *os.File, base string, h *tar.Header, content io.Reader) (err error) {
	if u.Bytes += h.Size; u.Bytes > maxBytes {
		return fmt.Errorf("more than %d bytes: %w", int64(maxBytes), unix.EFBIG)
	}
	at := int(dir.Fd())
	fd := -1
	err = trace.Call(ctx, 1,
		func() string {
			return fmt.Sprintf("openat(%d, %q, O_WRONLY|O_CREAT|O_EXCL, %#o) = %d, write %d bytes", at, base, h.Mode&0o7777, fd, h.Size)
		},
		func() (err error) {
			fd, err = unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
			return err
		})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path.Join(dir.Name(), base))
	defer func() { err = errors.Join(err, f.Close()) }() // where a disk is full, some file systems say so only now
	u.Files++
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if err := u.dress(at, base, h); err != nil {
		return err
	}
	// After the owner: chown(2) takes the capabilities of a file away, like its set-uid bit.
	if value, ok := h.PAXRecords[xattrPrefix+capabilityXattr]; ok {
		return u.lose("capability", unix.Fsetxattr(fd, capabilityXattr, []byte(value), 0))
	}
	return nil
}

// hardLink gives a file of the tree a second name. The old name is resolved inside too, its last component not followed.
func (u *unpacker) hardLink(ctx context.Context, dir *os.File, base string, h *tar.Header) error {
	old, oldBase, err := u.t.folder(ctx, h.Linkname)
	if err != nil {
		return err
	}
	defer old.Close()
	from, to := int(old.Fd()), int(dir.Fd())
	return trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("linkat(%d, %q, %d, %q, 0)", from, oldBase, to, base) },
		func() error { return unix.Linkat(from, oldBase, to, base, 0) })
}

func (u *unpacker) node(ctx context.Context, dir *os.File, base string, h *tar.Header) error {
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	err := mknodAt(ctx, dir, base, kind|uint32(h.Mode&0o777), uint32(h.Devmajor), uint32(h.Devminor))
	if errors.Is(err, unix.EPERM) {
		return u.lose("device", unix.EPERM)
	}
	if err != nil {
		return err
	}
	return u.dress(int(dir.Fd()), base, h)
}

// dress gives what was just made its owner, mode and time, in this order: a new owner clears the set-uid bit, and
// both are changes. Nothing is followed: the names are below an open folder, and links have no mode.
func (u *unpacker) dress(dir int, base string, h *tar.Header) error {
	owned := true
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if int(st.Uid) != h.Uid || int(st.Gid) != h.Gid {
		err := unix.Fchownat(dir, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW)
		owned = err == nil
		if err := u.lose("owner", err); err != nil {
			return err
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		mode := uint32(h.Mode & 0o7777)
		if !owned && mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
			mode &^= unix.S_ISUID | unix.S_ISGID // they would now hand out the rights of somebody else
			u.Lost["set-uid"]++
		}
		if err := chmodAt(dir, base, mode); err != nil {
			return err
		}
	}
	ts := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// lose counts what the caller has no right to do, and lets other errors through.
func (u *unpacker) lose(what string, err error) error {
	for _, refusal := range []error{unix.EPERM, unix.EINVAL, unix.EOVERFLOW, unix.EOPNOTSUPP} {
		if errors.Is(err, refusal) { // EINVAL: an id that this user namespace does not map
			u.Lost[what]++
			return nil
		}
	}
	return err
}

func (u *unpacker) finish(ctx context.Context) error {
	u.close()
	for _, h := range slices.Backward(u.folders) {
		name := path.Clean("/" + h.Name)
		dir, err := u.in(ctx, name)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Fstatat(int(dir.Fd()), path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR { // else a later entry has taken its place
			err = u.dress(int(dir.Fd()), path.Base(name), h)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("04-rootfs: unpack %q: %w", h.Name, err)
		}
	}
	return nil
}

// mknodAt makes a device or FIFO below an open folder, with exactly this mode.
func mknodAt(ctx context.Context, dir *os.File, name string, mode, major, minor uint32) error {
	fd := int(dir.Fd())
	err := trace.Call(ctx, 1,
		func() string {
			return fmt.Sprintf("mknodat(%d, %q, %s|%#o, makedev(%d, %d))", fd, name, kindName(mode), mode&0o777, major, minor)
		},
		func() error {
			err := unix.Mknodat(fd, name, mode, int(unix.Mkdev(major, minor)))
			if err == nil {
				err = chmodAt(fd, name, mode&0o7777) // mknod takes away what the umask says
			}
			return err
		})
	if err != nil {
		return &Error{Op: "make device", Path: name, In: dir.Name(), Err: err}
	}
	return nil
}

func kindName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return "S_IFCHR"
	case unix.S_IFBLK:
		return "S_IFBLK"
	case unix.S_IFREG:
		return "S_IFREG"
	}
	return "S_IFIFO"
}
