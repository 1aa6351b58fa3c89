package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"

	"github.com/nslab/nslab/course/actor"
	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	"github.com/nslab/nslab/trace"
)

// What this lab's boxes can do.
func init() {
	actor.Register("07-bind", bindInside)
	actor.Register("07-unmount", func(ctx context.Context, args []string) (string, error) {
		return "", mount.Unmount(ctx, args[0])
	})
	actor.Register("07-slave", func(ctx context.Context, _ []string) (string, error) { return "", mount.SlaveTree(ctx, "/") })
	actor.Register("07-write", func(_ context.Context, args []string) (string, error) {
		return "", os.WriteFile(args[0], []byte(args[1]), 0o644)
	})
	actor.Register("07-see", func(_ context.Context, args []string) (string, error) {
		entries, err := os.ReadDir(args[0])
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " "), err
	})
}

// bindInside calls the stage where the runtime's init does: in the container's mount namespace, before the root is switched.
func bindInside(ctx context.Context, args []string) (_ string, err error) {
	var m Mount
	if err := json.Unmarshal([]byte(args[1]), &m); err != nil {
		return "", err
	}
	root, err := rootfs.OpenTree(trace.Off(ctx), args[0])
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return "", Bind(ctx, root, m)
}
