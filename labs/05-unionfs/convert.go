package unionfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// A layer can add and replace files by having them. To take away something of the layers below it needs marks, and there
// are two: a whiteout hides one name, an opaque folder everything below it of the same name. What differs is the form.
//
//	form    whiteout of NAME                       opaque folder
//	overlay NAME, a character device 0/0           trusted.overlay.opaque = y on the folder
//	xattr   NAME, an empty file that has           the same
//	        trusted.overlay.whiteout, in a folder
//	        with trusted.overlay.opaque = x
//	aufs    .wh.NAME, an empty file                .wh..wh..opq, an empty file in the folder
//
// In a user namespace overlay's attributes are called user.overlay.*. The xattr form needs Linux 6.7; it can be stored where no
// device can be made, an overlay for one. OCI's image layers have aufs's form, inside of a tar.

// Form is how a layer marks what it takes away.
type Form string

const (
	OverlayForm          Form = "overlay"
	OverlayUserForm      Form = "overlay-user" // as in a user namespace
	OverlayXattrForm     Form = "overlay-xattr"
	OverlayXattrUserForm Form = "overlay-xattr-user"
	AufsForm             Form = "aufs"
)

// attribute names an extended attribute of overlay in this form.
func (f Form) attribute(name string) string {
	if f == OverlayUserForm || f == OverlayXattrUserForm {
		return "user.overlay." + name
	}
	return "trusted.overlay." + name
}

// Mark is something that a layer takes away.
type Mark struct {
	Path   string // in the layer: "etc/motd", "." for the layer itself
	Opaque bool   // everything below the folder Path; otherwise Path itself
}

func (m Mark) String() string {
	if m.Opaque {
		return m.Path + "/ (opaque)"
	}
	return m.Path
}

// Marks lists what the layer in dir takes away, sorted by path, an opaque folder before what it holds.
func Marks(dir string, f Form) ([]Mark, error) {
	var list []Mark
	err := scan(dir, f, func(_ string, m *Mark, _ *unix.Stat_t) error {
		if m != nil {
			list = append(list, *m)
		}
		return nil
	})
	return list, err
}

func markAt(dir *os.File, path string, f Form, st *unix.Stat_t) (*Mark, error) {
	name := filepath.Base(path)
	if f == AufsForm {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			var opaque unix.Stat_t
			err := unix.Fstatat(int(dir.Fd()), filepath.Join(name, whOpaque), &opaque, unix.AT_SYMLINK_NOFOLLOW)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			return &Mark{Path: path, Opaque: true}, err
		}
		if name, ok := strings.CutPrefix(name, whPrefix); ok && !strings.HasPrefix(name, whPrefix) {
			return &Mark{Path: filepath.Join(filepath.Dir(path), name)}, nil
		}
		return nil, nil
	}
	full := mount.Through(dir) + "/" + name
	if err := selfContained(full, f); err != nil {
		return nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		value, _, err := attribute(full, f.attribute("opaque"))
		if value != "y" { // "x" only says that there are whiteouts in the xattr form
			return nil, err
		}
		return &Mark{Path: path, Opaque: true}, nil
	case unix.S_IFCHR:
		if st.Rdev != 0 {
			return nil, nil
		}
		return &Mark{Path: path}, nil
	case unix.S_IFREG:
		_, has, err := attribute(full, f.attribute("whiteout"))
		if !has {
			return nil, err
		}
		return &Mark{Path: path}, nil
	}
	return nil, nil
}

// ErrNotAlone is a layer that says where in the layers below to look for a renamed folder or for a file's content.
// [Mount] makes none.
var ErrNotAlone = errors.New("the layer depends on the layers below: it was mounted with redirect_dir or metacopy")

func selfContained(path string, f Form) error {
	for _, name := range []string{"redirect", "metacopy"} {
		_, has, err := attribute(path, f.attribute(name))
		if has {
			err = fmt.Errorf("%s: %w", path, ErrNotAlone)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// attribute reads an extended attribute, and tells whether it is there.
func attribute(path, name string) (value string, has bool, err error) {
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, buf)
	switch {
	case err == nil:
		return string(buf[:n]), true, nil
	case errors.Is(err, unix.ERANGE): // longer than any value that is compared here
		return "", true, nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM):
		return "", false, nil // EPERM: user.* of a link or a device
	}
	return "", false, &fs.PathError{Op: "lgetxattr", Path: path, Err: err}
}

// Convert rewrites the marks of the layer in dir from one form to another. Nobody may use the layer meanwhile. The times
// of the folders stay, since they belong to the layer's content.
//
// In aufs's form no file can have a name that starts with ".wh.": a layer with one is left as it was, see [ErrReserved].
func Convert(ctx context.Context, dir string, from, to Form) error {
	var marks []Mark
	var own []string // aufs's bookkeeping
	err := scan(dir, from, func(path string, m *Mark, st *unix.Stat_t) error {
		if m != nil {
			marks = append(marks, *m)
		}
		name := filepath.Base(path)
		switch reserved := strings.HasPrefix(name, whPrefix); {
		case reserved && from != AufsForm && to == AufsForm:
			return fmt.Errorf("%s: %w", path, ErrReserved)
		case reserved && from == AufsForm && to != AufsForm && strings.HasPrefix(name, whMeta) && name != whOpaque:
			own = append(own, path)
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return fs.SkipDir
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	times, err := folderTimes(dir, marks)
	if err != nil {
		return err
	}
	for _, path := range own {
		if err := os.RemoveAll(filepath.Join(dir, path)); err != nil {
			return fmt.Errorf("05-unionfs: convert %s: %w", dir, err)
		}
	}
	// All old marks before the first new one: a name can be a whiteout in the one form and mean a file in the other.
	for _, m := range marks {
		if err := erase(dir, m, from); err != nil {
			return fmt.Errorf("05-unionfs: take mark %s from %s: %w", m, dir, err)
		}
	}
	for _, m := range marks {
		if err := Write(ctx, dir, m, to); err != nil {
			return err
		}
	}
	for path, t := range times {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, t, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("05-unionfs: keep the time of %s: %w", path, err)
		}
	}
	return nil
}

// folderTimes remembers the times of the folders whose entries will change.
func folderTimes(dir string, marks []Mark) (map[string][]unix.Timespec, error) {
	times := map[string][]unix.Timespec{}
	for _, m := range marks {
		path := filepath.Join(dir, m.Path)
		if !m.Opaque {
			path = filepath.Dir(path)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil, fmt.Errorf("05-unionfs: read the time of %s: %w", path, err)
		}
		times[path] = []unix.Timespec{st.Atim, st.Mtim}
	}
	return times, nil
}

func erase(dir string, m Mark, f Form) error {
	path := filepath.Join(dir, m.Path)
	switch {
	case f == AufsForm && m.Opaque:
		return os.Remove(filepath.Join(path, whOpaque))
	case f == AufsForm:
		return os.Remove(filepath.Join(filepath.Dir(path), whPrefix+filepath.Base(path)))
	case m.Opaque:
		return unix.Lremovexattr(path, f.attribute("opaque"))
	}
	err := os.Remove(path)
	// The folder's "x" stays harmless without whiteouts, but it would be a difference.
	if value, _, _ := attribute(filepath.Dir(path), f.attribute("opaque")); value == "x" {
		err = errors.Join(err, unix.Lremovexattr(filepath.Dir(path), f.attribute("opaque")))
	}
	return err
}

// Write puts one mark into the layer in dir. The folder that it belongs to must be there, and the name of a whiteout must
// be free.
func Write(ctx context.Context, dir string, m Mark, f Form) error {
	path := filepath.Join(dir, m.Path)
	err := func() error {
		switch {
		case f == AufsForm && m.Opaque:
			return touch(ctx, filepath.Join(path, whOpaque))
		case f == AufsForm:
			return touch(ctx, filepath.Join(filepath.Dir(path), whPrefix+filepath.Base(path)))
		case m.Opaque:
			return setAttribute(ctx, path, f.attribute("opaque"), "y")
		case f == OverlayXattrForm || f == OverlayXattrUserForm:
			return xattrWhiteout(ctx, path, f)
		}
		// Also without rights: of all devices, 0/0 may be made by anybody since Linux 5.8.
		return trace.Call(ctx, 0, func() string { return fmt.Sprintf("mknod(%q, S_IFCHR, 0)", path) },
			func() error { return unix.Mknod(path, unix.S_IFCHR, 0) })
	}()
	if err != nil {
		return fmt.Errorf("05-unionfs: mark %s in %s: %w", m, dir, err)
	}
	return nil
}

func xattrWhiteout(ctx context.Context, path string, f Form) error {
	if err := touch(ctx, path); err != nil {
		return err
	}
	if err := setAttribute(ctx, path, f.attribute("whiteout"), "y"); err != nil {
		return err
	}
	// Tells overlay to look at the attributes of the files in this folder, which it otherwise spares itself. In an opaque
	// folder a whiteout hides nothing.
	if value, _, _ := attribute(filepath.Dir(path), f.attribute("opaque")); value == "y" {
		return nil
	}
	return setAttribute(ctx, filepath.Dir(path), f.attribute("opaque"), "x")
}

func setAttribute(ctx context.Context, path, name, value string) error {
	return trace.Call(ctx, 1, func() string { return fmt.Sprintf("lsetxattr(%q, %q, %q, 0)", path, name, value) },
		func() error { return unix.Lsetxattr(path, name, []byte(value), 0) })
}

// touch makes an empty file.
func touch(ctx context.Context, path string) error {
	return trace.Call(ctx, 1, func() string { return fmt.Sprintf("open(%q, O_CREAT|O_EXCL, 0)", path) }, func() error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return f.Close()
	})
}

// markNames renders marks for a reader.
func markNames(marks []Mark) string {
	names := make([]string, len(marks))
	for i, m := range marks {
		names[i] = m.String()
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
