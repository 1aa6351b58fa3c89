package engine

import (
	"context"

	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// WithUnion shows layers as one at target to f, and to nobody else: on a thread with a mount namespace of its own, which
// ends with f. However nslab is ended meanwhile, the kernel takes the mount away with the thread.
func WithUnion(ctx context.Context, d unionfs.Driver, l unionfs.Layers, target string, f func(*rootfs.Tree) error) error {
	return onThread(func() error {
		if err := mount.Unshare(ctx); err != nil {
			return err
		}
		if err := mount.PrivateTree(ctx, "/"); err != nil {
			return err
		}
		if _, err := unionfs.Mount(unionfs.WithServerDeath(ctx), d, l, target); err != nil {
			return err
		}
		tree, err := rootfs.OpenTree(ctx, target)
		if err != nil {
			return err
		}
		defer tree.Close()
		return f(tree)
	})
}
