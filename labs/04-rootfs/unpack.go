package rootfs

import (
	"archive/tar"
	"bytes"
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

	// Lost counts what the caller may not make, by kind: "owner", "set-uid", "device", "capability", "attribute". An
	// ordinary user in a user namespace owns everything himself and makes no devices.
	Lost map[string]int

	Marks  int  // whiteouts and opaque folders of a layer
	Opaque bool // the layer hides everything below it

	// Ended says that the tar had its end mark, a block of zeros. Most programs write one, and none asks for it: without,
	// a tar that was cut off between two files looks whole.
	Ended bool
}

// Limits are the most that a tar may hold: a few kilobytes can be compressed orders for petabytes. What is 0 is not
// limited.
type Limits struct {
	Entries int
	Bytes   int64 // of all files, holes counted as if they were filled
	Devices int
	Depth   int   // folders within folders: whoever removes the tree must hold them all open
	Memory  int64 // of names and attributes that are kept until the end
}

// TheLimits are those that [Unpack] has. No honest root file system comes near them.
func TheLimits() Limits {
	return Limits{Entries: 2_000_000, Bytes: 64 << 30, Devices: 4096, Depth: 1024, Memory: 256 << 20}
}

// Unpack makes the content of a tar in the tree.
//
// A tar is a list of orders, carried out with the rights of whoever unpacks it: "make a link a → /etc", then "write
// a/passwd". So every name is resolved inside the tree (see [Tree]), files are only ever created, never opened: what has
// the name already is removed first, be it a link, a device or a FIFO. Names with ".." are refused: no honest tar of a
// root file system has any.
//
// Names are made by the caller's thread, one after the other, since each may depend on the one before. What goes into the
// files is written meanwhile by others, which have nothing but the open file: half of the time is spent there.
func Unpack(ctx context.Context, t *Tree, r io.Reader) (Unpacked, error) {
	return unpack(ctx, &unpacker{t: t, limits: TheLimits()}, r)
}

func unpack(ctx context.Context, u *unpacker, r io.Reader) (Unpacked, error) {
	u.Lost, u.fill = map[string]int{}, newFiller()
	defer u.close()
	err := u.all(ctx, r)
	// Also after an error: whoever removes the tree must not do it under a file that is being written.
	lost, fillErr := u.fill.wait()
	for what, n := range lost {
		u.Lost[what] += n
	}
	if err == nil {
		err = fillErr
	}
	if err == nil && u.layer != nil {
		err = u.tidy(ctx)
	}
	if err == nil {
		// Last, deepest first: making a file changes the time of its folder, and a mode may forbid making any.
		err = u.finish(ctx)
	}
	return u.Unpacked, err
}

type unpacker struct {
	Unpacked
	t       *Tree
	layer   *layer // nil: names that begin with .wh. are names like others
	rules   Rules
	limits  Limits
	entries int
	devices int
	fill    *filler
	folders []folderEntry // whose modes and times are set at the end
	held    int64         // bytes of memory in folders, and in the layer's whiteouts

	parent *os.File // the folder of the entry before: tars list a folder's files one after the other
	name   string   // its name
}

// folderEntry is a folder whose entry has been read.
type folderEntry struct {
	name string
	attributes
}

func (u *unpacker) close() {
	if u.parent != nil {
		u.parent.Close()
	}
	u.parent, u.name = nil, ""
}

func (u *unpacker) all(ctx context.Context, r io.Reader) error {
	end := &zeroCounter{Reader: r}
	in := tar.NewReader(end)
	for {
		if _, err := io.Copy(io.Discard, in); err != nil { // what nobody wanted to read
			return fmt.Errorf("04-rootfs: unpack: %w", err)
		}
		end.zeros = 0 // now comes less than a block, which fills up the last one, and then a block
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			u.Ended = end.zeros >= tarBlock
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = u.fill.err() // a full disk is not to be met again with each file that follows
		}
		if u.entries++; err == nil && u.limits.Entries > 0 && u.entries > u.limits.Entries {
			err = fmt.Errorf("more than %d entries: %w", u.limits.Entries, unix.EFBIG)
		}
		if err != nil {
			return fmt.Errorf("04-rootfs: unpack: %w", err)
		}
		if err := u.entry(ctx, h, in); err != nil {
			return fmt.Errorf("04-rootfs: unpack %q: %w", h.Name, err)
		}
	}
}

const tarBlock = 512

// zeroCounter counts the zeros at the end of what was read.
type zeroCounter struct {
	io.Reader
	zeros int
}

func (z *zeroCounter) Read(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	rest := bytes.TrimRight(p[:n], "\x00")
	if len(rest) > 0 {
		z.zeros = 0
	}
	z.zeros += n - len(rest)
	return n, err
}

// entry makes one entry. There is one record for each: the calls behind it are openat2 of its folder, the one that is
// shown, and those of [attributes.dress].
func (u *unpacker) entry(ctx context.Context, h *tar.Header, content *tar.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // a remark, git writes its commit there
	}
	if u.rules.Change != nil {
		if err := u.rules.Change(h); err != nil {
			return err
		}
	}
	name, err := u.check(h)
	if err != nil {
		return err
	}
	a, err := attributesOf(h)
	if err != nil {
		return err
	}
	if u.rules.NoRights && h.Typeflag != tar.TypeDir {
		a.withoutRights(u.Lost)
	}
	if name == "/" {
		if u.layer != nil && h.Typeflag == tar.TypeDir {
			return u.later(name, a)
		}
		return nil // the tree itself is the caller's
	}
	if u.layer != nil {
		if done, err := u.mark(ctx, name, h); done || err != nil {
			return err
		}
	}
	dir, err := u.in(ctx, name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	hidden, err := u.reveal(ctx, dir, name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		u.Folders++
		if err := u.makeFolder(ctx, dir, base, hidden); err != nil {
			return err
		}
		return u.later(name, a)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(ctx, dir, base, h, a, content)
	case tar.TypeSymlink:
		return u.symlink(ctx, dir, base, h.Linkname, a)
	case tar.TypeLink:
		return u.hardLink(ctx, dir, base, h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.node(ctx, dir, base, h, a)
	}
	return fmt.Errorf("entry of type %q: %w", h.Typeflag, errors.ErrUnsupported)
}

// check looks at an entry's name alone, and returns it as it is in the tree.
func (u *unpacker) check(h *tar.Header) (string, error) {
	if leadsUp(h.Name) {
		return "", fmt.Errorf("the name leads upwards: %w", unix.EINVAL)
	}
	if u.layer != nil {
		if err := checkLayerName(h); err != nil {
			return "", err
		}
	}
	name := path.Clean("/" + h.Name)
	if u.limits.Depth > 0 && strings.Count(name, "/") > u.limits.Depth {
		return "", fmt.Errorf("more than %d folders deep: %w", u.limits.Depth, unix.ENAMETOOLONG)
	}
	return name, nil
}

func leadsUp(name string) bool {
	return strings.Contains(name, "..") && slices.Contains(strings.Split(name, "/"), "..")
}

// later keeps what a folder is to look like until everything in it is made.
func (u *unpacker) later(name string, a attributes) error {
	u.folders = append(u.folders, folderEntry{name, a})
	return u.hold(len(name) + a.size())
}

func (u *unpacker) hold(bytes int) error {
	const overhead = 128
	if u.held += int64(bytes) + overhead; u.limits.Memory > 0 && u.held > u.limits.Memory {
		return fmt.Errorf("more than %d bytes of names: %w", u.limits.Memory, unix.EFBIG)
	}
	return nil
}

// in opens the folder that an entry goes to.
func (u *unpacker) in(ctx context.Context, name string) (*os.File, error) {
	dir := path.Dir(name)
	if u.parent != nil && u.name == dir {
		return u.parent, nil
	}
	f, err := u.t.open(trace.Off(ctx), 0, dir, unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: inside | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil { // it is missing, or there is a link on the way
		if f, err = u.t.MkdirAll(ctx, dir, 0o755); err != nil {
			return nil, err
		}
		if err := u.notTooDeep(f); err != nil {
			f.Close()
			return nil, err
		}
	}
	u.close()
	u.parent, u.name = f, dir
	return f, nil
}

// notTooDeep looks at where a folder really is: by way of links that each lead to the deepest folder so far, names of any
// depth are made with short ones.
func (u *unpacker) notTooDeep(f *os.File) error {
	where, err := os.Readlink(through(int(f.Fd())))
	root, rootErr := os.Readlink(through(int(u.t.dir.Fd())))
	if err = errors.Join(err, rootErr); err != nil {
		return err
	}
	if depth := strings.Count(where, "/") - strings.Count(root, "/"); u.limits.Depth > 0 && depth > u.limits.Depth {
		return fmt.Errorf("more than %d folders deep: %w", u.limits.Depth, unix.ENAMETOOLONG)
	}
	return nil
}

// through is the name by which an open file can be given to a call that takes names.
func through(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// makeFolder makes a folder, or keeps one that is there. A link in its place may be on purpose (a layer that knows /bin
// only as a folder, on one where it is a link), so it stays if it leads to a folder inside the tree.
func (u *unpacker) makeFolder(ctx context.Context, dir *os.File, base string, hidden bool) error {
	make := func() error { return plainMkdirAt(ctx, dir, base) }
	err := make()
	if errors.Is(err, unix.EEXIST) {
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: inside}
		if u.rules.KeepKinds {
			how.Flags |= unix.O_NOFOLLOW
		}
		f, openErr := u.t.open(trace.Off(ctx), 0, path.Join(u.name, base), how)
		if openErr == nil {
			return f.Close()
		}
		if u.rules.KeepKinds {
			return ErrFileInPlace
		}
		err = u.create(int(dir.Fd()), base, make)
	}
	if err != nil || !hidden {
		return err
	}
	return u.markOpaque(ctx, path.Join(u.name, base)) // a folder in the place of a whiteout: nothing below it is to show through
}

// plainMkdirAt makes a folder whose own mode comes in the end.
func plainMkdirAt(ctx context.Context, dir *os.File, name string) error {
	const mode = 0o700
	fd := int(dir.Fd())
	return trace.Call(ctx, 1, func() string { return fmt.Sprintf("mkdirat(%d, %q, %#o)", fd, name, mode) },
		func() error { return unix.Mkdirat(fd, name, mode) })
}

func (u *unpacker) symlink(ctx context.Context, dir *os.File, base, target string, a attributes) error {
	u.Links++
	at := int(dir.Fd())
	if err := u.create(at, base, func() error { return symlinkAt(ctx, target, dir, base) }); err != nil {
		return err
	}
	defer u.close() // the folder that is open may have been reached through a link of this name
	return a.dressAt(at, base, u.Lost)
}

// hardLink gives a file of the tree a second name. The old name is resolved inside too, its last component not followed.
func (u *unpacker) hardLink(ctx context.Context, dir *os.File, base, target string) error {
	u.Links++
	target = path.Clean("/" + target)
	old, err := u.t.open(trace.Off(ctx), 0, path.Dir(target), unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: inside})
	if err != nil {
		return err
	}
	defer old.Close()
	oldBase, from, to := path.Base(target), int(old.Fd()), int(dir.Fd())
	var st, now unix.Stat_t
	if err := unix.Fstatat(from, oldBase, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("its other name %s: %w", target, err)
	}
	if u.layer != nil && isWhiteout(&st) {
		return fmt.Errorf("its other name %s is a whiteout: %w", target, unix.EINVAL)
	}
	if unix.Fstatat(to, base, &now, unix.AT_SYMLINK_NOFOLLOW) == nil && now.Dev == st.Dev && now.Ino == st.Ino {
		return nil // it has the name already
	}
	return u.create(to, base, func() error {
		return trace.Call(ctx, 2,
			func() string { return fmt.Sprintf("linkat(%d, %q, %d, %q, 0)", from, oldBase, to, base) },
			func() error { return unix.Linkat(from, oldBase, to, base, 0) })
	})
}

func (u *unpacker) node(ctx context.Context, dir *os.File, base string, h *tar.Header, a attributes) error {
	if h.Typeflag != tar.TypeFifo && u.rules.NoDevices {
		u.Lost["device"]++
		return nil
	}
	kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	if kind != unix.S_IFIFO {
		// The kernel has 12 bits for the major and 20 for the minor number; what is longer would become another device.
		if h.Devmajor < 0 || h.Devmajor > 0xfff || h.Devminor < 0 || h.Devminor > 0xfffff {
			return fmt.Errorf("device %d:%d: %w", h.Devmajor, h.Devminor, unix.EINVAL)
		}
		if u.layer != nil && kind == unix.S_IFCHR && h.Devmajor == 0 && h.Devminor == 0 {
			return fmt.Errorf("device 0:0 is how a whiteout looks on disk: %w", unix.EINVAL)
		}
		if u.devices++; u.limits.Devices > 0 && u.devices > u.limits.Devices {
			return fmt.Errorf("more than %d devices: %w", u.limits.Devices, unix.EFBIG)
		}
	}
	at := int(dir.Fd())
	err := u.create(at, base, func() error {
		return mknodAt(ctx, dir, base, kind|a.mode&0o777, uint32(h.Devmajor), uint32(h.Devminor))
	})
	if errors.Is(err, unix.EPERM) {
		u.Lost["device"]++
		return nil
	}
	if err != nil {
		return err
	}
	return a.dressAt(at, base, u.Lost)
}

// finish gives the folders what their entries said. A later entry may have put something else in a folder's place: that
// keeps its own.
func (u *unpacker) finish(ctx context.Context) error {
	u.close()
	for _, f := range slices.Backward(u.folders) {
		dir, err := u.t.open(trace.Off(ctx), 0, f.name, unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW, Resolve: inside,
		})
		if err == nil {
			err = errors.Join(f.dress(int(dir.Fd()), true, u.Lost), dir.Close())
		}
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			return fmt.Errorf("04-rootfs: unpack %q: %w", strings.TrimPrefix(f.name, "/"), err)
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
