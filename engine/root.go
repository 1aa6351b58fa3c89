package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	setns "github.com/nslab/nslab/labs/06-setns"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// The files of a container, seen from outside. They are somebody else's, and while the container runs he can exchange any of
// them at any moment. So nothing in there is reached by a path that was looked at before: a root is opened once, and below it
// the kernel resolves names as it would for the container's own processes (see [rootfs.Tree]).

// rootKind is which root is wanted.
type rootKind int

const (
	seenRoot  rootKind = iota // as the container's processes see it, with volumes and tmpfs
	layerRoot                 // only its layers: in the place of everything that is mounted there, what is underneath
)

// withRoot opens a container's root for f. One that does not run is locked meanwhile, so that nobody starts it.
func (e *Engine) withRoot(ctx context.Context, ref string, kind rootKind, f func(*Container, *rootfs.Tree) error) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !c.State.Running {
		if c, err = e.Lock(ctx, ref); err != nil {
			return err
		}
		defer c.Close()
	}
	if !c.State.Running {
		return c.withStoppedRoot(ctx, kind, func(t *rootfs.Tree) error { return f(c, t) })
	}
	if err := c.Close(); err != nil { // it was started while we waited for its lock
		return err
	}
	open := c.openRoot
	if kind == layerRoot {
		open = c.openLayers
	}
	tree, err := open(ctx)
	if err != nil {
		return err
	}
	defer tree.Close()
	return f(c, tree)
}

// openRoot opens the root of a container that runs, by way of its init.
func (c *Container) openRoot(ctx context.Context) (*rootfs.Tree, error) {
	proc, err := c.holdInit()
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	return rootfs.OpenTree(ctx, mount.Through(proc)+"/root")
}

// holdInit opens the init's folder in /proc. It stands for that process, not for its number: once the process is gone it is
// empty, whoever gets the number next. So it is opened first, and then the init is found to be alive.
func (c *Container) holdInit() (*os.File, error) {
	s, err := c.runtime()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("/proc/%d", s.Pid)
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || err == nil && !s.Alive() {
		if err == nil {
			unix.Close(fd)
		}
		return nil, &StateError{Container: c.Name, Status: Exited, Op: "open the root of"}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// amongMounts calls f on a thread that is in the mount namespace of the container.
func (c *Container) amongMounts(ctx context.Context, f func() error) error {
	return setns.OnThread(func() error {
		proc, err := c.holdInit()
		if err != nil {
			return err
		}
		defer proc.Close()
		namespace, _, err := setns.OpenFile(ctx, mount.Through(proc)+"/ns/mnt")
		if err != nil {
			return err
		}
		defer namespace.Close()
		if err := setns.Setns(ctx, namespace, unix.CLONE_NEWNS); err != nil {
			return err
		}
		return f()
	})
}

// openLayers opens the union of a container that runs, without what is mounted on it. The kernel would not mount its layers
// a second time. But a thread that enters the container's mount namespace can copy one mount, which then stands for itself. An
// ordinary user's thread cannot: he gets the root as it is.
func (c *Container) openLayers(ctx context.Context) (*rootfs.Tree, error) {
	if os.Geteuid() != 0 {
		return c.openRoot(ctx)
	}
	var union *os.File
	err := c.amongMounts(ctx, func() (err error) {
		union, err = mount.Clone(ctx, "/", false) // setns has made the namespace's root ours
		return err
	})
	if err != nil {
		return nil, err
	}
	defer union.Close()
	return rootfs.OpenTree(ctx, mount.Through(union))
}

// withStoppedRoot shows f what a container that does not run would see if it did, in a mount namespace of its own.
func (c *Container) withStoppedRoot(ctx context.Context, kind rootKind, f func(*rootfs.Tree) error) error {
	img, err := c.engine.images.Held(c.Image, c.ID)
	if err != nil {
		return err
	}
	lower, err := c.engine.images.Layers(ctx, img, c.Driver)
	if err != nil {
		return err
	}
	if err := unionfs.Forgive(c.path(workFolder)); err != nil {
		return err
	}
	v := view{Driver: c.Driver, Layers: c.layers(lower), Target: c.path(rootFolder)}
	if kind == seenRoot {
		v.Mounts = c.volumeMounts()
	}
	return v.show(ctx, f)
}

// volumeMounts are volumes and binds, those above first. A tmpfs is made anew at each start, so there is none to show, and neither
// is /dev with what was mounted in there.
func (c *Container) volumeMounts() (mounts []specs.Mount) {
	for _, m := range c.Mounts {
		if m.Type != volumes.TypeTmpfs && !strings.HasPrefix(m.Destination, "/dev/") {
			mounts = append(mounts, c.userMount(m))
		}
	}
	depth := func(m specs.Mount) int { return strings.Count(m.Destination, "/") }
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int { return depth(a) - depth(b) })
	return mounts
}

// form is how the container's own layer marks what it takes away.
func (c *Container) form() unionfs.Form {
	switch {
	case c.Driver != unionfs.Overlay:
		return unionfs.AufsForm
	case os.Geteuid() != 0 || mount.InUserNamespace():
		return unionfs.OverlayUserForm
	}
	return unionfs.OverlayForm
}
