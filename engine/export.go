package engine

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// Export writes all files of a container as a tar: those of its layers. What is mounted in there, volumes and the kernel's file
// systems, is not the container's, and in its place is the folder that it was mounted on.
func (e *Engine) Export(ctx context.Context, ref string, w io.Writer) error {
	return e.withRoot(ctx, ref, layerRoot, func(_ *Container, tree *rootfs.Tree) error {
		root, err := tree.Open(ctx, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer root.Close()
		p := rootfs.NewPacker(w)
		p.OneMount = true
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
