package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// A layer of an image is a tar like any other, but that some of its names are marks: ".wh.motd" says that the layers below
// have no motd any more, and ".wh..wh..opq" that its folder begins anew. What a mark becomes on disk depends on who will
// put the layers together, and that is lab 05's.

// Marker puts the marks of a layer into the folder that it is unpacked to, in the form of some union file system.
type Marker interface {
	// Whiteout marks that the layers below have nothing called name in this folder. The layer has nothing of this name.
	Whiteout(ctx context.Context, dir *os.File, name string) error
	// Reveal takes such a mark away.
	Reveal(ctx context.Context, dir *os.File, name string) error
	// Opaque marks that nothing of this folder in the layers below shows through. It does no harm twice.
	Opaque(ctx context.Context, dir *os.File) error
}

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // aufs's own files, which are no content
	whiteoutOpaque = ".wh..wh..opq"
)

// UnpackLayer is [Unpack] for a layer of an image. The tree is empty, and of nobody's interest before it is whole.
//
// A mark is about the layers below, wherever in the tar it stands, and never about the layer's own files (image-spec,
// layer.md). So a whiteout of something that the layer has, too, is none; if that is a folder, it is opaque. Where there
// is nothing to hide a whiteout must not be: overlay lists such a folder as it is on disk, and whoever then looks at the
// name is told that there is no such file. So the lowest layer has none, which is what m = nil means, and what lies in an
// opaque folder neither.
func UnpackLayer(ctx context.Context, t *Tree, r io.Reader, m Marker, limits Limits) (u Unpacked, err error) {
	fd, err := unix.FcntlInt(t.dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return u, err
	}
	// Errors are to name what is in the layer; where it is unpacked to is nobody's interest.
	named := &Tree{os.NewFile(uintptr(fd), "the layer")}
	u, err = unpack(ctx, &unpacker{t: named, layer: &layer{marker: m, whited: map[string]map[string]bool{}, opaque: map[string]bool{}}, limits: limits}, r)
	return u, errors.Join(err, named.Close())
}

// layer is what an unpacker knows of marks.
type layer struct {
	marker Marker
	whited map[string]map[string]bool // the whiteouts so far: folder, name of what is hidden
	opaque map[string]bool            // the opaque folders so far
}

// checkLayerName refuses what is no path in a layer. Others take an absolute path for a relative one, which is harmless,
// and then one layer has two names for a file.
func checkLayerName(h *tar.Header) error {
	if strings.HasPrefix(h.Name, "/") {
		return fmt.Errorf("the name is absolute: %w", unix.EINVAL)
	}
	if h.Typeflag == tar.TypeLink && (strings.HasPrefix(h.Linkname, "/") || leadsUp(h.Linkname)) {
		return fmt.Errorf("its other name %q leads out of the layer: %w", h.Linkname, unix.EINVAL)
	}
	if strings.ContainsRune(h.Name, 0) {
		return fmt.Errorf("the name has a zero byte: %w", unix.EINVAL)
	}
	return nil
}

// mark carries out an entry that is a mark, and says whether it was one.
func (u *unpacker) mark(ctx context.Context, name string, h *tar.Header) (done bool, err error) {
	if !strings.Contains(name, "/"+whiteoutPrefix) {
		return false, nil
	}
	dirName, base := path.Split(name)
	for _, part := range strings.Split(dirName, "/") {
		if strings.HasPrefix(part, whiteoutMeta) {
			return true, nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return false, fmt.Errorf("a folder with the name of a whiteout: %w", unix.EINVAL)
		}
	}
	switch {
	case base == whiteoutOpaque:
		return true, u.markOpaque(ctx, path.Clean(dirName))
	case strings.HasPrefix(base, whiteoutMeta):
		return true, nil
	case !strings.HasPrefix(base, whiteoutPrefix):
		return false, nil
	case h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeLink: // aufs makes all of them links of one file
		return false, fmt.Errorf("a whiteout is an empty file: %w", unix.EINVAL)
	}
	switch hidden := strings.TrimPrefix(base, whiteoutPrefix); hidden {
	case "", ".", "..":
		return false, fmt.Errorf("a whiteout of %q: %w", hidden, unix.EINVAL)
	default:
		return true, u.whiteout(ctx, path.Join(dirName, hidden))
	}
}

func (u *unpacker) whiteout(ctx context.Context, name string) error {
	folder, base := path.Dir(name), path.Base(name)
	if u.layer.marker == nil || u.layer.whited[folder][base] {
		return nil
	}
	dir, err := u.in(ctx, name)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		if err := u.layer.marker.Whiteout(ctx, dir, base); err != nil {
			return err
		}
		if u.layer.whited[folder] == nil {
			u.layer.whited[folder] = map[string]bool{}
		}
		u.layer.whited[folder][base] = true
		u.Marks++
		return u.hold(len(name))
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return u.markOpaque(ctx, name)
	default:
		return err
	}
}

// markOpaque marks a folder, and makes it where it is missing.
func (u *unpacker) markOpaque(ctx context.Context, name string) error {
	if u.layer.marker == nil || u.layer.opaque[name] {
		return nil
	}
	f, err := u.t.MkdirAll(trace.Off(ctx), name, 0o755)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := u.notTooDeep(f); err != nil {
		return err
	}
	u.Marks++
	u.Opaque = u.Opaque || name == "/"
	u.layer.opaque[name] = true
	return errors.Join(u.hold(len(name)), u.layer.marker.Opaque(ctx, f))
}

// reveal takes away the whiteout that an entry of the same layer replaces, and says whether there was one.
func (u *unpacker) reveal(ctx context.Context, dir *os.File, name string) (bool, error) {
	if u.layer == nil || !u.layer.whited[path.Dir(name)][path.Base(name)] {
		return false, nil
	}
	delete(u.layer.whited[path.Dir(name)], path.Base(name))
	u.Marks--
	return true, u.layer.marker.Reveal(ctx, dir, path.Base(name))
}

// tidy takes away the whiteouts that lie below an opaque folder.
func (u *unpacker) tidy(ctx context.Context) error {
	for folder, names := range u.layer.whited {
		for above := folder; ; above = path.Dir(above) {
			if u.layer.opaque[above] {
				break
			}
			if above == "/" {
				names = nil
				break
			}
		}
		for base := range names {
			name := path.Join(folder, base)
			dir, err := u.in(ctx, name)
			if err == nil {
				_, err = u.reveal(ctx, dir, name)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
				return fmt.Errorf("04-rootfs: unpack the whiteout of %q: %w", name, err)
			}
		}
	}
	return nil
}

func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }
