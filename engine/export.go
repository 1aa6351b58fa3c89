package engine

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// Export writes all files of a container as a tar: those of its layers. What is mounted in there, volumes and the kernel's file
// systems, is not the container's, and in its place is the folder that it was mounted on. Of /etc/hosts and its like there are only
// the names, as in Docker: an image that is made of the tar is not this container.
func (e *Engine) Export(ctx context.Context, ref string, w io.Writer) error {
	return e.withRoot(ctx, ref, layerRoot, func(c *Container, tree *rootfs.Tree) error {
		own, err := c.runtimeFiles()
		if err != nil {
			return err
		}
		root, err := tree.Open(ctx, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer root.Close()
		p := rootfs.NewPacker(w)
		p.OneMount = true
		p.Empty = func(name string) bool { return own[name] }
		p.Owner = onlyUser()
		if err := p.AddAll(ctx, root, ""); err != nil {
			return err
		}
		return p.Close()
	})
}

// onlyUser is whom all files in an ordinary user's container belong to: it has one user, root, who is he himself outside.
func onlyUser() *[2]int {
	if os.Geteuid() == 0 {
		return nil
	}
	return &[2]int{0, 0}
}
