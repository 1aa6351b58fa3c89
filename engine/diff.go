package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// ChangeKind is what has happened to a file, in the letters that `diff` prints.
type ChangeKind string

const (
	Added    ChangeKind = "A"
	Modified ChangeKind = "C"
	Deleted  ChangeKind = "D"
)

// Change is one difference between a container and its image.
type Change struct {
	Kind ChangeKind
	Path string
}

// Diff compares a container with its image. All that it has changed is in its own layer, so only that is walked through; the
// layers below are mounted, and asked for the same paths.
//
// The rules are Docker's: a file that was copied up and looks like before is no change; a folder is one if anything in it is;
// of a folder that is gone only the folder is told. What the runtime itself has put into the container does not count.
func (e *Engine) Diff(ctx context.Context, ref string) ([]Change, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	img, err := c.engine.images.Held(c.Image, c.ID)
	if err != nil {
		return nil, err
	}
	lower, err := c.engine.images.Layers(ctx, img, c.Driver)
	if err != nil {
		return nil, err
	}
	own, err := c.runtimeFiles()
	if err != nil {
		return nil, err
	}
	d := &differ{ctx: ctx, upper: c.path(upperLayer), own: own, changes: map[string]ChangeKind{}, below: map[string]bool{}}
	below := unionfs.Layers{Lower: c.layers(lower).Lower}
	err = WithUnion(ctx, c.Driver, below, c.path(rootFolder), func(tree *rootfs.Tree) error {
		d.lower = tree
		return errors.Join(unionfs.Walk(d.upper, c.form(), d.visit), d.hidden())
	})
	if err != nil {
		return nil, err
	}
	return d.list(), nil
}

// runtimeFiles are the paths of the files in the init layer, without a slash in front: /etc/hosts and its like. They are not the
// user's, whatever becomes of them.
func (c *Container) runtimeFiles() (map[string]bool, error) {
	own := map[string]bool{}
	dir := c.path(initLayer)
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			own[strings.TrimPrefix(name, dir+"/")] = true
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the init layer: %w", err)
	}
	return own, nil
}

// differ compares one layer with those below.
type differ struct {
	ctx     context.Context
	lower   *rootfs.Tree
	upper   string
	own     map[string]bool
	changes map[string]ChangeKind
	below   map[string]bool // folders of the layer → whether the layers below have a folder there, too
	opaque  []string        // folders that hide those below
}

// visit compares what the layer has at a path, or takes away there.
func (d *differ) visit(name string, m *unionfs.Mark, now *unix.Stat_t) error {
	if err := d.ctx.Err(); err != nil {
		return context.Cause(d.ctx)
	}
	if m != nil && m.Opaque {
		d.opaque = append(d.opaque, name)
	}
	if name == "." {
		d.below[name] = true
		return nil
	}
	if d.own[name] {
		return nil
	}
	var old unix.Stat_t
	var file *os.File
	var err error
	if d.below[path.Dir(name)] { // else whatever is there is reached through something else's link
		if file, err = d.look(name, &old); err != nil {
			return err
		}
	}
	if file != nil {
		defer file.Close()
	}
	if m != nil && !m.Opaque {
		if file != nil {
			d.change(name, Deleted)
		}
		return nil
	}
	if now.Mode&unix.S_IFMT == unix.S_IFDIR {
		d.below[name] = file != nil && old.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	switch {
	case file == nil:
		d.change(name, Added)
	case different(&old, now), capabilityOf(mount.Through(file)) != capabilityAt(filepath.Join(d.upper, name)):
		d.change(name, Modified)
	}
	return nil
}

// look opens what the layers below have at a path; nil if that is nothing.
func (d *differ) look(name string, st *unix.Stat_t) (*os.File, error) {
	f, err := d.lower.Open(d.ctx, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Fstat(int(f.Fd()), st); err != nil {
		f.Close()
		return nil, fmt.Errorf("look at /%s: %w", name, err)
	}
	return f, nil
}

// different compares what a user can see of a file but for its content: whoever changes that changes the time, too. Of a
// folder, size and time say nothing. A time without a fraction may have lost it in a tar.
func different(old, now *unix.Stat_t) bool {
	if old.Mode != now.Mode || old.Uid != now.Uid || old.Gid != now.Gid || old.Rdev != now.Rdev {
		return true
	}
	if now.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false
	}
	sameTime := old.Mtim.Sec == now.Mtim.Sec && (old.Mtim.Nsec == now.Mtim.Nsec || old.Mtim.Nsec == 0 || now.Mtim.Nsec == 0)
	return old.Size != now.Size || !sameTime
}

const capability = "security.capability"

func capabilityOf(name string) string {
	buf := make([]byte, 64)
	n, err := unix.Getxattr(name, capability, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func capabilityAt(name string) string {
	buf := make([]byte, 64)
	n, err := unix.Lgetxattr(name, capability, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// change notes a change, and that of the folders above.
func (d *differ) change(name string, kind ChangeKind) {
	d.changes[name] = kind
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, known := d.changes[dir]; known {
			return
		}
		d.changes[dir] = Modified
	}
}

// hidden tells what opaque folders have hidden: what is in the folder below, and not in this one.
func (d *differ) hidden() error {
	for _, dir := range d.opaque {
		if !d.below[dir] {
			continue
		}
		f, err := d.lower.Open(d.ctx, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		names, err := f.Readdirnames(-1)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("list /%s: %w", dir, err)
		}
		for _, n := range names {
			name := path.Join(dir, n)
			if _, err := os.Lstat(filepath.Join(d.upper, name)); errors.Is(err, fs.ErrNotExist) && !d.own[name] {
				d.change(name, Deleted)
			}
		}
	}
	return nil
}

// list sorts the changes as a walk through the folders meets them.
func (d *differ) list() []Change {
	list := make([]Change, 0, len(d.changes))
	for name, kind := range d.changes {
		list = append(list, Change{kind, "/" + name})
	}
	slices.SortFunc(list, func(a, b Change) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	return list
}
