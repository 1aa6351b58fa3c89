package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// place is where a path of `cp` leads, on the host or in a container, with Docker's rules for the two ways in which a path can
// end. "dir/" must be a folder, or a link to one. "dir/." is what the folder holds, without the folder itself.
type place struct {
	tree *rootfs.Tree
	path string   // absolute in the tree, and clean but for such an end
	dir  *os.File // the folder that holds it
	base string   // its name there; "." if the path leads to a folder by way of a link, or is the root
	file *os.File // what is there, nil if there is nothing
	stat unix.Stat_t
}

func (p *place) close() {
	for _, f := range []*os.File{p.dir, p.file} {
		if f != nil {
			f.Close()
		}
	}
}

func (p *place) isDir() bool  { return p.file != nil && p.stat.Mode&unix.S_IFMT == unix.S_IFDIR }
func (p *place) isLink() bool { return p.file != nil && p.stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// wantsDir tells whether a path can only be a folder, by its end.
func wantsDir(p string) bool { return strings.HasSuffix(p, "/") || path.Base(p) == "." }

// cleanPath makes a path absolute from a folder, and keeps its end.
func cleanPath(from, p string) string {
	clean := path.Join("/", from, p)
	if path.IsAbs(p) {
		clean = path.Clean(p)
	}
	switch {
	case clean == "/" && path.Base(p) == ".":
		return "/."
	case clean == "/":
		return "/"
	case path.Base(p) == ".":
		return clean + "/."
	case strings.HasSuffix(p, "/"):
		return clean + "/"
	}
	return clean
}

// baseName is what a copy of a path is called where nobody says otherwise. "." means that what is in the folder goes to the
// other place, without a folder around it.
func baseName(p string) string {
	if p == "/" || path.Base(p) == "." {
		return "."
	}
	return path.Base(p)
}

// find looks where a path leads. Links on the way are followed, and that at its end if its form wants a folder. A path that
// leads nowhere is a place without a file, but its folder must be there.
func find(ctx context.Context, tree *rootfs.Tree, name string) (p *place, err error) {
	p = &place{tree: tree, path: name}
	defer func() {
		if err != nil {
			p.close()
			p = nil
		}
	}()
	const folder = unix.O_PATH | unix.O_DIRECTORY
	clean := path.Clean(name)
	if wantsDir(name) {
		p.base = "."
		p.file, err = tree.Open(ctx, clean, folder, 0)
		if err == nil {
			return p, p.look()
		}
		if !errors.Is(err, unix.ENOENT) || clean == "/" {
			return p, err
		}
	}
	if p.dir, err = tree.Open(ctx, path.Dir(clean), folder, 0); err != nil {
		return p, err
	}
	p.base = path.Base(clean)
	if wantsDir(name) { // it is known not to be there
		return p, nil
	}
	p.file, err = rootfs.OpenEntry(ctx, p.dir, p.base)
	if errors.Is(err, unix.ENOENT) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	return p, p.look()
}

func (p *place) look() error {
	if err := unix.Fstat(int(p.file.Fd()), &p.stat); err != nil {
		return fmt.Errorf("look at %s: %w", p.path, err)
	}
	return nil
}

// follow looks where the link at the end of a path leads, as far as that is. The last one may lead to what is not there yet,
// and is going to be made.
func follow(ctx context.Context, p *place) (*place, error) {
	const most = 40 // as many as the kernel follows
	for range most {
		if !p.isLink() {
			return p, nil
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(p.file.Fd()), "", buf)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("read the link %s: %w", p.path, err)
		}
		next, err := find(ctx, p.tree, cleanPath(path.Dir(p.path), string(buf[:n])))
		p.close()
		if err != nil {
			return nil, err
		}
		p = next
	}
	p.close()
	return nil, fmt.Errorf("look at %s: %w", p.path, unix.ELOOP)
}

// copySource opens what is to be copied out of a container.
func copySource(ctx context.Context, tree *rootfs.Tree, ref, name string, followLink bool) (*place, error) {
	p, err := openSource(ctx, tree, cleanPath("/", name), followLink)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, &MissingFileError{name, ref}
	case errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("look at %s in container %s: %w", name, ref, ErrNotDir)
	case err != nil:
		return nil, err
	}
	if rootfs.MadeUp(p.file) {
		p.close()
		return nil, fmt.Errorf("copy %s:%s: %w", ref, name, ErrKernelFile)
	}
	return p, nil
}

func openSource(ctx context.Context, tree *rootfs.Tree, name string, followLink bool) (*place, error) {
	p, err := find(ctx, tree, name)
	if err != nil {
		return nil, err
	}
	if followLink && p.isLink() {
		p.file.Close()
		if p.file, err = tree.Open(ctx, name, unix.O_PATH, 0); err == nil {
			err = p.look()
		}
	}
	if err == nil && p.file == nil {
		err = &rootfs.Error{Op: "open", Path: name, Err: unix.ENOENT}
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// openHost opens what is to be copied into a container. The same rules, in the tree that is the host's own: a folder that is a
// volume of the container is the container's to change, too.
func openHost(ctx context.Context, name string, followLink bool) (*place, error) {
	abs, err := hostPath(name)
	if err != nil {
		return nil, err
	}
	host, err := rootfs.OpenTree(ctx, "/")
	if err != nil {
		return nil, err
	}
	defer host.Close()
	p, err := openSource(ctx, host, abs, followLink)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("lstat %s: %w", name, unix.ENOENT)
	case errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("lstat %s: %w", name, ErrNotDir)
	}
	return p, err
}

func hostPath(name string) (string, error) {
	wd, err := os.Getwd()
	if err != nil && !path.IsAbs(name) {
		return "", fmt.Errorf("find out the working directory: %w", err)
	}
	return cleanPath(wd, name), nil
}

// copyDest opens the folder of a container that the copy goes to, and tells how it is called there.
func (c *Container) copyDest(ctx context.Context, tree *rootfs.Tree, ref, name string, from *place) (*os.File, string, error) {
	abs := cleanPath("/", name)
	to, as, err := openDest(ctx, tree, abs, from)
	if errors.Is(err, unix.ENOENT) {
		return nil, "", &MissingFileError{path.Dir(path.Clean(abs)), ref}
	}
	return to, as, err
}

func hostDest(ctx context.Context, name string, from *place) (*os.File, string, error) {
	abs, err := hostPath(name)
	if err != nil {
		return nil, "", err
	}
	host, err := rootfs.OpenTree(ctx, "/")
	if err != nil {
		return nil, "", err
	}
	defer host.Close()
	return openDest(ctx, host, abs, from)
}

// openDest has Docker's rules. Into a folder that is there, the copy goes under its own name. Everything else is what the copy
// is to become: it is called like that, and goes to the folder above.
func openDest(ctx context.Context, tree *rootfs.Tree, name string, from *place) (*os.File, string, error) {
	to, err := find(ctx, tree, name)
	if err == nil {
		to, err = follow(ctx, to)
	}
	if err != nil {
		lost := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
		switch {
		case lost && wantsDir(name) && !from.isDir():
			err = ErrNoSuchDir
		case errors.Is(err, unix.ENOTDIR) && wantsDir(name):
			err = ErrCopyDir
		case errors.Is(err, unix.ENOTDIR):
			err = ErrNotDir
		}
		return nil, "", err
	}
	defer to.close()
	switch {
	case to.isDir():
		return keepOpen(&to.file), baseName(from.path), nil
	case to.file != nil && from.isDir():
		return nil, "", ErrCopyDir
	case to.file == nil && !from.isDir() && wantsDir(to.path):
		return nil, "", ErrNoSuchDir
	case to.file == nil && path.Base(to.path) == ".": // what is in the folder, into a folder that is not there
		return nil, "", &rootfs.Error{Op: "open", Path: to.path, Err: unix.ENOENT}
	}
	return keepOpen(&to.dir), to.base, nil
}

// keepOpen takes a file out of a place that is going to be closed.
func keepOpen(f **os.File) *os.File {
	kept := *f
	*f = nil
	return kept
}

// checkOutput refuses what a copy on the host cannot become, before anything is done.
func checkOutput(name string) error {
	dir := path.Dir(path.Clean(name))
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("invalid output path: directory %q does not exist", dir)
	}
	st, err := os.Stat(name)
	if err != nil {
		return nil // it is to be made, or opening it will tell more
	}
	if st.Mode()&os.ModeDevice != 0 {
		return &InputError{
			What: "output path", Value: name, Err: errors.New("must be a directory or a regular file: got a device"),
			Hint: "- as the destination writes a tar to standard output",
		}
	}
	return nil
}
