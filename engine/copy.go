package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// A copy is a tar that is written on one side and unpacked on the other, as in Docker. Both sides hold what they work on by
// descriptors: a container that exchanges a folder for a link while it is being read, or written to, changes what is copied, but
// never where from or where to (CVE-2018-15664). Nothing of the container is executed or loaded, and users are numbers, not names
// that a library would look up with the container's files (CVE-2019-14271).

// CopyOptions is how `cp` copies.
type CopyOptions struct {
	// Archive keeps owners, set-user-ID bits and capabilities of what is copied out. Otherwise it belongs to whoever copies it,
	// and lends his rights to nobody.
	Archive    bool
	FollowLink bool         // copy what a link as the source leads to
	Warn       func(string) // what was left out
}

// Why a copy cannot be made, in Docker's words.
var (
	ErrCopyDir        = errors.New("cannot copy directory")
	ErrNoSuchDir      = errors.New("no such directory")
	ErrNotDir         = errors.New("not a directory")
	ErrRootReadOnly   = errors.New("container rootfs is marked read-only")
	ErrVolumeReadOnly = errors.New("mounted volume is marked read-only")
	ErrKernelFile     = errors.New("it is in a file system of the kernel's own, which keeps no files")
)

// MissingFileError is a path that leads to nothing in a container.
type MissingFileError struct{ Path, Container string }

func (e *MissingFileError) Error() string {
	return fmt.Sprintf("could not find the file %s in container %s", e.Path, e.Container)
}

// CopyError is a copy that does not fit what is there.
type CopyError struct {
	Source, Dest string // as the user wrote them
	Err          error
	Hint         string
}

func (e *CopyError) Error() string {
	return fmt.Sprintf("copy %s to %s: %v", e.Source, e.Dest, e.Err)
}

func (e *CopyError) Unwrap() error { return e.Err }

// CopyTo copies a file or folder of the host into a container, and returns how many bytes went through.
func (e *Engine) CopyTo(ctx context.Context, source, ref, dest string, o CopyOptions) (n int64, err error) {
	from, err := openHost(ctx, source, o.FollowLink)
	if err != nil {
		return 0, err
	}
	defer from.close()
	err = e.withRoot(ctx, ref, seenRoot, func(c *Container, tree *rootfs.Tree) error {
		to, as, err := c.copyDest(ctx, tree, ref, dest, from)
		if err != nil {
			return asCopyError(err, source, ref+":"+dest)
		}
		defer to.Close()
		if err := c.writable(ctx, tree, to); err != nil {
			return asCopyError(err, source, ref+":"+dest)
		}
		n, err = o.copy(ctx, from.file, as, nil, to, rootfs.Rules{KeepKinds: true})
		return err
	})
	return n, err
}

// asCopyError adds what was to be copied, but for errors that say it.
func asCopyError(err error, source, dest string) error {
	var missing *MissingFileError
	var whole *CopyError
	if errors.As(err, &missing) || errors.As(err, &whole) {
		return err
	}
	return &CopyError{Source: source, Dest: dest, Err: err}
}

// CopyFrom copies a file or folder of a container to the host, and returns how many bytes went through.
func (e *Engine) CopyFrom(ctx context.Context, ref, source, dest string, o CopyOptions) (n int64, err error) {
	if err := checkOutput(dest); err != nil {
		return 0, err
	}
	err = e.withRoot(ctx, ref, seenRoot, func(c *Container, tree *rootfs.Tree) error {
		from, err := copySource(ctx, tree, ref, source, o.FollowLink)
		if err != nil {
			return err
		}
		defer from.close()
		to, as, err := hostDest(ctx, dest, from)
		if err != nil {
			return asCopyError(err, ref+":"+source, dest)
		}
		defer to.Close()
		rules := rootfs.Rules{KeepKinds: true, NoDevices: true, NoRights: !o.Archive}
		owner := &[2]int{os.Geteuid(), os.Getegid()}
		if o.Archive && os.Geteuid() == 0 {
			owner = nil
		}
		n, err = o.copy(ctx, from.file, as, owner, to, rules)
		return err
	})
	return n, err
}

// CopyTarTo unpacks a tar, packed or not, into a folder of a container.
func (e *Engine) CopyTarTo(ctx context.Context, r io.Reader, ref, dest string, o CopyOptions) error {
	return e.withRoot(ctx, ref, seenRoot, func(c *Container, tree *rootfs.Tree) error {
		notDir := &CopyError{Source: "-", Dest: ref + ":" + dest, Err: errors.New("destination must be a directory")}
		to, err := find(ctx, tree, cleanPath("/", dest))
		if err == nil {
			to, err = follow(ctx, to)
		}
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return notDir
		}
		if err != nil {
			return err
		}
		defer to.close()
		if !to.isDir() {
			return notDir
		}
		if err := c.writable(ctx, tree, to.file); err != nil {
			return asCopyError(err, "-", ref+":"+dest)
		}
		in, err := unpacked(r)
		if errors.Is(err, io.EOF) {
			return nil // nothing at all
		}
		if err != nil {
			return err
		}
		return o.unpack(ctx, to.file, in, rootfs.Rules{KeepKinds: true})
	})
}

// CopyTarFrom writes a file or folder of a container as a tar.
func (e *Engine) CopyTarFrom(ctx context.Context, ref, source string, w io.Writer, o CopyOptions) error {
	return e.withRoot(ctx, ref, seenRoot, func(_ *Container, tree *rootfs.Tree) error {
		from, err := copySource(ctx, tree, ref, source, o.FollowLink)
		if err != nil {
			return err
		}
		defer from.close()
		p := rootfs.NewPacker(w)
		p.Owner = onlyUser()
		return errors.Join(p.AddAll(ctx, from.file, baseName(from.path)), p.Close())
	})
}

// writable refuses to write where the container could not. Of a volume the kernel knows, and of the root of one that does not
// run only the record.
func (c *Container) writable(ctx context.Context, tree *rootfs.Tree, to *os.File) error {
	root, err := tree.Open(ctx, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	inRoot := sameMount(root, to)
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(to.Fd()), &st); err != nil {
		return fmt.Errorf("look at the container's file system: %w", err)
	}
	switch {
	case rootfs.MadeUp(to):
		return ErrKernelFile
	case inRoot && c.HostConfig.ReadonlyRootfs:
		return ErrRootReadOnly
	case st.Flags&unix.ST_RDONLY != 0:
		return ErrVolumeReadOnly
	}
	return nil
}

func sameMount(a, b *os.File) bool {
	var sa, sb unix.Statx_t
	err := errors.Join(
		unix.Statx(int(a.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &sa),
		unix.Statx(int(b.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &sb))
	return err == nil && sa.Mnt_id == sb.Mnt_id
}

// copy packs on one side and unpacks on the other.
func (o CopyOptions) copy(ctx context.Context, from *os.File, as string, owner *[2]int, to *os.File, rules rootfs.Rules) (int64, error) {
	return tarStream(
		func(w io.Writer) error {
			p := rootfs.NewPacker(w)
			p.Owner = owner
			if err := p.Avoid(to); err != nil {
				return err
			}
			return errors.Join(p.AddAll(ctx, from, as), p.Close())
		},
		func(r io.Reader) error { return o.unpack(ctx, to, r, rules) },
	)
}

// unpack makes what is in a tar below an open folder. Nothing can lead out of it: it is the root of all names.
func (o CopyOptions) unpack(ctx context.Context, to *os.File, r io.Reader, rules rootfs.Rules) error {
	tree, err := rootfs.OpenTree(ctx, mount.Through(to))
	if err != nil {
		return err
	}
	defer tree.Close()
	u, err := rootfs.UnpackInto(ctx, tree, r, rules)
	if os.Geteuid() != 0 {
		delete(u.Lost, "owner") // an ordinary user has nobody else to give it to, and knows that
	}
	if err == nil && o.Warn != nil {
		o.warn(u.Lost)
	}
	return err
}

// warn says what has not come along.
func (o CopyOptions) warn(lost map[string]int) {
	for _, w := range []struct{ what, text string }{
		{"device", "left out %d device%s: a container's devices are not made on the host"},
		{"set-uid", "took the set-user-ID or set-group-ID bit from %d file%s: -a keeps it"},
		{"capability", "took the capabilities from %d file%s: -a keeps them"},
		{"owner", "could not give %d file%s to its owner"},
		{"attribute", "could not keep an extended attribute of %d file%s"},
	} {
		if n := lost[w.what]; n > 0 {
			plural := "s"
			if n == 1 {
				plural = ""
			}
			o.Warn(fmt.Sprintf(strings.ReplaceAll(w.text, "%s", plural), n))
		}
	}
}
