package container

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	setns "github.com/nslab/nslab/labs/06-setns"
)

// mountUnion mounts the layers in the container's mount namespace, from outside: for a union that a process serves. As a
// child of the init that process would be one of the container's, to be seen, traced and killed there. As ours it is not;
// and the mount is still only the container's.
func (c *Container) mountUnion(ctx context.Context, cfg *Config) error {
	err := setns.OnThread(func() error {
		f, _, err := setns.OpenFile(ctx, fmt.Sprintf("/proc/%d/ns/mnt", c.Pid))
		if err != nil {
			return err
		}
		defer f.Close()
		if !c.Alive() {
			return errGone
		}
		if err := setns.Setns(ctx, f, unix.CLONE_NEWNS); err != nil {
			return err
		}
		_, err = unionfs.Mount(ctx, cfg.Driver, cfg.Layers, cfg.Spec.Root.Path)
		return err
	})
	if errors.Is(err, errGone) {
		return c.silence(ctx, errGone)
	}
	return err
}
