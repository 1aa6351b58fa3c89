package course

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountsBelow lists what is mounted at or below dir in this mount namespace, deepest (last mounted) first.
func mountsBelow(dir string) ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	var points []string
	for _, m := range infos {
		points = append(points, m.Mountpoint)
	}
	slices.Reverse(points)
	return points, nil
}

// removeTree deletes a step's folder inside the sacrifice. A step that failed half-way may have left mounts on it; they
// are detached first, since os.RemoveAll would walk into them and delete what they show.
func removeTree(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	if points, err = mountsBelow(dir); err != nil || len(points) > 0 {
		return errors.Join(err, fmt.Errorf("remove %s: still mounted: %v", dir, points))
	}
	err = os.RemoveAll(dir)
	if errors.Is(err, fs.ErrPermission) {
		// A file system may leave folders that their owner cannot enter: overlay's work folder is one.
		openUp(dir)
		err = os.RemoveAll(dir)
	}
	return err
}

// openUp gives the owner of a tree all rights to its folders, as far as he may; what is refused is heard of later.
func openUp(dir string) {
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // a folder comes here before it is read
		}
		os.Chmod(path, 0o700)
		return nil
	})
}
