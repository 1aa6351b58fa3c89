package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Packer writes files into a tar. It is the other half of [Unpack].
//
// The tree may be changed by others while it is read, by the processes of a container for example. Whoever looks at a name
// twice, once to see that it is a file and once to read it, can be given a link to /etc/shadow the second time
// (CVE-2018-15664). So every name is opened once, without following anything, and with O_PATH, which wakes no device and
// waits for no FIFO. From there on only the descriptor is used: to tell the kind, to read the content, to go down.
//
// Files that vanish while the tree is read are left out; one that shrinks is filled up with zeros, since its size was
// written already. Sockets are left out: no tar has them. Of the kernel's own file systems (proc, sysfs, control groups) there is
// the folder, and nothing in it: those are no files that anybody could keep.
type Packer struct {
	// Owner replaces user and group of all files, if it is not nil.
	Owner *[2]int
	// OneMount leaves out what is mounted in the tree: of a folder it shows only the folder, of a file an empty one.
	OneMount bool
	// Empty says of which files, by their names in the tar, only the name is written. It may be nil.
	Empty func(as string) bool

	w      *tar.Writer
	avoid  *[2]uint64
	mount  uint64
	links  map[[2]uint64]string // device and inode of files with several names → the first of them
	buffer []byte
}

// NewPacker returns a packer that writes to w.
func NewPacker(w io.Writer) *Packer {
	return &Packer{w: tar.NewWriter(w), links: map[[2]uint64]string{}, buffer: make([]byte, 256<<10)}
}

// ErrIntoItself is a folder that is to be copied into itself, which would never end.
var ErrIntoItself = errors.New("cannot copy a directory into itself")

// Avoid names an open folder that the tree must not contain, since what is packed is going there.
func (p *Packer) Avoid(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &Error{Op: "stat", Path: f.Name(), Err: err}
	}
	p.avoid = &[2]uint64{uint64(st.Dev), st.Ino}
	return nil
}

// Close writes the end of the tar.
func (p *Packer) Close() error {
	if err := p.w.Close(); err != nil {
		return fmt.Errorf("04-rootfs: end the tar: %w", err)
	}
	return nil
}

// WriteHeader writes an entry that is no file of the tree.
func (p *Packer) WriteHeader(h *tar.Header) error { return p.w.WriteHeader(h) }

// AddAll writes a file that was opened with O_PATH and, if it is a folder, everything below it, the names of a folder in their
// order. as is how the tar calls it. With an empty one, a folder itself is left out, and what it holds goes to the top.
func (p *Packer) AddAll(ctx context.Context, f *os.File, as string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &Error{Op: "stat", Path: f.Name(), Err: err}
	}
	p.mount = mountID(f)
	return p.all(ctx, f, &st, as, 0)
}

// mountID is the number of the mount that a file was opened through.
func mountID(f *os.File) uint64 {
	var st unix.Statx_t
	if unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st) != nil {
		return 0
	}
	return st.Mnt_id
}

// OpenEntry takes hold of a file in an open folder, whatever kind it is of: links are not followed, devices not woken.
func OpenEntry(ctx context.Context, dir *os.File, name string) (*os.File, error) {
	f, err := openEntry(ctx, dir, name)
	if err != nil {
		return nil, &Error{Op: "open", Path: name, In: dir.Name(), Err: err}
	}
	return f, nil
}

// openEntry takes hold of a file, whatever kind it is of.
func openEntry(ctx context.Context, dir *os.File, name string) (*os.File, error) {
	at, fd := int(dir.Fd()), -1
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("openat(%d, %q, O_PATH|O_NOFOLLOW) = %d", at, name, fd) },
		func() (err error) {
			fd, err = unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			return err
		})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// all writes what f holds, and goes down. f was opened with O_PATH.
func (p *Packer) all(ctx context.Context, f *os.File, st *unix.Stat_t, as string, depth int) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	mounted := p.OneMount && depth > 0 && mountID(f) != p.mount
	if (mounted || p.Empty != nil && p.Empty(as)) && st.Mode&unix.S_IFMT == unix.S_IFREG {
		st.Size = 0
	}
	if as != "" {
		if err := p.add(ctx, f, st, as); err != nil {
			return fmt.Errorf("04-rootfs: pack %q: %w", as, err)
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || mounted || MadeUp(f) {
		return nil
	}
	if limit := TheLimits().Depth; depth > limit {
		return fmt.Errorf("04-rootfs: pack %q: more than %d folders deep: %w", as, limit, unix.ENAMETOOLONG)
	}
	if p.avoid != nil && *p.avoid == [2]uint64{uint64(st.Dev), st.Ino} {
		return fmt.Errorf("04-rootfs: pack %q: %w", as, ErrIntoItself)
	}
	names, err := namesIn(f)
	if err != nil {
		return fmt.Errorf("04-rootfs: pack %q: %w", as, err)
	}
	for _, name := range names {
		if err := p.child(ctx, f, name, joined(as, name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func joined(as, name string) string {
	if as == "" {
		return name
	}
	return as + "/" + name
}

func (p *Packer) child(ctx context.Context, dir *os.File, name, as string, depth int) error {
	f, err := openEntry(trace.Off(ctx), dir, name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
		return nil // it has vanished
	}
	if err != nil {
		return fmt.Errorf("04-rootfs: pack %q: %w", as, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("04-rootfs: pack %q: %w", as, err)
	}
	return p.all(ctx, f, &st, as, depth)
}

// namesIn lists a folder that was opened with O_PATH.
func namesIn(f *os.File) ([]string, error) {
	fd, err := unix.Openat(int(f.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), f.Name())
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, dir.Close())
}

// kernelMagic are the file systems whose files the kernel makes up at the moment somebody reads them.
var kernelMagic = []int64{
	unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
	unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.EFIVARFS_MAGIC, unix.PSTOREFS_MAGIC,
	unix.BINFMTFS_MAGIC, unix.SELINUX_MAGIC, unix.NSFS_MAGIC, mqueueMagic,
}

const mqueueMagic = 0x19800202 // ipc/mqueue.c; no header file has it

// MadeUp tells whether a file lies in one of the kernel's own file systems.
func MadeUp(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && slices.Contains(kernelMagic, int64(st.Type))
}

// Add writes one file that was opened with O_PATH, and its content; of a folder only itself.
func (p *Packer) Add(ctx context.Context, f *os.File, as string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("04-rootfs: pack %q: %w", as, err)
	}
	if err := p.add(ctx, f, &st, as); err != nil {
		return fmt.Errorf("04-rootfs: pack %q: %w", as, err)
	}
	return nil
}

func (p *Packer) add(ctx context.Context, f *os.File, st *unix.Stat_t, as string) error {
	h := &tar.Header{
		Name: as, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Sec, 0),
	}
	if p.Owner != nil {
		h.Uid, h.Gid = p.Owner[0], p.Owner[1]
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(as, "/")+"/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = readLink(f); err != nil {
			return err
		}
	case unix.S_IFREG:
		return p.file(ctx, f, st, h)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	}
	if h.PAXRecords, err = extendedOf(f); err != nil {
		return err
	}
	return p.w.WriteHeader(h)
}

// readLink reads the text of a link that was opened with O_PATH.
func readLink(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (p *Packer) file(ctx context.Context, f *os.File, st *unix.Stat_t, h *tar.Header) (err error) {
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if st.Nlink > 1 {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := p.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.w.WriteHeader(h)
		}
		p.links[key] = h.Name
	}
	if h.PAXRecords, err = extendedOf(f); err != nil {
		return err
	}
	content, err := os.Open(through(int(f.Fd()))) // the same inode, whatever has its name by now
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{p.w}, io.LimitReader(cancelled{ctx, content}, st.Size), p.buffer)
	for err == nil && n < st.Size { // it has become shorter
		clear(p.buffer)
		var m int
		m, err = p.w.Write(p.buffer[:min(int64(len(p.buffer)), st.Size-n)])
		n += int64(m)
	}
	return err
}

// onlyWriter hides the other methods of a writer, so that io.CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// cancelled stops reading when the context ends: a file can be long.
type cancelled struct {
	ctx context.Context
	io.Reader
}

func (c cancelled) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.Reader.Read(b)
}

// extendedOf reads the extended attributes that [Unpack] would set.
func extendedOf(f *os.File) (map[string]string, error) {
	name := through(int(f.Fd()))
	size, err := unix.Listxattr(name, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil, nil
	}
	buf := make([]byte, size+1024) // somebody may add one
	if err == nil {
		size, err = unix.Listxattr(name, buf)
	}
	if err != nil {
		return nil, fmt.Errorf("list its attributes: %w", err)
	}
	var records map[string]string
	for _, key := range strings.Split(string(buf[:size]), "\x00") {
		if !BelongsToContent(key) || strings.Contains(key, "=") { // which ends a key in a tar
			continue
		}
		value := make([]byte, 65536) // the most that an attribute may have, xattr(7)
		n, err := unix.Getxattr(name, key, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", key, err)
		}
		if records == nil {
			records = map[string]string{}
		}
		records[xattrPrefix+key] = string(value[:n])
	}
	return records, nil
}
