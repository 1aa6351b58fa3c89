package unionfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// Marker returns what lab 04 needs to unpack a layer of an image in this form. All of it goes by descriptors: in the layer
// of somebody else, a path may lead anywhere.
func (f Form) Marker() FormMarker { return FormMarker{f} }

// FormMarker writes marks in one form.
type FormMarker struct{ Form Form }

// Whiteout hides name of the layers below.
func (m FormMarker) Whiteout(ctx context.Context, dir *os.File, name string) error {
	at := int(dir.Fd())
	switch m.Form {
	case AufsForm:
		return m.wrap(touchAt(ctx, at, whPrefix+name), name)
	case OverlayXattrForm, OverlayXattrUserForm:
		return m.wrap(m.xattrWhiteout(ctx, at, name), name)
	}
	return m.wrap(trace.Call(ctx, 1, func() string { return fmt.Sprintf("mknodat(%d, %q, S_IFCHR, 0)", at, name) },
		func() error { return unix.Mknodat(at, name, unix.S_IFCHR, 0) }), name)
}

// Reveal takes a whiteout away.
func (m FormMarker) Reveal(ctx context.Context, dir *os.File, name string) error {
	at, mark := int(dir.Fd()), name
	if m.Form == AufsForm {
		mark = whPrefix + name
	}
	return m.wrap(trace.Call(ctx, 1, func() string { return fmt.Sprintf("unlinkat(%d, %q, 0)", at, mark) },
		func() error { return unix.Unlinkat(at, mark, 0) }), name)
}

// Opaque hides everything that the layers below have in this folder.
func (m FormMarker) Opaque(ctx context.Context, dir *os.File) error {
	if m.Form != AufsForm {
		return m.wrap(m.set(ctx, int(dir.Fd()), "opaque", "y"), ".")
	}
	err := touchAt(ctx, int(dir.Fd()), whOpaque)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return m.wrap(err, ".")
}

func (m FormMarker) wrap(err error, name string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("05-unionfs: mark %s in form %s: %w", name, m.Form, err)
}

func (m FormMarker) xattrWhiteout(ctx context.Context, at int, name string) error {
	if err := touchAt(ctx, at, name); err != nil {
		return err
	}
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := m.set(ctx, fd, "whiteout", "y"); err != nil {
		return err
	}
	// As in xattrWhiteout by path: the folder must say that overlay is to look at its files' attributes.
	if value, _, _ := attributeOf(at, m.Form.attribute("opaque")); value == "y" {
		return nil
	}
	return m.set(ctx, at, "opaque", "x")
}

// set sets an attribute of overlay. The descriptor may be one with O_PATH, which fsetxattr(2) refuses.
func (m FormMarker) set(ctx context.Context, fd int, name, value string) error {
	path, name := fmt.Sprintf("/proc/self/fd/%d", fd), m.Form.attribute(name)
	return trace.Call(ctx, 2, func() string { return fmt.Sprintf("setxattr(%q, %q, %q, 0)", path, name, value) },
		func() error { return unix.Setxattr(path, name, []byte(value), 0) })
}

func attributeOf(fd int, name string) (value string, has bool, err error) {
	buf := make([]byte, 256)
	n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), name, buf)
	if err != nil {
		return "", false, err
	}
	return string(buf[:n]), true, nil
}

// touchAt makes an empty file below an open folder.
func touchAt(ctx context.Context, at int, name string) error {
	return trace.Call(ctx, 2, func() string { return fmt.Sprintf("openat(%d, %q, O_CREAT|O_EXCL, 0)", at, name) }, func() error {
		fd, err := unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
}

// FormFor is the form in which an overlay that this user mounts will look for marks in a layer that lies in dir, an
// existing folder.
//
// It depends on the user how the attributes are called, since trusted.* is root's, and on the file system whether a
// whiteout can be a device: another overlay refuses one, since it would be its own whiteout.
func FormFor(dir string) (Form, error) {
	form, inXattr := OverlayForm, OverlayXattrForm
	if os.Geteuid() != 0 || mount.InUserNamespace() {
		form, inXattr = OverlayUserForm, OverlayXattrUserForm
	}
	probe := filepath.Join(dir, fmt.Sprintf(".whiteout-%d", os.Getpid()))
	err := unix.Mknod(probe, unix.S_IFCHR, 0)
	if errors.Is(err, unix.EPERM) {
		return inXattr, nil
	}
	if err == nil {
		err = unix.Unlink(probe)
	}
	if err != nil {
		err = fmt.Errorf("05-unionfs: try a whiteout in %s: %w", dir, err)
	}
	return form, err
}

// ForUser says whether this user's overlay reads marks of this form.
func (f Form) ForUser() bool {
	if os.Geteuid() != 0 || mount.InUserNamespace() {
		return f == OverlayUserForm || f == OverlayXattrUserForm
	}
	return f == OverlayForm || f == OverlayXattrForm
}
